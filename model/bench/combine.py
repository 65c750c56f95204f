"""Benchmark of moe_lm.backends.cuda.combine: the weighted sum of a token's slots and the shared expert, against the same in torch calls."""

import measure
import torch
from torch import Tensor

from moe_lm.backends.cuda.combine import combine
from moe_lm.backends.cuda.experts_triton import SLICED_TOKENS


def in_torch(slots_TCD: Tensor, weights_TK: Tensor, shared_TD: Tensor | None, gate_T: Tensor) -> Tensor:
    K = weights_TK.shape[1]
    routed_TD = (slots_TCD[:, :K] * weights_TK.to(slots_TCD.dtype)[:, :, None]).sum(1)
    shared_TD = slots_TCD[:, K:].sum(1) if shared_TD is None else shared_TD
    return torch.addcmul(routed_TD, torch.sigmoid(gate_T)[:, None], shared_TD)


def main() -> None:
    options = measure.arguments(__doc__ or "")
    limit, shape, rows = measure.limits(options.dtype), options.shape, []
    K, A, D = shape.K, shape.always_on, shape.D
    for T in (1, 9) if measure.TINY else (1, 8, 32, 128, 512, 2048, 8192):
        sliced = T <= SLICED_TOKENS
        slots = measure.random(T, K + A if sliced else K, D, options=options)
        weights = torch.rand(T, K, device=options.device)
        shared = None if sliced else measure.random(T, D, options=options)
        inputs = (slots, weights, shared, measure.random(T, options=options))
        times = measure.medians(
            {
                "triton": measure.graphed(lambda inputs=inputs: combine(*inputs)),
                "torch": measure.graphed(lambda inputs=inputs: in_torch(*inputs)),
            },
            options.repeats,
        )
        tensors = slots.shape[1] + (not sliced) + 1
        floor = measure.floors(slots.element_size() * T * D * tensors, 2 * T * D * slots.shape[1], limit)
        rows.append(measure.row({"T": T, "slots": slots.shape[1]}, floor, times))
    measure.report("combine", rows, limit, options)


if __name__ == "__main__":
    main()
