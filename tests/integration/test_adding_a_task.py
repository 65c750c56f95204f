"""docs/adding-a-task.md, followed as it is written; and tasks that other packages bring along."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalkit.errors import EvalkitError
from evalkit.tasks import registry

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-a-task.md").read_text("utf-8")
FILES = dict(re.findall(r"^## \d\. `([^`\n]+)`\n.*?^```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^    (evalkit .+)$", PAGE, re.MULTILINE)


def test_the_page_is_short() -> None:
    assert len(FILES) == 3
    assert sum(len(text.splitlines()) for text in FILES.values()) <= 55
    assert len(COMMANDS) == 3


def test_followed_as_written_it_runs(tmp_path: Path, tiny_model: Path) -> None:
    tasks = tmp_path / "tasks"
    shutil.copytree(ROOT / "tasks" / "evalkit_tasks", tasks / "evalkit_tasks", ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tasks, ROOT, ROOT / "model"))), "OMP_NUM_THREADS": "1"}
    printed = []
    for command in COMMANDS:
        arguments = [sys.executable, "-m", *shlex.split(command)]
        if "run" in arguments:
            arguments += ["--model", str(tiny_model), "--name", "capitals"]
        found = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        printed.append(found.stdout)
    assert "capitals@letters" in printed[0]
    entry = json.loads((tmp_path / "results/runs/capitals/run.json").read_text("utf-8"))["tasks"]["capitals"]
    assert (entry["n"], entry["protocol"], set(entry["metrics"])) == (3, "letters", {"acc"})
    samples = (tmp_path / "results/runs/capitals/samples/capitals.jsonl").read_text("utf-8").splitlines()
    assert json.loads(samples[2])["requests"][0]["context"].startswith("What is the capital of Kenya, a country in Africa?\nA. Nairobi")
    # the digest on the page is the rows' own
    assert json.loads((tmp_path / "results/runs/capitals/run.json").read_text("utf-8"))["tasks"]["capitals"]["data"]["sha256"] in PAGE


PLUGIN = """
from evalkit_tasks.gsm8k import GSM8K

class Mine(GSM8K):
    name = "{name}"

TASKS = (Mine,)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package with an entry point."""
    (tmp_path / "mine-1.0.dist-info").mkdir()
    (tmp_path / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (tmp_path / "mine-1.0.dist-info" / "entry_points.txt").write_text("[evalkit.tasks]\nmine = mine_tasks\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry.installed_tasks.cache_clear()
    yield tmp_path
    registry.installed_tasks.cache_clear()
    sys.modules.pop("mine_tasks", None)


def test_an_installed_package_brings_its_tasks(site: Path) -> None:
    (site / "mine_tasks.py").write_text(PLUGIN.format(name="mine"))
    assert registry.resolve("mine").name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLUGIN.format(name="mmlu"), r"entry point mine = mine_tasks: there is a task mmlu already"),
        ("import nothing_of_the_kind", r"entry point mine = mine_tasks can't be loaded .*nothing_of_the_kind"),
        ("", r"entry point mine = mine_tasks can't be loaded .*TASKS"),
    ],
)
def test_a_package_whose_tasks_can_not_be_had_is_named(site: Path, text: str, message: str) -> None:
    (site / "mine_tasks.py").write_text(text)
    with pytest.raises(EvalkitError, match=message):
        registry.task_classes()
