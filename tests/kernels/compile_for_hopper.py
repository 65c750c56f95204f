"""Compile every kernel for compute capability 9.0 and print what came of it as JSON. Needs no GPU; run by test_compiles.py."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from moe_lm.backends.cuda import combine, experts_int4, grouped_gemm, paged_attention, routing
from moe_lm.backends.cuda.tuning import DEFAULT

E, K, A, D, F = 60, 4, 4, 2048, 1408  # Qwen1.5-MoE-A2.7B
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
INTEGERS = {"T", "B", "M", "splits", "first_split", "first_row"}
INT_POINTERS = {
    "slots_ptr", "starts_ptr", "tile_experts_ptr", "tile_rows_ptr", "num_tiles_ptr", "ids_ptr", "counts_ptr", "table_ptr", "lengths_ptr",
}  # fmt: skip
FLOAT_POINTERS = {"weights_ptr", "part_ptr", "stats_ptr"}


def type_of(name, descriptors):
    if name in descriptors:
        return f"tensordesc<bf16{descriptors[name]}>"
    if name in INTEGERS:
        return "i32"
    if name == "scale":
        return "fp32"
    return "*i32" if name in INT_POINTERS else "*fp32" if name in FLOAT_POINTERS else "*bf16"


def compile_one(kernel, constants, descriptors=None, types=None, **options):
    given = types or {}
    signature = {n: "constexpr" if n in constants else given.get(n) or type_of(n, descriptors or {}) for n in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if signature[n].startswith("*")}
    source = ASTSource(kernel, signature, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = made.asm["ptx"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        said = subprocess.run([PTXAS, "-v", "-arch=sm_90a", path, "-o", "/dev/null"], capture_output=True, text=True, check=True).stderr
    return {
        "spilled_bytes": sum(map(int, re.findall(r"(\d+) bytes spill", said))),
        "registers": int(re.findall(r"Used (\d+) registers", said)[0]),
        "shared_bytes": made.metadata.shared,
        "wgmma": sorted(set(re.findall(r"wgmma\.mma_async\.sync\.aligned\.(m\d+n\d+k\d+)", ptx))),
        "mma": sorted(set(re.findall(r"mma\.sync\.aligned\.(m\d+n\d+k\d+)", ptx))),
        "tma_loads": len(re.findall(r"cp\.async\.bulk\.tensor", ptx)),
    }


def products():
    k = DEFAULT.block_k
    for level in DEFAULT.levels:
        n, up, down = level.block_n, level.up, level.down
        sizes = {"D": D, "F": F, "C": K + A, "BLOCK_N": n, "BLOCK_K": k, "TMA": True}
        half = up.block_m // 2
        options = {"num_warps": up.num_warps, "num_stages": up.num_stages}
        yield f"up {n}", compile_one(grouped_gemm._up_kernel, sizes | {"BLOCK_F": half}, {"w": [1, half, k]}, **options)
        options = {"num_warps": down.num_warps, "num_stages": down.num_stages}
        boxes = {"w": [1, down.block_m, k], "act": [n, k]}
        yield f"down {n}", compile_one(grouped_gemm._down_kernel, sizes | {"OUT_C": K, "BLOCK_D": down.block_m}, boxes, **options)
    rows = min(down.block_m, grouped_gemm.SHARED_ROWS)
    sizes = {"E": E, "A": A, "D": D, "F": F, "BLOCK_D": rows, "BLOCK_N": n, "BLOCK_K": k, "TMA": True}
    yield "shared_down", compile_one(grouped_gemm._shared_down_kernel, sizes, {"w": [1, rows, k], "act": [n, k]}, **options)


def products_of_int4():
    sizes = {"D": D, "F": F, "C": K, "GROUP": 128, "HALF": experts_int4.HALF}
    types = {"codes_ptr": "*u8", "zeros_ptr": "*u8", "scales_ptr": "*fp16"}
    for level in DEFAULT.levels:
        for name, tiles, block in (
            ("up", level.up, {"BLOCK_F": level.up.block_m // 2}),
            ("down", level.down, {"BLOCK_D": level.down.block_m}),
        ):
            kernel = experts_int4._up_kernel if name == "up" else experts_int4._down_kernel
            options = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
            constants = sizes | block | {"BLOCK_N": level.block_n}
            yield f"int4 {name} {level.block_n}", compile_one(kernel, constants, types=types, **options)


def others():
    p = paged_attention
    heads = {"H": 16, "J": 16, "N": 16, "HEAD_DIM": 128, "BLOCK_D": 128, "SPLIT": p.SPLIT, "BLOCK_S": p.BLOCK_S}
    for fused, sequences, rows in ((True, 1, p.ROWS), (False, 1, p.ROWS), (False, p.SHARED_ROWS, p.SHARED_ROWS)):
        walk = {"FUSED": fused, "SEQUENCES": sequences, "BLOCK_R": rows, "WINDOW": 0}
        yield f"attend {fused} {rows}", compile_one(p._attend_kernel, heads | walk, num_stages=p.NUM_STAGES)
    merge = {"H": 16, "HEAD_DIM": 128, "WINDOW": 0, "SPLIT": p.SPLIT, "BLOCK_D": 128}
    yield "merge", compile_one(p._merge_kernel, merge)
    sizes = {"E": E, "K": K, "A": A, "X_POW2": 64}
    route = {"NORM": True, "ROUTED": False}
    listing = {"BLOCK_N": 128, "BLOCK_W": routing.BLOCK_W}
    yield "route", compile_one(routing._route_kernel, sizes | route | listing | {"BLOCK_T": routing.ONE_BLOCK}, num_warps=8)
    yield "count", compile_one(routing._count_kernel, sizes | route | {"BLOCK_T": routing.BLOCK_T})
    yield "place", compile_one(routing._place_kernel, sizes | listing | {"BLOCK_T": routing.BLOCK_T})
    sizes = {"D": D, "K": K, "A": A, "SHARED": False, "GATED": True, "BLOCK_D": combine.BLOCK_D, "shared_ptr": None}
    yield "combine", compile_one(combine._combine_kernel, sizes)


if __name__ == "__main__":
    print(json.dumps(dict([*products(), *products_of_int4(), *others()])))
