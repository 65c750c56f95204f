"""Benchmark of moe_lm.backends.cuda.experts_int4: the routed experts of a layer with 4-bit weights, beside the same weights in --dtype.

`bfloat16` (or `float32`) is `experts_triton` with the weights expanded beforehand; `expanded` expands them in every call, which is what
a kernel that reads codes saves. Routing is done before, its plan and the weighted sum are part of all three.
Errors are ||out - ref|| / ||ref|| against float64 with the expanded weights, plain torch's beside ours (up to 512 tokens).
"""

import measure
import torch
from torch import Tensor

from moe_lm.backends import formulas
from moe_lm.backends.cuda import experts_int4, experts_triton
from moe_lm.model import route
from moe_lm.quant.grouped import GroupedWeight

GROUP = 32 if measure.TINY else 128


def grouped(options, count: int, outputs: int, inputs: int) -> GroupedWeight:
    """Random codes and zero points, float16 scales; weights of a usual size."""
    shape = (count, outputs, inputs // GROUP)
    codes = torch.randint(0, 256, (count, outputs, inputs // 2), dtype=torch.uint8, device=options.device)
    zeros = torch.randint(6, 11, shape, dtype=torch.uint8, device=options.device)
    scales = ((torch.rand(shape, device=options.device) + 0.5) * inputs**-0.5 / 5).half().float()
    return GroupedWeight(codes, scales, zeros, inputs, GROUP)


def expand(weight: GroupedWeight, dtype: torch.dtype) -> Tensor:
    """[X, O, K], a matrix at a time: float32 of all would be four times as large."""
    parts = zip(weight.codes, weight.scales, weight.zeros, strict=True)
    each = (GroupedWeight(c[None], s[None], z[None], weight.inputs, weight.group_size).dequantized().to(dtype) for c, s, z in parts)
    return torch.cat(list(each))


@torch.inference_mode()
def main() -> None:
    options = measure.arguments(__doc__ or "")
    limit, shape, rows = measure.limits(options.dtype), options.shape, []
    E, K, F = shape.E, shape.K, shape.F
    D = 64 if measure.TINY else shape.D  # whole groups
    weights = (grouped(options, E, 2 * F, D), grouped(options, E, D, F))
    packed = tuple(experts_int4.pack(each) for each in weights)
    plain = tuple(expand(each, options.dtype) for each in weights)
    name = str(options.dtype).removeprefix("torch.")
    for T in (1, 20) if measure.TINY else (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192):
        x = measure.random(T, D, options=options)
        chosen, ids = route(measure.router_logits(T, options, skewed=False), K, False)
        candidates = {
            "triton": measure.graphed(lambda x=x, w=chosen, i=ids: experts_int4.routed_experts(x, w, i, *packed)),
            name: measure.graphed(lambda x=x, w=chosen, i=ids: experts_triton.routed_experts(x, w, i, *plain)),
            "expanded": lambda x=x, w=chosen, i=ids: experts_triton.routed_experts(x, w, i, *(expand(e, options.dtype) for e in weights)),
        }
        visited = len(ids.unique())
        matrices = sum(part.nbytes for each in packed for part in (each.codes, each.scales, each.zeros)) / E
        floor = measure.floors(visited * matrices + 2 * x.nbytes, 6 * D * F * T * K, limit)
        line = measure.row({"T": T, "experts": visited}, floor, measure.medians(candidates, options.repeats))
        if T <= 512:
            expected = formulas.moe_layer(x.double(), chosen.double(), ids, *(w.double() for w in plain))
            found = experts_int4.routed_experts(x, chosen, ids, *packed)
            line |= {"error": measure.error(found, expected)}
            line |= {"error_torch": measure.error(formulas.moe_layer(x, chosen, ids, *plain), expected)}
        rows.append(line | {"tflop_s": 6 * D * F * T * K / line["triton_us"] / 1e6})
    measure.report("experts_int4", rows, limit, options)


if __name__ == "__main__":
    main()
