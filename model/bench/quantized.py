"""Benchmark of products with quantised weights on a CPU: as float32, `exact` and `int8`, at the shapes of a 0.5B model in Q4_K_M.

`python model/bench/quantized.py [--threads 2]`; `--tiny` runs it at tiny sizes, as a check of the script.

For each number of rows, what the products of one layer and of the head take; a layer's weights are other ones in each repeat, so that
they come from memory. Modes are interleaved. Times are the processor's, in microseconds of each thread, since that is what can be compared
on a machine that others use; the median of all repeats, and the least. `x_..` is float32's time over the mode's, repeat by repeat.
"""

import argparse
import json
import os
import statistics
import sys
import time

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported: a CPU is measured

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from measure import table

from moe_lm.backends.cpu import library
from moe_lm.backends.cpu.launch import gemm
from moe_lm.backends.cpu.pack import PackedMatrix
from moe_lm.backends.cpu.pack_quantized import PackedBlocks
from moe_lm.quant.weight import QuantizedWeight

TINY = "--tiny" in sys.argv
D, F, V = (256, 512, 1000) if TINY else (896, 4864, 151936)
ATTENTION, FFN, DOWN, HEAD = ("Q5_0", "Q5_0", "Q6_K", "Q8_0")
COPIES = 2 if TINY else 8  # of a layer's weights: more than the caches hold


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: a check of the script, not a measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 20] if TINY else [1, 4, 16, 64, 256, 1024])
    parser.add_argument("--repeats", type=int, default=2 if TINY else 15, help="interleaved (default: %(default)s)")
    return parser.parse_args()


def random_weight(kind: str, outputs: int, inputs: int) -> QuantizedWeight:
    """Blocks of random bytes; their float16 numbers are of a usual size."""
    weights, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = torch.randint(256, (1, outputs, inputs // weights, nbytes), dtype=torch.uint8)
    for at in [nbytes - 2] if kind == "Q6_K" else [0, 2] if kind[-1] in "1K" else [0]:
        blocks[..., at : at + 2] = (torch.rand(1, outputs, inputs // weights, 1) * 0.01).half().view(torch.uint8)
    return QuantizedWeight(kind, blocks.flatten(2), inputs)


Matrices = tuple[PackedMatrix, PackedBlocks]


def plain(kind: str, outputs: int, inputs: int) -> Matrices:
    weight = random_weight(kind, outputs, inputs)
    return PackedMatrix.of(weight.dequantized()), PackedBlocks.of(weight)


def gated(kind: str, outputs: int, inputs: int) -> Matrices:
    gate, up = (random_weight(kind, outputs, inputs) for _ in range(2))
    return PackedMatrix.gated(gate.dequantized(), up.dequantized(), "silu"), PackedBlocks.gated(gate, up, "silu")


def layer() -> dict[str, Matrices]:
    """The products of a layer, by the name of its weights."""
    return {
        f"attention, {ATTENTION}": plain(ATTENTION, D + 256, D),
        f"gate and up, {FFN}": gated(FFN, F, D),
        f"down, {DOWN}": plain(DOWN, D, F),
        "down, Q4_K": plain("Q4_K", D, F),
    }


def main() -> None:
    options = arguments()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    layers, head = [layer() for _ in range(COPIES)], {f"head, {HEAD}": plain(HEAD, V, D)}
    lines = []
    for count in options.rows:
        for name in (*layers[0], *head):
            x = torch.randn(count, (layers[0] | head)[name][0].inputs)
            if name in head and count > 64:  # only the wanted rows of a pass
                continue
            taken: dict[str, list[float]] = {mode: [] for mode in ("float32", "exact", "int8")}
            for repeat in range(-1, options.repeats * (4 if count <= 16 and name in layers[0] else 1)):
                as_float32, blocks = head[name] if name in head else layers[repeat % COPIES][name]
                for mode in taken:
                    start = time.process_time()
                    gemm(x, as_float32) if mode == "float32" else gemm(x, blocks, int8=mode == "int8")
                    if repeat >= 0:
                        taken[mode].append((time.process_time() - start) * 1e6 / options.threads)
            line = {"rows": count, "weights": name}
            for mode, times in taken.items():
                line |= {f"{mode}_us": statistics.median(times), f"{mode}_least": min(times)}
            ratios = {
                mode: statistics.median(a / b for a, b in zip(taken["float32"], taken[mode], strict=True)) for mode in ("exact", "int8")
            }
            outputs = as_float32.outputs * (2 if as_float32.activation != "none" else 1)
            flops = 2 * count * as_float32.inputs * outputs
            line |= {f"x_{mode}": ratio for mode, ratio in ratios.items()}
            line |= {f"{mode}_gflop_s": flops / min(times) / 1e3 for mode, times in taken.items()}
            line |= {"int8_gb_s": blocks.nbytes / min(taken["int8"]) / 1e3}
            lines.append(line)
    print(f"{options.threads} threads, {library.chosen_variant()}, 1-minute load {os.getloadavg()[0]:.1f}")
    table(lines)
    device = torch.cpu.get_capabilities().get("cpu_name", "cpu")
    about = {"kernel": "quantized", "device": device, "variant": library.chosen_variant(), "threads": options.threads}
    print(json.dumps({**about, "torch": torch.__version__, "repeats": options.repeats, "load": os.getloadavg()[0], "rows": lines}))


if __name__ == "__main__":
    main()
