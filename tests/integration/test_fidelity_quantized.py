"""Quantised copies of one float32 model: their order, the engines that run them, and llama.cpp's own figures on its own logits."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from gguf_files import gguf_tensors, write
from llama_cpp_kl import llama_cpp_kl

from evalkit import cli
from evalkit.config import ModelSpec
from evalkit.data.sources import open_source
from evalkit.fidelity.config import FidelityConfig
from evalkit.fidelity.fidelity import fidelity
from evalkit.fidelity.record import Divergence
from evalkit.lm import open_lm
from evalkit.lm.distributions import GivesDistributions
from evalkit.lm.models import MODELS, local_path
from evalkit.progress import Reporter
from evalkit.runner.plan import plan
from evalkit.tasks.registry import resolve
from moe_lm.backends import why_not_cpu

pytestmark = pytest.mark.usefixtures("one_thread")
TASK = "mmlu@lighteval-cloze"
needs_llama_cpp = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float32; random weights, so that a quantised copy is far from it."""
    folder = tmp_path_factory.mktemp("quantized")
    config = tiny_models.tiny_config(
        "llama", vocab_size=300, hidden_size=64, head_dim=32, num_attention_heads=2, num_key_value_heads=1, intermediate_size=96,
        max_seq_len=8192,
    )  # fmt: skip
    return write(folder / "tiny-f32.gguf", config, gguf_tensors(tiny_models.tiny_decoder(config)), {})


def quantized(source: Path, folder: Path, *kinds: str) -> list[Path]:
    """Copies made by `evalkit quantize`."""
    copies = [folder / f"copy-{kind}.gguf" for kind in kinds]
    for kind, copy in zip(kinds, copies, strict=True):
        assert cli.main(["quantize", str(source), str(copy), "--format", f"gguf:{kind}", "--quiet"]) == 0
    return copies


def divergences(reference: object, *copies: object, limit: int = 4) -> list[Divergence]:
    config = FidelityConfig(str(reference), tuple(map(str, copies)), (TASK,), data="sample", limit=limit)
    return [copy.tasks["mmlu"].divergence for copy in fidelity(config, Reporter(quiet=True)).copies]


def means(reference: object, *copies: object) -> list[float]:
    return [found.mean.value for found in divergences(reference, *copies)]


def test_fewer_bits_cost_more(tiny: Path, tmp_path: Path) -> None:
    kinds = ("f32", "f16", "q8_0", "q5_0", "q4_0")
    f32, f16, *others = means(tiny, *quantized(tiny, tmp_path, *kinds))
    assert f32 == 0
    assert [0.0, f16, *others] == sorted({0.0, f16, *others})  # all differ


@pytest.mark.skipif(why_not_cpu(torch.float32) != "", reason="no compiled kernels")
def test_integers_cost_something_too(tiny: Path, tmp_path: Path) -> None:
    (q8_0,) = quantized(tiny, tmp_path, "q8_0")
    exact, integers = means(tiny, q8_0, f"{q8_0},dtype=int8")
    assert exact < integers < 10 * exact
    assert 0 < means(q8_0, f"{q8_0},dtype=int8")[0] < integers


@needs_llama_cpp
def test_the_same_weights_in_llama_cpp(tiny: Path, tmp_path: Path) -> None:
    theirs = ",engine=llama_cpp,dtype=float32"  # keys and values
    assert means(tiny, f"{tiny}{theirs}")[0] < 2e-5  # orders of sums, and llama.cpp's approximations of exp
    assert means(f"{tiny}{theirs}", f"{tiny}{theirs},device=cpu") == [0.0]
    (q4_0,) = quantized(tiny, tmp_path, "q4_0")
    ours, llama_cpp = means(tiny, f"{q4_0},dtype=float32", f"{q4_0}{theirs}")
    assert llama_cpp == pytest.approx(ours, rel=0.2)  # it multiplies with activations of 8 bits


# --- SmolLM2 ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Its Q4_1 file, and the same numbers in float32."""
    if (path := local_path(MODELS["smollm2-135m"])) is None:
        pytest.skip("SmolLM2 is not installed")
    return path, quantized(path, tmp_path_factory.mktemp("smollm2"), "f32")[0]


@pytest.mark.slow
def test_copies_of_smollm2(smollm2: tuple[Path, Path], tmp_path: Path) -> None:
    q4_1, f32 = smollm2
    same, *others = divergences(f32, q4_1, *quantized(f32, tmp_path, "q8_0", "q4_k", "q4_0"))
    assert (same.max, same.same_top.value) == (0.0, 1.0)  # a block's numbers are what float32 makes of them
    found = [other.mean.value for other in others]
    assert 0 < found[0] < found[1] < found[2]
    assert [other.same_top.value for other in others] == sorted((other.same_top.value for other in others), reverse=True)


@pytest.mark.slow
@needs_llama_cpp
def test_llama_cpps_own_figures(smollm2: tuple[Path, Path], tmp_path: Path) -> None:
    """The mean over the same tokens is within 2% of what llama-perplexity's arithmetic makes of llama.cpp's own logits."""
    f32, copies = smollm2[1], quantized(smollm2[1], tmp_path, "q8_0", "q4_0")
    settings = ",engine=llama_cpp,dtype=float32"
    found = means(f"{f32}{settings}", *(f"{copy}{settings}" for copy in copies))
    asked = plan(resolve(TASK), open_source("sample"), 4).requests
    for copy, ours in zip(copies, found, strict=True):
        reference, other = (open_lm(ModelSpec(str(path), engine="llama_cpp", dtype="float32")) for path in (f32, copy))
        assert isinstance(reference, GivesDistributions)
        assert isinstance(other, GivesDistributions)
        requests = [reference.token_request(request) for some in asked for request in some]
        pairs = zip(reference.distributions(requests), other.distributions(requests), strict=True)
        theirs = [llama_cpp_kl(p.logits, q.logits) for p, q in pairs]
        assert ours == pytest.approx(np.mean(theirs), rel=0.02)
