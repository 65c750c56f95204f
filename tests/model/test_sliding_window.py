"""Sliding windows in all layers or some: config.json is read as transformers reads it, or refused by name."""

import json

import pytest
import torch
import transformers
from tiny_models import logits, on, relative_diff, tiny_config, tiny_decoder, tokens, word_tokenizer

from moe_lm.checkpoint.read import load
from moe_lm.checkpoint.write import save
from moe_lm.config import from_hf, to_hf
from moe_lm.errors import ModelError

FULL, SLIDING = "full_attention", "sliding_attention"
LAYERS = 4

SAME_AS_TRANSFORMERS = {
    "mistral in every layer": ("mistral", {"sliding_window": 5}, ()),
    "mistral, some layers": ("mistral", {"sliding_window": 5, "layer_types": [FULL, SLIDING, SLIDING, FULL]}, (0, 3)),
    "mistral, no layer": ("mistral", {"sliding_window": 5, "layer_types": [FULL] * LAYERS}, (0, 1, 2, 3)),
    "mistral, layer_types of null": ("mistral", {"sliding_window": 5, "layer_types": None}, ()),
    "mixtral in every layer": ("mixtral", {"sliding_window": 5, "layer_types": [SLIDING] * LAYERS}, ()),
    "qwen2 from a layer on": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 3}, (0, 1, 2)),
    "qwen2, some layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 3, "layer_types": [SLIDING, FULL, FULL, SLIDING]},
        (1, 2),
    ),
    "qwen3 from a layer on": ("qwen3", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}, (0,)),
    "qwen3_moe in every layer": ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 5}, ()),
    "qwen2_moe up to a layer": ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}, (1, 2, 3)),
    "qwen2_moe, some layers": (
        "qwen2_moe",
        {"use_sliding_window": True, "sliding_window": 5, "layer_types": [FULL, FULL, SLIDING, SLIDING]},
        (0, 1),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint folder with changes to its config.json."""
    made = {}

    def make(family, changes):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            save(tiny_decoder(tiny_config(family, num_hidden_layers=LAYERS)), word_tokenizer(), made[family])
        raw = to_hf(tiny_config(family, num_hidden_layers=LAYERS)) | changes
        (made[family] / "config.json").write_text(json.dumps(raw), "utf-8")
        return made[family]

    return make


@pytest.mark.parametrize(("family", "changes", "full"), SAME_AS_TRANSFORMERS.values(), ids=SAME_AS_TRANSFORMERS)
def test_as_transformers(folder, family, changes, full):
    path, sequence = folder(family, changes), tokens(40, seed=1)
    ours = load(path).model
    assert (ours.config.sliding_window, ours.config.full_attention_layers) == (5, full)
    assert [ours.config.window(layer) for layer in range(LAYERS)] == [None if layer in full else 5 for layer in range(LAYERS)]
    assert from_hf(to_hf(ours.config)) == ours.config
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        expected = theirs(torch.tensor([sequence])).logits[0]
    for kernel in ("reference", "cpu"):
        assert relative_diff(logits(on(kernel, ours), sequence), expected) <= 1e-5


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"sliding_window": 5, "max_window_layers": 0}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 5, "layer_types": [FULL] * LAYERS}),
        ("qwen2_moe", {"use_sliding_window": False, "sliding_window": 0}),
        ("llama", {"layer_types": [FULL] * LAYERS}),
        ("llama", {"sliding_window": 512}),  # as long as the model's whole context
    ],
)
def test_no_window(family, changes):
    config = from_hf(to_hf(tiny_config(family, num_hidden_layers=LAYERS)) | changes)
    assert (config.sliding_window, config.full_attention_layers) == (None, ())


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {"sliding_window": 511}, ("sliding_window = 511", "llama", "null")),
        ("llama", {"layer_types": [FULL, SLIDING, FULL, FULL]}, ("layer_types", SLIDING, "layer 1", "llama")),
        ("mixtral", {"sliding_window": 5, "layer_types": [SLIDING] * 3 + [FULL]}, ("layer_types", FULL, "layer 3", "mixtral")),
        ("mistral", {"sliding_window": None, "layer_types": [SLIDING] * LAYERS}, ("layer_types", "layer 0", "without a sliding_window")),
        ("qwen2", {"sliding_window": 5, "layer_types": [FULL] * 3 + [SLIDING]}, ("layer_types", "layer 3", "without a sliding_window")),
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": None}, ("sliding_window = None", "qwen2_moe")),
        ("mistral", {"layer_types": [FULL, SLIDING, FULL, "chunked_attention"]}, ("layer_types", "chunked_attention", "layer 3")),
        ("mistral", {"layer_types": [FULL] * 3}, ("layer_types", "4 layers", "num_hidden_layers")),
        ("mistral", {"layer_types": "full_attention"}, ("layer_types", "list")),
        ("mistral", {"layer_types": [[]] * LAYERS}, ("layer_types", "layer 0")),
        ("mistral", {"sliding_window": 0}, ("sliding_window = 0",)),
        ("mistral", {"sliding_window": [None, 5]}, ("sliding_window = [None, 5]",)),
        ("mistral", {"sliding_window": True}, ("sliding_window = True",)),
    ],
)
def test_refused(family, changes, words):
    with pytest.raises(ModelError) as caught:
        from_hf(to_hf(tiny_config(family, num_hidden_layers=LAYERS)) | changes)
    assert all(word in str(caught.value) for word in words), caught.value
