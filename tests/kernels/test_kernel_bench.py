"""The benchmarks run from end to end at tiny sizes, so that a GPU finds them in order."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit-lm[gpu]')")
pytest.importorskip("transformers", reason="the peer in the benchmarks")

BENCH = Path(__file__).parents[2] / "model" / "bench"


@pytest.mark.slow
def test_run_all_prints_a_table_and_a_json_line_for_each():
    command = [sys.executable, str(BENCH / "run_all.py"), "--tune", "--tiny"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    kernels = ["routing", "grouped_gemm", "combine", "experts_triton", "experts_int4", "paged_attention", "decode_step"]
    assert [r["kernel"] for r in results] == kernels
    for result in results:
        assert {"device", "dtype", "limits", "torch", "triton", "rows"} <= result.keys()
        for row in result["rows"]:
            assert row["floor_bytes_us"] > 0
            assert row["triton_us"] > 0
    (layer,) = (r for r in results if r["kernel"] == "experts_triton")
    assert all(row["error"] <= row["error_grouped_mm"] for row in layer["rows"])
    (int4,) = (r for r in results if r["kernel"] == "experts_int4")
    assert all(row["error"] <= 1.5 * row["error_torch"] for row in int4["rows"])  # tiny: few numbers, of which either may have the luckier


@pytest.mark.slow
def test_the_cpu_layer_prints_a_table_and_a_json_line_for_each_dtype():
    command = [sys.executable, str(BENCH / "compiled.py"), "--tiny", "--threads", "1"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [r["dtype"] for r in results] == ["float32", "bfloat16"]
    for result in results:
        assert [row["T"] for row in result["rows"]] == [1, 20]
        for row in result["rows"]:
            assert min(row["cpu_us"], row["grouped_mm_us"], row["floor_bytes_us"]) > 0
            assert row["error"] <= 1.5 * row["error_grouped_mm"]  # tiny: few numbers, of which either may have the luckier


@pytest.mark.slow
def test_quantised_products_print_a_table_and_a_json_line():
    command = [sys.executable, str(BENCH / "quantized.py"), "--tiny", "--threads", "1"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    assert [(row["rows"], row["weights"]) for row in result["rows"][:2]] == [(1, "attention, Q5_0"), (1, "gate and up, Q5_0")]
    assert all(min(row["float32_us"], row["exact_us"], row["int8_us"]) > 0 for row in result["rows"])


@pytest.mark.slow
def test_without_a_gpu_they_say_so():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, str(BENCH / "combine.py")], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "no CUDA device" in done.stderr
