"""What is distributed: one name everywhere, licences of every dependency, type markers, a page for releases."""

import re
import tomllib
from pathlib import Path

import pytest

from evalkit.errors import DISTRIBUTION, pip_install

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXTS = ("*.py", "*.md", "*.toml", "*.yml", "*.yaml")
FOLDERS = ("evalkit", "model", "tasks", "tests", "docs", "reports", "results/published")
# evalkit in a command of pip, pipx or uvx that is not the distribution, a file or a folder
STRAY = re.compile(r"\bevalkit\[[a-z]|(?:pip3? install|uvx|pipx (?:run|install))\b[^\n`]*?[ '\"]evalkit(?=['\"`]|$)", re.MULTILINE)


def texts() -> list[Path]:
    found = [path for folder in FOLDERS for kind in TEXTS for path in (ROOT / folder).rglob(kind)]
    return [*found, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml"))]


def test_one_name_for_the_distribution() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert PROJECT["scripts"] == {"evalkit": "evalkit.cli:main"}
    assert pip_install("serve") == f"`pip install '{DISTRIBUTION}[serve]'`"


def test_nobody_is_sent_to_another_project() -> None:
    others = {path: path.read_text("utf-8") for path in texts() if path != Path(__file__)}
    assert [f"{path.relative_to(ROOT)}: {m[0]}" for path, text in others.items() for m in STRAY.finditer(text)] == []


@pytest.mark.parametrize("text", ["pip install 'evalkit[dev]'", "run `pip install evalkit`", "uvx --from 'evalkit' evalkit ls"])
def test_a_stray_is_found(text: str) -> None:
    assert STRAY.search(text)


@pytest.mark.parametrize("text", ["pip install 'evalkit-lm[dev]'", "uvx --from evalkit-lm evalkit ls tasks", "pip install ./evalkit"])
def test_what_is_no_stray(text: str) -> None:
    assert not STRAY.search(text)


def test_every_extra_that_is_named_exists() -> None:
    named = {extra for path in texts() for extra in re.findall(rf"{DISTRIBUTION}\[([\w,-]+)\]", path.read_text("utf-8"))}
    named |= {extra for path in texts() for extra in re.findall(r"pip_install\([\"']([\w-]+)[\"']\)", path.read_text("utf-8"))}
    assert {"serve", "lm-eval"} <= named
    assert {name for some in named for name in some.split(",")} <= PROJECT["optional-dependencies"].keys()


def test_licences_of_every_dependency() -> None:
    pytest.importorskip("packaging", reason="pip install 'evalkit-lm[dev]'")
    from licence_table import HEAD, dependencies
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    page = (ROOT / "docs" / "licences.md").read_text()
    assert page.startswith(HEAD)
    always, extras, brought = (re.findall(r"^\| ([\w-]+) \| (.+?) \|", part, re.MULTILINE)[1:] for part in page.split("\n## ")[1:])
    required, optional = dependencies()
    asked = (required, [each for some in optional.values() for each in some])
    names = [sorted({canonicalize_name(Requirement(each).name) for each in some}) for some in asked]
    fix = "run python tests/helpers/licence_table.py > docs/licences.md"
    assert [[name for name, _ in table] for table in (always, extras)] == names, fix
    licences = {licence for table in (always, extras, brought) for _, licence in table}
    assert not [licence for licence in licences if re.search(r"not stated|(?<!L)GPL|Proprietary", licence)]


def test_type_markers() -> None:
    for package in ("evalkit", "model/moe_lm", "tasks/evalkit_tasks"):
        assert (ROOT / package / "py.typed").exists()
