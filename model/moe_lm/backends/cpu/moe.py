"""The routed experts of a layer on packed weights: one grouped product for gate and up, one for down, and the weighted sum."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_lm.backends.cpu.check import check, check_indices
from moe_lm.backends.cpu.launch import combine, gemm
from moe_lm.backends.cpu.pack import DTYPES, PackedMatrix
from moe_lm.backends.cpu.pack_quantized import PackedBlocks

GROUP = 2048  # rows of experts that are computed together, at least


def routed_experts(
    x_TD: Tensor,
    topk_weights_TK: Tensor,
    topk_ids_TK: Tensor,
    gate_up: PackedMatrix | PackedBlocks,
    down: PackedMatrix | PackedBlocks,
    int8: bool = False,
) -> Tensor:
    """The weighted sum of each token's experts, added in ascending order of their ids. [T, D] -> [T, D]

    `int8` as in `gemm`. Raises ValueError for an id out of range."""
    check("topk_ids", topk_ids_TK, (len(x_TD), None), torch.int64, contiguous=False)
    check("topk_weights", topk_weights_TK, topk_ids_TK.shape, *DTYPES, contiguous=False)
    (T, K), E = topk_ids_TK.shape, down.matrices
    check_indices("topk_ids", topk_ids_TK, E)
    ids_TK, choice_TK = topk_ids_TK.sort(dim=1)
    order_R = torch.argsort(ids_TK.flatten(), stable=True)  # R = T * K, one row for each (token, expert) pair
    offsets = F.pad(torch.bincount(ids_TK.flatten(), minlength=E).cumsum(0), (1, 0))
    rows_TK = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(T * K)).view(T, K)
    weights_TK = topk_weights_TK.gather(1, choice_TK).float().contiguous()
    out_TD = x_TD.new_empty(T, down.outputs, dtype=torch.float32)
    x, order_R = x_TD.float(), order_R // K
    groups = list(_groups(offsets.tolist()))
    largest = max(end - begin for _, _, begin, end in groups)
    hidden_RF, y_RD = (out_TD.new_empty(largest, packed.outputs) for packed in (gate_up, down))  # reused by every group
    for first, last, begin, end in groups:
        group_offsets, R = offsets[first : last + 1] - begin, end - begin
        gemm(x, gate_up.of_experts(first, last), group_offsets, order_R[begin:end], hidden_RF[:R], int8=int8)
        gemm(hidden_RF[:R], down.of_experts(first, last), group_offsets, out=y_RD[:R], int8=int8)
        combine(y_RD[:R], rows_TK, weights_TK, begin, out_TD)
    return out_TD.to(x_TD.dtype)


def _groups(offsets: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """Experts first .. last - 1 and their rows begin .. end - 1, at least GROUP rows at a time."""
    first = 0
    for last in range(1, len(offsets)):
        if offsets[last] - offsets[first] >= GROUP or last == len(offsets) - 1:
            yield first, last, offsets[first], offsets[last]
            first = last
