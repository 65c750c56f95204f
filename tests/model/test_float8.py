"""FP8 weights: what is read is code times scale, bit for bit, whatever a scale is for."""

import pytest
import torch
from quantized_folders import expanded
from refusals import refused

from moe_lm.checkpoint.quantized.float8 import Float8

BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}
WHOLE = {"quant_method": "fp8", "activation_scheme": "static"}


def codes(outputs, inputs, seed=0):
    """Every finite float8_e4m3 number among them, subnormal ones and both zeros included."""
    found = torch.randint(0, 256, (outputs, inputs), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    found[found & 0x7F == 0x7F] = 0x80
    return found.view(torch.float8_e4m3fn)


def scales(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 1e-3


def value(code):
    """A float8_e4m3 number by the definition of the format: sign, four bits of exponent (bias 7), three of mantissa."""
    sign, exponent, mantissa = -1 if code >> 7 else 1, code >> 3 & 15, code & 7
    return sign * (mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10))


def expected(weight, scale_of):
    """Element by element, each product rounded to float32 once."""
    rows = weight.view(torch.uint8).tolist()
    return torch.tensor([[value(code) * scale_of(o, k) for k, code in enumerate(row)] for o, row in enumerate(rows)]).float()


@pytest.mark.parametrize("shape", [(128, 256), (200, 300), (5, 130), (128, 7)])
def test_blocks_with_and_without_a_rest(shape):
    weight = codes(*shape)
    block = scales(-(-shape[0] // 128), -(-shape[1] // 128))
    found = expanded(Float8.from_config(BLOCKS), {"weight": weight, "weight_scale_inv": block})
    assert torch.equal(found, expected(weight, lambda o, k: block[o // 128, k // 128].double().item()))


@pytest.mark.parametrize("name", ["weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (40,), (40, 1)])
def test_a_scale_an_output_or_one_for_all(name, shape):
    weight, scale = codes(40, 48), scales(*shape)
    found = expanded(Float8.from_config(WHOLE), {"weight": weight, name: scale})
    assert torch.equal(found, expected(weight, lambda o, k: scale.reshape(-1)[o if scale.numel() > 1 else 0].double().item()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e8m0fnu])
def test_dtypes_of_scales(dtype):
    weight, scale = codes(16, 16), scales(16, 1).to(dtype)
    found = expanded(Float8.from_config(WHOLE), {"weight": weight, "weight_scale": scale})
    assert torch.equal(found, expected(weight, lambda o, k: scale[o, 0].double().item()))


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (BLOCKS, {"weight_scale_inv": None}, ("weight_scale",)),
        (BLOCKS, {"weight_scale": torch.ones(1)}, ("both",)),
        (BLOCKS, {"weight_scale_inv": torch.ones(1, 2)}, ("(1, 2)", "(2, 3)")),
        (BLOCKS, {"weight_scale_inv": torch.ones(200, 1)}, ("(200, 1)", "128 x 128", "(2, 3)")),
        (BLOCKS, {"weight_scale_inv": torch.ones(1)}, ("weight_scale_inv", "2 dimensions")),
        (BLOCKS, {"weight_scale_inv": torch.ones(2, 2, dtype=torch.uint8)}, ("U8",)),
        (WHOLE, {"weight_scale_inv": torch.ones(2, 2)}, ("(2, 2)", "(200, 1)")),
        (WHOLE, {"weight_scale_inv": torch.ones(300)}, ("weight_scale_inv",)),
        (WHOLE, {"weight_scale_inv": torch.ones(1, 300)}, ("(1, 300)",)),
        (WHOLE, {"weight": torch.ones(200, 300)}, ("F32", "F8_E4M3")),
        (WHOLE, {"weight": torch.ones(200, 300).to(torch.float8_e5m2)}, ("F8_E5M2",)),
        (WHOLE, {"weight": codes(4, 8).reshape(2, 2, 8)}, ("2 dimensions",)),
        (WHOLE, {"weight": None}, ("lacks", "weight")),
    ],
)
def test_tensors_that_do_not_fit(config, changes, words):
    tensors = {"weight": codes(200, 300), "weight_scale_inv": torch.ones(2, 3)} | changes
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    refused(tensors, "o_proj", *words, by=lambda tensors: expanded(Float8.from_config(config), tensors))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight_block_size": [128]}, ("weight_block_size",)),
        ({"weight_block_size": [0, 128]}, ("weight_block_size",)),
        ({"fmt": "e5m2"}, ("e5m2",)),
    ],
)
def test_options_that_are_wrong_or_not_read(changes, words):
    refused(BLOCKS | changes, *words, by=Float8.from_config)
