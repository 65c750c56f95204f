"""Benchmark of the whole sparse layer on a CPU, router to sum, shared expert included: the `cpu` back-end and transformers' grouped_mm.

`python model/bench/compiled.py [--threads 2]`; `--tiny` runs it at tiny sizes, as a check of the script.

The weights are one and the same, and the repeats interleaved. Errors are ||out - ref|| / ||ref|| against float64, of each candidate's
first 16 tokens, which are the same for every number of tokens. `share` is the higher floor over our time; floors are made of this
machine's own bandwidth and FLOP/s, measured first. Processor time stands beside the clock's, for a machine that others use too.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported: a CPU is measured

import measure
import torch
import torch.nn.functional as F
import transformers
from measure import Shape
from torch import Tensor
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from moe_lm.backends import formulas
from moe_lm.backends.cpu.layers import PackedMoE
from moe_lm.config import MoEConfig
from moe_lm.model import MoE, route

CHECKED = 16  # tokens whose error is taken


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: a check of the script, not a measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 20] if measure.TINY else [1, 8, 64, 512, 2048, 4096])
    parser.add_argument(
        "--repeats", type=int, default=2 if measure.TINY else 7, help="interleaved; the median counts (default: %(default)s)"
    )
    return parser.parse_args()


def peer(shape: Shape, dtype: torch.dtype) -> Qwen2MoeSparseMoeBlock:
    """transformers' layer with random weights of a usual size."""
    with torch.device("meta"):
        block = Qwen2MoeSparseMoeBlock(measure.peer_config(shape)).to(dtype)
    block = block.to_empty(device="cpu").eval().requires_grad_(False)
    for weight in block.parameters():
        weight.normal_(std=weight.shape[-1] ** -0.5)
    return block


def ours(block: Qwen2MoeSparseMoeBlock, shape: Shape) -> Callable[[Tensor], Tensor]:
    """Our layer on the peer's weights."""
    with torch.device("meta"):
        moe = MoE(shape.D, MoEConfig(shape.E, shape.K, shape.F, shape.S, norm_topk_prob=False))
    moe.requires_grad_(False)
    shared = {f"shared_expert.{name}_proj": getattr(block.shared_expert, f"{name}_proj").weight for name in ("gate", "up", "down")}
    for name, weight in {**shared, "router": block.gate.weight, "shared_expert_gate": block.shared_expert_gate.weight}.items():
        moe.get_submodule(name).weight = weight
    moe.experts.gate_up_EGD, moe.experts.down_EDF = block.experts.gate_up_proj, block.experts.down_proj
    packed = PackedMoE.of(moe)

    def layer(x_TD: Tensor) -> Tensor:
        out_TD = torch.zeros_like(x_TD)
        packed.add_to(out_TD, x_TD)
        return out_TD

    return layer


def exact(block: Qwen2MoeSparseMoeBlock, x_TD: Tensor, num_experts_per_tok: int) -> Tensor:
    """In float64, expert after expert; routed from the logits of the layer's own precision."""
    weights_TK, ids_TK = route(F.linear(x_TD, block.gate.weight), num_experts_per_tok, False)
    x, gate = x_TD.double(), F.linear(x_TD.double(), block.shared_expert_gate.weight.double())[:, 0]
    visited = ids_TK.unique()
    ids_TK = torch.searchsorted(visited, ids_TK.contiguous())
    routed = (block.experts.gate_up_proj[visited].double(), block.experts.down_proj[visited].double())
    shared = tuple(getattr(block.shared_expert, f"{name}_proj").weight.double() for name in ("gate", "up", "down"))
    return formulas.moe_layer(x, weights_TK.double(), ids_TK, *routed, shared, gate)


def limits(dtype: torch.dtype) -> dict[str, float]:
    """TB/s of a large read, TFLOP/s of a large product in float32: a processor without units for bfloat16 is no slower in it."""
    size = 64 if measure.TINY else 2048
    source = torch.ones(size * size * 16)
    a, b = (torch.randn(size, size) for _ in range(2))
    found = measure.medians({"read": lambda: source.sum(), "product": lambda: a @ b, "own": lambda: a.to(dtype) @ b.to(dtype)}, 5)
    return {"tb_s": source.nbytes / found["read"] / 1e6, "tflop_s": 2 * size**3 / min(found["product"], found["own"]) / 1e6}


def times(candidates: Mapping[str, measure.Run], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median microseconds of each, by the clock and of processor time; interleaved."""
    clock: dict[str, list[float]] = {name: [] for name in candidates}
    processor: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats + 1):
        for name, run in candidates.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            if repeat:  # the first is a warm-up
                clock[name].append((time.perf_counter() - start) * 1e6)
                processor[name].append((time.process_time() - used) * 1e6)
    return tuple({name: statistics.median(taken) for name, taken in kind.items()} for kind in (clock, processor))  # type: ignore[return-value]


@torch.inference_mode()
def main() -> None:
    options = arguments()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    shape = Shape(E=7, K=2, D=48, F=32, S=64) if measure.TINY else Shape()
    for name in options.dtype:
        dtype = getattr(torch, name)
        limit, rows = limits(dtype), []
        block = peer(shape, dtype)
        moe = ours(block, shape)
        all_x = torch.randn(max(*options.tokens, CHECKED), shape.D).to(dtype)
        expected = exact(block, all_x[:CHECKED], shape.K)
        for T in options.tokens:
            x = all_x[:T]
            candidates = {"cpu": partial(moe, x), "grouped_mm": partial(block, x[None])}
            repeats = options.repeats * (5 if T <= 64 else 1)
            clock, processor = times(candidates, repeats)
            visited = len(route(F.linear(x, block.gate.weight), shape.K, False)[1].unique())
            weights = (visited + shape.always_on) * 3 * shape.D * shape.F
            floor = measure.floors(x.element_size() * weights, 6 * shape.D * shape.F * T * (shape.K + shape.always_on), limit)
            line = measure.row({"T": T, "experts": visited}, floor, clock, "cpu")
            line["x_grouped_mm_processor"] = processor["grouped_mm"] / processor["cpu"]
            line["error"] = measure.error(moe(x)[:CHECKED], expected[:T])
            line["error_grouped_mm"] = measure.error(block(x[None])[0, :CHECKED], expected[:T])
            rows.append(line)
            print(f"{name}: T = {T} measured", file=sys.stderr, flush=True)
        print(f"{name}, {options.threads} threads")
        measure.table(rows)
        device = torch.cpu.get_capabilities().get("cpu_name", "cpu")
        about = {"kernel": "compiled", "device": device, "threads": options.threads, "dtype": name, "limits": limit}
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        print(json.dumps({**about, **versions, "repeats": options.repeats, "rows": rows}), flush=True)


if __name__ == "__main__":
    main()
