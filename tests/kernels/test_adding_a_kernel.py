"""docs/adding-a-kernel.md, followed as it is written in a copy of the model package."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the kernels need triton (pip install 'evalkit-lm[gpu]')")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-kernel.md").read_text("utf-8")
STEPS = re.findall(r"^## \d\. `([^`\n]+)`\n.*?^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^    python (.+)$", PAGE, re.MULTILINE)


def patched(source: str, diff: str) -> str:
    """A source with a diff applied, whose old lines must be there once."""
    lines = diff.splitlines()
    old, new = ("".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", sign)) for sign in "-+")
    assert source.count(old) == 1, old
    return source.replace(old, new)


def test_the_page_enters_five_files() -> None:
    assert len(STEPS) == len(re.findall(r"^## \d", PAGE, re.MULTILINE)) == 5


def test_followed_as_written_it_runs(tmp_path: Path) -> None:
    for name in ("model", "tests/helpers", "tests/kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "lib"))
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name, language, text in STEPS:
        path = tmp_path / name
        assert path.exists() == (language == "diff")
        path.write_text(patched(path.read_text("utf-8"), text) if language == "diff" else text, "utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "model"), "OMP_NUM_THREADS": "1"}
    said = []
    assert len(COMMANDS) == 2
    for command in COMMANDS:
        arguments = [sys.executable, *shlex.split(command)]
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        said.append(done.stdout)
    assert "7 passed" in said[0]
    assert [row["T"] for row in json.loads(said[1].splitlines()[-1])["rows"]] == [1, 3]
    assert '"softcap"' in (tmp_path / "model/bench/run_all.py").read_text("utf-8")
