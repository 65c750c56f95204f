"""GPTQ weights: what is read is what the codes stand for, bit for bit, in every layout; and what would be read wrong is refused."""

import pytest
import torch
from quantized_folders import expanded, gptq, known, module
from refusals import refused

from moe_lm.checkpoint.quantized.gptq import GPTQ

CONFIG = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}


def read(tensors, **changes):
    return expanded(GPTQ.from_config(CONFIG | changes), tensors)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_bit_for_bit(bits, group_size, act_order):
    weight = known(64, 256, bits, group_size, act_order=act_order, seed=bits)
    options = {"bits": bits, "group_size": group_size, "desc_act": act_order}
    assert torch.equal(read(gptq(weight), **options), weight.weight)
    assert torch.equal(read(gptq(weight, minus_one=False), checkpoint_format="gptq_v2", **options), weight.weight)
    if not act_order:
        assert torch.equal(read(gptq(weight, g_idx=False), **options), weight.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_of_scales(dtype):
    """A product of a 4-bit code and any of these scales is rounded at most once: in float32 it is what float64 rounds to."""
    weight = known(32, 64, dtype=dtype)
    assert torch.equal(read(gptq(weight)), weight.weight)


def test_a_last_group_with_fewer_inputs():
    weight = known(32, 96, group_size=64)
    assert torch.equal(read(gptq(weight), group_size=64), weight.weight)

    refused(gptq(weight, g_idx=False), "lacks", "g_idx", by=lambda tensors: read(tensors, group_size=64))


def test_more_outputs_than_are_expanded_at_once():
    weight = known(128, 8192, group_size=128)
    assert len(list(GPTQ.from_config(CONFIG | {"group_size": 128}).read(module(gptq(weight))).chunks())) > 1
    assert torch.equal(read(gptq(weight), group_size=128), weight.weight)


def words_minus_ones(tensors, bits):
    """As GPTQModel goes from gptq_v2 to gptq: one is taken from every field of a word at once, by one subtraction of integers."""
    ones = sum(1 << shift for shift in range(0, 32, bits))
    less = [[((word & 0xFFFFFFFF) - ones) & 0xFFFFFFFF for word in row] for row in tensors["qzeros"].tolist()]
    signed = [[word - (word >> 31 << 32) for word in row] for row in less]
    return tensors | {"qzeros": torch.tensor(signed, dtype=torch.int32)}


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_points_of_zero_in_the_format_that_stores_them_minus_one(bits):
    """GPTQModel's borrow from the next one and come back; AutoGPTQ's overwrote others, so they are refused."""
    weight = known(32, 64, bits, lowest_zero=0, seed=3)
    weight.zeros[:2] = 0
    tensors = words_minus_ones(gptq(weight, minus_one=False), bits)
    for maker in ("gptqmodel:4.2.5", ["optimum:1.24.0", "gptqmodel:2.0.0"]):
        assert torch.equal(read(tensors, bits=bits, meta={"quantizer": maker}), weight.weight)
    for meta in (None, {}, {"quantizer": "auto_gptq:0.7.1"}, {"quantizer": ["optimum:1.2", 5]}):
        refused(tensors, "zero point", "AutoGPTQ", by=lambda tensors, meta=meta: read(tensors, bits=bits, meta=meta))


def test_zero_points_of_zero_in_three_bits():
    weight = known(32, 64, 3, lowest_zero=0, seed=3)
    weight.zeros[:2] = 0
    wrapped = known(32, 64, 3, lowest_zero=0, seed=3)
    wrapped.zeros.copy_((weight.zeros - 1) % 8)  # field by field: GPTQModel's three bits do not borrow
    tensors = gptq(wrapped, minus_one=False)
    assert torch.equal(read(tensors, bits=3, meta={"quantizer": "gptqmodel:4.2.5"}), weight.weight)
    refused(tensors, "zero point", by=lambda tensors: read(tensors, bits=3))


def test_rules_for_single_modules():
    """GPTQModel's `dynamic`: the first pattern decides, from the beginning of the name."""
    eight, other = known(32, 64, 8, -1), known(32, 64)
    rules = {r"+:.*\.o_proj": {"bits": 8, "group_size": -1}, r".*\.o_proj": {"bits": 2}, r"-:lm_head": {}}
    scheme = GPTQ.from_config(CONFIG | {"dynamic": rules})
    assert torch.equal(expanded(scheme, gptq(eight)), eight.weight)
    assert torch.equal(expanded(scheme, gptq(other), "model.layers.0.mlp.up_proj"), other.weight)
    refused(gptq(other), "lm_head", "leaves it out", by=lambda tensors: expanded(scheme, tensors, "lm_head"))
    refused({"(": {}}, "dynamic", "not valid", by=lambda rules: GPTQ.from_config(CONFIG | {"dynamic": rules}))
    refused({"x": 5}, "dynamic", by=lambda rules: GPTQ.from_config(CONFIG | {"dynamic": rules}))
    refused({"x": {"bits": 5}}, "bits = 5", by=lambda rules: GPTQ.from_config(CONFIG | {"dynamic": rules}))


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("qweight", None, ("lacks", "qweight")),
        ("qzeros", None, ("lacks", "qzeros")),
        ("scales", None, ("lacks", "scales")),
        ("qweight", torch.zeros(8, 32), ("qweight", "F32", "I32")),
        ("qweight", torch.zeros(9, 32, dtype=torch.int32), ("scales", "(2, 32)", "(3, 32)")),
        ("qweight", torch.zeros(8, 4, 8, dtype=torch.int32), ("qweight", "2 dimensions")),
        ("qweight", torch.zeros(0, 32, dtype=torch.int32), ("qweight", "(0, 32)")),
        ("qweight", torch.zeros(8, 31, dtype=torch.int32), ("whole words",)),
        ("qzeros", torch.zeros(4, 2, dtype=torch.int32), ("qzeros", "(4, 2)", "(2, 4)")),
        ("scales", torch.zeros(2, 32, dtype=torch.int32), ("scales", "F16")),
        ("scales", torch.ones(32, 2), ("scales", "(32, 2)", "(2, 32)")),
        ("g_idx", torch.zeros(64), ("g_idx", "I32")),
        ("g_idx", torch.zeros(63, dtype=torch.int32), ("g_idx", "(64,)")),
        ("g_idx", torch.zeros(64, dtype=torch.int32), ("g_idx", "2 groups")),  # the old mark of "in order", but no group's inputs
        ("g_idx", torch.arange(64, dtype=torch.int32) // 32 - 1, ("g_idx", "2 groups")),
        ("g_idx", torch.arange(64, dtype=torch.int32) // 32 + 1, ("g_idx", "2 groups")),
        ("g_idx", torch.arange(64, dtype=torch.int32) % 2, ("g_idx", "desc_act is false")),
    ],
)
def test_tensors_that_do_not_fit(part, value, words):
    tensors = {name: tensor for name, tensor in (gptq(known(32, 64)) | {part: value}).items() if tensor is not None}
    refused(tensors, "o_proj", *words, by=read)


def test_the_configuration_against_the_tensors():
    """A wrong number of bits or size of groups shows in the shapes."""
    tensors = gptq(known(64, 256, 4, 64))
    for changes in ({"bits": 8}, {"bits": 2}, {"bits": 3}, {"group_size": 32}, {"group_size": 128}, {"group_size": -1}):
        refused(tensors, "o_proj", by=lambda tensors, changes=changes: read(tensors, **{"group_size": 64} | changes))
    without = gptq(known(64, 256, 4, 64, act_order=True), g_idx=False)
    refused(without, "lacks", "g_idx", by=lambda tensors: read(tensors, group_size=64, desc_act=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bits": None}, ("has no bits",)),
        ({"bits": 5}, ("bits = 5", "4")),
        ({"bits": "4"}, ("bits = '4'",)),
        ({"bits": True}, ("bits",)),
        ({"w_bit": 8}, ("bits and w_bit", "differ")),
        ({"group_size": None}, ("has no group_size",)),
        ({"group_size": 0}, ("group_size = 0",)),
        ({"desc_act": "no"}, ("desc_act",)),
        ({"checkpoint_format": "marlin"}, ("checkpoint_format = 'marlin'", "gptq_v2")),
        ({"checkpoint_format": "gptq_p"}, ("gptq_p",)),
        ({"checkpoint_format": "gptq", "format": "gptq_v2"}, ("differ",)),
        ({"is_marlin_format": True}, ("is_marlin_format",)),
        ({"pack_dtype": "int64"}, ("pack_dtype",)),
        ({"rotation": "hadamard"}, ("rotation",)),
        ({"activation": {"mode": "w4afp8"}}, ("activation",)),
    ],
)
def test_options_that_are_wrong_or_not_read(changes, words):
    refused(CONFIG | changes, *words, by=GPTQ.from_config)
