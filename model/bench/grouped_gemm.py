"""Benchmark of moe_lm.backends.cuda.grouped_gemm: both products of the routed experts, against torch's grouped_mm on sorted rows.

torch._grouped_mm is what transformers' `grouped_mm` experts call; it gets its rows sorted and gathered beforehand, we gather ours.
"""

import measure
import torch
import torch.nn.functional as F

from moe_lm.backends.cuda import grouped_gemm, routing
from moe_lm.backends.cuda.tuning import tuning


def main() -> None:
    options = measure.arguments(__doc__ or "")
    limit, shape, rows = measure.limits(options.dtype), options.shape, []
    E, K, D, width = shape.E, shape.K, shape.D, shape.F
    gate_up = measure.random(E, 2 * width, D, scale=D**-0.5, options=options)
    down = measure.random(E, D, width, scale=width**-0.5, options=options)
    tuned = tuning(options.device, E, K, D, width, options.dtype)
    print(f"tiles: {tuned.source}")
    for T in (1, 20) if measure.TINY else (1, 8, 32, 64, 128, 512, 1024, 2048, 4096, 8192):
        for skewed in (False, True):
            x = measure.random(T, D, options=options)
            level = tuned.level(T, K, E)
            _, ids, plan = routing.route(measure.router_logits(T, options, skewed), K, False, level.block_n)
            sorted_x, ends = x[plan.slots.long() // K], plan.starts[1:].contiguous()

            def ours(x=x, plan=plan, level=level, T=T):
                act = grouped_gemm.up(x, gate_up, plan, level.up, tuned.block_k)
                return grouped_gemm.down(act, down, plan, K, T, level.down, tuned.block_k)

            def theirs(x=sorted_x, ends=ends):
                gate, up = torch._grouped_mm(x, gate_up.transpose(1, 2), offs=ends).chunk(2, dim=-1)
                return torch._grouped_mm(F.silu(gate) * up, down.transpose(1, 2), offs=ends)

            candidates = {"triton": measure.graphed(ours)}
            if options.dtype == torch.bfloat16 and not measure.TINY:
                candidates["grouped_mm"] = measure.graphed(theirs)
            visited = len(ids.unique())
            size = x.element_size()
            # weights of the visited experts; rows read, activations written and read, slots written
            num_bytes = size * (visited * 3 * D * width + T * D + T * K * (2 * width + D))
            floor = measure.floors(num_bytes, 6 * D * width * T * K, limit)
            case = {"T": T, "skewed": skewed, "experts": visited, "block_n": level.block_n}
            line = measure.row(case, floor, measure.medians(candidates, options.repeats))
            rows.append(line | {"tflop_s": 6 * D * width * T * K / line["triton_us"] / 1e6})
    measure.report("grouped_gemm", rows, limit, options)


if __name__ == "__main__":
    main()
