"""docs/adding-a-published-table.md, followed as it is written."""

import csv
import json
import re
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.hashing import sha256_json
from evalkit.report import published
from evalkit.tasks.registry import resolve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-published-table.md").read_text("utf-8")
FILES = dict(re.findall(r"^## \d\. `([^`\n]+)`\n.*?^```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^    evalkit (.+)$", PAGE, re.MULTILINE)
BASELINE = ROOT / "results" / "baselines" / "qwen2.5-coder-0.5b--humaneval-chat" / "run.json"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published tables with the page's among them, and a tracked run that says it was the page's model."""
    shutil.copytree(published.FOLDER, tmp_path / "results" / "published")
    for path, text in FILES.items():
        assert not (tmp_path / path).exists()
        (tmp_path / path).write_text(text, "utf-8")
    run = json.loads(BASELINE.read_text("utf-8"))
    run["model"]["spec"] = "someone/MyModel-1B-Chat"
    run["tasks"]["humaneval"]["protocol_sha256"] = sha256_json(asdict(resolve("humaneval@chat").protocol))  # as if it were of today
    folder = tmp_path / "results" / "runs" / "mymodel"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run), "utf-8")
    monkeypatch.setattr(published, "FOLDER", tmp_path / "results" / "published")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_enters_one_file() -> None:
    assert len(FILES) == len(re.findall(r"^## \d", PAGE, re.MULTILINE)) == 1


def test_followed_as_written_it_compares(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) == 4
    for command in COMMANDS:
        assert cli.main(shlex.split(command)) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "mymodel" in said
    assert "| MyModel-1B-Chat | 50.0 → **51.2** | 34.2 | 43.2 |" in said
    with (checkout / "report" / "quality.csv").open(newline="") as file:
        rows = {row["task"]: row for row in csv.DictReader(file)}
    assert {task: row["verdict"] for task, row in rows.items()} == {
        "humaneval@chat": "reproduced",
        "humaneval@codex": "published figure inconsistent",
        "mmlu": "published figure inconsistent",
    }
    assert rows["mmlu"]["reason"] == "printed as 43.2 in Table 3 and as 43.5 in Table 7"


def test_the_mistake_that_the_page_shows(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = (checkout / path for path in FILES)
    path.write_text(path.read_text("utf-8").replace('"43.2"', '"43,2"'), "utf-8")
    assert cli.main(["report", "--published", "mymodel"]) == 2
    (shown,) = re.findall(r"`(mymodel\.toml:.*?)`", PAGE)
    assert shown in capsys.readouterr().err
