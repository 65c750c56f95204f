"""Benchmark of moe_lm.backends.cuda.routing: softmax, top K, sorted rows and work list, against the same in torch calls."""

import measure
import torch
from torch import Tensor

from moe_lm.backends.cuda import routing


def in_torch(logits_TE: Tensor, K: int) -> tuple[Tensor, ...]:
    """What transformers does: softmax, topk, sort by expert, count."""
    weights_TK, ids_TK = torch.topk(torch.softmax(logits_TE, dim=-1, dtype=torch.float32), K, dim=-1)
    sorted_R, order_R = torch.sort(ids_TK.flatten())
    E = logits_TE.shape[1]
    counts_E = torch.histc(sorted_R.int() if logits_TE.is_cuda else sorted_R.float(), bins=E, min=0, max=E - 1)
    return weights_TK, order_R, torch.cumsum(counts_E, 0, dtype=torch.int32)


def main() -> None:
    options = measure.arguments(__doc__ or "")
    limit, shape, rows = measure.limits(options.dtype), options.shape, []
    for T in (1, 150) if measure.TINY else (1, 8, 32, 128, 512, 2048, 8192):
        logits = measure.router_logits(T, options, skewed=False).to(options.dtype)
        times = measure.medians(
            {
                "triton": measure.graphed(lambda x=logits: routing.route(x, shape.K, False, 16, shape.always_on)),
                "torch": measure.graphed(lambda x=logits: in_torch(x, shape.K)),
            },
            options.repeats,
        )
        num_bytes = logits.numel() * logits.element_size() + T * (8 * shape.K + 4 * (shape.K + shape.always_on))
        rows.append(measure.row({"T": T}, measure.floors(num_bytes, 5 * T * shape.E, limit), times))
    measure.report("routing", rows, limit, options)


if __name__ == "__main__":
    main()
