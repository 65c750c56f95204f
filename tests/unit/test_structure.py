"""The architecture of docs/architecture.md: imports run one way and never in a circle, heavy ones happen where they are used."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"evalkit": ROOT / "evalkit", "moe_lm": ROOT / "model" / "moe_lm", "evalkit_tasks": ROOT / "tasks" / "evalkit_tasks"}
HEAVY = {"torch", "numpy", "scipy", "transformers", "lm_eval", "rich", "pyarrow", "tokenizers", "huggingface_hub", "matplotlib", "httpx2"}


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@cache
def imports(package: str) -> list[tuple[str, str]]:
    """(file, imported module) of every import statement of a package."""
    found = []
    for file in sorted(FOLDERS[package].rglob("*.py")):
        for node in ast.walk(parsed(file)):
            name = str(file.relative_to(FOLDERS[package]))
            if isinstance(node, ast.Import):
                found += [(name, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import"
                found.append((name, node.module or ""))
    return found


def imported_with_the_module(statements: list[ast.stmt]) -> Iterator[str]:
    """The names that a module imports when it is imported itself: not in a function, not for the type checker alone."""
    for node in statements:
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from imported_with_the_module(node.orelse)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                pass
            case _:
                for block in ("body", "orelse", "finalbody", "handlers"):
                    yield from imported_with_the_module(getattr(node, block, []))


def import_graph() -> dict[str, set[str]]:
    """Module -> our modules that it imports with itself."""
    files = {}
    for package, folder in FOLDERS.items():
        for file in folder.rglob("*.py"):
            parts = (package, *file.relative_to(folder).with_suffix("").parts)
            files[".".join(parts).removesuffix(".__init__")] = file
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        names = imported_with_the_module(parsed(file).body)
        # `from package import name`: the module of that name, if there is one, else something that the package defines
        found = {name if name in files else name.rpartition(".")[0] for name in names}
        graph[module] = found & files.keys() - {module}
    return graph


def test_moe_lm_imports_neither_of_the_others() -> None:
    assert not [(f, m) for f, m in imports("moe_lm") if m.split(".")[0] in ("evalkit", "evalkit_tasks")]


def test_tasks_import_the_task_api_only() -> None:
    ours = {m for _, m in imports("evalkit_tasks") if m.split(".")[0] in ("evalkit", "moe_lm")}
    assert ours == {"evalkit.tasks"}


def test_evalkit_reaches_the_model_through_its_back_ends_alone() -> None:
    assert {f for f, m in imports("evalkit") if m.split(".")[0] == "moe_lm"} == {
        "lm/hub.py",
        "lm/llama_cpp/engine.py",
        "lm/llama_cpp/generator.py",
        "lm/llama_cpp/scorer.py",
        "lm/native.py",
        "lm/native_tokens.py",
        "lm/outline.py",
        "lm/pass_speed.py",
        "lm/quantize.py",
        "lm/shape.py",
        "lm/lm_eval.py",
        "lm/tokenized.py",
        "lm/upcycle.py",
        "lm/whereabouts.py",
    }


def test_evalkit_reaches_tasks_through_the_registry_alone() -> None:
    assert {f for f, m in imports("evalkit") if m.split(".")[0] == "evalkit_tasks"} == {"tasks/registry.py"}


def test_no_module_imports_itself_through_others() -> None:
    graph = import_graph()
    assert "evalkit.errors" in graph["evalkit.config"]  # the graph is not empty: an edge that is there
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_a_cycle_is_found() -> None:
    tree = ast.parse(
        "import a\nfrom b import c\nif TYPE_CHECKING:\n    import d\ndef f():\n    import e\ntry:\n    import g\nfinally:\n    pass\n"
    )
    assert list(imported_with_the_module(tree.body)) == ["a", "b.c", "g"]
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


def test_few_modules_at_the_top() -> None:
    assert len(list((ROOT / "evalkit").glob("*.py"))) <= 8


def test_the_model_knows_nothing_of_its_back_ends_layouts() -> None:
    word = re.compile(r"\w*packed\w*|\btenants?\b|\bseat(s|ed)?\b", re.IGNORECASE)
    has_own = {"backends", "quantized"}  # a checkpoint's integers are packed, too
    files = FOLDERS["moe_lm"].rglob("*.py")
    outside = [file for file in files if has_own.isdisjoint(file.relative_to(FOLDERS["moe_lm"]).parts)]
    found = [f"{file.relative_to(ROOT)}: {m[0]}" for file in outside for m in word.finditer(file.read_text())]
    assert not found
    assert len((FOLDERS["moe_lm"] / "model.py").read_text().splitlines()) < 250


def test_help_imports_little_and_nothing_heavy() -> None:
    """`evalkit --help` answers in well under a second because of what it does not import: held as a count, not by the clock."""
    code = "import sys\ntry:\n    from evalkit.cli import main\n    main(['--help'])\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: evalkit")
    modules = set(done.stderr.split())
    assert not modules & HEAVY
    assert len(modules) < 300  # 190 today, of the standard library for the most part; torch alone brings 1,500
