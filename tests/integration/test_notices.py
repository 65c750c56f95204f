"""How a checkpoint's files were read, where that may surprise: said on stderr and recorded in run.json."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from evalkit.cli import main


@pytest.fixture
def untied(tiny_model, tmp_path):
    """Tied by its config.json, with a head of its own."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] * 2}, folder / "model.safetensors")
    return folder


def run(model, out, name):
    command = ["run", "--tasks", "mmlu", "--limit", "1", "--data", "sample", "--model", str(model), "--out", str(out), "--name", name]
    assert main(command) == 0
    return json.loads((out / name / "run.json").read_text("utf-8"))["model"]


@pytest.mark.usefixtures("one_thread")
def test_a_head_that_is_not_tied_is_said_and_recorded(untied, tiny_model, tmp_path, capsys):
    recorded = run(untied, tmp_path, "untied")
    (notice,) = recorded["notices"]
    assert "lm_head.weight is used" in notice
    assert str(tmp_path) not in notice
    assert notice in capsys.readouterr().err
    plain = run(tiny_model, tmp_path, "plain")
    assert "notices" not in plain
    assert recorded["parameters"]["total"] == plain["parameters"]["total"] + 257 * 32
    assert main(["compare", str(tmp_path / "untied"), str(tmp_path / "plain")]) in (0, 1, 3)  # the record is read back
