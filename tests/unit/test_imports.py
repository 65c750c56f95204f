"""Imports run one way, and heavy ones happen where they are used."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = {"evalkit": ROOT / "evalkit", "moe_lm": ROOT / "model" / "moe_lm", "evalkit_tasks": ROOT / "tasks" / "evalkit_tasks"}


def imports(package: str) -> list[tuple[str, str]]:
    """(file, imported module) of every import statement of a package."""
    found = []
    for file in sorted(FOLDERS[package].rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            name = str(file.relative_to(FOLDERS[package]))
            if isinstance(node, ast.Import):
                found += [(name, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import"
                found.append((name, node.module or ""))
    return found


def test_moe_lm_imports_neither_of_the_others() -> None:
    assert not [(f, m) for f, m in imports("moe_lm") if m.split(".")[0] in ("evalkit", "evalkit_tasks")]


def test_tasks_import_the_task_api_only() -> None:
    ours = {m for _, m in imports("evalkit_tasks") if m.split(".")[0] in ("evalkit", "moe_lm")}
    assert ours == {"evalkit.tasks"}


def test_evalkit_reaches_the_model_through_its_back_ends_alone() -> None:
    assert {f for f, m in imports("evalkit") if m.split(".")[0] == "moe_lm"} == {
        "lm/native.py",
        "lm/native_tokens.py",
        "lm/lm_eval.py",
        "lm/upcycle.py",
    }


def test_evalkit_reaches_tasks_through_the_registry_alone() -> None:
    assert {f for f, m in imports("evalkit") if m.split(".")[0] == "evalkit_tasks"} == {"tasks/registry.py"}


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", "import sys; from evalkit.cli import _parser; _parser(); print(*sys.modules)"]
    modules = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert not modules & {"torch", "numpy", "transformers", "lm_eval", "rich", "pyarrow", "tokenizers", "huggingface_hub"}
    times = []
    for _ in range(5):
        before = _seconds_of_children()
        subprocess.run([sys.executable, "-m", "evalkit", "--help"], capture_output=True, check=True)
        times.append(_seconds_of_children() - before)
    assert min(times) < 0.5


def _seconds_of_children() -> float:
    """Of processor time, which a busy machine does not stretch as it does the clock's."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
