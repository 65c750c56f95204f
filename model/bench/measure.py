"""What the benchmarks share: sizes, interleaved timing, the device's own limits, a table and then one JSON line.

`--tiny` runs a benchmark from end to end on a CPU under Triton's interpreter: it proves the script, its times mean nothing.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

os.environ["TRITON_INTERPRET"] = str(int("--tiny" in sys.argv))  # before Triton is imported

import torch
import triton
from torch import Tensor

TINY = "--tiny" in sys.argv
Run = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Shape:
    """One sparse layer; the defaults are Qwen1.5-MoE-A2.7B's. S: the shared expert's hidden size."""

    E: int = 60
    K: int = 4
    D: int = 2048
    F: int = 1408
    S: int = 5632

    @property
    def always_on(self) -> int:
        return self.S // self.F


def peer_config(shape: Shape) -> Any:
    """transformers' configuration of such a layer, its experts as grouped_mm."""
    from transformers import Qwen2MoeConfig

    config = Qwen2MoeConfig(
        hidden_size=shape.D,
        moe_intermediate_size=shape.F,
        shared_expert_intermediate_size=shape.S,
        num_experts=shape.E,
        num_experts_per_tok=shape.K,
        norm_topk_prob=False,
    )
    config._experts_implementation = "grouped_mm"
    return config


def arguments(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on a CPU, interpreted: a check of the script, not a measurement")
    parser.add_argument("--repeats", type=int, default=1 if TINY else 50, help="repeats of each candidate, interleaved; the median counts")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    options = parser.parse_args()
    options.dtype = getattr(torch, options.dtype)
    if not TINY and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: not run (try --tiny to check the script itself)")
    options.device = torch.device("cpu" if TINY else "cuda")
    options.shape = Shape(E=7, K=2, D=48, F=32, S=64) if TINY else Shape()
    return options


def graphed(run: Run) -> Run:
    """Captured in a CUDA graph, so that the launches' cost on the host is not measured; as it is where it cannot be captured."""
    if not torch.cuda.is_available():
        return run
    try:
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay
    except RuntimeError as error:
        print(f"not captured in a graph, timed with its launches: {str(error).splitlines()[0]}", file=sys.stderr)
        return run


def medians(candidates: Mapping[str, Run], repeats: int) -> dict[str, float]:
    """Median microseconds of each candidate; repeats are interleaved, and the L2 cache is emptied before each."""
    for run in candidates.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    if not torch.cuda.is_available():
        for _ in range(repeats):
            for name, run in candidates.items():
                start = time.perf_counter()
                run()
                taken[name].append((time.perf_counter() - start) * 1e6)
        return {name: statistics.median(times) for name, times in taken.items()}
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            flush.zero_()
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            pair[0].record()
            run()
            pair[1].record()
            events[name].append(pair)
    torch.cuda.synchronize()
    return {name: statistics.median(a.elapsed_time(b) * 1e3 for a, b in pairs) for name, pairs in events.items()}


def limits(dtype: torch.dtype) -> dict[str, float]:
    """What this device does, measured: TB/s of a large read and write, TFLOP/s of a large product; the floors are made of these."""
    if TINY:
        return {"tb_s": 1.0, "tflop_s": 1.0}
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, dtype=dtype, device="cuda") for _ in range(2))
    found = medians({"copy": lambda: target.copy_(source), "product": lambda: a @ b}, 20)
    return {"tb_s": 2 * source.numel() / found["copy"] / 1e6, "tflop_s": 2 * 8192**3 / found["product"] / 1e6}


def floors(num_bytes: float, flops: float, limit: Mapping[str, float]) -> dict[str, float]:
    """Microseconds below which neither this device's memory nor its arithmetic can go."""
    return {"floor_bytes_us": num_bytes / limit["tb_s"] / 1e6, "floor_flops_us": flops / limit["tflop_s"] / 1e6}


def row(case: Mapping[str, Any], floor: Mapping[str, float], times: Mapping[str, float], ours: str = "triton") -> dict[str, Any]:
    """One line of the table: the case, its floors, each candidate's time, and the share of the higher floor that ours reaches."""
    share = max(floor.values()) / times[ours]
    others = {f"x_{name}": t / times[ours] for name, t in times.items() if name != ours}
    return {**case, **floor, **{f"{name}_us": t for name, t in times.items()}, "share": share, **others}


def report(kernel: str, rows: Sequence[Mapping[str, Any]], limit: Mapping[str, float], options: argparse.Namespace) -> None:
    """The table for people, then one JSON line for programs."""
    table(rows)
    device = torch.cuda.get_device_name() if options.device.type == "cuda" else "cpu, interpreted: times mean nothing"
    about = {"kernel": kernel, "device": device, "dtype": str(options.dtype).removeprefix("torch."), "limits": dict(limit)}
    print(json.dumps({**about, "torch": torch.__version__, "triton": triton.__version__, "repeats": options.repeats, "rows": list(rows)}))


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows, a column each name."""
    columns = list(dict.fromkeys(name for line in rows for name in line))
    cells = [[_show(line.get(name)) for name in columns] for line in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in (columns, *cells):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def random(*size: int, scale: float = 1.0, options: argparse.Namespace, dtype: torch.dtype | None = None) -> Tensor:
    return (torch.randn(*size, device=options.device) * scale).to(dtype or options.dtype)


def router_logits(T: int, options: argparse.Namespace, skewed: bool) -> Tensor:
    """Random; skewed: with a preference among experts as a trained router's load shows it (a few see several times the mean)."""
    logits = random(T, options.shape.E, options=options, dtype=torch.float32)
    return logits + torch.linspace(1.5, -1.5, options.shape.E, device=options.device) if skewed else logits


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())
