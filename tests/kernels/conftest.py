"""The Triton kernels on whatever device is at hand: compiled on a GPU, else under Triton's interpreter, which is slow: tiny shapes.

The interpreter must be chosen before Triton is first imported, and pytest reads this file before it runs any test.
"""

import importlib.util
import os

import pytest
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it in deterministic mode, see _poisoned

if importlib.util.find_spec("triton") and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language
    from triton.runtime.interpreter import InterpretedFunction

    if not isinstance(triton.language.sum, InterpretedFunction):
        raise pytest.UsageError("triton was imported before tests/kernels/conftest.py could choose its interpreter")


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Tiny products."""


@pytest.fixture(autouse=True)
def _poisoned():
    """Every torch.empty is full of NaN or of the largest integer: what a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")
