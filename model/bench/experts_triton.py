"""Benchmark of the whole sparse layer, router to sum, shared expert included: the `triton` back-end, transformers' grouped_mm, plain torch.

Errors are ||out - ref|| / ||ref|| against float64, each candidate's own in the same run (up to 512 tokens: the reference is slow).
"""

import measure
import torch
import torch.nn.functional as F
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from moe_lm.backends import formulas
from moe_lm.backends.cuda.experts_triton import moe_layer, stack
from moe_lm.backends.cuda.tuning import tuning
from moe_lm.model import route


def peer(options) -> Qwen2MoeSparseMoeBlock:
    """transformers' layer with random weights of a usual size."""
    block = Qwen2MoeSparseMoeBlock(measure.peer_config(options.shape)).to(options.device, options.dtype).eval().requires_grad_(False)
    for weight in block.parameters():
        weight.copy_(measure.random(*weight.shape, scale=weight.shape[-1] ** -0.5, options=options))
    return block


@torch.inference_mode()
def main() -> None:
    options = measure.arguments(__doc__ or "")
    limit, shape, rows = measure.limits(options.dtype), options.shape, []
    block = peer(options)
    routed = (block.experts.gate_up_proj, block.experts.down_proj)
    shared = tuple(getattr(block.shared_expert, f"{name}_proj").weight for name in ("gate", "up", "down"))
    stacked = stack(*routed, shared)
    tuned = tuning(options.device, shape.E, shape.K, shape.D, shape.F, options.dtype)
    print(f"tiles: {tuned.source}")

    def ours(x):
        logits, gate = F.linear(x, block.gate.weight), F.linear(x, block.shared_expert_gate.weight)[:, 0]
        return moe_layer(x, logits, stacked, shape.K, False, gate)

    def plain(x, dtype=options.dtype):
        # routed from the same logits, whatever the dtype of what follows
        weights, ids = route(F.linear(x, block.gate.weight), shape.K, False)
        gate = F.linear(x.to(dtype), block.shared_expert_gate.weight.to(dtype))[:, 0]
        weights = weights.to(dtype)
        return formulas.moe_layer(x.to(dtype), weights, ids, *(w.to(dtype) for w in routed), tuple(w.to(dtype) for w in shared), gate)

    for T in (1, 20) if measure.TINY else (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192):
        x = measure.random(T, shape.D, options=options)
        candidates = {
            "triton": measure.graphed(lambda x=x: ours(x)),
            "grouped_mm": measure.graphed(lambda x=x: block(x[None])),
            "torch": lambda x=x: plain(x),
        }
        visited = len(route(F.linear(x, block.gate.weight), shape.K, False)[1].unique())
        experts = visited + shape.always_on
        num_bytes = x.element_size() * (experts * 3 * shape.D * shape.F + 2 * T * shape.D)
        floor = measure.floors(num_bytes, 6 * shape.D * shape.F * T * (shape.K + shape.always_on), limit)
        line = measure.row({"T": T, "experts": visited}, floor, measure.medians(candidates, options.repeats))
        if T <= 512:
            expected = plain(x, torch.float64)
            line |= {"error": measure.error(ours(x), expected), "error_grouped_mm": measure.error(block(x[None])[0], expected)}
        rows.append(line | {"tflop_s": 6 * shape.D * shape.F * T * (shape.K + shape.always_on) / line["triton_us"] / 1e6})
    measure.report("experts_triton", rows, limit, options)


if __name__ == "__main__":
    main()
