"""Folders with quantised weights, packed from known codes by the plainest arithmetic: a row of codes is one large integer."""

import json
from dataclasses import dataclass, replace
from functools import partial

import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_config, tiny_decoder, word_tokenizer
from torch import Tensor

from moe_lm.checkpoint.quantized.module import Header, Module
from moe_lm.checkpoint.write import save
from moe_lm.config import MoEConfig

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
DTYPES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e8m0fnu: "F8_E8M0",
}


@dataclass(frozen=True, eq=False)
class Known:
    """A weight whose codes are known: [O, K] codes from 0, [O, G] zero points and scales, and the group of each input."""

    codes: Tensor
    zeros: Tensor
    scales: Tensor
    group_of: list[int]
    bits: int

    @property
    def weight(self) -> Tensor:
        """The weight in float32, from float64, which holds every product exactly."""
        zeros, scales = self.zeros[:, self.group_of], self.scales[:, self.group_of]
        return ((self.codes.double() - zeros.double()) * scales.double()).float()


def known(outputs, inputs, bits=4, group_size=32, symmetric=False, act_order=False, seed=0, dtype=torch.float16, lowest_zero=1):
    """A random weight. Zero points are the middle of the range where they are symmetric, and otherwise anything from `lowest_zero`."""
    rng = torch.Generator().manual_seed(seed)
    size = inputs if group_size == -1 else group_size
    groups = -(-inputs // size)
    top = (1 << bits) - 1
    codes = torch.randint(0, top + 1, (outputs, inputs), generator=rng)
    zeros = torch.full((outputs, groups), (top + 1) // 2)
    if not symmetric:
        zeros = torch.randint(lowest_zero, top + 1, (outputs, groups), generator=rng)
    scales = ((torch.rand((outputs, groups), generator=rng) + 0.5) * 0.4 / top).to(dtype)
    group_of = [k // size for k in range(inputs)]
    if act_order:
        group_of = [group_of[k] for k in torch.randperm(inputs, generator=rng).tolist()]
    return Known(codes, zeros, scales, group_of, bits)


def words(codes, bits):
    """A row of codes as signed 32-bit words: the first code is in the lowest bits of one large integer."""
    number = sum(code << bits * i for i, code in enumerate(codes))
    count = -(-len(codes) * bits // 32)
    found = [number >> 32 * i & 0xFFFFFFFF for i in range(count)]
    return torch.tensor([word - (word >> 31 << 32) for word in found], dtype=torch.int32)


def gptq(known, minus_one=True, g_idx=True):
    """AutoGPTQ's tensors; `minus_one` from the zero points, which have to be at least 1 for it."""
    zeros = (known.zeros - int(minus_one)).tolist()
    packed = {
        "qweight": torch.stack([words(row, known.bits) for row in known.codes.tolist()], dim=1),
        "qzeros": torch.stack([words([row[g] for row in zeros], known.bits) for g in range(len(zeros[0]))]),
        "scales": known.scales.t().contiguous(),
    }
    return packed | ({"g_idx": torch.tensor(known.group_of, dtype=torch.int32)} if g_idx else {})


def awq(known):
    def reordered(row):
        return [row[start + place] for start in range(0, len(row), 8) for place in AWQ_ORDER]

    return {
        "qweight": torch.stack([words(reordered(row), 4) for row in known.codes.t().tolist()]),
        "qzeros": torch.stack([words(reordered(row), 4) for row in known.zeros.t().tolist()]),
        "scales": known.scales.t().contiguous(),
    }


def pack_quantized(known, symmetric=False, g_idx=False):
    """compressed-tensors' packed integers: signed codes plus half the range, which are the known codes again."""
    packed = {
        "weight_packed": torch.stack([words(row, known.bits) for row in known.codes.tolist()]),
        "weight_scale": known.scales,
        "weight_shape": torch.tensor(known.codes.shape),
    }
    if not symmetric:
        packed["weight_zero_point"] = torch.stack([words(column, known.bits) for column in known.zeros.t().tolist()], dim=1)
    return packed | ({"weight_g_idx": torch.tensor(known.group_of, dtype=torch.int32)} if g_idx else {})


def module(tensors, name="model.layers.0.self_attn.o_proj"):
    """The module that has these tensors, as a reader gets it."""
    headers = {part: Header(DTYPES[tensor.dtype], tuple(tensor.shape), tensor.nbytes) for part, tensor in tensors.items()}
    return Module(name, headers, lambda part: tensors[part])


def expanded(scheme, tensors, name="model.layers.0.self_attn.o_proj"):
    """The weight that a reader finds in a module's tensors."""
    found = torch.cat(list(scheme.read(module(tensors, name)).chunks()))
    assert found.dtype == torch.float32
    assert tuple(found.shape) == scheme.shape(module(tensors, name))
    return found


def config(family="qwen2_moe", **changes):
    """A tiny model whose sizes are multiples of 32, as packed weights want them."""
    changes = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96, "vocab_size": 96} | changes
    found = tiny_config(family, **changes)
    if found.moe:
        shared = 96 if found.moe.shared_expert_intermediate_size else 0
        width = 96 if family == "mixtral" else 32
        moe = replace(found.moe, moe_intermediate_size=width, shared_expert_intermediate_size=shared)
        assert isinstance(moe, MoEConfig)
        found = replace(found, moe=moe)
    return found


def quantize_folder(folder, model_config, pack, quantization, quantised=lambda module: True, zero_biases=False, seed=0):
    """A folder whose linear modules `pack` (name, outputs, inputs, seed) -> (tensors, weight) packs; returns the weights by name.

    `quantised` says which of the linear modules are; `zero_biases` adds a bias to each, as AutoGPTQ did.
    """
    save(tiny_decoder(model_config, seed), word_tokenizer(model_config.vocab_size), folder)
    path = folder / "model.safetensors"
    tensors, weights = load_file(path), {}
    for number, name in enumerate(sorted(tensors)):
        module, _, part = name.rpartition(".")
        if part == "weight" and tensors[name].ndim == 2 and "embed" not in name and quantised(module):
            outputs, inputs = tensors.pop(name).shape
            packed, weights[name] = pack(module, outputs, inputs, number)
            tensors |= {f"{module}.{part}": tensor.contiguous() for part, tensor in packed.items()}
            if zero_biases:
                tensors.setdefault(f"{module}.bias", torch.zeros(outputs, dtype=torch.float16))
    save_file(tensors, path)
    set_quantization(folder, quantization)
    return weights | {name: tensor for name, tensor in tensors.items() if name.endswith(".weight") and name not in weights}


def set_quantization(folder, quantization):
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    raw["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(raw), "utf-8")


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]}
INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32, "symmetric": False}}},
    "ignore": ["re:.*mlp.gate$", "re:.*shared_expert_gate$"],
}


def _packed(pack, name, outputs, inputs, seed, **options):
    weight = known(outputs, inputs, seed=seed, **options)
    return pack(weight), weight.weight


def _float8(name, outputs, inputs, seed):
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn((outputs, inputs), generator=rng).to(torch.float8_e4m3fn)
    scale = torch.rand((-(-outputs // 32), -(-inputs // 32)), generator=rng) * 0.1
    spread = scale[torch.arange(outputs) // 32][:, torch.arange(inputs) // 32]
    return {"weight": weight, "weight_scale_inv": scale}, (weight.double() * spread.double()).float()


# quant_method -> quantization_config, and the packing of a module: see `quantize_folder`
METHODS = {
    "gptq": (GPTQ, partial(_packed, gptq)),
    "awq": (AWQ, partial(_packed, awq)),
    "fp8": (FP8, _float8),
    "compressed-tensors": (INT4, partial(_packed, pack_quantized)),
}
