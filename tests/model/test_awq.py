"""AWQ weights: what is read is what the codes stand for, bit for bit; layouts of other kernels are refused."""

import pytest
import torch
from quantized_folders import awq, expanded, known
from refusals import refused

from moe_lm.checkpoint.quantized.awq import AWQ

CONFIG = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}


def read(tensors, **changes):
    return expanded(AWQ.from_config(CONFIG | changes), tensors)


@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
def test_bit_for_bit(group_size):
    weight = known(40, 256, 4, group_size, lowest_zero=0)
    assert torch.equal(read(awq(weight), group_size=group_size), weight.weight)


def test_more_outputs_than_are_expanded_at_once():
    weight = known(72, 8192, 4, 128, lowest_zero=0)
    assert torch.equal(read(awq(weight), group_size=128), weight.weight)


def test_groups_that_are_not_whole():
    """Of 64 inputs there are two groups of 33 as there are of 32: only whole groups tell a wrong size."""
    refused(awq(known(16, 64)), "whole groups", by=lambda tensors: read(tensors, group_size=33))


def test_names_of_options():
    """AutoAWQ's own file, and GPTQModel's."""
    weight = known(16, 64)
    for config in (
        {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"},
        {"bits": 4, "group_size": 32, "checkpoint_format": "gemm", "format": "gemm", "pack_dtype": "int32"},
    ):
        assert torch.equal(expanded(AWQ.from_config(config), awq(weight)), weight.weight)


def test_symmetric_codes():
    symmetric, other = known(16, 64, symmetric=True), known(16, 64)
    assert torch.equal(read(awq(symmetric), zero_point=False), symmetric.weight)
    refused(awq(other), "zero_point is false", by=lambda tensors: read(tensors, zero_point=False))


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("qweight", None, ("lacks", "qweight")),
        ("qzeros", None, ("lacks", "qzeros")),
        ("scales", None, ("lacks", "scales")),
        ("qweight", torch.zeros(8, 32, dtype=torch.int32), ("8 inputs",)),  # GPTQ's, packed along the inputs
        ("qweight", torch.zeros(64, 4, dtype=torch.int64), ("qweight", "I64")),
        ("qweight", torch.zeros(64, 4, 1, dtype=torch.int32), ("qweight", "2 dimensions")),
        ("qzeros", torch.zeros(2, 5, dtype=torch.int32), ("qzeros", "(2, 5)", "(2, 4)")),
        ("scales", torch.ones(2, 4), ("scales", "(2, 4)", "(2, 32)")),
        ("scales", torch.zeros(2, 32, dtype=torch.int8), ("scales", "I8")),
    ],
)
def test_tensors_that_do_not_fit(part, value, words):
    tensors = {name: tensor for name, tensor in (awq(known(32, 64)) | {part: value}).items() if tensor is not None}
    refused(tensors, "o_proj", *words, by=read)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": "gemv"}, ("version = 'gemv'", "gemm")),
        ({"version": "GEMV_FAST"}, ("gemv_fast",)),
        ({"version": "exllama"}, ("exllama",)),
        ({"version": "marlin"}, ("marlin",)),
        ({"backend": "llm-awq"}, ("llm-awq",)),
        ({"bits": 3}, ("bits = 3",)),
        ({"bits": None}, ("has no bits",)),
        ({"group_size": None}, ("has no group_size",)),
        ({"zero_point": 1}, ("zero_point",)),
    ],
)
def test_options_that_are_wrong_or_not_read(changes, words):
    refused(CONFIG | changes, *words, by=AWQ.from_config)
