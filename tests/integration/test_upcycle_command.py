"""What `evalkit upcycle` does around moe_lm's recipes: finds the source, refuses in one line, says what it made."""

import json
from pathlib import Path

import pytest
import torch

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.lm.models import Found
from evalkit.lm.native import NativeLM
from evalkit.lm.upcycle import Recipe, upcycle
from moe_lm.checkpoint.read import load
from moe_lm.checkpoint.write import save

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("recipe", "experts"),
    [
        (Recipe("preserve", 8, 2), "8 experts of 24 (top-2), shared expert of 24, norm_topk_prob true"),
        (Recipe("preserve", 6, 3, expert_size=10), "6 experts of 10 (top-3), shared expert of 38, norm_topk_prob true"),
        (Recipe("qwen", 8, 2, expert_size=16, shared=2, seed=3), "8 experts of 16 (top-2), shared expert of 32, norm_topk_prob false"),
        (Recipe("drop", 8, 2, expert_size=16, shared=2), "8 experts of 16 (top-2), shared expert of 32, norm_topk_prob true"),
    ],
)
def test_writes_a_folder_that_runs(tiny_model: Path, tmp_path: Path, recipe: Recipe, experts: str) -> None:
    dest = tmp_path / "moe"
    summary = upcycle(str(tiny_model), dest, recipe)
    assert f"recipe {recipe.name}, seed {recipe.seed}" in summary
    assert experts in summary
    lm = NativeLM.load(ModelSpec(str(dest)))
    parameters = lm.describe()["parameters"]
    assert f"{parameters['total']:,} parameters, {parameters['activated']:,} activated" in summary
    assert json.loads((dest / "config.json").read_text())["architectures"] == ["Qwen2MoeForCausalLM"]


def test_precision_is_the_sources_unless_told(tiny_model: Path, tmp_path: Path) -> None:
    checkpoint = load(tiny_model, torch.bfloat16)
    save(checkpoint.model, checkpoint.tokenizer, tmp_path / "half")
    for source, dtype, written in (
        (tiny_model, "auto", "float32"),
        (tmp_path / "half", "auto", "bfloat16"),
        (tiny_model, "float16", "float16"),
    ):
        dest = tmp_path / f"{source.name}-{dtype}"
        assert f", {written}; " in upcycle(str(source), dest, Recipe("qwen", 8, 2, expert_size=16), dtype)
        assert json.loads((dest / "config.json").read_text())["torch_dtype"] == written


def refused(source: str, dest: Path, recipe: Recipe, dtype: str = "auto") -> str:
    with pytest.raises(EvalkitError) as error:
        upcycle(source, dest, recipe, dtype)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_never_writes_over_anything(tiny_model: Path, tmp_path: Path) -> None:
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    for dest in (tmp_path, kept):
        assert "is there already" in refused(str(tiny_model), dest, Recipe("qwen"))
    assert kept.read_text() == "mine"


def test_refusals(tiny_model: Path, tmp_path: Path) -> None:
    tiny, dest = str(tiny_model), tmp_path / "moe"
    assert "unknown model" in refused("nonsuch", dest, Recipe("qwen"))
    assert "num_experts" in refused(tiny, dest, Recipe("qwen", experts=2, top_k=4))
    assert "must lie in 1..48" in refused(tiny, dest, Recipe("drop", expert_size=100))
    assert "below the dense FFN's 48" in refused(tiny, dest, Recipe("preserve", expert_size=48))
    assert "must lie in 1..48" in refused(tiny, dest, Recipe("preserve", expert_size=0))
    assert "noise 2 must lie in 0..1" in refused(tiny, dest, Recipe("qwen", noise=2))
    assert "unknown dtype" in refused(tiny, dest, Recipe("qwen"), "int4")
    assert not dest.exists()
    upcycle(tiny, dest, Recipe("preserve", 4, 2))
    assert "dense model; this one has 4 experts" in refused(str(dest), tmp_path / "again", Recipe("qwen"))


def test_refuses_what_is_upcycled_already(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.lm.upcycle.find", lambda spec: Found(tiny_model, upcycle=True))
    assert "dense twin" in refused("demo", tmp_path / "moe", Recipe("qwen"))


def test_a_disk_that_cannot_be_written(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(str(tiny_model), tmp_path / "file" / "moe", Recipe("qwen", 8, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "preserv"}, "did you mean 'preserve'"),
        ({"name": "preserve", "shared": 4}, "--shared"),
        ({"name": "preserve", "noise": 0.5}, "--noise"),
    ],
)
def test_recipe_refuses(settings: dict, message: str) -> None:
    with pytest.raises(EvalkitError, match=message):
        Recipe(**settings)
