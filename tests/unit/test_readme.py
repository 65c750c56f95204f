"""The README's tree is true, and its commands exist."""

import re
import shlex
from pathlib import Path

from evalkit.cli import _parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_module_stands_in_the_tree() -> None:
    tree = README.split("## Where things are")[1].split("The way of the data")[0]
    for folder in ("evalkit", "model/moe_lm", "tasks/evalkit_tasks"):
        part = tree.split(f"    {folder}/\n")[1].split("\n    ")[0] if folder in tree else ""
        block = tree[tree.index(f"    {folder}/\n") :]
        for path in (ROOT / folder).iterdir():
            if path.suffix == ".py" and not path.name.startswith("__"):
                assert path.name in block, f"{path.name} is missing from the README's tree {part}"
            elif path.is_dir() and path.name != "__pycache__":
                assert f"{path.name}/" in block, f"{path.name}/ is missing from the README's tree"


def test_every_named_file_exists() -> None:
    tree = README.split("## Where things are")[1].split("The way of the data")[0]
    modules = {path.name for path in ROOT.glob("**/*.py") if ".venv" not in path.parts}
    assert set(re.findall(r"\w+\.py", tree)) <= modules


def test_every_command_parses() -> None:
    commands = re.findall(r"^    evalkit (.+?)(?:\s+#.*)?$", README, re.MULTILINE)
    parsed = [c for c in commands if "->" not in c]
    assert len(parsed) >= 7
    for command in parsed:
        _parser().parse_args(shlex.split(command))
