"""Search the grouped GEMM's tiles on this device and write them to model/moe_lm/backends/cuda/tuned/.

Each product is timed apart, on even and on skewed routing; what counts is the sum of both. One block of K serves all numbers of
tokens (it fixes the order of the sums): the one whose tiles are fastest over all levels, in geometric mean.
"""

import itertools
import json
import math
import statistics

import measure
import torch
import triton

from moe_lm.backends.cuda import grouped_gemm, routing, tuning
from moe_lm.backends.cuda.tuning import Level, Tiles, Tuning

TOKENS = (1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
BLOCKS_K, BLOCKS_N = (64, 128), (16, 32, 64, 128, 256)
UP_ROWS, DOWN_ROWS = (128, 256), (64, 128, 256)
LAUNCHES = [(warps, stages, programs) for warps in (4, 8) for stages in (3, 4, 5, 6) for programs in (1, 2, 3)]
if measure.TINY:
    TOKENS, BLOCKS_K, BLOCKS_N, UP_ROWS, DOWN_ROWS, LAUNCHES = (1, 20), (16,), (16,), (32,), (16, 32), [(4, 2, 1)]


def main() -> None:
    options = measure.arguments(__doc__ or "")
    shape = options.shape
    E, K, D, F = shape.E, shape.K, shape.D, shape.F
    gate_up = measure.random(E, 2 * F, D, scale=D**-0.5, options=options)
    down = measure.random(E, D, F, scale=F**-0.5, options=options)

    def fastest(product, rows, x, plans, block_k) -> tuple[float, Tiles] | None:
        """Microseconds and tiles of the best launch; None where none fits the device."""
        best = None
        for block_m, (warps, stages, programs) in itertools.product(rows, LAUNCHES):
            tiles = Tiles(block_m, warps, stages, programs)
            try:
                candidates = {str(i): lambda p=plan: product(x, p, tiles, block_k) for i, plan in enumerate(plans)}  # noqa: B023
                total = sum(measure.medians(candidates, options.repeats).values())
            except (triton.runtime.errors.OutOfResources, triton.runtime.errors.PTXASError):
                continue  # more shared memory or registers than the device has
            if best is None or total < best[0]:
                best = (total, tiles)
        return best

    results = {}
    for block_k in (k for k in BLOCKS_K if D % k == 0 and F % k == 0):
        levels, times = [], []
        for T in TOKENS:
            x, found = measure.random(T, D, options=options), []
            for block_n in BLOCKS_N:
                plans = [routing.route(measure.router_logits(T, options, skewed), K, False, block_n)[2] for skewed in (False, True)]
                up = fastest(lambda x, p, t, k: grouped_gemm.up(x, gate_up, p, t, k), UP_ROWS, x, plans, block_k)
                act = measure.random(T * K, F, options=options)
                lower = fastest(lambda a, p, t, k, T=T: grouped_gemm.down(a, down, p, K, T, t, k), DOWN_ROWS, act, plans, block_k)
                if up and lower:
                    found.append((up[0] + lower[0], block_n, up[1], lower[1]))
            taken, block_n, up_tiles, down_tiles = min(found, key=lambda f: f[0])
            levels.append(Level(T * K / E, block_n, up_tiles, down_tiles))
            times.append(taken)
            print(f"block_k {block_k}, T {T}: {taken / 2:.1f} us, {levels[-1]}", flush=True)
        results[math.exp(statistics.fmean(map(math.log, times)))] = Tuning(block_k, tuple(levels), "tuned")
    best = results[min(results)]
    device = torch.cuda.get_device_name() if options.device.type == "cuda" else "cpu"
    path = tuning.FOLDER / f"{tuning.key(device, triton.__version__, E, K, D, F, options.dtype)}.json"
    if measure.TINY:
        print(f"would write {path.name}")
    else:
        path.write_text(json.dumps(tuning.to_json(best), indent=1) + "\n", "utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
