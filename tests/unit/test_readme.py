"""The README and docs/: commands parse, links lead somewhere, and the tree of docs/architecture.md is the tree there is."""

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from evalkit.cli import _parser

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted([README, ROOT / "CONTRIBUTING.md", ROOT / "results" / "README.md", *ROOT.glob("docs/*.md")])
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
FOLDERS = ("docs", "evalkit", "model", "results", "reports", "tasks", "tests")
FILES = [str(path) for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")]
PACKAGES = ("evalkit", "model/moe_lm", "tasks/evalkit_tasks", "tests")
SHELL = ("|", ">", ">>")  # what follows is the shell's
# folders of data and of test cases
WITHOUT_A_LINE = ("tasks/evalkit_tasks/sample/", "tests/faults/hostile", "tests/helpers/")


def commands(page: Path) -> list[str]:
    return re.findall(r"^    evalkit (.+?)(?:\s+#.*)?$", page.read_text("utf-8"), re.MULTILINE)


def tree() -> Iterator[tuple[str, str]]:
    """(path, description) of every line of the tree."""
    above: list[str] = []
    block = ARCHITECTURE.partition("## Where things are")[2].partition("\n## ")[0]
    for line in re.findall(r"^    .+$", block, re.MULTILINE):
        indent, name, text = re.fullmatch(r"    ((?:  )*)(\S+)(.*)", line).groups()  # type: ignore[union-attr]
        above = [*above[: len(indent) // 2], name]
        yield "".join(above), text


def is_module(path: Path) -> bool:
    return path.suffix == ".py" and not path.name.startswith("__")


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_every_command_parses(page: Path) -> None:
    for command in commands(page):
        _parser().parse_args([*takewhile(lambda word: word not in SHELL, shlex.split(command))])


def test_every_subcommand_is_among_the_commands() -> None:
    text = _parser().format_help()
    names = re.findall(r"^    (\w+)(?: |$)", text.partition("COMMAND\n")[2], re.MULTILINE)
    assert len(names) >= 15
    assert set(names) == {command.split()[0] for command in commands(ROOT / "docs" / "commands.md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL))
    for target in targets:
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_in_the_text_exists(page: Path) -> None:
    """The files that a guide adds aside, which are its headings."""
    text = re.sub(r"^(?:```.*?^```|###? .*?$)", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    added = re.findall(r"^###? \d+\. `(\S+)`", page.read_text("utf-8"), re.MULTILINE)
    for path in set(re.findall(r"`([\w.-]+/[\w./-]+\.(?:py|toml|h|cpp|md))`", text)) - set(added):
        assert any(file.endswith(f"/{path}") for file in FILES), f"{page.name}: {path}"


def test_the_readme_links_every_page() -> None:
    for page in (ROOT / "docs").iterdir():
        assert f"(docs/{page.name})" in README.read_text("utf-8"), page.name


def test_what_the_tree_names_exists() -> None:
    for path, text in tree():
        assert (ROOT / path).exists(), path
        for name in re.findall(r"\b\w+\.(?:py|h)\b", text):
            folder = ROOT / path if (ROOT / path).is_dir() else (ROOT / path).parent
            assert list(folder.rglob(name)), f"{path}: there is no {name}"


def test_every_folder_and_top_level_module_is_in_the_tree() -> None:
    named = {path.rstrip("/") for path, _ in tree()}
    for package in PACKAGES:
        found = {each.parent for each in (ROOT / package).rglob("*") if each.is_file() and each.suffix != ".pyc"}
        found |= {each for each in (ROOT / package).iterdir() if is_module(each) and package != "tests"}
        paths = {str(each.relative_to(ROOT)) for each in found}
        ignored = ("model/moe_lm/backends/cpu/lib", *WITHOUT_A_LINE)
        missing = {path for path in paths if not path.startswith(ignored)} - named
        assert not missing, f"docs/architecture.md lacks {', '.join(sorted(missing))}"


def test_the_tests_of_what_always_holds_exist() -> None:
    names = re.findall(r"`(test_\w+\.py)`", ARCHITECTURE)
    assert len(names) >= 15
    assert {name for name in names if not list((ROOT / "tests").rglob(name))} == set()


def test_the_changelog_is_short() -> None:
    lines = re.findall(r"^- (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert len(lines) >= 30
    assert [line for line in lines if len(line.split()) > 25] == []
