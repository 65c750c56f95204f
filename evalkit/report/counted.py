"""Parameters counted from configurations alone, beside printed ones.

Total, activated and non-embedding parameters are defined in `moe_lm.count`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import EvalkitError, unknown
from evalkit.lm.native import count_parameters, known_configurations
from evalkit.report.published import ParameterTable, PublishedTable, Row, slug
from evalkit.report.verdict import Verdict

FIGURES = {"total": "total", "activated": "activated", "activated_non_embedding": "activated non-embedding"}


@dataclass(frozen=True, slots=True)
class Counted:
    """One model: its parameters by figure, and its row of the published table, if any."""

    model: str
    counts: Mapping[str, int]
    row: Row | None

    def verdict(self, figure: str, table: ParameterTable) -> Verdict:
        """Whether the printed figure is the count, rounded. If not, the table's note on it is the reason."""
        published, rounded = self.published(figure, table), self.rounded(figure, table)
        if self.row is None or published is None:
            return Verdict("nothing published")
        if published == rounded:
            return Verdict("reproduced")
        note = self.row.parameters[figure].note
        reason = f"{FIGURES[figure]} is printed {published}, the count rounds to {rounded}"
        # a count is exact: if the table explains the difference, the printed figure is at fault
        return Verdict("published figure inconsistent", f"{reason}; {note}") if note else Verdict("differs", reason)

    def overall(self, table: ParameterTable) -> Verdict:
        """One verdict on the model's row: the first figure that differs decides, and all that differ are named."""
        verdicts = [self.verdict(figure, table) for figure in FIGURES]
        off = [v for v in verdicts if v.word in ("differs", "published figure inconsistent")]
        return Verdict(off[0].word, "; ".join(v.reason for v in off)) if off else verdicts[0]

    def published(self, figure: str, table: ParameterTable) -> str | None:
        """The figure as printed, in billions; None if there is none."""
        printed = self.row.parameters.get(figure) if self.row else None
        return f"{printed.value:.{table.decimals}f}" if printed else None

    def rounded(self, figure: str, table: ParameterTable) -> str:
        """The count to the precision of the published table, in billions."""
        return f"{self.counts[figure] / 1e9:.{table.decimals}f}"


def count_models(specs: Sequence[str], table: PublishedTable) -> list[Counted]:
    """Count every model of the published table, or those in `specs`, each a name, a hub id, or a folder with a config.json.

    Raises EvalkitError for an unknown name and for a config.json that is missing, damaged or of an unsupported family.
    """
    return [_count(spec, table) for spec in dict.fromkeys(specs or [row.model for row in table.rows])]


def _count(spec: str, table: PublishedTable) -> Counted:
    folder = Path(spec).expanduser()
    if (folder / "config.json").is_file():
        return Counted(folder.resolve().name, count_parameters(folder), None)
    row = next((row for row in table.rows if slug(spec) == slug(row.model) or spec in row.hubs), None)
    name, known = slug(row.model if row else spec), known_configurations()
    if name in known:
        return Counted(row.model if row else name, count_parameters(name), row)
    if folder.is_dir() or "/" in spec:
        raise EvalkitError(f"model {spec}: no config.json there; give a folder that has one, or a known model: {', '.join(known)}")
    raise unknown("model", name, known)


def training_cost(counted: Sequence[Counted], table: PublishedTable) -> str:
    """What can be derived of the claimed saving, and what is missing; "" if either model was not counted.

    At equal tokens the cost of training is proportional to the activated non-embedding parameters.
    """
    claim = table.training_cost
    sizes = {c.row.model: c.counts["activated_non_embedding"] for c in counted if c.row}
    if claim is None or not {claim.model, claim.baseline} <= sizes.keys():
        return ""
    ratio = sizes[claim.model] / sizes[claim.baseline]
    tokens = (1 - claim.saving) / ratio
    return (
        f"training cost: at equal tokens {claim.model} costs {ratio:.3f} of {claim.baseline} (activated non-embedding parameters), "
        f"a saving of {1 - ratio:.0%}. The claimed {claim.saving:.0%} ({claim.origin}) can't be derived: "
        f"it would take {tokens:.2f} times the tokens, and {claim.missing} is not published."
    )
