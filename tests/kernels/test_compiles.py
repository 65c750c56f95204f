"""The kernels compile for Hopper where there is no GPU: the interpreter accepts what the compiler does not.

Each at Qwen1.5-MoE's shape, with the default tiles: no register spills, and products on the tensor cores (wgmma, weights by TMA).
In a process of its own, since Triton here is set to interpret.
"""

import json
import os
import subprocess
import sys

import pytest

triton = pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit-lm[gpu]')")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What ptxas and PTX say of each kernel, by name."""
    env = os.environ | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache")), "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("TRITON_INTERPRET", None)
    script = os.path.join(os.path.dirname(__file__), "compile_for_hopper.py")
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_no_kernel_spills(compiled):
    assert {name: facts["spilled_bytes"] for name, facts in compiled.items() if facts["spilled_bytes"]} == {}


def test_shared_memory_suffices(compiled):
    assert max(facts["shared_bytes"] for facts in compiled.values()) <= 227 * 1024


def test_products_are_on_the_tensor_cores_and_weights_come_by_tma(compiled):
    products = {name: facts for name, facts in compiled.items() if name.startswith(("up", "down", "shared_down"))}
    assert len(products) == 9
    for facts in products.values():
        assert facts["wgmma"]
        assert facts["tma_loads"]


def test_products_with_4_bit_weights_are_on_the_tensor_cores(compiled):
    products = {name: facts for name, facts in compiled.items() if name.startswith("int4")}
    assert len(products) == 8
    assert all(facts["wgmma"] for facts in products.values())


def test_attention_takes_one_instruction_however_many_rows(compiled):
    """Else a shared prefix would not give the bits of a private one."""
    kinds = {tuple(facts["mma"]) for name, facts in compiled.items() if name.startswith("attend")}
    assert len(kinds) == 1
    assert all(kinds)
