"""A log-probability that is NaN or infinite is never scored, whichever way it comes: from the engine, or from a journal of before."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from evalkit import cli
from evalkit.lm.native import NativeLM
from evalkit.tasks import Loglikelihood, Loglikelihoods

pytestmark = pytest.mark.usefixtures("one_thread")
REFUSED = "only finite log-probabilities are scored; use --dtype float32, or check the checkpoint"


@pytest.fixture(params=[float("nan"), float("-inf")])
def one_bad(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer has one, as float16 gives it where it overflows."""
    whole = NativeLM.loglikelihood

    def overflows(lm: NativeLM, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
        for count, (i, answer) in enumerate(whole(lm, requests)):
            yield i, replace(answer, logprobs=(*answer.logprobs[:-1], request.param)) if count == 1 else answer

    monkeypatch.setattr(NativeLM, "loglikelihood", overflows)


def command(tiny_model: Path, out: Path) -> list[str]:
    options = ["--tasks", "mmlu@cloze", "--model", str(tiny_model), "--data", "sample", "--limit", "3"]
    return ["run", *options, "--name", "r", "--out", str(out)]


@pytest.mark.usefixtures("one_bad")
def test_a_run(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command(tiny_model, tmp_path)) == 2
    assert REFUSED in capsys.readouterr().err.splitlines()[-1]
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert (record["status"], record["tasks"]) == ("incomplete", {})


@pytest.mark.usefixtures("one_bad")
def test_a_journal_of_before(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("evalkit.runner.asking.require_finite", lambda request, response: None)
        assert cli.main(command(tiny_model, tmp_path)) == 0
    capsys.readouterr()
    assert cli.main(command(tiny_model, tmp_path)) == 2
    assert REFUSED in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.usefixtures("one_bad")
def test_verify(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NaN is not even equal to itself: it would count as an answer that depends on its layout."""
    assert cli.main(["verify", "--tasks", "mmlu@cloze", "--model", str(tiny_model), "--data", "sample", "--limit", "2"]) == 2
    assert REFUSED in capsys.readouterr().err.splitlines()[-1]


def test_weights_that_overflow(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The largest float32s are read; the run stops at the first score, and the line names the layer and its weights."""
    folder = tmp_path / "overflows"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][:] = 3e38
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for task, consequence in (("mmlu@cloze", "no continuation can be scored"), ("gsm8k", "no token can be chosen")):
        options = ["--tasks", task, "--model", str(folder), "--data", "sample", "--limit", "2", "--out", str(tmp_path)]
        assert cli.main(["run", *options]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"the model overflows, so {consequence}: layer 1 (of 0 to 1) is the first" in line
        assert "reaches 3e+38: check the checkpoint" in line
