"""run.json, samples/ and completions/ on a disk that fills up: the new ones whole, or the old ones as they were."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from report_runs import run

from evalkit.errors import RunIncomplete
from evalkit.record.sample import Sample
from evalkit.record.write import write_run
from evalkit.runner import programs
from evalkit.tasks import Doc, FunctionCheck, Generate, Generated, Ran, Scored


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: the system's own refusal, and a process may set it for itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sample(text: str) -> Sample:
    doc = Doc("d", "g", {"question": "?"})
    return Sample(doc, [Generate("?", (), 1)], [Generated(text, "stop", 1)], Scored({"acc": 1.0}, text, text))


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    record = run("m")
    write_run(tmp_path, record, {"a": [sample("old")], "gone": [sample("old")]})
    before = contents(tmp_path)
    with room_for(2000), pytest.raises(RunIncomplete, match=r"cannot write .*b\.jsonl: File too large; nothing answered is lost"):
        write_run(tmp_path, record, {"a": [sample("new")], "b": [sample("x" * 9000)]})
    assert contents(tmp_path) == before  # and nothing half written beside
    write_run(tmp_path, record, {"a": [sample("new")], "b": [sample("new")]})
    assert sorted(contents(tmp_path)) == ["run.json", "samples/a.jsonl", "samples/b.jsonl"]


def test_completions_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "completions" / "t.jsonl"
    check, ran = FunctionCheck("def f():", " pass # lone \ud800", "", "f"), Ran("passed")
    programs.export(path, [("d", check, ran)])
    before = path.read_bytes()
    with room_for(2000), pytest.raises(RunIncomplete, match="File too large"):
        programs.export(path, [("d", check, ran)] * 100)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["t.jsonl"]
