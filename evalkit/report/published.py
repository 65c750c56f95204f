"""Published figures: results/published/*.toml, every figure with its source."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from evalkit.codec import decode, key, load_toml
from evalkit.errors import EvalkitError, unknown

_PACKAGE = Path(__file__).parents[1]
# in the wheel the tables are inside the package, in a checkout under results/
FOLDER = next((p for p in (_PACKAGE / "published", _PACKAGE.parent / "results" / "published") if p.is_dir()), _PACKAGE / "published")


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """One published figure, in the table's unit. `protocol` is "" if it cannot be run as it was made.

    `inconsistent` is why it cannot be right as printed; `decimals` as printed, if they are not the column's; `judges` are the names of
    the judge that counts, for a judged benchmark.
    """

    value: float
    protocol: str
    origin: str
    note: str = ""
    inconsistent: str = ""
    decimals: int | None = None
    judges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """One benchmark of the table (`group`: one of its categories) and how many decimals were printed.

    `scale` is what a 1 of run.json is in the table's unit, `maximum` the highest possible score.
    """

    task: str
    title: str
    decimals: int
    group: str = ""
    scale: float = 100.0
    maximum: float = 100.0

    @property
    def key(self) -> str:
        """The key of a row's cells: the task, with the category if the column is one."""
        return f"{self.task}:{self.group}" if self.group else self.task

    def printed(self, cell: PublishedFigure) -> str:
        """A published figure as it was printed."""
        return f"{cell.value:.{self.decimals if cell.decimals is None else cell.decimals}f}"

    def rounding(self, cell: PublishedFigure) -> float:
        """Half a unit of a figure's last printed digit."""
        return 0.5 * 10.0 ** -(self.decimals if cell.decimals is None else cell.decimals)


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
    """One model of the table: its checkpoints' hub ids, cells by column, printed parameters by figure, and throughput."""

    model: str
    cells: Mapping[str, PublishedFigure] = field(metadata=key("cell"))
    base: tuple[str, ...] = ()
    chat: tuple[str, ...] = ()
    parameters: Mapping[str, Parameters] = field(default_factory=dict)
    throughput: Throughput | None = None

    def is_model(self, spec: str) -> bool:
        """Whether a run's model SPEC is this row's: a hub id at any revision, or a folder with the checkpoint's name."""
        if spec.startswith("random:"):
            return False  # its configuration, not its weights
        name = spec.rstrip("/").split("@")[0]
        return any(name == hub or Path(name).name.lower() == hub.rpartition("/")[2].lower() for hub in (*self.base, *self.chat))

    @property
    def slug(self) -> str:
        """ "DeepSeekMoE 16B" -> "deepseekmoe-16b": as configurations are named, without need of quotes in a shell."""
        return slug(self.model)


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A published table as printed, with its source's parameters, throughput and training cost. `name` is the file's."""

    title: str
    source: str
    columns: tuple[Column, ...] = field(metadata=key("column"))
    rows: tuple[Row, ...] = field(metadata=key("row"))
    unit: str = ""
    parameters: ParameterTable | None = None
    training_cost: TrainingCost | None = None
    throughput: ThroughputTable | None = None
    anchors: tuple[Anchor, ...] = field(default=(), metadata=key("anchor"))
    name: str = ""

    def column(self, task: str) -> Column | None:
        """The column of a whole task."""
        return next((column for column in self.columns if column.key == task), None)


@dataclass(frozen=True, slots=True)
class Match:
    """A published figure for a model and task, and its table."""

    table: str
    column: Column
    figure: PublishedFigure

    @property
    def printed(self) -> str:
        """The figure as its table prints it."""
        return self.column.printed(self.figure)

    @property
    def share(self) -> float:
        """The figure in run.json's unit."""
        return self.figure.value / self.column.scale

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit, in run.json's unit."""
        return self.column.rounding(self.figure) / self.column.scale

    def __str__(self) -> str:
        under = f" under {self.figure.protocol}" if self.figure.protocol else ""
        return f"{self.printed} in {self.table}{under}"


def slug(name: str) -> str:
    """A model's name as configurations are named."""
    return name.lower().replace(" ", "-")


def table_names() -> list[str]:
    """The names of the published tables."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_table(name: str) -> PublishedTable:
    """A table by its name, or from a .toml file. Raises EvalkitError, with file and key, for a malformed table."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if path.parent == FOLDER and path.stem not in table_names():
        raise unknown("published table", path.stem, table_names())
    return _read(path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache
def _read(path: Path, changed: int) -> PublishedTable:
    """Tables are asked for once a task of every run, and Python's TOML reader takes its time."""
    table = decode(PublishedTable, load_toml(path), str(path), "correct the table")
    columns, models = {column.key: column for column in table.columns}, {row.model for row in table.rows}
    if len(columns) < len(table.columns) or len(models) < len(table.rows):
        raise EvalkitError(f"{path}: a column's task or a row's model is there twice; keep one of each")
    for column in table.columns:
        if not (0 <= column.decimals <= 10 and column.scale > 0):
            raise EvalkitError(f"{path}: column {column.key}: decimals is {column.decimals}, scale {column.scale:g}; give 0 to 10, above 0")
    for row in table.rows:
        for task in row.cells:
            if task not in columns:
                raise EvalkitError(f"{path}: row {row.model}: cell {task} is of no column; known: {', '.join(columns)}")
    for anchor in table.anchors:
        if anchor.model not in models or anchor.task not in columns:
            raise EvalkitError(f"{path}: anchor of {anchor.model} and {anchor.task}: there is no such row or column")
    return replace(table, name=path.stem)


def column_for(task: str, matches: Sequence[Match] = ()) -> Column | None:
    """How a task's figures are printed: as in the tables of `matches`, or else in any table. None if no table has the task.

    If tables differ, the one with the largest unit and the fewest decimals, whatever the tables' names.
    """
    columns = [match.column for match in matches] or [column for name in table_names() if (column := read_table(name).column(task))]
    return min(columns, key=lambda column: (-column.scale, column.decimals), default=None)


def published_for(spec: str, task: str, protocol: str, table: str | None = None) -> tuple[Match, ...]:
    """The published figures of a model and task (or task:category) in all tables, or in the one that is named.

    Those that were made under the run's protocol, or all if there are none.
    """
    tables = map(read_table, table_names() if table is None else [table])
    found = [Match(each.name, column, row.cells[task]) for each, column, row in _cells(tables, task) if row.is_model(spec)]
    return tuple(match for match in found if match.figure.protocol == protocol) or tuple(found)


def _cells(tables: Iterable[PublishedTable], task: str) -> Iterator[tuple[PublishedTable, Column, Row]]:
    """The rows that have a figure for the task."""
    for table in tables:
        if column := table.column(task):
            yield from ((table, column, row) for row in table.rows if task in row.cells)


def agreed(matches: Sequence[Match]) -> Match | None:
    """The most exact of the figures if all are equal within their rounding; None if they differ, or there are none."""
    if not matches:
        return None
    best = min(matches, key=lambda match: match.rounding)
    return best if all(abs(match.share - best.share) <= match.rounding + 1e-9 for match in matches) else None


def in_tables(matches: Sequence[Match]) -> str:
    """ "published as 62.5 in qwen1.5-moe under qwen"."""
    return f"published as {' and as '.join(map(str, matches))}"
