"""compressed-tensors: what is read is what the codes stand for, bit for bit, packed here and by the library itself."""

import pytest
import torch
from quantized_folders import Known, expanded, known, pack_quantized
from refusals import refused

from moe_lm.checkpoint.quantized.compressed import CompressedTensors

INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False}
FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}
NAME = "model.layers.0.self_attn.o_proj"


def config(weights, form="pack-quantized", **changes):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}, "ignore": ["lm_head"]} | changes


def read(tensors, weights=INT4, form="pack-quantized", name=NAME, **changes):
    return expanded(CompressedTensors.from_config(config(weights, form, **changes)), tensors, name)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("group_size", [32, 128, -1])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_bit_for_bit(bits, group_size, symmetric):
    weight = known(37, 256, bits, group_size, symmetric, lowest_zero=0)
    strategy = {"strategy": "channel", "group_size": None} if group_size == -1 else {"group_size": group_size}
    weights = INT4 | {"num_bits": bits, "symmetric": symmetric} | strategy
    assert torch.equal(read(pack_quantized(weight, symmetric), weights), weight.weight)


def test_rows_that_end_within_a_word():
    weight = known(9, 52, 4, -1, lowest_zero=0)
    assert torch.equal(read(pack_quantized(weight), INT4 | {"strategy": "channel"}), weight.weight)


def test_groups_that_are_not_whole():
    """Of 64 inputs there are two groups of 33 as there are of 32: only whole groups tell a wrong size."""
    refused(pack_quantized(known(16, 64)), "whole groups", by=lambda tensors: read(tensors, INT4 | {"group_size": 33}))


@pytest.mark.parametrize("order", ["group", "dynamic"])
def test_an_activation_order(order):
    weight = known(24, 128, act_order=True)
    weights = INT4 | {"actorder": order}
    assert torch.equal(read(pack_quantized(weight, g_idx=True), weights), weight.weight)
    refused(pack_quantized(weight), "weight_g_idx", by=lambda tensors: read(tensors, weights))
    in_turn = known(24, 128)
    unset = pack_quantized(in_turn) | {"weight_g_idx": torch.full((128,), -1, dtype=torch.int32)}  # as the library marks that there is none
    assert torch.equal(read(unset, weights), in_turn.weight)
    for weights in (INT4, INT4 | {"actorder": "weight"}, INT4 | {"actorder": "static"}):
        assert torch.equal(read(pack_quantized(in_turn), weights), in_turn.weight)


def test_zero_points_that_are_not_packed():
    """Older versions store them as int8, signed as the codes are."""
    weight = known(24, 64, lowest_zero=0)
    tensors = pack_quantized(weight) | {"weight_zero_point": (weight.zeros - 8).to(torch.int8)}
    assert torch.equal(read(tensors), weight.weight)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group"])
def test_int8_codes_one_by_one(strategy, symmetric):
    size = 32 if strategy == "group" else -1
    weight = known(16, 64, 8, size, symmetric, lowest_zero=0)
    if strategy == "tensor":
        weight.scales[:], weight.zeros[:] = weight.scales[0].clone(), weight.zeros[0].clone()
    one = slice(0, 1) if strategy == "tensor" else slice(None)
    tensors = {
        "weight": (weight.codes - 128).to(torch.int8),
        "weight_scale": weight.scales[one].squeeze(1) if strategy == "tensor" else weight.scales,
    }
    if not symmetric:
        zeros = (weight.zeros - 128).to(torch.int8)[one]
        tensors["weight_zero_point"] = zeros.squeeze(1) if strategy == "tensor" else zeros
    weights = {"num_bits": 8, "strategy": strategy, "symmetric": symmetric, "group_size": size if size > 0 else None}
    assert torch.equal(read(tensors, weights, "int-quantized"), weight.weight)


@pytest.mark.parametrize(("strategy", "shape"), [("tensor", (1,)), ("channel", (200, 1)), ("block", (2, 3))])
def test_float8(strategy, shape):
    rng = torch.Generator().manual_seed(2)
    weight, scale = torch.randn((200, 300), generator=rng).to(torch.float8_e4m3fn), torch.rand(shape, generator=rng).bfloat16()
    rows, columns = {"tensor": (200, 300), "channel": (1, 300), "block": (128, 128)}[strategy]
    of_each = scale.reshape(-(-200 // rows), -(-300 // columns)).double()
    of_each = of_each[torch.arange(200) // rows][:, torch.arange(300) // columns]
    weights = FLOAT8 | {"strategy": strategy, "block_structure": [128, 128] if strategy == "block" else None}
    found = read({"weight": weight, "weight_scale": scale}, weights, "float-quantized")
    assert torch.equal(found, (weight.double() * of_each).float())


def library_weights(weights, form, tensors):
    """What compressed-tensors itself makes of the tensors, in the dtype of the scales."""
    pytest.importorskip("compressed_tensors", reason="compressed-tensors' own reader: pip install compressed-tensors")
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    return BaseCompressor.get_value_from_registry(form).decompress(tensors, scheme)["weight"]


def library_packed(weights, form, weight: Known):
    """The weight, packed by compressed-tensors."""
    pytest.importorskip("compressed_tensors", reason="compressed-tensors' own packing: pip install compressed-tensors")
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    half = 1 << (weight.bits - 1)
    state = {"weight": weight.weight, "weight_scale": weight.scales.float()}
    state["weight_zero_point"] = (weight.zeros - half).to(torch.int8)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    return BaseCompressor.get_value_from_registry(form).compress(state, scheme)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("form", "bits", "size"), [("pack-quantized", 4, 32), ("pack-quantized", 8, 64), ("int-quantized", 8, -1)])
def test_as_the_library_packs_and_unpacks(form, bits, size, symmetric, dtype):
    weight = known(40, 128, bits, size, symmetric, dtype=torch.bfloat16, lowest_zero=0)
    strategy = {"strategy": "channel"} if size == -1 else {"strategy": "group", "group_size": size}
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric} | strategy
    tensors = library_packed(weights, form, weight) | {"weight_scale": weight.scales.to(dtype)}
    found = read(tensors, weights, form)
    assert torch.equal(found, weight.weight)
    assert torch.equal(found.to(dtype), library_weights(weights, form, tensors))


def test_which_modules_are_meant():
    """Names before regular expressions before the class; `ignore` before all. What the tensors say otherwise is refused."""
    four, eight = known(16, 64), known(16, 64, 8)
    groups = {
        "group_0": {"targets": ["Linear"], "weights": INT4 | {"num_bits": 4, "group_size": 64}},
        "group_1": {"targets": ["re:.*o_proj$"], "weights": INT4 | {"num_bits": 8}},
        "group_2": {"targets": [NAME], "weights": INT4},
    }
    options = {"config_groups": groups, "ignore": ["lm_head", "re:.*mlp[.]gate$"]}
    assert torch.equal(read(pack_quantized(four), **options), four.weight)
    assert torch.equal(read(pack_quantized(eight), name="model.layers.1.self_attn.o_proj", **options), eight.weight)
    wide = known(16, 64, 4, 64)
    assert torch.equal(read(pack_quantized(wide), name="model.layers.1.self_attn.q_proj", **options), wide.weight)
    for name in ("lm_head", "model.layers.0.mlp.gate"):
        refused(pack_quantized(wide), name, "leaves it out", by=lambda tensors, name=name: read(tensors, name=name, **options))
    del groups["group_0"]
    refused(pack_quantized(wide), "no target", by=lambda tensors: read(tensors, name="model.layers.1.self_attn.q_proj", **options))


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("weight_packed", torch.zeros(32, 8), ("weight_packed", "F32")),
        ("weight_packed", torch.zeros(32, 7, dtype=torch.int32), ("(32, 7)", "(32, 8)")),
        ("weight_packed", torch.zeros(8, 32, dtype=torch.int32), ("(8, 32)",)),
        ("weight_packed", torch.zeros(2, 32, 8, dtype=torch.int32), ("2 dimensions",)),
        ("weight_scale", None, ("lacks", "weight_scale")),
        ("weight_scale", torch.ones(32, 1), ("(32, 1)", "(32, 2)")),
        ("weight_scale", torch.ones(2, 32), ("(2, 32)",)),
        ("weight_scale", torch.ones(32, 2, dtype=torch.int32), ("I32",)),
        ("weight_zero_point", None, ("lacks", "weight_zero_point")),
        ("weight_zero_point", torch.zeros(2, 4, dtype=torch.int32), ("(2, 4)", "(4, 2)")),
        ("weight_zero_point", torch.zeros(4, 2, dtype=torch.int8), ("(4, 2)", "(32, 2)")),
        ("weight_zero_point", torch.zeros(4, 2), ("F32",)),
        ("weight_shape", None, ("lacks", "weight_shape")),
        ("weight_shape", torch.tensor([32]), ("weight_shape",)),
        ("weight_shape", torch.tensor([32, -64]), ("weight_shape", "damaged")),
        ("weight_shape", torch.tensor([32, 2**40]), ("weight_shape", "damaged")),
        ("weight_shape", torch.tensor([32, 65]), ("weight_packed", "(32, 9)")),
        ("weight_shape", torch.ones(2), ("weight_shape", "F32")),
        ("weight_g_idx", torch.zeros(63, dtype=torch.int32), ("(63,)", "(64,)")),
        ("weight_g_idx", torch.zeros(64, dtype=torch.int32), ("2 groups",)),
        ("weight_packed", None, ("lacks", "weight")),
        ("weight", torch.zeros(32, 64), ("two weights",)),
    ],
)
def test_tensors_that_do_not_fit(part, value, words):
    tensors = {name: tensor for name, tensor in (pack_quantized(known(32, 64)) | {part: value}).items() if tensor is not None}
    refused(tensors, "o_proj", *words, by=read)


def test_zero_points_of_symmetric_codes():
    weights = INT4 | {"symmetric": True}
    symmetric = known(32, 64, symmetric=True)
    stored = pack_quantized(symmetric)
    assert torch.equal(read(stored, weights), symmetric.weight)
    refused(pack_quantized(known(32, 64)), "symmetric is true", by=lambda tensors: read(tensors, weights))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "nvfp4-pack-quantized"}, ("nvfp4-pack-quantized", "pack-quantized")),
        ({"format": "marlin-24"}, ("marlin-24",)),
        ({"format": "dense"}, ("dense",)),
        ({"format": None}, ("has no format",)),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, ("sparse-24-bitmask",)),
        ({"transform_config": {"config_groups": {"R3": {}}}}, ("transform_config",)),
        ({"config_groups": None}, ("config_groups",)),
        ({"config_groups": {"group_0": {"targets": ["Linear"], "weights": None}}}, ("weights",)),
        ({"config_groups": {"group_0": {"targets": "Linear", "weights": INT4}}}, ("targets",)),
        ({"config_groups": {"group_0": {"targets": ["re:("], "weights": INT4}}}, ("re:(", "not valid")),
        ({"config_groups": {"group_0": {"targets": [], "weights": INT4, "format": "mxfp4-pack-quantized"}}}, ("mxfp4",)),
        ({"ignore": ["re:*"]}, ("re:*", "not valid")),
        ({"ignore": "lm_head"}, ("ignore",)),
    ],
)
def test_options_that_are_wrong_or_not_read(changes, words):
    refused(config(INT4) | changes, *words, by=CompressedTensors.from_config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_bits": 3}, ("num_bits = 3", "4 or 8")),
        ({"num_bits": None}, ("has no num_bits",)),
        ({"type": "float"}, ("num_bits = 4",)),
        ({"type": "nf"}, ("'nf'",)),
        ({"strategy": "tensor_group"}, ("tensor_group",)),
        ({"strategy": "group", "group_size": None}, ("group_size",)),
        ({"strategy": "block"}, ("block_structure",)),
        ({"actorder": "magnitude"}, ("actorder",)),
        ({"symmetric": 1}, ("symmetric",)),
    ],
)
def test_options_of_weights_that_are_wrong_or_not_read(changes, words):
    refused(config(INT4 | changes), *words, by=CompressedTensors.from_config)


def test_what_is_said_of_activations():
    activations = {"num_bits": 8, "type": "float", "dynamic": True}
    group = {"targets": ["Linear"], "weights": FLOAT8, "input_activations": activations}
    (notice,) = CompressedTensors.from_config(config(FLOAT8, "float-quantized", config_groups={"group_0": group})).notices
    assert "activations are not quantised" in notice
    (notice,) = CompressedTensors.from_config(config(INT4, kv_cache_scheme=activations)).notices
    assert "not quantised" in notice
    assert CompressedTensors.from_config(config(INT4)).notices == ()


def test_names_of_the_precision():
    """For run.json: what the weights are in."""
    assert CompressedTensors.from_config(config(INT4)).precision == "int4"
    assert CompressedTensors.from_config(config(FLOAT8)).precision == "float8_e4m3"
