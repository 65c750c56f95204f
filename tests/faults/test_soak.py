"""The short form of soak.py: clients, some of them hostile, do not change each other's answers or wait for each other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="pip install 'evalkit-lm[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'evalkit-lm[serve]'")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_seconds_of_a_crowd(tiny_model: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "--model", str(tiny_model), "--minutes", "0.15", "--clients", "16"]
    done = subprocess.run([*command, "--kv-memory", "10MB"], capture_output=True, text=True)
    assert done.stdout, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["honest"] > 20
    assert (found["wrong"], found["hostile_faults"]) == (0, 0), done.stdout[-3000:]
    assert found["first_token_steps_most"] <= 5
