"""`evalkit compare` on two runs of a model, and on the lm-eval results exported beside them."""

import json
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.comparison import compare
from evalkit.comparison.answers import read_answers
from evalkit.errors import EvalkitError


@pytest.fixture(scope="module")
def tiny_runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of one model."""
    import torch

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        arguments = ["run", "--tasks", "mmlu,gsm8k@lm-eval", "--model", str(tiny_model), "--data", "sample", "--limit", "5"]
        assert cli.main([*arguments, "--out", str(out), "--name", name, "--quiet"]) == 0
    return out


def test_figures_of_real_runs(tiny_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.compare_runs(str(tiny_runs / "a"), str(tiny_runs / "b" / "run.json"), str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "mmlu@qwen" in printed
    assert "gsm8k@lm-eval: every answer is the same" in printed
    found = json.loads((tmp_path / "compare.json").read_text())
    assert (found["schema"], found["kind"], set(found["tasks"])) == (1, "compare", {"mmlu", "gsm8k"})
    mmlu = found["tasks"]["mmlu"]
    assert (mmlu["n"], mmlu["value"], mmlu["gained"], mmlu["lost"], mmlu["identical"], mmlu["flips"]) == (5, 0, 0, 0, True, {})
    record = json.loads((tiny_runs / "a" / "run.json").read_text())
    assert mmlu["base"] == record["tasks"]["mmlu"]["metrics"]["acc"]["value"]
    assert "| mmlu@qwen | 5 |" in (tmp_path / "compare.md").read_text()


def test_our_lm_eval_export_reads_the_same(tiny_runs: Path) -> None:
    ours = read_answers(str(tiny_runs / "a"))
    theirs = read_answers(str(tiny_runs / "a" / "lm_eval"))
    assert set(theirs.tasks) == set(ours.tasks)
    for name, task in ours.tasks.items():
        assert sorted(a.score for a in task.answers.values()) == sorted(a.score for a in theirs.tasks[name].answers.values())
    found = compare.compare(str(tiny_runs / "a" / "lm_eval"), str(tiny_runs / "b" / "lm_eval"))
    assert all(task.pairs.identical for task in found.tasks)
    assert {task.pairs.protocol for task in found.tasks} == {"mmlu@qwen", "gsm8k@lm-eval"}
    with pytest.raises(EvalkitError, match="give"):
        compare.compare(str(tiny_runs / "a"), str(tiny_runs / "b" / "lm_eval"))
