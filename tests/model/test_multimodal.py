"""A checkpoint with an image encoder is read as its text model, and what is left out is said; anything unclear is refused."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import VOCAB, logits, on, relative_diff, tokens
from transformers_models import save_random_of

from moe_lm.checkpoint.read import load, open_checkpoint
from moe_lm.checkpoint.write import save
from moe_lm.errors import ModelError

TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "sliding_window": 5,
    "sliding_window_pattern": 2,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
    "eos_token_id": 7,
}
IMAGES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory):
    """(transformers' model, its folder)"""
    config = transformers.Gemma3Config(text_config=TEXT, vision_config=IMAGES, mm_tokens_per_image=4, image_token_index=90)
    folder = tmp_path_factory.mktemp("gemma3")
    return save_random_of(config, folder), folder


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_computes_what_transformers_computes_of_a_text(gemma3, kernel):
    theirs, folder = gemma3
    sequence = [token for token in tokens(60, seed=1) if token != 90]
    with torch.inference_mode():
        expected = theirs(torch.tensor([sequence])).logits[0]
    assert relative_diff(logits(on(kernel, load(folder).model), sequence), expected) <= 1e-5


def test_what_is_left_out_is_said_and_ends_of_text_are_read(gemma3, tmp_path):
    _, folder = gemma3
    checkpoint = open_checkpoint(folder)
    (notice,) = checkpoint.notices
    for_images = sum(not name.startswith("language_model.") for name in load_file(folder / "model.safetensors"))
    assert notice == f"the text model alone is read: {for_images} tensors of model_type gemma3 are for images"
    assert 7 in checkpoint.tokenizer.stop_ids
    save(checkpoint.read(torch.float32, "cpu", None), checkpoint.tokenizer, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["model_type"] == "gemma3_text"
    assert load(tmp_path).model.config == checkpoint.config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text_config": None}, "text_config = None"),
        ({"text_config": [1]}, "text_config = [1]"),
        ({"text_config": TEXT | {"model_type": "llama"}}, "text_config.model_type = 'llama'"),
        ({"text_config": TEXT | {"final_logit_softcapping": 30.0}}, "final_logit_softcapping = 30.0"),
        ({"text_config": TEXT | {"num_hidden_layers": 4}}, "lacks tensor language_model.model.layers.3"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"an_option": 3}, "an_option"),
        ({"model_type": "gemma3n"}, "gemma3n"),
    ],
)
def test_refused(gemma3, tmp_path, changes, words):
    _, folder = gemma3
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | changes), "utf-8")
    with pytest.raises(ModelError) as caught:
        open_checkpoint(tmp_path)
    assert words in str(caught.value)


def test_a_tensor_of_neither_part_is_refused(gemma3, tmp_path):
    _, folder = gemma3
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(load_file(folder / "model.safetensors") | {"audio_tower.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"unexpected tensor audio_tower\.weight"):
        open_checkpoint(tmp_path)
