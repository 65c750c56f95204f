"""The ledger of published figures: results/published/*.toml, every figure with its source."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import unknown

_PACKAGE = Path(__file__).parent.parent
# in the wheel the tables lie inside the package, in a checkout under results/
FOLDER = next((p for p in (_PACKAGE / "published", _PACKAGE.parent / "results" / "published") if p.is_dir()), _PACKAGE / "published")


@dataclass(frozen=True, slots=True)
class Cell:
    """One published figure, in the table's own unit. `protocol` is "" where it can't be run as it was made."""

    value: float
    protocol: str
    origin: str
    note: str = ""
    inconsistent: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """One benchmark of the table and how many decimals were printed."""

    task: str
    title: str
    decimals: int


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
class TrainingCost:
    """A claim: training `model` costs `saving` (a share) less than `baseline`; `missing` is what deriving it would take."""

    model: str
    baseline: str
    saving: float
    origin: str
    missing: str


@dataclass(frozen=True, slots=True)
class Row:
    """One model of the table: its checkpoints' hub ids, its cells by task, its printed parameters by figure."""

    model: str
    base: tuple[str, ...]
    chat: tuple[str, ...]
    cells: Mapping[str, Cell]
    parameters: Mapping[str, Parameters]

    def is_model(self, spec: str) -> bool:
        """Does a run's model SPEC name this row? A hub id, at any revision, or a folder that bears the checkpoint's name."""
        name = spec.rstrip("/").split("@")[0]
        return any(name == hub or Path(name).name.lower() == hub.split("/")[1].lower() for hub in (*self.base, *self.chat))


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A published table, as printed, and what its source prints of parameters and training cost."""

    name: str
    title: str
    source: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    parameters: ParameterTable | None
    training_cost: TrainingCost | None


def table_names() -> list[str]:
    """The published tables there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_table(name: str) -> PublishedTable:
    """Raises EvalkitError for an unknown table, ValueError for a malformed file (a fault of ours, which a test finds)."""
    if name not in table_names():
        raise unknown("published table", name, table_names())
    raw = tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))
    columns = tuple(Column(**column) for column in raw["column"])
    rows = tuple(_row(row, {c.task for c in columns}) for row in raw["row"])
    parameters = ParameterTable(**raw["parameters"]) if "parameters" in raw else None
    cost = TrainingCost(**raw["training_cost"]) if "training_cost" in raw else None
    return PublishedTable(name, raw["title"], raw["source"], columns, rows, parameters, cost)


def _row(raw: Mapping[str, Any], tasks: set[str]) -> Row:
    if extra := set(raw["cell"]) - tasks:
        raise ValueError(f"{raw['model']}: cells of no column: {extra}")
    cells = {task: Cell(**cell) for task, cell in raw["cell"].items()}
    parameters = {figure: Parameters(**printed) for figure, printed in raw.get("parameters", {}).items()}
    return Row(raw["model"], tuple(raw["base"]), tuple(raw["chat"]), cells, parameters)


def published_for(spec: str, task: str) -> tuple[Cell, Column] | None:
    """The figure that any table of the ledger holds for this model and task."""
    for name in table_names():
        table = read_table(name)
        for row in table.rows:
            if row.is_model(spec) and task in row.cells:
                return row.cells[task], next(c for c in table.columns if c.task == task)
    return None
