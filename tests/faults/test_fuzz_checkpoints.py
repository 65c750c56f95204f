"""Folders whose files were damaged: each is refused in one line, or loads and computes what other readers make of the same files.

A hundred mutations of each file, always the same ones; `make test-slow` runs two thousand, and bounds the seconds that one takes.
"""

import json
import random
from collections import Counter

import numpy as np
import pytest
import torch
from mutations import measured, mutated_bytes, mutated_json
from safetensors.numpy import load_file
from tiny_models import logits
from tokenizers import Tokenizer as FastTokenizer

from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.config import from_hf
from moe_lm.errors import ModelError

COUNTS = [100, pytest.param(2000, marks=pytest.mark.slow)]
TEXT = "the quick <|endoftext|> brown füx"
MB = 1 << 20
IDS = [5, 77, 256, 31]


@pytest.fixture(scope="module")
def whole(tiny_model):
    return {path.name: path.read_bytes() for path in tiny_model.iterdir()}


@pytest.fixture
def folder(whole, tmp_path):
    for name, raw in whole.items():
        (tmp_path / name).write_bytes(raw)
    return tmp_path


def read(folder):
    """What the folder holds, with logits and the ids of a text, or the one line that refuses it. Any other exception fails the test."""
    try:
        checkpoint = open_checkpoint(folder)
        model = checkpoint.read(torch.float32, "cpu", None)
    except ModelError as error:
        return str(error)
    try:
        ids = checkpoint.tokenizer.encode(TEXT)
        checkpoint.tokenizer.decode([*ids, *range(257)])
    except ModelError as error:
        ids = str(error)
    with torch.no_grad():
        return checkpoint, model, ids, logits(model, IDS)


def fuzz(folder, name, mutate, count, check):
    """Returns how many were refused and how many loaded; `check` takes what loaded."""
    seen = Counter()
    size = sum(path.stat().st_size for path in folder.iterdir())
    for i in range(count):
        rng = random.Random(f"{name} {i}")
        raw = mutate(rng)
        (folder / name).write_bytes(raw)
        found, cost = measured(lambda: read(folder))
        where = f"mutation {i} of {name}: {raw[:2000]!r}"
        assert cost.memory < 2 * max(size, len(raw)) + 200 * MB, where
        if count > 100:
            assert cost.seconds < 2, where
        if isinstance(found, str):
            assert found, where
            assert "\n" not in found, where
            assert len(found) < 600, where
            seen["refused"] += 1
        else:
            check(*found, where)
            seen["loaded"] += 1
    assert seen["refused"] > count / 5
    assert seen["loaded"] > count / 50
    return seen


@pytest.fixture(scope="module")
def unmutated(whole, tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    for name, raw in whole.items():
        (place / name).write_bytes(raw)
    return read(place)


@pytest.mark.parametrize("count", COUNTS)
def test_config(folder, whole, unmutated, count):
    """What loads has the logits of before, or those of transformers where its class takes the file too."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install evalkit-lm[dev]")
    transformers.utils.logging.set_verbosity_error()
    raw = json.loads(whole["config.json"])
    more = {
        "model_type": "qwen2",
        "sliding_window": 2,
        "layer_types": ["full_attention"] * 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
        "hidden_act": "gelu",
        "final_logit_softcapping": 30.0,
        "quantization_config": {"quant_method": "awq"},
        "unsloth_version": "2025.3",
        "num_experts": 4,
    }
    compared = Counter()

    def check(checkpoint, model, ids, found, where):
        if checkpoint.config != unmutated[0].config and not torch.equal(found, unmutated[3]):
            try:
                theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
            except Exception:
                compared["refused by transformers alone"] += 1
                return
            with torch.no_grad():
                torch.testing.assert_close(found, theirs(torch.tensor([IDS])).logits[0], atol=1e-3, rtol=1e-3, msg=where)
            compared["as transformers"] += 1
        else:
            compared["as before"] += 1

    fuzz(folder, "config.json", lambda rng: mutated_json(raw, rng, more), count, check)
    assert compared["as transformers"] > count / 100
    assert compared["refused by transformers alone"] < count / 20


@pytest.mark.parametrize("count", COUNTS)
def test_tokenizer_config(folder, whole, unmutated, count):
    """What loads encodes as before, or as transformers does."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install evalkit-lm[dev]")
    transformers.utils.logging.set_verbosity_error()
    token = {"content": "<|x|>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    raw = json.loads(whole["tokenizer_config.json"]) | {"added_tokens_decoder": {"256": token | {"content": "<|endoftext|>"}}}
    more = {
        "bos_token": "<|endoftext|>",
        "pad_token": "<|x|>",
        "eos_token": token,
        "added_tokens_decoder": {"256": token, "300": token | {"content": "quick", "lstrip": True}},
        "additional_special_tokens": ["<|y|>", "quick"],
        "extra_special_tokens": {"image_token": "quick"},
        "chat_template": "{{ messages[0].content }}",
        "model_max_length": 5,
        "add_bos_token": True,
        "split_special_tokens": True,
    }

    def check(checkpoint, model, ids, found, where):
        assert torch.equal(found, unmutated[3]), where
        if ids != unmutated[2]:
            try:
                theirs = transformers.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
            except Exception:
                return
            assert ids == theirs if max(theirs) < 257 else isinstance(ids, str), where

    fuzz(folder, "tokenizer_config.json", lambda rng: mutated_json(raw, rng, more), count, check)


@pytest.mark.parametrize("count", COUNTS)
def test_tokenizer(folder, whole, unmutated, count):
    """What loads encodes as the tokenizers library does, or as transformers, which adds the tokens of tokenizer_config.json."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install evalkit-lm[dev]")
    raw = json.loads(whole["tokenizer.json"])
    token = {"id": 256, "content": "<|x|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    more = {
        "added_tokens": [token, token | {"id": 300, "content": "quick"}],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [300], "tokens": ["<|endoftext|>"]}},
        },
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 4},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        },
        "decoder": {"type": "Metaspace", "replacement": "ab", "prepend_scheme": "always", "split": True},
    }

    def check(checkpoint, model, ids, found, where):
        assert torch.equal(found, unmutated[3]), where
        if isinstance(ids, str):
            return
        theirs = FastTokenizer.from_file(str(folder / "tokenizer.json"))
        theirs.no_truncation()
        theirs.no_padding()
        expected = theirs.encode(TEXT, add_special_tokens=False).ids
        bos = checkpoint.tokenizer.bos_id
        if ids != [*([] if bos in (None, *expected[:1]) else [bos]), *expected]:
            try:
                expected = transformers.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
            except Exception:
                return
            assert ids == expected, where
        assert max(ids, default=0) < 257, where

    fuzz(folder, "tokenizer.json", lambda rng: mutated_json(raw, rng, more), count, check)


HF_NAMES = {"attention": "self_attn", "ffn": "mlp", "input_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


def in_the_file(parameter):
    """The name of a llama's parameter in the file."""
    if parameter == "embed.weight":
        return "model.embed_tokens.weight"
    return "model." + ".".join(HF_NAMES.get(part, part) for part in parameter.split("."))


@pytest.mark.parametrize("count", COUNTS)
def test_safetensors(folder, whole, unmutated, count):
    """Every parameter that loads is what safetensors' own reader for numpy finds under its name."""
    raw = whole["model.safetensors"]
    header = 8 + int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8:header])
    more = {"model.extra.weight": entries["model.norm.weight"], "lm_head.weight": entries["model.embed_tokens.weight"]}
    changed = Counter()

    def mutate(rng):
        if rng.random() < 0.5:
            # the header, at its length or another
            text = mutated_json(entries, rng, more)
            text += b" " * (header - 8 - len(text))
            return len(text).to_bytes(8, "little") + text + raw[header:]
        return mutated_bytes(raw, rng, *((0, header) if rng.random() < 0.5 else (header, len(raw))))

    def check(checkpoint, model, ids, found, where):
        assert ids == unmutated[2], where
        theirs = load_file(folder / "model.safetensors")
        for name, parameter in model.named_parameters():
            np.testing.assert_array_equal(parameter.numpy(), theirs[in_the_file(name)].astype(np.float32), err_msg=where)
        before = dict(unmutated[1].named_parameters())
        same = all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        assert not same or torch.equal(found, unmutated[3]), where
        changed[same] += 1

    fuzz(folder, "model.safetensors", mutate, count, check)
    assert changed[False] > count / 100


def test_the_unmutated_folder_is_what_its_files_say(whole, unmutated):
    checkpoint, _, ids, _ = unmutated
    assert checkpoint.config == from_hf(json.loads(whole["config.json"]))
    assert 256 in ids
