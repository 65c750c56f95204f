"""What a report is made of, whatever it is written as: sections of paragraphs, tables, notes and plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evalkit.report.plots.plot import Plot
from evalkit.report.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Pair:
    """A published figure and, where there is one, the measured; `sure`: the two may be compared."""

    published: str
    measured: str = ""
    sure: bool = True


GridCell = str | Pair | Verdict


@dataclass(frozen=True, slots=True)
class Grid:
    """A table. `align` has a letter a column: l left, r right, p a paragraph that may wrap. `folded`: closed at first, if it can be."""

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
    """Remarks, a line each."""

    title: str
    lines: Sequence[str]
    folded: bool = False


Block = str | Grid | Notes | Plot  # a plain text is a paragraph


@dataclass(frozen=True, slots=True)
class Section:
    """One chapter. `verdicts`: on each published figure; `csv`: the same figures for machines, by file name without .csv."""

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
        """How many published figures got which verdict, the most telling words first."""
        words = [verdict.word for section in self.sections for verdict in section.verdicts]
        return {word: words.count(word) for word in ORDER if word in words}

    @property
    def plots(self) -> list[Plot]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Plot)]


ORDER = (
    "reproduced",
    "differs",
    "published figure inconsistent",
    "cannot tell",
    "not comparable",
    "not measured",
    "nothing published",
)
