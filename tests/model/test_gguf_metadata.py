"""What becomes of a GGUF file's metadata: every key is read, has no effect, or is refused by name unless it is neutral."""

import math
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from gguf_files import ARCHITECTURES, gguf_tensors, write
from tiny_models import logits, tiny_config, tiny_decoder

from moe_lm.checkpoint.gguf_config import hf_config
from moe_lm.checkpoint.gguf_keys import NEUTRAL, NEUTRAL_ELSEWHERE, ROPE_SCALING, TOKENIZER, WITHOUT_EFFECT
from moe_lm.checkpoint.read import load, open_checkpoint
from moe_lm.config import from_hf
from moe_lm.errors import ModelError, Unsupported

NUMBERS = {
    "embedding_length": 64,
    "block_count": 2,
    "feed_forward_length": 96,
    "attention.head_count": 8,
    "context_length": 512,
    "attention.layer_norm_rms_epsilon": 1e-5,
}
MOE = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 8, "expert_shared_feed_forward_length": 12}
SHAPES = {"token_embd.weight": (3, 64), "blk.0.attn_norm.weight": (64,), "blk.1.attn_norm.weight": (64,)}
# what `gguf_config` reads of every file; and of a mixture of experts
READ = {*NUMBERS, "attention.head_count_kv", "attention.key_length", "attention.sliding_window", "rope.freq_base", "expert_count"}
READ_MOE = READ | {*MOE, "expert_weights_norm"}
READ_GEMMA3 = READ | {"attention.sliding_window_pattern", "rope.freq_base_swa"}


def llm_keys(place=gguf.Keys):
    """Every key that stands after the architecture in llama.cpp's own list."""
    for name, value in vars(place).items():
        if isinstance(value, type) and not name.startswith("_"):
            yield from llm_keys(value)
        elif isinstance(value, str) and value.startswith("{arch}."):
            yield value.removeprefix("{arch}.")


def read(arch="llama", shapes=SHAPES, **keys):
    """The configuration of a file with these keys ("__" stands for a dot)."""
    more = {"qwen2moe": MOE, "gemma3": {"attention.sliding_window": 4}}.get(arch, {})
    numbers = NUMBERS | more | {key.replace("__", "."): value for key, value in keys.items()}
    metadata = {"general.architecture": arch, "tokenizer.ggml.tokens": ["a", "b", "c"]}
    return from_hf(hf_config(metadata | {f"{arch}.{key}": value for key, value in numbers.items() if value is not None}, shapes))


@pytest.mark.parametrize(("arch", "known"), [("llama", READ), ("qwen2moe", READ_MOE), ("gemma3", READ_GEMMA3)])
def test_every_key_of_llama_cpp_is_read_without_effect_or_refused(arch, known):
    keys = sorted(set(llm_keys()))
    assert len(keys) > 100
    for key in keys:
        if key in known | WITHOUT_EFFECT | ROPE_SCALING:
            continue
        for odd in (5, 0.37, "odd", True, np.array([0, 5])):
            if any(odd is one for one in NEUTRAL.get(key, ())):
                continue
            with pytest.raises(Unsupported) as caught:
                read(arch, **{key: odd})
            assert f"{arch}.{key}" in str(caught.value)


def test_a_key_of_a_later_llama_cpp_is_refused_too():
    with pytest.raises(Unsupported, match=r"llama\.attention\.new_idea = 2 is not supported"):
        read(attention__new_idea=2)
    assert read(attention__new_idea=0, attention__other=False, another="") == read()


@pytest.mark.parametrize("key", [key for key in NEUTRAL if "_group" not in key])
def test_neutral_values_change_nothing(key):
    assert {read(**{key: value}) for value in NEUTRAL[key]} == {read()}
    assert {read(**{key: np.array([value, value])}) for value in NEUTRAL[key]} == {read()}


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("attention.value_length", 8, 16),
        ("rope.dimension_count", 8, 4),
        ("rope.dimension_count", 8, -8),
        ("attention.scale", 8**-0.5, 0.5),
        ("attention.scale", 8**-0.5, math.nan),
        ("vocab_size", 3, 4),
        ("vocab_size", 3, "3"),
        ("rope.freq_base_swa", 10000.0, 1e6),
        ("attention.causal", True, False),
        ("expert_gating_func", 1, 2),
        ("tensor_data_layout", "reference", "other"),
    ],
)
def test_keys_that_must_agree_with_the_others(key, good, bad):
    assert read(**{key: good}) == read()
    with pytest.raises(Unsupported, match=f"GGUF option llama.{key} = "):
        read(**{key: bad})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("embedding_length", "64", "an integer"),
        ("embedding_length", 64.0, "an integer"),
        ("embedding_length", True, "an integer"),
        ("embedding_length", -64, "an integer"),
        ("attention.head_count", 0, "an integer"),
        ("attention.head_count_kv", 2**40, "an integer"),
        ("context_length", 0, "an integer"),
        ("attention.sliding_window", -1, "an integer"),
        ("attention.sliding_window", 2.5, "an integer"),
        ("expert_count", -1, "an integer"),
        ("attention.layer_norm_rms_epsilon", math.nan, "a number above 0"),
        ("attention.layer_norm_rms_epsilon", 0.0, "a number above 0"),
        ("attention.layer_norm_rms_epsilon", "1e-5", "a number above 0"),
        ("rope.freq_base", 0.0, "a finite number"),
        ("rope.freq_base", math.inf, "a finite number"),
        ("rope.freq_base", math.nan, "a finite number"),
        ("rope.freq_base", -1e4, "a finite number"),
        ("block_count", 100_000, "holds tensors of 2 layers"),
        ("attention.head_count", 7, "no multiple of llama.attention.head_count 7"),
    ],
)
def test_wrong_values(key, value, words):
    with pytest.raises(ModelError) as caught:
        read(**{key: value})
    assert f"llama.{key}" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("architecture", [None, 7, np.array([1, 2]), "", "x" * 5000])
def test_architectures_that_are_none(architecture):
    with pytest.raises(ModelError, match="architecture") as caught:
        hf_config({"general.architecture": architecture}, SHAPES)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("key", ["attention.head_count_kv", "attention.head_count", "feed_forward_length", "attention.sliding_window"])
def test_lists_with_an_entry_for_each_layer(key):
    same = {"attention.head_count_kv": 4, "attention.head_count": 8, "feed_forward_length": 96, "attention.sliding_window": 0}[key]
    assert read(**{key: np.array([same, same])}) == read(**{key: same})
    for wrong, words in (
        ([same, same + 4], "must be the same for all layers"),
        ([same] * 3, "3 entries for the 2 layers"),
        ([], "all layers"),
    ):
        with pytest.raises(ModelError, match=f"llama.{key}.*{words}"):
            read(**{key: np.array(wrong)})


def test_the_embedding_has_a_row_for_each_token():
    with pytest.raises(ModelError, match=r"names 3 tokens .*shape \(4, 64\)"):
        read(shapes=SHAPES | {"token_embd.weight": (4, 64)})


@pytest.mark.parametrize(("kind", "words"), [("adapter", "'adapter' is not supported, only 'model'"), ("imatrix", "general.type")])
def test_files_that_are_no_model(kind, words):
    with pytest.raises(Unsupported, match=words):
        hf_config({"general.architecture": "llama", "general.type": kind} | {f"llama.{key}": v for key, v in NUMBERS.items()}, SHAPES)


@pytest.mark.parametrize(
    "name",
    [
        "llbma.rope.freq_base",
        "llamarope.freq_base",
        "gemma.attention.sliding_window",
        "tokenizer.ggml.add_bps_token",
        "tokenizes.add_bos_token",
    ],
)
def test_a_key_with_a_damaged_name_is_not_dropped(name):
    """Its place would be taken by a default."""
    metadata = {"general.architecture": "llama", "tokenizer.ggml.tokens": ["a", "b", "c"]} | {
        f"llama.{key}": v for key, v in NUMBERS.items()
    }
    with pytest.raises(Unsupported, match=f"GGUF option {name} = 5"):
        hf_config(metadata | {name: 5}, SHAPES)


@pytest.mark.parametrize("values", [np.arange(10**6), np.full(10**6, 1.0), ["", "x"]])
def test_long_lists_are_not_neutral(values):
    for key in ("logit_scale", "rope.dimension_count", "unknown"):
        with pytest.raises(Unsupported, match=f"llama.{key}"):
            read(**{key: values})
    assert read(unknown=np.zeros(10**6)) == read(unknown=["", ""]) == read()


@pytest.mark.parametrize("name", ["general.name", "publisher.quantized_by", "quantize.imatrix.file", "tokenizer.ggml.padding_token_id"])
def test_keys_that_say_nothing_of_the_model(name):
    metadata = {"general.architecture": "llama", "tokenizer.ggml.tokens": ["a", "b", "c"]} | {
        f"llama.{key}": v for key, v in NUMBERS.items()
    }
    assert from_hf(hf_config(metadata | {name: 5}, SHAPES)) == read()


def test_every_tokenizer_key_of_llama_cpp_is_read_without_effect_or_refused():
    known = TOKENIZER | NEUTRAL_ELSEWHERE.keys()
    metadata = {"general.architecture": "llama", "tokenizer.ggml.tokens": ["a", "b", "c"]} | {
        f"llama.{key}": v for key, v in NUMBERS.items()
    }
    for name in vars(gguf.Keys.Tokenizer).values():
        if isinstance(name, str) and name.startswith("tokenizer.ggml.") and name not in known:
            with pytest.raises(Unsupported, match=name):
                hf_config(metadata | {name: True}, SHAPES)


def test_sliding_windows():
    """Mistral's and Mixtral's is computed; where an architecture has none, only one that the context never reaches is fine."""
    assert (read(attention__sliding_window=5).family, read(attention__sliding_window=5).sliding_window) == ("mistral", 5)
    sparse = read(attention__sliding_window=5, expert_count=4, expert_used_count=2)
    assert (sparse.family, sparse.sliding_window) == ("mixtral", 5)
    assert read(attention__sliding_window=512) == read(attention__sliding_window=0) == read()
    assert read("qwen2", attention__sliding_window=512) == read("qwen2")
    with pytest.raises(Unsupported, match=r"qwen2\.attention\.sliding_window = 5 is not supported"):
        read("qwen2", attention__sliding_window=5)


def test_a_window_changes_what_is_computed(tmp_path):
    model = tiny_decoder(tiny_config("mistral", vocab_size=260, sliding_window=3))
    found = load(write(tmp_path / "m.gguf", model.config, gguf_tensors(model))).model
    tokens = [5, 6, 7, 8, 9, 10, 11]
    assert torch.equal(logits(found, tokens), logits(model, tokens))
    wide = tiny_decoder(replace(model.config, sliding_window=None))
    assert not torch.allclose(logits(found, tokens), logits(wide, tokens))


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek", "mixtral", "llama"])
def test_widths_that_a_file_does_not_name_are_those_of_its_tensors(tmp_path, family):
    model = tiny_decoder(tiny_config(family, vocab_size=260))
    arch = ARCHITECTURES[family]
    names = ["expert_feed_forward_length", "expert_shared_feed_forward_length"]
    absent = [*(names if arch in ("qwen2moe", "deepseek") else ()), *([] if family == "qwen2_moe" else ["feed_forward_length"])]
    path = write(tmp_path / "m.gguf", model.config, gguf_tensors(model), keys=dict.fromkeys(absent))
    assert open_checkpoint(path).config.moe == model.config.moe
    assert torch.equal(logits(load(path).model, [1, 2, 3]), logits(model, [1, 2, 3]))


def test_gemma3_has_the_constants_of_llama_cpp():
    """What its files leave out: a layer of six without a window, the frequencies of the others, and how attention is scaled."""

    def layers(count, **keys):
        shapes = SHAPES | {f"blk.{layer}.attn_norm.weight": (64,) for layer in range(count)}
        return read("gemma3", shapes, block_count=count, attention__key_length=16, **keys)

    small, large = layers(13, rope__freq_base=1e6), layers(62, rope__freq_base=1e6)
    assert (small.sliding_window, small.full_attention_layers) == (4, (5, 11))
    assert [small.rotary(layer) for layer in (4, 5)] == [(1e4, None), (1e6, None)]
    assert (small.attention_scale, large.attention_scale) == (16**-0.5, 8**-0.5)
    written = {"attention__sliding_window_pattern": 6, "rope__freq_base_swa": 1e4, "attention__scale": 0.25}
    assert layers(13, rope__freq_base=1e6, **written) == small
    assert layers(13, attention__sliding_window_pattern=2).full_attention_layers == (1, 3, 5, 7, 9, 11)
    assert layers(2, attention__sliding_window=512).sliding_window == 512  # as long as the context
    for key, value in {"attention.sliding_window": None, "attention.scale": 0.5, "final_logit_softcapping": 30.0}.items():
        with pytest.raises(ModelError, match=f"gemma3.{key}"):
            read("gemma3", **{key: value})
