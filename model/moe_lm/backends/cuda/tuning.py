"""Tile sizes of the grouped GEMM: from a tuned file of this device, this Triton and this shape, else from the default table.

Files are in `tuned/`, one per key, written by `model/bench/tune.py`. `block_k` fixes the order of the sums, so a file has one of it
for every number of tokens; all else is free to follow the number of tokens.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from moe_lm.errors import ModelError

FOLDER = Path(__file__).parent / "tuned"


@dataclass(frozen=True, slots=True)
class Tiles:
    """One product's tile: weight rows (gate and up together), warps, pipeline stages, and programs a multiprocessor."""

    block_m: int
    num_warps: int
    num_stages: int
    programs_per_multiprocessor: int


@dataclass(frozen=True, slots=True)
class Level:
    """Tiles for up to `tokens_per_expert` routed tokens an expert, on average; both products share the tokens' tile."""

    tokens_per_expert: float
    block_n: int
    up: Tiles
    down: Tiles


@dataclass(frozen=True, slots=True)
class Tuning:
    """`block_k` divides F where it can; levels ascend. `source` is what a run records."""

    block_k: int
    levels: tuple[Level, ...]
    source: str

    def __post_init__(self) -> None:
        sizes = [self.block_k, *(b for level in self.levels for b in (level.block_n, level.up.block_m, level.down.block_m))]
        if not self.levels or any(size < 16 or size & (size - 1) for size in sizes):
            raise ModelError(f"tuning {self.source}: tile sizes must be powers of two from 16 on, and at least one level: {sizes}")
        for rows in ({level.up.block_m // 2 for level in self.levels}, {level.down.block_m for level in self.levels}):
            # below 64 rows Hopper's tensor cores run another instruction, whose sums need not be in the same order
            if min(rows) < 64 <= max(rows):
                raise ModelError(
                    f"tuning {self.source}: all tiles of a product must have 64 weight rows or more, or all fewer: {sorted(rows)}"
                )

    def level(self, tokens: int, num_experts_per_tok: int, num_experts: int) -> Level:
        """The level for `tokens` tokens in all: it follows from sizes that the host knows, never from what was routed where."""
        mean = tokens * num_experts_per_tok / num_experts
        return next((level for level in self.levels if mean <= level.tokens_per_expert), self.levels[-1])


# Reasoned, not measured: up to 64 tokens an expert the weights' bytes decide, so narrow token tiles, wide blocks of K and two programs
# a multiprocessor keep loads in flight; above, tiles of 256 x 128 keep the L2 cache's share of the traffic below the tensor cores'.
# Peers at this shape (vLLM 0.32's defaults, block of tokens / weights / K): 16/64/128 to 32 tokens, 64/128/64 to 512, then 128/128/64.
# K blocks of 64 throughout: 128 would be the peers' choice for few tokens, but one size must serve all (1408 = 22 x 64).
DEFAULT = Tuning(
    block_k=64,
    levels=(
        Level(16, 16, Tiles(128, 4, 5, 2), Tiles(64, 4, 6, 2)),
        Level(32, 32, Tiles(128, 4, 5, 2), Tiles(64, 4, 6, 2)),
        Level(64, 64, Tiles(128, 4, 4, 2), Tiles(128, 4, 4, 2)),
        Level(float("inf"), 128, Tiles(256, 8, 4, 1), Tiles(256, 8, 4, 1)),
    ),
    source="default",
)
# float32 has half the room in shared memory and no tensor cores
DEFAULT_FLOAT32 = Tuning(
    block_k=32,
    levels=(
        Level(16, 16, Tiles(128, 4, 3, 2), Tiles(64, 4, 3, 2)),
        Level(float("inf"), 64, Tiles(128, 8, 3, 1), Tiles(128, 8, 3, 1)),
    ),
    source="default",
)


def key(device: str, triton_version: str, num_experts: int, num_experts_per_tok: int, D: int, F: int, dtype: torch.dtype) -> str:
    """A file's name without its ending."""
    shape = f"E{num_experts}-K{num_experts_per_tok}-D{D}-F{F}-{str(dtype).removeprefix('torch.')}"
    return f"{device.replace(' ', '_')}--triton-{triton_version}--{shape}"


@cache
def tuning(device: torch.device, num_experts: int, num_experts_per_tok: int, D: int, F: int, dtype: torch.dtype) -> Tuning:
    """The tuned file of this key, else the default table; `source` says which."""
    import triton

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    path = FOLDER / f"{key(name, triton.__version__, num_experts, num_experts_per_tok, D, F, dtype)}.json"
    if path.exists():
        return from_json(json.loads(path.read_text("utf-8")), path.name)
    return DEFAULT_FLOAT32 if dtype == torch.float32 else DEFAULT


def from_json(raw: Mapping[str, Any], source: str) -> Tuning:
    """The inverse of `to_json`; ModelError names what is missing or unknown."""
    try:
        levels = tuple(Level(**(level | {p: Tiles(**level[p]) for p in ("up", "down")})) for level in raw["levels"])
        return Tuning(raw["block_k"], levels, source)
    except (KeyError, TypeError) as error:
        raise ModelError(f"tuning {source} cannot be read: {error}") from None


def to_json(tuning: Tuning) -> dict[str, Any]:
    """What a tuned file holds. Its last level serves all that is above."""
    return {"block_k": tuning.block_k, "levels": [asdict(level) for level in tuning.levels]}
