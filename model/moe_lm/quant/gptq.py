"""float32 weights -> 4-bit codes in the layout of GPTQ's checkpoints.

Each weight is rounded to the nearest level of its group, without calibration data: the layout of GPTQ, not its algorithm. Levels are
symmetric, so every zero point is 8, which the layout ("gptq", its first version) stores as 7.
"""

import torch
from torch import Tensor

from moe_lm.errors import ModelError
from moe_lm.quant.encode import LARGEST

BITS = 4
GROUP_SIZES = (128, 64, 32)  # the largest that divides all rows is taken
PARTS = ("qweight", "qzeros", "scales", "g_idx")
_SMALLEST = 2.0**-24  # float16's smallest number above 0
_CODES_A_WORD = 32 // BITS


def pack(weight: Tensor, group_size: int) -> dict[str, Tensor]:
    """qweight int32 [K/8, O], qzeros int32 [G, O/8], scales float16 [G, O], g_idx int32 [K] of finite float32 [O, K].

    K is a multiple of the group size, O of 8. Raises ModelError for a weight whose scale no float16 holds.
    """
    outputs, inputs = weight.shape
    groups = weight.reshape(outputs, -1, group_size)
    largest = groups.abs().amax(dim=2)  # [O, G]
    scales = (largest * (2 / 15)).clamp(min=_SMALLEST).to(torch.float16)
    if scales.isinf().any():
        raise ModelError(f"it holds {float(largest.max()):g}, whose scale no float16 holds (they end at {LARGEST:,.0f})")
    codes = (groups / scales.float().unsqueeze(2)).round_().clamp_(-8, 7).add_(8).to(torch.uint8).reshape(outputs, inputs)
    octets = codes[:, 0::2] | codes[:, 1::2] << 4
    return {
        "qweight": octets.view(torch.int32).t().contiguous(),
        "qzeros": torch.full((inputs // group_size, outputs // _CODES_A_WORD), 0x77777777, dtype=torch.int32),
        "scales": scales.t().contiguous(),
        "g_idx": torch.arange(inputs, dtype=torch.int32) // group_size,
    }


def nbytes(outputs: int, inputs: int, group_size: int) -> int:
    """Bytes of what `pack` returns."""
    groups = inputs // group_size
    return outputs * inputs // 2 + groups * (outputs // 2 + 2 * outputs) + 4 * inputs


def config(group_size: int) -> dict[str, object]:
    """config.json's quantization_config."""
    return {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "bits": BITS,
        "group_size": group_size,
        "sym": True,
        "desc_act": False,
        "static_groups": False,
        "true_sequential": False,
    }
