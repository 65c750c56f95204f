"""Folders' quantised weights as products read them unexpanded: the very numbers of the expanded ones, or none."""

import re
from dataclasses import replace

import pytest
import torch
from quantized_folders import METHODS, awq, config, expanded, gptq, known, module, pack_quantized, quantize_folder
from tiny_models import logits, on

from moe_lm.checkpoint.quantized.awq import AWQ
from moe_lm.checkpoint.quantized.blocks import in_blocks, nbytes
from moe_lm.checkpoint.quantized.compressed import CompressedTensors
from moe_lm.checkpoint.quantized.float8 import Float8
from moe_lm.checkpoint.quantized.gptq import GPTQ
from moe_lm.checkpoint.read import open_checkpoint
from moe_lm.errors import ModelError
from moe_lm.quant.grouped import GroupedWeight
from moe_lm.quant.ordered import OrderedWeight
from moe_lm.quant.weight import QuantizedWeight, stacked

LAYOUT = {"bits": 4, "group_size": 32, "desc_act": False}


def compressed(form, **weights):
    return CompressedTensors.from_config({"format": form, "config_groups": {"g": {"targets": ["Linear"], "weights": weights}}})


def check(scheme, tensors, kind):
    """`kind`: the inputs of a group, "Q8_0", or None."""
    weight = scheme.read(module(tensors))
    found = in_blocks(weight)
    assert isinstance(found, OrderedWeight) == (weight.order is not None and kind is not None)
    blocks = found.blocks if isinstance(found, OrderedWeight) else found
    assert (blocks.group_size if isinstance(blocks, GroupedWeight) else blocks and blocks.kind) == kind
    if found:
        assert found.is_finite
        assert torch.equal(found.dequantized()[0], expanded(scheme, tensors))
        parts = [blocks.codes, blocks.scales, blocks.zeros] if isinstance(blocks, GroupedWeight) else [blocks.blocks]
        parts += [found.places] if isinstance(found, OrderedWeight) else []
        assert nbytes(weight) == sum(part.nbytes for part in parts)
    else:
        assert nbytes(weight) is None


@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
@pytest.mark.parametrize(("bits", "symmetric"), [(2, False), (3, False), (4, False), (4, True), (8, True)])
def test_the_same_numbers(bits, symmetric, group_size):
    weight = known(64, 256, bits, group_size, symmetric)
    kind = "Q8_0" if bits == 8 else 256 if group_size == -1 else group_size
    check(GPTQ.from_config(LAYOUT | {"bits": bits, "group_size": group_size}), gptq(weight), kind)


def test_more_outputs_than_are_read_at_once():
    check(GPTQ.from_config(LAYOUT), gptq(known(96, 8192)), 32)
    check(GPTQ.from_config(LAYOUT | {"bits": 8}), gptq(known(96, 8192, bits=8, symmetric=True)), "Q8_0")


def test_a_shorter_last_group():
    check(GPTQ.from_config(LAYOUT | {"group_size": 128}), gptq(known(64, 320, group_size=128)), 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scales_of_any_precision(dtype):
    check(GPTQ.from_config(LAYOUT), gptq(known(64, 256, dtype=dtype)), 32)


def test_the_other_formats():
    check(AWQ.from_config(LAYOUT), awq(known(64, 256, lowest_zero=0)), 32)
    for symmetric in (True, False):
        scheme = compressed("pack-quantized", num_bits=4, group_size=32, symmetric=symmetric)
        check(scheme, pack_quantized(known(64, 256, symmetric=symmetric, dtype=torch.bfloat16), symmetric), 32)
    weight = {"weight": torch.randint(-128, 128, (64, 256)).to(torch.int8), "weight_scale": torch.rand(64, 1).half()}
    check(compressed("int-quantized", num_bits=8, strategy="channel"), weight, "Q8_0")
    check(compressed("int-quantized", num_bits=4, strategy="channel"), weight, "Q8_0")  # whatever its bytes hold


@pytest.mark.parametrize(("inputs", "group_size", "kind"), [(256, 32, 32), (256, 128, 128), (320, 128, 64)])
def test_an_activation_order(inputs, group_size, kind):
    """Each input has its group, and the codes of a group lie side by side; the last group may be shorter."""
    layout = LAYOUT | {"desc_act": True, "group_size": group_size}
    check(GPTQ.from_config(layout), gptq(known(64, inputs, group_size=group_size, act_order=True)), kind)
    eight = known(64, inputs, 8, group_size, symmetric=True, act_order=True)
    check(GPTQ.from_config(layout | {"bits": 8}), gptq(eight), "Q8_0")
    check(GPTQ.from_config(layout), gptq(known(64, inputs, group_size=group_size)), kind)  # groups that are in order after all
    scheme = compressed("pack-quantized", num_bits=4, group_size=group_size, symmetric=False, actorder="group")
    if inputs % group_size == 0:
        check(scheme, pack_quantized(known(64, inputs, group_size=group_size, act_order=True), g_idx=True), kind)


def test_what_is_expanded():
    """Groups of parts of a block, eight bits with a zero point of any value or scales of more digits, float8."""
    check(GPTQ.from_config(LAYOUT | {"group_size": 16}), gptq(known(64, 256, group_size=16)), None)
    check(AWQ.from_config(LAYOUT | {"group_size": -1}), awq(known(64, 40, group_size=-1)), None)
    check(GPTQ.from_config(LAYOUT | {"bits": 8}), gptq(known(64, 256, 8)), None)
    check(GPTQ.from_config(LAYOUT | {"bits": 8}), gptq(known(64, 256, 8, symmetric=True, dtype=torch.float32)), None)
    weight = torch.randint(-128, 128, (64, 256)).to(torch.int8)
    zeros = torch.randint(-128, 128, (64, 1)).to(torch.int8)
    tensors = {"weight": weight, "weight_scale": torch.rand(64, 1).half(), "weight_zero_point": zeros}
    check(compressed("int-quantized", num_bits=4, strategy="channel", symmetric=False), tensors, None)
    weight = torch.randn(64, 256).to(torch.float8_e4m3fn)
    check(Float8.from_config({}), {"weight": weight, "weight_scale": torch.rand(64, 1).half()}, None)


def test_stacked():
    weights = [in_blocks(GPTQ.from_config(LAYOUT).read(module(gptq(known(64, 256, seed=seed))))) for seed in range(3)]
    assert torch.equal(stacked(weights).dequantized(), torch.cat([each.dequantized() for each in weights]))
    finer = replace(weights[0], scales=weights[0].scales[..., ::2], zeros=weights[0].zeros[..., ::2], group_size=64)
    assert stacked([weights[0], finer]) is None
    blocks = QuantizedWeight("Q8_0", torch.zeros(1, 64, 34 * 8, dtype=torch.uint8), 256)
    assert stacked([weights[0], blocks]) is None
    tensors = gptq(known(64, 256, act_order=True))
    mixed = [weights[0], in_blocks(GPTQ.from_config(LAYOUT | {"desc_act": True}).read(module(tensors))), weights[1]]
    assert isinstance(stacked(mixed), OrderedWeight)
    assert torch.equal(stacked(mixed).dequantized(), torch.cat([each.dequantized() for each in mixed]))


def test_numbers_that_are_none():
    weight = in_blocks(GPTQ.from_config(LAYOUT).read(module(gptq(known(64, 256)))))
    for value, finite in ((float("nan"), False), (float("inf"), False), (1e38, False), (1e37, True)):
        scales = weight.scales.clone()
        scales[0, 5, 3] = value
        other = replace(weight, scales=scales)
        assert other.is_finite == bool(other.dequantized().isfinite().all()) == finite


FORMATS = {
    "gptq, symmetric": (METHODS["gptq"][0], gptq, {"symmetric": True}, GroupedWeight),
    "gptq": (METHODS["gptq"][0], gptq, {}, GroupedWeight),
    "gptq, 3 bits": (METHODS["gptq"][0] | {"bits": 3}, gptq, {"bits": 3}, GroupedWeight),
    "gptq, 8 bits": (METHODS["gptq"][0] | {"bits": 8}, gptq, {"bits": 8, "symmetric": True}, QuantizedWeight),
    "gptq, act-order": (METHODS["gptq"][0] | {"desc_act": True}, gptq, {"act_order": True}, OrderedWeight),
    "gptq, 8 bits, act-order": (
        METHODS["gptq"][0] | {"bits": 8, "desc_act": True},
        gptq,
        {"bits": 8, "symmetric": True, "act_order": True},
        OrderedWeight,
    ),
    "awq": (METHODS["awq"][0], awq, {"lowest_zero": 0}, GroupedWeight),
    "compressed-tensors": (METHODS["compressed-tensors"][0], pack_quantized, {"dtype": torch.bfloat16}, GroupedWeight),
}


@pytest.mark.parametrize("family", ["qwen2_moe", "llama"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_model_computes_with_them_what_it_computes_expanded(tmp_path, form, family):
    """Experts included; bit for bit. What has the same inputs has them in one order."""
    quantization, packed_as, options, kind = FORMATS[form]

    def pack(name, outputs, inputs, seed):
        weight = known(outputs, inputs, seed=seed, **options)
        if options.get("act_order"):
            weight = replace(weight, group_of=known(32, inputs, seed=order_of(name), act_order=True).group_of)
        return packed_as(weight), weight.weight

    quantize_folder(tmp_path, config(family), pack, quantization, lambda name: not name.endswith(("mlp.gate", "shared_expert_gate")))
    checkpoint = open_checkpoint(tmp_path)
    assert 0.5 < checkpoint.width < 4
    whole, packed = (checkpoint.read(torch.float32, "cpu", None, quantized=quantized) for quantized in (False, True))
    expected = dict(whole.named_parameters())
    for name, parameter in packed.named_parameters():
        assert torch.equal(parameter, expected[name])
    assert type(packed.layers[1].attention.q_proj.quantized) is kind
    assert torch.equal(packed.layers[1].attention.q_proj.quantized.dequantized()[0], expected["layers.1.attention.q_proj.weight"])
    if family == "qwen2_moe":
        experts = packed.layers[0].ffn.experts
        assert {type(each) for each in experts.gate_up_quantized} == {kind}
        assert torch.equal(experts.down_quantized.dequantized(), expected["layers.0.ffn.experts.down_EDF"])
        gate_up = torch.cat([each.dequantized() for each in experts.gate_up_quantized], dim=1)
        assert torch.equal(gate_up, expected["layers.0.ffn.experts.gate_up_EGD"])
    assert torch.equal(logits(on("cpu", packed), [5, 7, 1, 80]), logits(on("cpu", whole), [5, 7, 1, 80]))


def order_of(name):
    """A number for a module's inputs: gate and up projections have the same, and so have queries, keys and values."""
    return sum(map(ord, re.sub("(gate|up|q|k|v)_proj$", "", name)))


@pytest.mark.parametrize("family", ["qwen2_moe", "llama"])
def test_orders_that_differ_within_a_product(tmp_path, family):
    """Queries, keys and values, or gates and up projections: these are expanded, and the others are not."""
    quantization, packed_as, options, kind = FORMATS["gptq, act-order"]

    def pack(name, outputs, inputs, seed):
        weight = known(outputs, inputs, seed=seed, **options)
        return packed_as(weight), weight.weight

    quantize_folder(tmp_path, config(family), pack, quantization, lambda name: not name.endswith(("mlp.gate", "shared_expert_gate")))
    checkpoint = open_checkpoint(tmp_path)
    whole, packed = (checkpoint.read(torch.float32, "cpu", None, quantized=quantized) for quantized in (False, True))
    ffn = packed.layers[1].ffn
    if family == "qwen2_moe":
        assert ffn.experts.gate_up_quantized is None
        assert type(ffn.shared_expert.down_proj.quantized) is kind
    assert type(packed.layers[1].attention.o_proj.quantized) is kind
    assert torch.equal(logits(on("cpu", packed), [5, 7, 1, 80]), logits(on("cpu", whole), [5, 7, 1, 80]))


def test_opening_reads_no_scales(tmp_path, monkeypatch):
    """A large mixture has thousands of modules. One of them tells that there are packed weights; only `width` reads all."""
    quantization, pack = METHODS["gptq"]
    quantize_folder(tmp_path, config(), pack, quantization, lambda name: not name.endswith(("mlp.gate", "shared_expert_gate")))
    read, names = GPTQ.read, []
    monkeypatch.setattr(GPTQ, "read", lambda self, module: names.append(module.name) or read(self, module))
    checkpoint = open_checkpoint(tmp_path)
    assert not names
    assert checkpoint.is_quantized
    assert checkpoint.is_quantized
    assert len(names) == 1
    assert checkpoint.width < 4
    assert len(set(names)) > 20


def test_a_damaged_scale_is_refused_as_it_is_expanded(tmp_path):
    quantization, packed_as, options, _ = FORMATS["gptq"]

    def pack(name, outputs, inputs, seed):
        weight = known(outputs, inputs, seed=seed, **options)
        if name.endswith("experts.3.down_proj"):
            weight.scales[7, 0] = float("nan")
        return packed_as(weight), weight.weight

    quantize_folder(tmp_path, config(), pack, quantization, lambda name: not name.endswith(("mlp.gate", "shared_expert_gate")))
    checkpoint = open_checkpoint(tmp_path)
    for quantized in (False, True):
        with pytest.raises(ModelError, match=r"experts\.3\.down_proj\.weight holds NaN"):
            checkpoint.read(torch.float32, "cpu", None, quantized=quantized)
