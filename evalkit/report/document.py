"""A report independent of its format: paragraphs that tell the story, then sections of paragraphs, tables, notes and plots."""

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


@dataclass(frozen=True, slots=True)
class Link:
    """A text that leads to another page of the report."""

    text: str
    target: str


GridCell = str | Pair | Verdict | Link


@dataclass(frozen=True, slots=True)
class Grid:
    """A table. `name` is its file's. `align` has one letter per column: l left, r right, p a paragraph that may wrap.

    The first `keys` columns name a row: they stand again where a table is too wide for a page and is cut. `folded`: collapsed where
    possible.
    """

    name: str
    title: str
    align: str
    head: Sequence[str]
    rows: Sequence[Sequence[GridCell]]
    keys: int = 1
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


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause that was tested for a difference: the figures with and without it, and what follows."""

    cause: str
    effect: str
    conclusion: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A published figure and its `origin`, what was measured for it, and the causes tested.

    `how` is the protocol, n, data and weights. It, the figure, its interval and the difference are "" where nothing was measured.
    """

    title: str
    published: str
    origin: str
    verdict: Verdict
    measured: str = ""
    interval: str = ""
    difference: str = ""
    how: str = ""
    causes: Sequence[Cause] = ()


@dataclass(frozen=True, slots=True)
class Claims:
    """Claims that came out alike."""

    title: str
    claims: Sequence[Claim]
    folded: bool = False


Block = str | Grid | Notes | Claims | Plot  # a string is a paragraph


@dataclass(frozen=True, slots=True)
class Section:
    """One chapter. `verdicts`: one for each published figure; `csv`: the same figures as CSV, by file name without .csv."""

    slug: str
    title: str
    blocks: Sequence[Block]
    verdicts: Sequence[Verdict] = ()
    csv: Mapping[str, str] = field(default_factory=dict)

    @property
    def tally(self) -> dict[str, int]:
        """How many published figures have each verdict, the most informative verdicts first."""
        words = [verdict.word for verdict in self.verdicts]
        return {word: words.count(word) for word in WORDS if word in words}


@dataclass(frozen=True, slots=True)
class Document:
    """The whole report. `story`: what was claimed, what holds, what does not, and why. `index`: the page that leads here, if any."""

    title: str
    story: Sequence[Block]
    sections: Sequence[Section]
    index: str = ""

    @property
    def blocks(self) -> list[Block]:
        return [*self.story, *(block for section in self.sections for block in section.blocks)]

    @property
    def plots(self) -> list[Plot]:
        return [block for block in self.blocks if isinstance(block, Plot)]


def claim_words(claim: Claim) -> str:
    """ "published 61.6 (origin); measured 51.2 (43.6 to 58.8), difference -10.4; differs. humaneval@chat, n = 164"."""
    measured = f"; measured {claim.measured}{claim.interval}, difference {claim.difference}" if claim.how else ""
    how = f" {claim.how}." if claim.how else ""
    return f"published {claim.published} ({claim.origin}){measured}; {claim.verdict}.{how}"


def tally_words(tally: Mapping[str, int]) -> str:
    """ "2 reproduced, 1 not measured"."""
    return ", ".join(f"{count} {word}" for word, count in tally.items())
