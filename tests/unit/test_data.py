"""Sources: folder, sample and hub give the same rows the same hash; whatever is wrong is named in one line."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from hub_server import serving

from evalkit.data.sources import FolderSource, HubSource, SampleSource, documents, fetch, open_source
from evalkit.errors import DataError, EvalkitError
from evalkit.tasks import DataSource, Doc, PackageTable, Table, Task, TextFile
from evalkit.tasks.registry import resolve, task_classes

SAMPLE = SampleSource().folder
# the others' hubs have other layouts, and tests of their own
ON_THE_HUB = [task_classes()[name] for name in ("mmlu", "gsm8k", "humaneval")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the sample as a data folder, to be broken."""
    shutil.copytree(SAMPLE, tmp_path / "data")
    return tmp_path / "data"


def load_gsm8k(folder: Path) -> None:
    resolve("gsm8k").load(FolderSource(folder))


def load_mmlu(folder: Path) -> None:
    source = FolderSource(folder)
    source.kind = "sample"  # the 14 subjects of the sample
    resolve("mmlu").load(source)


@pytest.mark.parametrize(
    ("file", "old", "new", "load", "message"),
    [
        ("gsm8k/test.jsonl", None, None, load_gsm8k, "test.jsonl is missing; pass --data"),
        ("gsm8k/qwen_8shot_prompt.txt", None, None, load_gsm8k, "evalkit data fetch"),
        ("gsm8k/test.jsonl", '{"question"', '{"frage"', load_gsm8k, "line 1: no question"),
        ("gsm8k/test.jsonl", '{"question"', "question", load_gsm8k, "line 1: not valid JSON"),
        ("gsm8k/test.jsonl", '{"question"', '{"question": "a", "question"', load_gsm8k, 'the key "question" is there twice'),
        ("gsm8k/test.jsonl", "#### ", "answer: ", load_gsm8k, "test.jsonl line 1: answer is .*, expected a solution that ends in"),
        ("mmlu/test/astronomy_test.csv", ",", ";", load_mmlu, r"astronomy_test.csv line \d+: \d columns, expected 6"),
        (
            "mmlu/test/astronomy_test.csv",
            ",A\n",
            ",E\n",
            load_mmlu,
            r"astronomy_test.csv line \d+: answer is 'E'",
        ),
        ("mmlu/dev/nutrition_dev.csv", None, "", load_mmlu, "holds no rows"),
    ],
)
def test_a_broken_file_is_named(folder: Path, file: str, old: str | None, new: str | None, load, message: str) -> None:
    path = folder / file
    if new is None:
        path.unlink()
    else:
        path.write_text(path.read_text().replace(old, new) if old else new)
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_not_utf8(folder: Path) -> None:
    (folder / "gsm8k/test.jsonl").write_bytes(b'{"question": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8"):
        load_gsm8k(folder)


def test_unknown_folder() -> None:
    with pytest.raises(EvalkitError, match="no such folder"):
        open_source("/nowhere/at/all")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sample's rows in the hub cache's own layout, or in an installed package, offline."""
    import pyarrow
    import pyarrow.parquet
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    for cls in ON_THE_HUB:
        source = SampleSource()
        for table in cls.tables(source):
            rows = source.rows(table)
            if isinstance(table.hub, PackageTable):
                file = tmp_path / table.hub.package / table.hub.file
                file.parent.mkdir(parents=True)
                (tmp_path / table.hub.package / "__init__.py").touch()
                file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
                monkeypatch.syspath_prepend(str(tmp_path))
                continue
            if cls.name == "mmlu":
                rows = [{"question": r["question"], "choices": [r[x] for x in "ABCD"], "answer": "ABCD".index(r["answer"])} for r in rows]
            snapshot = tmp_path / f"datasets--{table.hub.repo.replace('/', '--')}" / "snapshots" / table.hub.revision
            (snapshot / table.hub.file).parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), snapshot / table.hub.file)
    return tmp_path


def test_hub_rows_equal_folder_rows(hub: Path) -> None:
    for cls in ON_THE_HUB:
        sample, source = SampleSource(), HubSource()
        for table in cls.tables(sample):
            assert source.rows(table) == sample.rows(table)
        assert source.sha256() == sample.sha256()
        assert source.revision == (table.hub.requirement if isinstance(table.hub, PackageTable) else table.hub.revision)


def test_what_the_hub_lacks_is_named(hub: Path) -> None:
    table = task_classes()["mmlu"].tables(HubSource())[0]
    assert "abstract_algebra" in table.path
    with pytest.raises(DataError, match=r"abstract_algebra/dev-.* is not in the cache .*; or pass --data DIR"):
        HubSource().rows(table)


def test_fetched_files_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.data.sources.CACHE", tmp_path / "cache")
    with serving() as server:
        server.pages["/p.txt"] = b"worked examples"
        good = TextFile("p.txt", f"{server.url}/p.txt", hashlib.sha256(b"worked examples").hexdigest())
        assert fetch(good) == b"worked examples"
        server.pages["/p.txt"] = b"changed"
        assert fetch(good) == b"worked examples"  # from the cache
        with pytest.raises(DataError, match="changed upstream"):
            fetch(TextFile("p.txt", good.url, "0" * 64))
        with pytest.raises(DataError, match=r"cannot fetch .*gone: .*status 404"):
            fetch(TextFile("p.txt", f"{server.url}/gone", "1" * 64))


def test_fetch_writes_the_worked_examples_that_a_folder_lacks(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evalkit import cli
    from evalkit.tasks.registry import task_classes

    upstream = b"Question: a?\nThe answer is 1\n"
    digest = hashlib.sha256(upstream).hexdigest()
    paths = [file.path for file in task_classes()["gsm8k"].text_files]
    assert paths == ["gsm8k/qwen_8shot_prompt.txt", "gsm8k/opencompass_4shot_prompt.txt"]
    monkeypatch.setattr("evalkit.data.sources.CACHE", tmp_path / "cache")
    kept = (folder / paths[0]).read_text()
    (folder / paths[1]).unlink()
    with serving() as server:
        server.pages["/upstream.txt"] = upstream
        files = tuple(TextFile(path, f"{server.url}/upstream.txt", digest) for path in paths)
        monkeypatch.setattr(task_classes()["gsm8k"], "text_files", files)
        assert cli.main(["data", "fetch", "gsm8k", "--data", str(folder)]) == 0
    assert (folder / paths[1]).read_bytes() == upstream
    assert (folder / paths[0]).read_text() == kept


def test_status_names_the_files_of_protocols_that_a_folder_lacks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from evalkit import cli

    assert cli.main(["data", "status", "gsm8k", "--data", str(folder)]) == 0
    assert "without" not in capsys.readouterr().out
    (folder / "gsm8k" / "qwen_8shot_prompt.txt").unlink()
    assert cli.main(["data", "status", "gsm8k", "--data", str(folder)]) == 0
    assert "without gsm8k/qwen_8shot_prompt.txt" in " ".join(capsys.readouterr().out.split())


def test_every_cell_is_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('"a, ""b""\nc",None,NA,N/A,null,A\n')
    (row,) = FolderSource(tmp_path).rows(Table("t.csv", ("question", *"ABCD", "answer"), None))  # type: ignore[arg-type]
    assert row == {"question": 'a, "b"\nc', "A": "None", "B": "NA", "C": "N/A", "D": "null", "answer": "A"}


def test_the_hash_is_over_rows_not_files(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "#### 1"}]
    table = Table("t.jsonl", ("question", "answer"), None)  # type: ignore[arg-type]
    digests = set()
    for text in (json.dumps(rows[0]), json.dumps({"extra": 1, **rows[0]}, indent=None, separators=(",", ":")) + "\n\n"):
        (tmp_path / "t.jsonl").write_text(text)
        source = FolderSource(tmp_path)
        source.rows(table)
        digests.add(source.sha256())
    assert len(digests) == 1


def made(rows: list[dict[str, str]], reads: tuple[Table | TextFile, ...] = ()) -> type[Task]:
    """A task that makes its rows itself, and may read more."""

    def load(self: Task, source: DataSource) -> list[Doc]:
        for each in reads:
            _ = source.rows(each) if isinstance(each, Table) else source.text(each)
        return [Doc(str(i), "all", row) for i, row in enumerate(rows)]

    return type("Made", (task_classes()["gsm8k"],), {"load": load})


def test_rows_made_in_code_are_hashed() -> None:
    """Also where a text is read beside them; rows that a task reads have the hash that they have."""

    def described(rows: list[dict[str, str]], *reads: Table | TextFile) -> tuple[str, str]:
        source = SampleSource()
        cls = made(rows, reads)
        assert len(documents(cls(cls.protocols["lm-eval"]), source)) == len(rows)
        return source.describe(cls).source, source.describe(cls).sha256

    text = TextFile("gsm8k/qwen_8shot_prompt.txt", "", "")
    one, other = ([{"question": "q", "answer": answer}] for answer in ("1", "2"))
    assert described(one) == described(one)
    found = {described(one), described(other), described(one + other), described(one, text), described(other, text)}
    assert {source for source, _ in found} == {"code"}
    assert len(found) == 5
    source = SampleSource()
    task = resolve("gsm8k")
    docs = documents(task, source)
    before = source.describe(type(task))
    source.note_made("gsm8k", docs)
    assert source.describe(type(task)) == before
    assert before.source == "sample"


def test_a_run_says_whether_its_rows_are_the_official_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a protocol that does not read every table, where the others are there; not of the sample, nor where one is missing."""

    def found(spec: str) -> bool | None:
        source, task = FolderSource(folder), resolve(spec)
        task.load(source)
        return source.describe(type(task)).official

    for name, specs in {"gsm8k": ("gsm8k@qwen", "gsm8k@lm-eval"), "humaneval": ("humaneval@codex",)}.items():
        cls, source, sample = task_classes()[name], FolderSource(folder), SampleSource()
        for table in cls.tables(source):
            source.rows(table)
        resolve(name).load(sample)
        assert sample.describe(cls).official is None
        assert {found(spec) for spec in specs} == {False}  # our own rows
        monkeypatch.setattr(cls, "official_sha256", source.sha256())
        assert {found(spec) for spec in specs} == {True}
    (train,) = (folder / "gsm8k").glob("*train*")
    train.unlink()
    assert found("gsm8k@qwen") is None
