"""A report independent of its format: sections of paragraphs, tables, notes and plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evalkit.report.plots.plot import Plot
from evalkit.report.verdict import WORDS, Verdict


@dataclass(frozen=True, slots=True)
class Pair:
    """A published figure and the measured one, if any; `sure`: the two are comparable."""

    published: str
    measured: str = ""
    sure: bool = True


GridCell = str | Pair | Verdict


@dataclass(frozen=True, slots=True)
class Grid:
    """A table. `align` has one letter per column: l left, r right, p a paragraph that may wrap. `folded`: collapsed where possible."""

    title: str
    align: str
    head: Sequence[str]
    rows: Sequence[Sequence[GridCell]]
    folded: bool = False

    def __post_init__(self) -> None:
        if any(len(row) != len(self.align) for row in (self.head, *self.rows)):
            raise ValueError(f"{self.title}: rows of another width than {len(self.align)}")


@dataclass(frozen=True, slots=True)
class Notes:
    """Remarks, one per line."""

    title: str
    lines: Sequence[str]
    folded: bool = False


Block = str | Grid | Notes | Plot  # a string is a paragraph


@dataclass(frozen=True, slots=True)
class Section:
    """One chapter. `verdicts`: one for each published figure; `csv`: the same figures as CSV, by file name without .csv."""

    slug: str
    title: str
    blocks: Sequence[Block]
    verdicts: Sequence[Verdict] = ()
    csv: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """The whole report."""

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]

    @property
    def tally(self) -> dict[str, int]:
        """How many published figures have each verdict, the most informative verdicts first."""
        words = [verdict.word for section in self.sections for verdict in section.verdicts]
        return {word: words.count(word) for word in WORDS if word in words}

    @property
    def plots(self) -> list[Plot]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Plot)]
