"""Published tables: results/published/*.toml, every figure with its source and with all that is needed to measure it.

docs/adding-a-published-table.md says what each key means.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path

from evalkit.codec import TomlFile, decode_toml, key
from evalkit.errors import EvalkitError, unknown
from evalkit.report.checkpoint import Checkpoint
from evalkit.report.published_checks import check, inherit

_PACKAGE = Path(__file__).parents[1]
# in the wheel the tables are inside the package, in a checkout under results/
FOLDER = next((p for p in (_PACKAGE / "published", _PACKAGE.parent / "results" / "published") if p.is_dir()), _PACKAGE / "published")


@dataclass(frozen=True, slots=True)
class Print:
    """Another print of the same figure, in the same source or elsewhere."""

    printed: str
    url: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """One published figure, in the table's unit: a cell.

    `printed` is its text, digit for digit. `protocol` is how it was made: "" if that is unpublished; `not_here`: none of ours.
    `url` and `place` say where it is printed, `origin` whose figure it is and how it was made. `samples` is how many answers a document
    it is the mean of, `judges` are the names of the judge that counts, for a judged benchmark. `doubt` is why it may not be what it
    seems, `inconsistent` why it cannot be right as printed; `also` are its other prints. `tested` is what was tested here to explain a
    difference, and what came out.
    """

    printed: str
    protocol: str
    url: str
    place: str = ""
    origin: str = ""
    checkpoint: Checkpoint | None = None
    not_here: bool = False
    samples: int = 1
    judges: tuple[str, ...] = ()
    doubt: str = ""
    note: str = ""
    inconsistent: str = ""
    tested: str = ""
    also: tuple[Print, ...] = ()

    @property
    def value(self) -> float:
        return float(self.printed)

    @property
    def decimals(self) -> int:
        """How many decimals were printed."""
        return decimals(self.printed)

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit."""
        return rounding(self.printed)

    @property
    def cited(self) -> str:
        """Whose figure it is, and where it is printed."""
        return "; ".join(text for text in (self.origin, ", ".join(text for text in (self.place, self.url) if text)) if text)


@dataclass(frozen=True, slots=True)
class Column:
    """One benchmark of the table (`group`: one of its categories), under one `protocol` if the table has it under several.

    `decimals` are those that measured figures are shown with. `scale` is what a 1 of run.json is in the table's unit, `maximum` the
    highest possible score, `metric` the figure's key in run.json ("": the task's headline). `not_here`: evalkit has no such task or
    protocol. The fields from `protocol` on are for cells that do not say them.
    """

    task: str
    title: str
    decimals: int
    group: str = ""
    scale: float = 100.0
    maximum: float = 100.0
    metric: str = ""
    not_here: bool = False
    protocol: str = ""
    checkpoint: str = ""
    samples: int = 1
    judges: tuple[str, ...] = ()
    url: str = ""
    place: str = ""
    origin: str = ""
    doubt: str = ""

    @property
    def whole(self) -> str:
        """The task, with the category if the column is one."""
        return f"{self.task}:{self.group}" if self.group else self.task

    @property
    def key(self) -> str:
        """The key of a row's cells: the task, the category after a colon, the column's protocol after an @."""
        return f"{self.whole}@{self.protocol}" if self.protocol else self.whole


@dataclass(frozen=True, slots=True)
class Parameters:
    """A printed number of parameters, in billions; `note` explains it if the count differs."""

    value: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class ParameterTable:
    """The source and precision of the parameter table (`Row.parameters`)."""

    source: str
    decimals: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """Printed throughput: requests and tokens (input and output) per second."""

    requests_per_second: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class ThroughputTable:
    """The setting of the throughput table (`Row.throughput`), and the claimed ratio of `model` to `baseline`."""

    source: str
    engine: str
    device: str
    prompt_tokens: int
    output_tokens: int
    model: str
    baseline: str
    ratio: float
    origin: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A figure that others published for a model of the table, in the column's unit."""

    model: str
    task: str
    value: float
    protocol: str
    source: str
    url: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """The claim that training `model` costs `saving` (a share) less than `baseline`; `missing` is what is needed to derive it."""

    model: str
    baseline: str
    saving: float
    origin: str
    missing: str


@dataclass(frozen=True, slots=True)
class Row:
    """One model of the table: its checkpoints by a name of the table's, cells by column, printed parameters by figure, and throughput.

    The fields from `protocol` on are for cells that do not say them.
    """

    model: str
    cells: Mapping[str, PublishedFigure] = field(default_factory=dict, metadata=key("cell"))
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict, metadata=key("checkpoint"))
    parameters: Mapping[str, Parameters] = field(default_factory=dict)
    throughput: Throughput | None = None
    protocol: str = ""
    judges: tuple[str, ...] = ()
    url: str = ""
    place: str = ""
    origin: str = ""
    doubt: str = ""

    def is_model(self, spec: str) -> bool:
        """Whether a run's SPEC names one of its checkpoints."""
        return any(checkpoint.is_named_by(spec) for checkpoint in self.checkpoints.values())

    @property
    def hubs(self) -> tuple[str, ...]:
        """The hub ids of its checkpoints."""
        return tuple(checkpoint.hub for checkpoint in self.checkpoints.values())

    @property
    def slug(self) -> str:
        """ "DeepSeekMoE 16B" -> "deepseekmoe-16b": as configurations are named, without need of quotes in a shell."""
        return slug(self.model)


@dataclass(frozen=True)
class PublishedTable:
    """A published table as printed, with its source's parameters, throughput and training cost. `name` is the file's.

    The fields from `protocol` to `doubt`, and `url`, are for cells that do not say them.
    """

    title: str
    source: str
    url: str
    columns: tuple[Column, ...] = field(metadata=key("column"))
    rows: tuple[Row, ...] = field(metadata=key("row"))
    unit: str = ""
    protocol: str = ""
    judges: tuple[str, ...] = ()
    place: str = ""
    origin: str = ""
    doubt: str = ""
    parameters: ParameterTable | None = None
    training_cost: TrainingCost | None = None
    throughput: ThroughputTable | None = None
    anchors: tuple[Anchor, ...] = field(default=(), metadata=key("anchor"))
    name: str = ""

    @cached_property
    def by_key(self) -> Mapping[str, Column]:
        return {column.key: column for column in self.columns}

    def cells(self) -> Iterator[tuple[Row, Column, PublishedFigure]]:
        """Every figure, row by row, in the columns' order."""
        for row in self.rows:
            yield from ((row, column, row.cells[column.key]) for column in self.columns if column.key in row.cells)

    def columns_of(self, task: str, protocol: str) -> list[Column]:
        """The columns that a measured figure belongs to: the task's and its categories', under its protocol, else those that name none.

        If all are under others, the first, whose verdict then says so.
        """
        found = [column for column in self.columns if task in (column.task, column.whole)]
        under = [[column for column in found if column.protocol == each] for each in (protocol, "")]
        return under[0] or under[1] or found[:1]


def decimals(printed: str) -> int:
    """How many decimals a figure was printed with."""
    return len(printed.partition(".")[2])


def rounding(printed: str) -> float:
    """Half a unit of a figure's last printed digit."""
    return 0.5 * 10.0 ** -decimals(printed)


def slug(name: str) -> str:
    """A model's name as configurations are named."""
    return name.lower().replace(" ", "-")


def table_names() -> list[str]:
    """The names of the published tables."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_table(name: str) -> PublishedTable:
    """A table by its name, or from a .toml file. Raises EvalkitError, with file, line and key, for a malformed table."""
    is_file = name.endswith(".toml")
    path = Path(name).expanduser() if is_file else FOLDER / f"{name}.toml"
    if not is_file and name not in table_names():
        raise EvalkitError(f"{unknown('published table', name, table_names())}, or a file whose name ends in .toml")
    if not path.exists():
        near = difflib.get_close_matches(path.name, [*(each.name for each in path.parent.glob("*.toml")), *table_names()], n=1, cutoff=0.7)
        raise EvalkitError(f"cannot read {path}: no such file" + (f"; did you mean {near[0]}?" if near else ""))
    return _read(path, path.stat().st_mtime_ns)


@lru_cache
def _read(path: Path, changed: int) -> PublishedTable:
    """Tables are asked for once a task of every run, and Python's TOML reader takes its time."""
    file = TomlFile.read(path)
    inherit(file)
    return replace(check(decode_toml(PublishedTable, file, "correct the table"), file), name=path.stem)
