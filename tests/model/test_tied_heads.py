"""tie_word_embeddings and what the files hold, in every combination: the logits of transformers, or a refusal."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import logits, tiny_config, tiny_decoder, word_tokenizer

from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.checkpoint.write import save
from moe_lm.errors import ModelError

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install evalkit-lm[dev]")

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IDS = [1, 2, 3, 40]


def theirs(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


@pytest.fixture(params=["llama", "gemma"])
def folder(request, tmp_path):
    """Tied by its config.json (gemma: by its family's default), with a head of its own in the file."""
    save(tiny_decoder(tiny_config(request.param, tied=False)), word_tokenizer(), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text("utf-8")) | {"tie_word_embeddings": True}
    if request.param == "gemma":
        del raw["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(raw), "utf-8")
    return tmp_path


def check(folder, tied):
    """Our logits are theirs; returns the notices."""
    checkpoint = open_checkpoint(folder)
    model = checkpoint.read(torch.float32, "cpu", None)
    torch.testing.assert_close(logits(model, IDS), theirs(folder), atol=1e-4, rtol=1e-4)
    assert checkpoint.config.tie_word_embeddings is tied
    assert (model.lm_head.weight is model.embed.weight) is tied
    return checkpoint.notices


def edit(folder, **changes):
    tensors = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        tensors[name] = value(tensors)
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")


def test_a_head_that_differs_is_used_and_said(folder):
    (notice,) = check(folder, tied=False)
    assert HEAD in notice
    assert "tie_word_embeddings" in notice
    assert "\n" not in notice


def test_one_number_is_a_difference(folder):
    def off_by_one_bit(tensors):
        head = tensors[EMBED].clone()
        head[-1, -1] = torch.nextafter(head[-1, -1], torch.tensor(torch.inf))
        return head

    edit(folder, **{HEAD: off_by_one_bit})
    assert check(folder, tied=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_equal_head_is_tied(folder, dtype):
    edit(folder, **{HEAD: lambda tensors: tensors[EMBED].to(dtype, copy=True)})
    assert check(folder, tied=True) == ()


def test_the_head_serves_as_the_embedding_that_is_missing(folder):
    edit(folder, **{EMBED: lambda tensors: None})
    assert check(folder, tied=True) == ()


def test_without_either_and_without_a_head_where_none_is_tied(folder):
    """Where transformers draws random weights and warns."""
    edit(folder, **{HEAD: lambda tensors: None})
    assert check(folder, tied=True) == ()
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": False}), "utf-8")
    with pytest.raises(ModelError, match=r"lacks tensor lm_head\.weight"):
        open_checkpoint(folder)
    (folder / "config.json").write_text(json.dumps(raw), "utf-8")
    edit(folder, **{EMBED: lambda tensors: None})
    with pytest.raises(ModelError, match=r"lacks tensor model\.embed_tokens\.weight"):
        open_checkpoint(folder)
