"""A run whose answers are all in its journal reads no weights; one answer missing, and they are read, with progress shown."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from evalkit import cli
from evalkit.config import ModelSpec, RunConfig
from evalkit.errors import EvalkitError
from evalkit.lm import open_lm
from evalkit.lm.native import NativeLM
from evalkit.progress import Advance, Reporter
from evalkit.runner.run import run
from moe_lm.checkpoint.weights import Weights

pytestmark = pytest.mark.usefixtures("one_thread")


class Labels(Reporter):
    """Keeps what its bars were called, and how far each came."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.bars: dict[str, list[int]] = {}

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0, counted: bool = True, status: object = None) -> Iterator[Advance]:
        steps = self.bars.setdefault(label, [])
        yield lambda now, note="": steps.append(now)


def config(model: Path, out: Path, *tasks: str) -> RunConfig:
    return RunConfig(tasks or ("mmlu", "gsm8k"), model=str(model), data="sample", limit=1, out=str(out), name="r")


def results(folder: Path) -> tuple[str, dict[str, bytes]]:
    """run.json without its clocks, and the samples."""
    record = json.loads((folder / "run.json").read_text("utf-8"))
    kept = {key: value for key, value in record.items() if key not in ("started", "seconds", "command")}
    return json.dumps(kept), {file.name: file.read_bytes() for file in (folder / "samples").iterdir()}


@pytest.fixture(scope="module")
def original(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("original")
    run(config(tiny_model, out), Reporter(quiet=True))
    return out / "r"


@pytest.fixture
def finished(original: Path, tmp_path: Path) -> Path:
    """The folder of a finished run of MMLU and GSM8K."""
    return shutil.copytree(original, tmp_path / "r")


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr(Weights, "read", refuse)


@pytest.mark.usefixtures("no_weights")
def test_the_guard_sees_weights_being_read(tiny_model: Path) -> None:
    with pytest.raises(AssertionError, match="the weights were read"):
        NativeLM.load(ModelSpec(str(tiny_model)))


def test_the_same_command_reads_no_weights(tiny_model: Path, finished: Path, request: pytest.FixtureRequest) -> None:
    before = results(finished)
    request.getfixturevalue("no_weights")
    reporter = Labels()
    run(config(tiny_model, finished.parent), reporter)
    assert results(finished) == before
    assert "loading model" not in reporter.bars


def test_another_extraction_of_the_same_prompts_reads_no_weights(tiny_model: Path, finished: Path, request: pytest.FixtureRequest) -> None:
    (before,) = rows(finished / "samples" / "gsm8k.jsonl")
    request.getfixturevalue("no_weights")
    record = run(config(tiny_model, finished.parent, "mmlu", "gsm8k@qwen-fixed"), Reporter(quiet=True))
    assert (record.status, record.tasks["gsm8k"].protocol) == ("complete", "qwen-fixed")
    (after,) = rows(finished / "samples" / "gsm8k.jsonl")
    assert after["responses"] == before["responses"]


def test_one_missing_answer_reads_the_weights_once_and_says_so(tiny_model: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = results(finished)
    with closing(sqlite3.connect(finished / "journal.sqlite")) as journal:
        journal.execute("DELETE FROM responses WHERE key = (SELECT min(key) FROM responses)")
        journal.commit()
    reads: list[Path] = []
    read_weights = Weights.read

    def counted(self: Any, *arguments: Any) -> Any:
        reads.append(self.path)
        return read_weights(self, *arguments)

    monkeypatch.setattr(Weights, "read", counted)
    reporter = Labels()
    run(config(tiny_model, finished.parent), reporter)
    assert reads == [tiny_model]
    assert reporter.bars["loading model"][-1] == 100
    assert results(finished)[1] == before[1]


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("kind", ["folder", "random"])
def test_what_a_model_is_takes_no_weights(kind: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_lm.checkpoint.random_weights._fill", lambda *_: pytest.fail("weights were drawn"))
    spec = str(tiny_model) if kind == "folder" else f"random:{tiny_model}"
    lm = open_lm(ModelSpec(spec))
    assert isinstance(lm, NativeLM)
    assert not lm.ready
    assert lm.fingerprint.startswith("sha256:")
    assert lm.describe()["parameters"]["total"] > 0
    assert lm.tokens().computed == 0
    assert lm.tokenizer.encode("a")


def test_a_model_that_changes_after_it_was_opened_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    lm = open_lm(ModelSpec(str(tmp_path / "m")))
    (tmp_path / "m" / "config.json").write_text((tiny_model / "config.json").read_text("utf-8") + "\n", "utf-8")
    with pytest.raises(EvalkitError, match="changed after it was opened"):
        lm.prepare()


def test_the_command_line_rescores_too(
    tiny_model: Path, finished: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    request.getfixturevalue("no_weights")
    given = ["--model", str(tiny_model), "--data", "sample", "--limit", "1", "--out", str(finished.parent), "--name", "r"]
    assert cli.main(["run", "--tasks", "mmlu,gsm8k", *given]) == 0
    assert "gsm8k@qwen: 1 of 1 answers were in the journal" in capsys.readouterr().err
