"""What `evalkit quantize` writes, in llama.cpp itself, where its wheel is installed: it loads, and gives the same tokens."""

import importlib.util
from pathlib import Path

import pytest
from folders_to_convert import checkpoint_of, config_of

from evalkit.config import ModelSpec
from evalkit.lm import open_lm
from evalkit.lm.quantize import quantize
from evalkit.tasks import Generate, Loglikelihood
from moe_lm.families import FAMILIES

if importlib.util.find_spec("xllamacpp") is None:
    pytest.skip("xllamacpp is not installed: pip install 'evalkit-lm[llama-cpp]'", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("one_thread")
QUESTIONS = [Loglikelihood("The sky is", (" blue", " a very high building", "!")), Loglikelihood("ab " * 30, ("c", "ab ab"))]
PROMPTS = [Generate("Once upon a time", (), 16), Generate("0123456789", (), 16)]
SIZES = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 256}
ROUNDING = 5e-4  # relative: llama.cpp approximates e^x, and reads GELU from a table of float16
FORMATS = ["f16", "bf16", "q8_0", "q4_0", "q5_1", "q4_k", "q5_k_m", "q6_k"]


def written(family: str, folder: Path, format: str) -> tuple[Path, Path]:
    window = {"sliding_window": 400} if family == "mistral" else {}  # longer than what is asked here: llama.cpp has none
    scale = {"query_pre_attn_scalar": 64} if family == "gemma3_text" else {}
    checkpoint_of(config_of(family, **SIZES | window | scale), folder / "source")
    quantize(str(folder / "source"), folder / "m.gguf", format)
    return folder / "source", folder / "m.gguf"


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_gives_the_same_tokens(family: str, tmp_path: Path) -> None:
    source, file = written(family, tmp_path, "gguf:f32")
    ours, theirs = open_lm(ModelSpec(str(source))), open_lm(ModelSpec(str(file), "llama_cpp", dtype="float32"))
    assert dict(theirs.generate(PROMPTS)) == dict(ours.generate(PROMPTS))
    found, expected = (dict(lm.loglikelihood(QUESTIONS)) for lm in (theirs, ours))
    for i in range(len(QUESTIONS)):
        assert found[i].logprobs == pytest.approx(expected[i].logprobs, rel=ROUNDING, abs=10 * ROUNDING)


@pytest.mark.parametrize("format", FORMATS)
def test_quantised_files_load(format: str, tmp_path: Path) -> None:
    """The same weights in both engines; llama.cpp multiplies them with activations of 8 bits."""
    _, file = written("mixtral", tmp_path, f"gguf:{format}")
    ours, theirs = (dict(open_lm(ModelSpec(str(file), engine)).loglikelihood(QUESTIONS)) for engine in ("native", "llama_cpp"))
    for i in range(len(QUESTIONS)):
        assert theirs[i].logprobs == pytest.approx(ours[i].logprobs, rel=0.02, abs=0.2)
