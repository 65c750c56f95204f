"""`evalkit gate` on real runs; the workflows of docs/ are followed in test_workflows.py."""

import json
import re
import shutil
from pathlib import Path

import pytest

from evalkit import cli


@pytest.fixture(autouse=True)
def no_github(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may themselves run on GitHub."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.mark.usefixtures("one_thread")
def test_one_model_twice_passes_and_another_does_not(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][0] += 5
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    for name, model in (("a", tiny_model), ("b", tiny_model), ("c", other)):
        arguments = ["run", "--tasks", "mmlu", "--model", str(model), "--data", "sample", "--limit", "5", "--quiet"]
        assert cli.main([*arguments, "--out", str(tmp_path), "--name", name]) == 0
    capsys.readouterr()
    base, same, cand = (str(tmp_path / name) for name in "abc")
    assert cli.main(["gate", base, same, "--json", str(tmp_path / "gate.json")]) == 0
    assert "pass: all 5 answers are the same" in capsys.readouterr().out
    found = json.loads((tmp_path / "gate.json").read_text())
    assert (found["schema"], found["kind"], found["outcome"], found["exit_code"], found["margin"]) == (1, "gate", "pass", 0, 0.01)
    assert (found["tasks"]["mmlu@qwen"]["gained"], found["tasks"]["mmlu@qwen"]["lost"]) == (0, 0)
    # another model on 5 documents: even without a flip they show nothing
    assert cli.main(["gate", base, cand]) == 2
    printed = capsys.readouterr()
    assert "margin 0.01 is below what mmlu@qwen's 5 documents can detect" in printed.err
    assert "gate: CANNOT DETECT" in printed.out
    assert cli.main(["gate", base, cand, "--allow-small-margin"]) == 3
    assert re.search(r"about [\d,]+ documents would decide", capsys.readouterr().out)
