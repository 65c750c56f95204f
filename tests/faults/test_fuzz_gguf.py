"""GGUF files that were damaged: each is refused in one line, or loads and holds what the gguf library's own reader finds in it.

A hundred mutations, always the same ones; `make test-slow` runs two thousand, and bounds the seconds that one takes.
"""

import random
from collections import Counter

import gguf
import numpy as np
import pytest
import torch
from gguf_files import ARCHITECTURES, TYPES, gguf_tensors, permuted, write
from mutations import STRANGE, measured, mutated_bytes
from tiny_models import logits, tiny_config, tiny_decoder

from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.errors import ModelError
from moe_lm.families import FAMILIES
from moe_lm.families.names import pieces

COUNTS = [100, pytest.param(2000, marks=pytest.mark.slow)]
TEXT = "the quick <word0> brown füx"
IDS = [5, 77, 256, 31]
MB = 1 << 20
MODELS = {family: tiny_decoder(tiny_config(family, vocab_size=260, rope_theta=500_000.0)) for family in ("llama", "qwen2_moe", "mixtral")}
KINDS = {"token_embd.weight": TYPES.Q8_0, "blk.0.attn_q.weight": TYPES.F16, "blk.1.attn_output.weight": TYPES.Q8_0}
# keys whose values are replaced by strange ones, beside whatever bytes of the header are
KEYS = """block_count context_length embedding_length feed_forward_length attention.head_count attention.head_count_kv
    attention.key_length attention.value_length attention.layer_norm_rms_epsilon attention.sliding_window attention.causal
    attention.scale rope.freq_base rope.dimension_count rope.scaling.type rope.scaling.factor rope.scaling.attn_factor
    rope.scaling.original_context_length rope.scale_linear expert_count expert_used_count expert_feed_forward_length
    expert_shared_feed_forward_length expert_weights_scale expert_weights_norm expert_gating_func logit_scale vocab_size
    final_logit_softcapping tensor_data_layout general.alignment general.type split.count split.no split.tensors.count""".split()
VALUES = [
    *(value for value in STRANGE if type(value) is bool or (type(value) is float and value != 1e300)),
    *(value for value in STRANGE if type(value) is int and 0 <= value < 2**32),
    *(value for value in STRANGE if type(value) is str and value != "\ud800"),
    *([2, 2], [4, 4], [4, 2], [64, 64], [0], [1e-6, 1e-6], ["a"], "yarn", "linear", "longrope"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """{family: (the file's bytes, where its tensors begin)}"""
    found = {}
    for family, model in MODELS.items():
        path = write(tmp_path_factory.mktemp(family) / "m.gguf", model.config, gguf_tensors(model), KINDS)
        found[family] = path.read_bytes(), min(tensor.data_offset for tensor in gguf.GGUFReader(path).tensors)
    return found


@pytest.fixture(scope="module")
def unmutated(whole, tmp_path_factory):
    """{family: what its undamaged file holds, for moe_lm and for the library}"""
    found = {}
    for family, (raw, _) in whole.items():
        path = tmp_path_factory.mktemp(family) / "m.gguf"
        path.write_bytes(raw)
        found[family] = *read(path), reference(path)
    return found


def read(path):
    """What the file holds, with logits and the ids of a text, or the one line that refuses it. Any other exception fails the test."""
    try:
        checkpoint = open_checkpoint(path)
        model = read_both_ways(checkpoint)
        ids = checkpoint.tokenizer.encode(TEXT)
        checkpoint.tokenizer.decode([*ids, *range(257)])
    except ModelError as error:
        return str(error)
    with torch.no_grad():
        return checkpoint, model, ids, logits(model, IDS)


def read_both_ways(checkpoint):
    """The expanded model; blocks that are kept stand for the same weights, or are refused in the same words."""
    expanded, kept = (attempted(checkpoint, quantized) for quantized in (False, True))
    if isinstance(expanded, ModelError):
        assert str(kept) == str(expanded)
        raise expanded
    blocks = {name: module.quantized for name, module in kept.named_modules() if getattr(module, "quantized", None)}
    assert blocks
    for name, weight in blocks.items():
        assert torch.equal(weight.dequantized()[0], expanded.get_submodule(name).weight), name
    return expanded


def attempted(checkpoint, quantized):
    try:
        return checkpoint.read(torch.float32, "cpu", None, quantized)
    except ModelError as error:
        return error


def reference(path):
    """(metadata, {tensor: values}) by the library."""
    reader = gguf.GGUFReader(path)
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return metadata, {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}


def mutated(rng, family, raw, data):
    if rng.random() < 0.3:
        keys = {rng.choice(KEYS): rng.choice(VALUES) for _ in range(rng.choice((1, 1, 2)))}
        return keys, None
    start, end = (0, data) if rng.random() < 0.6 else (data, len(raw))
    return None, mutated_bytes(raw, rng, start, end)


def agrees(model, tensors, where):
    """Does every parameter hold what the library finds?"""
    config = model.config
    family = FAMILIES[config.family]
    for name, parameter in model.named_parameters():
        (rows,) = pieces(name, family.gguf_names, num_experts=1)
        for piece, part in zip(rows, np.split(parameter.numpy(), len(rows), axis=-2 if len(rows) > 1 else 0), strict=True):
            if family.gguf_interleaved_rope and piece.endswith(("attn_q.weight", "attn_k.weight")):
                part = permuted(part, config.num_attention_heads if "attn_q" in piece else config.num_key_value_heads)
            np.testing.assert_array_equal(part.reshape(tensors[piece].shape), tensors[piece], err_msg=f"{where}: {piece}")


# what may differ from the undamaged file's configuration, and the key that says so
NUMBERS = {"max_seq_len": "context_length", "rms_norm_eps": "attention.layer_norm_rms_epsilon", "rope_theta": "rope.freq_base"}
MAY_DIFFER = {*NUMBERS, "family", "intermediate_size", "sliding_window", "rope_scaling", "moe", "eos_token_ids", "bos_token_id"}
TOKENIZER = ("tokens", "token_type", "merges", "pre", "model")


def check(path, found, unmutated, where):
    """Returns whether the file is the undamaged one, to all who compute with it."""
    checkpoint, model, ids, values = found
    metadata, tensors = reference(path)
    agrees(model, tensors, where)
    arch = metadata["general.architecture"]
    before, _, ids_before, values_before, (metadata_before, tensors_before) = unmutated
    for field in checkpoint.config.__slots__:
        ours = getattr(checkpoint.config, field)
        if field in NUMBERS:
            stated = metadata[f"{arch}.{NUMBERS[field]}"]
            assert ours == (stated[0] if isinstance(stated, list) else stated), where
        elif field not in MAY_DIFFER:
            assert ours == getattr(before.config, field), where
    tokenizer = [f"tokenizer.ggml.{key}" for key in TOKENIZER]
    if [metadata.get(key) for key in tokenizer] == [metadata_before.get(key) for key in tokenizer]:
        assert ids == ids_before, where
    same = checkpoint.config == before.config and all(np.array_equal(tensors[name], array) for name, array in tensors_before.items())
    if same:
        assert torch.equal(values, values_before), where
    assert torch.isfinite(values).all() or not same, where
    return same


@pytest.mark.parametrize("count", COUNTS)
def test_gguf(whole, unmutated, tmp_path, count):
    seen, path, families = Counter(), tmp_path / "m.gguf", list(MODELS)
    for i in range(count):
        rng = random.Random(f"gguf {i}")
        family = families[i % len(families)]
        keys, raw = mutated(rng, family, *whole[family])
        if keys is not None:
            write(path, MODELS[family].config, gguf_tensors(MODELS[family]), KINDS, keys=keys)
        else:
            path.write_bytes(raw)
        where = f"mutation {i} of {ARCHITECTURES[family]}: {keys}"
        found, cost = measured(lambda: read(path))
        assert cost.memory < 2 * path.stat().st_size + 200 * MB, where
        if count > 100:
            assert cost.seconds < 2, where
        if isinstance(found, str):
            assert path.name in found, (where, found)
            assert "\n" not in found, (where, found)
            assert len(found) < 600, (where, found)
            seen["refused"] += 1
        else:
            seen["same" if check(path, found, unmutated[family], where) else "changed"] += 1
    print(seen)
    assert seen["refused"] > count / 4
    assert seen["same"] > count / 50
    assert seen["changed"] > count / 50
