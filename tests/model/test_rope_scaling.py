"""Scaled rotary embeddings: the frequencies and the logits of transformers for each type, in both spellings; the rest is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from gguf_files import gguf_tensors, write
from refusals import refused
from tiny_models import admit, logits, on, relative_diff, run_all, tiny_config, tiny_decoder, tokens, word_tokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers_models import save_random_of

from moe_lm.checkpoint.read import load, open_checkpoint
from moe_lm.checkpoint.write import save
from moe_lm.config import from_hf, to_hf
from moe_lm.engine.pages import PagePool
from moe_lm.errors import ModelError
from moe_lm.rope import frequencies

PAIRS = 16  # of a head
SHORT, LONG = [1 + i / 10 for i in range(PAIRS)], [2.0 + i for i in range(PAIRS)]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 512}

SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": LLAMA3,
    "llama3 of Llama 3.2": LLAMA3 | {"factor": 32.0},
    "llama3 without an original length": {key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"},
    "yarn": YARN,
    "yarn with a ramp of its own": YARN | {"beta_fast": 16.0, "beta_slow": 2.0},
    "yarn not truncated": YARN | {"truncate": False},
    "yarn with an attention factor": YARN | {"attention_factor": 1.25},
    "yarn with mscale": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7},
    "yarn without a factor": YARN | {"factor": None},
    "yarn as its authors wrote it": YARN | {"finetuned": True},
    "yarn of half the length": YARN | {"factor": 0.5},
    "longrope": LONGROPE,
    "longrope with factors": LONGROPE | {"factor": 8.0, "attention_factor": 1.1},
    "longrope with a factor": LONGROPE | {"factor": 8.0},
}
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 2 * PAIRS,
    "max_position_embeddings": 1024,
    "rope_theta": 5e5,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_and_attention_factor(name):
    raw = SHAPE | {"rope_scaling": dict(SCALINGS[name])}
    ours, theirs = from_hf({"model_type": "llama"} | raw), transformers.LlamaConfig(**raw)
    if name == "default":
        assert ours.rope_scaling is None
        return
    expected, attention_factor = ROPE_INIT_FUNCTIONS[theirs.rope_parameters["rope_type"]](theirs, "cpu")
    found = torch.tensor(frequencies(ours.rope_theta, ours.head_dim, ours.rope_scaling), dtype=torch.float64)
    assert torch.allclose(found, expected.double(), rtol=1e-6, atol=0)  # theirs is computed in float32
    assert ours.rope_scaling.attention_factor == pytest.approx(attention_factor, rel=1e-12)
    assert from_hf(to_hf(ours)) == ours


@pytest.mark.parametrize("name", ["linear", "llama3", "yarn", "longrope"])
@pytest.mark.parametrize("spelling", ["rope_type", "type", "rope_parameters"])
def test_every_spelling_is_one_configuration(name, spelling):
    """transformers before 4.45 wrote "type"; since 5 rope_theta stands inside."""
    raw = {"model_type": "llama"} | SHAPE
    scaling = dict(SCALINGS[name])
    expected = from_hf(raw | {"rope_scaling": dict(scaling)})
    if spelling == "type":
        raw["rope_scaling"] = {"type": scaling.pop("rope_type")} | scaling
    elif spelling == "rope_parameters":
        raw["rope_parameters"] = scaling | {"rope_theta": raw.pop("rope_theta")}
    else:
        raw["rope_scaling"] = scaling
    assert from_hf(raw) == expected


@pytest.fixture(scope="module", params=["linear", "dynamic", "llama3", "yarn with mscale", "longrope"])
def folder(request, tmp_path_factory):
    config = transformers.LlamaConfig(**SHAPE, rope_scaling=dict(SCALINGS[request.param]))
    path = tmp_path_factory.mktemp("scaled")
    return save_random_of(config, path), path


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_logits_with_and_without_a_cached_prefix(folder, kernel):
    theirs, path = folder
    ours = on(kernel, load(path).model)
    sequence = tokens(300, seed=1)
    with torch.inference_mode():
        expected = theirs(torch.tensor([sequence])).logits[0]
    assert relative_diff(logits(ours, sequence), expected) <= 1e-5
    pool = PagePool(ours, 4)
    cache = admit(pool, sequence, len(sequence))
    (first,), (rest,) = run_all(ours, [(sequence[:200], cache)]), run_all(ours, [(sequence[200:], cache)])
    assert relative_diff(ours.logits(torch.cat([first, rest])), expected) <= 1e-5


def test_an_odd_head_dim():
    with pytest.raises(ModelError, match="head_dim 9 is odd"):
        from_hf({"model_type": "llama"} | SHAPE | {"head_dim": 9})


def test_longrope_ends_where_its_short_factors_do():
    """Beyond it every key of the sequence would change, also those of a shared prefix."""
    raw = {"model_type": "llama"} | SHAPE | {"rope_scaling": LONGROPE}
    config = from_hf(raw)
    assert (config.max_seq_len, to_hf(config)["max_position_embeddings"]) == (512, 1024)
    assert from_hf(raw | {"rope_scaling": LONGROPE | {"long_factor": SHORT}}).max_seq_len == 1024


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"rope_type": "proportional"}, "rope_scaling.rope_type = 'proportional' is not supported, only default, linear,"),
        ({"type": "su"}, "'su'"),
        ({"rope_type": ["yarn"]}, "['yarn']"),
        ({"rope_type": "linear"}, "has no 'factor', which rope_type linear needs"),
        ({"rope_type": "linear", "factor": True}, "factor = True is not a number above 0"),
        ({"rope_type": "linear", "factor": "8"}, "factor = '8'"),
        ({"rope_type": "linear", "factor": -8}, "factor = -8"),
        ({"rope_type": "linear", "factor": 10**400}, "factor = 1"),
        ({"rope_type": "linear", "factor": float("nan")}, "factor = nan"),
        ({"rope_type": "linear", "factor": 0}, "factor = 0"),
        ({"rope_type": "linear", "factor": 8.0, "mrope_section": [1]}, "mrope_section = [1] is not known"),
        ({"rope_type": "default", "mrope_section": [1]}, "mrope_section = [1] is not known"),
        ({"full_attention": {"rope_type": "linear", "factor": 8.0}}, "full_attention"),
        (LLAMA3 | {"high_freq_factor": 1.0}, "high_freq_factor = 1.0 is not above low_freq_factor = 1.0"),
        (LLAMA3 | {"low_freq_factor": None}, "no 'low_freq_factor'"),
        (LLAMA3 | {"original_max_position_embeddings": 0.5}, "original_max_position_embeddings = 0.5 is not a whole number"),
        (YARN | {"beta_fast": "32"}, "beta_fast = '32'"),
        (YARN | {"truncate": 1}, "truncate = 1 is not true or false"),
        (YARN | {"rope_theta": 1.0}, "rope_theta = 1.0 is not above 1"),
        ({"rope_type": "linear", "factor": 1e-308}, "gives frequencies that no float32 holds"),
        (YARN | {"beta_fast": 1e308}, "gives frequencies that no float32 holds"),
        (YARN | {"attention_factor": 1e300}, "gives frequencies that no float32 holds"),
        (LONGROPE | {"short_factor": SHORT[1:]}, "short_factor = [1.1, "),
        (LONGROPE | {"long_factor": [*LONG[1:], 0]}, "long_factor = [3.0, "),
        (LONGROPE | {"long_factor": None}, "long_factor = None is not a list of 16 numbers"),
        ("linear", " = 'linear' is not valid"),
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_refused(scaling, words, key):
    refused(to_hf(tiny_config(head_dim=2 * PAIRS)) | {key: scaling}, words, by=from_hf)


def gguf_file(path, scaling, keys=None, factors=None, family="llama"):
    """(a GGUF file with such metadata and factors of frequencies, the model that it should hold: with config.json's `scaling`)"""
    model = tiny_decoder(from_hf({"model_type": family} | SHAPE | {"vocab_size": 260, "rope_scaling": scaling}))
    tensors = gguf_tensors(model) | {f"rope_{name}.weight": np.array(values, np.float32) for name, values in (factors or {}).items()}
    return write(path, replace(model.config, max_seq_len=SHAPE["max_position_embeddings"]), tensors, keys=keys), model


def llama3_factors():
    """What llama.cpp's converter writes for Llama 3.1: by which each frequency is divided."""
    scaling = from_hf({"model_type": "llama"} | SHAPE | {"rope_scaling": LLAMA3}).rope_scaling
    return [a / b for a, b in zip(*(frequencies(5e5, 2 * PAIRS, one) for one in (None, scaling)), strict=True)]


ORIGINAL = {"rope.scaling.original_context_length": 64}


@pytest.mark.parametrize(
    ("scaling", "keys", "factors"),
    [
        (None, {}, {}),
        (None, {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, {}),  # llama.cpp never scales type none
        (None, {"rope.scaling.type": "linear"}, {}),
        (None, {"rope.scaling.factor": 0.0}, {}),
        (SCALINGS["linear"], {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {}),
        (SCALINGS["linear"], {"rope.scaling.factor": 4.0}, {}),  # linear is the default type
        (SCALINGS["linear"], {"rope.scale_linear": 4.0}, {}),  # the factor's old name
        (LLAMA3, {}, {"freqs": llama3_factors()}),
        (YARN, {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.finetuned": 1} | ORIGINAL, {}),
        (
            SCALINGS["yarn with a ramp of its own"],
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0} | ORIGINAL
            | {"rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 2.0},
            {},
        ),
        (
            LONGROPE | {"attention_factor": 1.25},
            {"rope.scaling.type": "longrope", "rope.scaling.original_context_length": 512, "rope.scaling.attn_factor": 1.25},
            {"factors_short": SHORT, "factors_long": LONG},
        ),
    ],
)  # fmt: skip
def test_gguf(tmp_path, scaling, keys, factors):
    path, model = gguf_file(tmp_path / "m.gguf", scaling, keys, factors)
    found = load(path).model
    assert found.config.max_seq_len == model.config.max_seq_len
    sequence = tokens(200, seed=2)
    assert relative_diff(logits(found, sequence), logits(model, sequence)) <= 1e-5
    cut = "rope_type longrope: sequences end at 512 tokens" if model.config.max_seq_len < 1024 else None
    assert [notice.partition(",")[0] for notice in open_checkpoint(path).notices] == ([cut] if cut else [])
    if scaling:
        plain, _ = gguf_file(tmp_path / "plain.gguf", None)
        assert relative_diff(logits(load(plain).model, sequence), logits(model, sequence)) > 1e-3


def test_a_gguf_of_llama_3_becomes_a_folder(tmp_path):
    """transformers has no name for factors without a rule: LongRoPE with the same factors for any length is what they are."""
    path, model = gguf_file(tmp_path / "m.gguf", LLAMA3, {}, {"freqs": llama3_factors()})
    found = load(path).model
    save(found, word_tokenizer(260), tmp_path / "folder")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32).eval()
    sequence = tokens(200, seed=2)
    with torch.inference_mode():
        assert relative_diff(theirs(torch.tensor([sequence])).logits[0], logits(model, sequence)) <= 1e-5
    assert torch.equal(logits(load(tmp_path / "folder").model, sequence), logits(found, sequence))


@pytest.mark.parametrize(
    ("keys", "factors", "words"),
    [
        ({"rope.scaling.type": "su"}, {}, "llama.rope.scaling.type = 'su'"),
        ({"rope.scaling.type": "longrope"}, {}, "does not go with the tensors that the file has: no factors"),
        ({"rope.scaling.type": "longrope"}, {"factors_short": SHORT}, "rope_factors_short.weight"),
        ({}, {"factors_short": SHORT, "factors_long": LONG}, "rope_factors_long.weight, rope_factors_short.weight"),
        ({"rope.scaling.type": "yarn"}, {"freqs": SHORT}, "rope_freqs.weight"),
        ({"rope.scaling.factor": 2.0}, {"freqs": SHORT}, "factor 2.0 is not supported together with the tensor rope_freqs.weight"),
        ({"rope.scaling.attn_factor": 1.5}, {}, "attn_factor 1.5"),
        ({"rope.scaling.alpha": 1000.0}, {}, "llama.rope.scaling.alpha = 1000.0 is not supported, only 0.0"),
        ({"rope.scaling.type": "yarn", "rope.scaling.yarn_log_multiplier": 0.5}, {}, "yarn_log_multiplier = 0.5"),
        ({"rope.scaling.type": "yarn", "rope.scaling.yarn_ext_factor": 0.5}, {}, "yarn_ext_factor = 0.5"),
        ({"rope.scaling.factor": "four"}, {}, "factor = 'four' is not valid"),
        ({"rope.scaling.factor": float("nan")}, {}, "factor = nan"),
        ({}, {"freqs": SHORT[1:]}, "tensor rope_freqs.weight has shape (15,), its config says (16,)"),
        ({}, {"freqs": [*SHORT[1:], 0.0]}, "tensor rope_freqs.weight holds 0.0"),
        ({}, {"freqs": [*SHORT[1:], float("nan")]}, "tensor rope_freqs.weight holds nan"),
    ],
)
def test_gguf_refused(tmp_path, keys, factors, words):
    path, _ = gguf_file(tmp_path / "m.gguf", None, keys, factors)
    refused(path, words, "m.gguf", by=open_checkpoint)


def test_gguf_factors_of_another_architecture(tmp_path):
    """llama.cpp's graph of qwen2 takes no factors."""
    path, _ = gguf_file(tmp_path / "m.gguf", None, {}, {"freqs": SHORT}, family="qwen2")
    with pytest.raises(ModelError, match=r"tensor rope_freqs\.weight is not supported for GGUF architecture qwen2"):
        open_checkpoint(path)
