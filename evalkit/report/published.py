"""Published figures: results/published/*.toml, every figure with its source."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import unknown

_PACKAGE = Path(__file__).parents[1]
# in the wheel the tables lie inside the package, in a checkout under results/
FOLDER = next((p for p in (_PACKAGE / "published", _PACKAGE.parent / "results" / "published") if p.is_dir()), _PACKAGE / "published")


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """One published figure, in the table's own unit. `protocol` is "" where it can't be run as it was made.

    `inconsistent` is why it can't be right as printed; `decimals` as printed, where they are not the column's; `judges` are the
    names of the judge that it takes, where one scored it.
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

    `scale` is what a 1 of run.json is in the table's unit, `maximum` the highest score there is.
    """

    task: str
    title: str
    decimals: int
    group: str = ""
    scale: float = 100.0
    maximum: float = 100.0

    @property
    def key(self) -> str:
        """What a row's cells go by: the task, with its category where the column is one."""
        return f"{self.task}:{self.group}" if self.group else self.task

    def printed(self, cell: PublishedFigure) -> str:
        """A published figure as it was printed."""
        return f"{cell.value:.{self.decimals if cell.decimals is None else cell.decimals}f}"

    def rounding(self, cell: PublishedFigure) -> float:
        """Half a unit of a figure's last printed digit."""
        return 0.5 * 10.0 ** -(self.decimals if cell.decimals is None else cell.decimals)


@dataclass(frozen=True, slots=True)
class Parameters:
    """A printed number of parameters, in billions; `note` explains it where the count says otherwise."""

    value: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class ParameterTable:
    """What the parameter table's figures (`Row.parameters`) have in common."""

    source: str
    decimals: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """Printed speed: requests and tokens (input and output) a second."""

    requests_per_second: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class ThroughputTable:
    """What the throughput table's figures (`Row.throughput`) have in common, and the claimed ratio of `model` to `baseline`."""

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
    """A figure that somebody else published for a model of the table, in the column's unit."""

    model: str
    task: str
    value: float
    protocol: str
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """A claim: training `model` costs `saving` (a share) less than `baseline`; `missing` is what deriving it would take."""

    model: str
    baseline: str
    saving: float
    origin: str
    missing: str


@dataclass(frozen=True, slots=True)
class Row:
    """One model of the table: its checkpoints' hub ids, its cells by column, its printed parameters by figure, its speed."""

    model: str
    base: tuple[str, ...]
    chat: tuple[str, ...]
    cells: Mapping[str, PublishedFigure]
    parameters: Mapping[str, Parameters]
    throughput: Throughput | None = None

    def is_model(self, spec: str) -> bool:
        """Does a run's model SPEC name this row? A hub id, at any revision, or a folder that bears the checkpoint's name."""
        if spec.startswith("random:"):
            return False  # its configuration, not its weights
        name = spec.rstrip("/").split("@")[0]
        return any(name == hub or Path(name).name.lower() == hub.rpartition("/")[2].lower() for hub in (*self.base, *self.chat))

    @property
    def slug(self) -> str:
        """ "DeepSeekMoE 16B" -> "deepseekmoe-16b": how configurations are named, and no quotes needed in a shell."""
        return slug(self.model)


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A published table, as printed, and what its source prints of parameters and training cost."""

    name: str
    title: str
    source: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    parameters: ParameterTable | None = None
    training_cost: TrainingCost | None = None
    throughput: ThroughputTable | None = None
    anchors: tuple[Anchor, ...] = ()

    def column(self, task: str) -> Column | None:
        """The column of a whole task."""
        return next((column for column in self.columns if column.key == task), None)


def slug(name: str) -> str:
    """A model's name as configurations are named."""
    return name.lower().replace(" ", "-")


def table_names() -> list[str]:
    """The published tables there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_table(name: str) -> PublishedTable:
    """Raises EvalkitError for an unknown table, ValueError for a malformed file (a fault of ours, which a test finds)."""
    if name not in table_names():
        raise unknown("published table", name, table_names())
    raw = tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))
    columns = tuple(Column(**column) for column in raw["column"])
    rows = tuple(_row(row, {c.key for c in columns}) for row in raw["row"])
    parameters = ParameterTable(**raw["parameters"]) if "parameters" in raw else None
    cost = TrainingCost(**raw["training_cost"]) if "training_cost" in raw else None
    throughput = ThroughputTable(**raw["throughput"]) if "throughput" in raw else None
    anchors = tuple(Anchor(**anchor) for anchor in raw.get("anchor", ()))
    if strange := {a.model for a in anchors} - {r.model for r in rows} or {a.task for a in anchors} - {c.key for c in columns}:
        raise ValueError(f"{name}: anchors of no row or column: {strange}")
    return PublishedTable(name, raw["title"], raw["source"], columns, rows, parameters, cost, throughput, anchors)


def _row(raw: Mapping[str, Any], tasks: set[str]) -> Row:
    if extra := set(raw["cell"]) - tasks:
        raise ValueError(f"{raw['model']}: cells of no column: {extra}")
    cells = {task: PublishedFigure(**cell | {"judges": tuple(cell.get("judges", ()))}) for task, cell in raw["cell"].items()}
    parameters = {figure: Parameters(**printed) for figure, printed in raw.get("parameters", {}).items()}
    speed = Throughput(**raw["throughput"]) if "throughput" in raw else None
    return Row(raw["model"], tuple(raw.get("base", ())), tuple(raw.get("chat", ())), cells, parameters, speed)


def column_for(task: str) -> Column | None:
    """How any published table prints this task: its unit, scale and decimals."""
    columns = (read_table(name).column(task) for name in table_names())
    return next((column for column in columns if column), None)


def published_for(spec: str, task: str) -> tuple[PublishedFigure, Column] | None:
    """The figure that any published table holds for this model and task (or task:category)."""
    for name in table_names():
        table = read_table(name)
        for row in table.rows:
            if row.is_model(spec) and task in row.cells:
                return row.cells[task], next(c for c in table.columns if c.key == task)
    return None
