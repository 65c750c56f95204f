"""The native back-end's own arithmetic, on a tiny model: rolling log-likelihood, and refusals in one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cpu_cases import needs_kernels
from gguf_files import quantized_file
from quantized_folders import METHODS, quantize_folder
from quantized_folders import config as quantized_config

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.lm import models, open_lm, pass_speed
from evalkit.lm.distributions import TokenRequest
from evalkit.lm.native import NativeLM
from evalkit.lm.outline import Outline
from evalkit.lm.upcycle import Recipe, upcycle
from evalkit.tasks import Loglikelihood
from moe_lm.backends.cpu.fused import MatrixArgument
from moe_lm.backends.cpu.pack_quantized import PackedBlocks
from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.engine.batch import forward
from moe_lm.engine.pages import pool_for
from moe_lm.quant.kinds import KINDS
from moe_lm.upcycle.preserve import Upcycle

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def lm(tiny_model: Path) -> NativeLM:
    lm = open_lm(ModelSpec(str(tiny_model)))
    assert isinstance(lm, NativeLM)
    return lm


def test_rolling_scores_every_token_once(lm: NativeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """By definition: windows of max_seq_len new tokens, each after as many of those before it as still fit."""
    size = 16
    monkeypatch.setattr(lm, "config", replace(lm.config, max_seq_len=size))
    monkeypatch.setattr(lm.backend, "config", lm.config)
    texts = ["A text of more than two windows of tokens.", "", "short", "sixteen letters!"]
    found = dict(lm.loglikelihood_rolling(texts))
    assert found.keys() == {0, 1, 2, 3}
    assert found[1] == 0.0
    for i, text in enumerate(texts):
        ids = [256, *lm.tokenizer.encode(text)]  # 256: end of text
        expected = 0.0
        for start in range(1, len(ids), size):
            end = min(start + size, len(ids))
            begin = max(0, end - size - 1)
            with torch.inference_mode():
                hidden = forward(lm.backend, [(ids[begin : end - 1], pool_for(lm.backend).fork(None, end - begin))], range(end - 1 - begin))
                logits = lm.backend.logits(hidden)
            logprobs = logits.log_softmax(-1)
            expected += sum(float(logprobs[position - begin - 1, ids[position]]) for position in range(start, end))
        assert found[i] == pytest.approx(expected, abs=1e-4)


def test_what_the_engine_refuses_is_bad_input(lm: NativeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm, "_encode", lambda _: TokenRequest((), ((1,),)))
    with pytest.raises(EvalkitError, match="at least one token"):
        list(lm.loglikelihood([Loglikelihood("", ("a",))]))


def test_a_named_model_whose_file_is_another(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is hashed once, while it is opened: a run refuses it, and so does whoever asks for its path alone."""
    monkeypatch.setattr(models, "local_path", lambda model: tiny_model)
    row = models.NamedModel("tiny", "tiny", open_checkpoint(tiny_model).sha256)
    monkeypatch.setitem(models.MODELS, "tiny-model", row)
    NativeLM.open(ModelSpec("tiny-model"))
    monkeypatch.setitem(models.MODELS, "tiny-model", replace(row, sha256="0" * 64))
    with pytest.raises(EvalkitError, match=rf"tiny has sha256 {row.sha256[:16]}, expected 0{{16}}; delete it and fetch it again"):
        NativeLM.open(ModelSpec("tiny-model"))
    file = tmp_path / "m.gguf"
    file.write_bytes(b"another")
    monkeypatch.setattr(models, "local_path", lambda model: file)
    with pytest.raises(EvalkitError, match=r"m\.gguf has sha256 .*, expected 0{16}"):
        models.find("tiny-model")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(quantized_file(tmp_path_factory.mktemp("quantized") / "tiny.gguf", "qwen2"))


@needs_kernels
def test_int8_is_a_precision_of_its_own(quantized: str) -> None:
    request = [Loglikelihood("aab ab", (" ba", "ab"))]
    exact, int8, expanded = (NativeLM.load(ModelSpec(quantized, dtype=dtype, kernel=kernel)) for dtype, kernel in MODES)
    assert [lm.describe()["dtype"] for lm in (exact, int8, expanded)] == ["float32", "int8", "float32"]
    assert exact.fingerprint == NativeLM.open(ModelSpec(quantized)).fingerprint != int8.fingerprint
    scores = [dict(lm.loglikelihood(request))[0].logprobs for lm in (exact, int8, expanded)]
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[2], rel=1e-4)  # plain torch adds in another order
    assert scores[1] == pytest.approx(scores[0], rel=0.5)


MODES = [("float32", "auto"), ("int8", "auto"), ("float32", "reference")]


@needs_kernels
@pytest.mark.parametrize("kernel", ["reference", "triton"])
def test_int8_is_for_the_cpu_kernels(quantized: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(EvalkitError, match=rf"--dtype int8: only --kernel cpu, on a CPU, .* {kernel} on cpu; use --dtype float32"):
        NativeLM.open(ModelSpec(quantized, dtype="int8", kernel=kernel))


def test_int8_needs_quantised_weights(tiny_model: Path, quantized: str, tmp_path: Path) -> None:
    with pytest.raises(EvalkitError, match=r"--dtype int8: .*tiny has no quantised weights .*; use --dtype float32"):
        NativeLM.open(ModelSpec(str(tiny_model), dtype="int8"))
    with pytest.raises(EvalkitError, match=r"--dtype int8: random:qwen1.5-moe-a2.7b has no quantised weights"):
        NativeLM.open(ModelSpec("random:qwen1.5-moe-a2.7b", dtype="int8"))
    with pytest.raises(EvalkitError, match="upcycled when it is loaded"):
        NativeLM(open_checkpoint(Path(quantized)), "demo", Upcycle(), "int8", "cpu", "auto")
    with pytest.raises(EvalkitError, match="'int8', and the engine lm_eval:hf; only the native engine computes so: leave the dtype out"):
        ModelSpec(quantized, engine="lm_eval:hf", dtype="int8")
    with pytest.raises(EvalkitError, match="unknown dtype 'int8'"):
        upcycle(quantized, tmp_path / "new", Recipe(), "int8")


def test_an_outline_says_what_the_weights_take(quantized: str, tiny_model: Path) -> None:
    """As they are stored, where the kernels compute them so: a plan's memory and speed go by it."""
    found = Outline(ModelSpec(quantized), Path(quantized))
    assert found.kind in KINDS
    assert found.shape.width == open_checkpoint(Path(quantized)).width < 1.2
    assert found.shape.cached == 4
    lm = NativeLM.open(ModelSpec(quantized))
    assert lm.width == (found.shape.width if lm.kernel == "cpu" else 4)
    assert found.stamp != Outline(ModelSpec(quantized, dtype="int8"), Path(quantized)).stamp
    for model in (ModelSpec(quantized, kernel="reference"), ModelSpec(quantized, dtype="bfloat16"), ModelSpec(quantized, device="cuda")):
        expanded = Outline(model, Path(quantized))
        assert (expanded.kind, expanded.shape.width) == (None, expanded.shape.cached)
    assert Outline(ModelSpec(str(tiny_model)), tiny_model).kind is None
    with pytest.raises(EvalkitError, match=r"--dtype int8: .*tiny has no quantised weights"):
        Outline(ModelSpec(str(tiny_model), dtype="int8"), tiny_model)


@pytest.mark.parametrize("family", ["llama", "qwen2_moe"])
@pytest.mark.parametrize(
    ("method", "options", "kind"),
    [
        ("gptq", {}, "GROUP_32"),
        ("gptq", {"desc_act": True}, "GROUP_32"),
        ("awq", {}, "GROUP_32"),
        ("compressed-tensors", {}, "GROUP_32"),
        ("fp8", {}, None),
    ],
)
def test_an_outline_of_a_quantised_folder(tmp_path: Path, family: str, method: str, options: dict[str, Any], kind: str | None) -> None:
    """By its configuration alone, for the weights may still be on the hub; nearly what the tensors say."""
    quantization, pack = METHODS[method]
    floats = ("lm_head", "mlp.gate", "shared_expert_gate")
    quantize_folder(tmp_path, quantized_config(family), pack, quantization | options, lambda name: not name.endswith(floats))
    width = open_checkpoint(tmp_path).width
    (tmp_path / "model.safetensors").unlink()
    found = Outline(ModelSpec(str(tmp_path), device="cpu"), tmp_path)
    assert found.kind == kind
    assert found.shape.width == pytest.approx(width, rel=0.02)
    for model in (ModelSpec(str(tmp_path), dtype="bfloat16"), ModelSpec(str(tmp_path), kernel="reference")):
        assert Outline(model, tmp_path).kind is None


@needs_kernels
@pytest.mark.parametrize("kind", [*KINDS, "GROUP_64"])
def test_the_speed_of_quantised_weights_is_measured_on_such(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used = set()
    made = MatrixArgument.of
    monkeypatch.setattr(MatrixArgument, "of", lambda matrix, int8: used.add((type(matrix), int8)) or made(matrix, int8))
    monkeypatch.setattr(pass_speed, "TOKENS", (1, 3))
    monkeypatch.setattr(pass_speed, "WIDEST", 256)
    for dtype in ("float32", "int8"):
        used.clear()
        found = pass_speed.measure(ModelSpec("m", dtype=dtype, device="cpu"), pass_speed.Like(kind, 256))
        assert all(0 < seconds < 1 for _, seconds in found.points)
        assert used == {(PackedBlocks, dtype == "int8")}
