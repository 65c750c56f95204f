"""docs/tasks.md, followed as it is written; and tasks that other packages bring along."""

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
from lm_eval_reference import Ours, answered_by

from evalkit import cli
from evalkit.errors import EvalkitError
from evalkit.record.read import read_run
from evalkit.record.schema import Run
from evalkit.tasks import registry

ROOT = Path(__file__).parents[2]
OWN, BUILT_IN = (ROOT / "docs" / "tasks.md").read_text("utf-8").split("\n## A built-in task\n")
FILES = dict(re.findall(r"^`([^`\n]+)`:\n\n```\w+\n(.*?)^```", OWN, re.DOTALL | re.MULTILINE))
TASK_FILES = dict(re.findall(r"^### \d\. `([^`\n]+)`\n.*?^```\w+\n(.*?)^```", BUILT_IN, re.DOTALL | re.MULTILINE))


def commands(text: str) -> list[str]:
    return re.findall(r"^    (evalkit [^#\n]+)", text, re.MULTILINE)


def test_the_page_is_short() -> None:
    assert FILES.keys() == {"capitals.csv", "capitals.toml", "examples.csv", "my_tasks.py", "short.toml"}
    assert max(len(list(filter(None, text.splitlines()))) for text in FILES.values()) <= 15
    assert len(TASK_FILES) == 3
    assert sum(len(text.splitlines()) for text in TASK_FILES.values()) <= 55
    assert (len(commands(OWN)), len(commands(BUILT_IN))) == (8, 3)


def test_a_task_of_ones_own_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are drawn: what a prompt scores is nothing here, and every path but the engine's is the real one."""
    answered_by(monkeypatch, Ours)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_DATA", "sample")
    for name, text in FILES.items():
        Path(name).write_text(text, "utf-8")
    runs: list[Run] = []
    for number, command in enumerate(commands(OWN)):
        named = ["--name", str(number), "--limit", "12", "--quiet"] if " run " in command else []
        assert cli.main([*shlex.split(command)[1:], *named]) == 0, command
        runs += [read_run(Path("results/runs") / str(number))] if named else []
    entries = [{key: (entry.protocol, entry.n) for key, entry in run.tasks.items()} for run in runs]
    table, described, python, chat, two, single, own = entries
    assert {key: n for key, (_, n) in (table | described | python).items()} == {
        "capitals.csv": 3,
        "capitals.toml": 3,
        "my_tasks.py:capitals": 2,
    }
    assert re.fullmatch(r"short\+file-[0-9a-f]{8}", python["my_tasks.py:capitals"][0])
    assert {protocol for protocol, _ in chat.values()} == {"qwen+chat"}
    assert two.keys() == {"mmlu@qwen", "mmlu@qwen+3-shot+chat"}
    assert single["gsm8k"][0] == "lm-eval+chat+single-turn"
    assert re.fullmatch(r"short-[0-9a-f]{8}", next(iter(own.values()))[0])


def test_a_built_in_task_runs_as_written(tmp_path: Path, tiny_model: Path) -> None:
    tasks = tmp_path / "tasks"
    shutil.copytree(ROOT / "tasks" / "evalkit_tasks", tasks / "evalkit_tasks", ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in TASK_FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tasks, ROOT, ROOT / "model"))), "OMP_NUM_THREADS": "1"}
    printed = []
    for command in commands(BUILT_IN):
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
    assert json.loads((tmp_path / "results/runs/capitals/run.json").read_text("utf-8"))["tasks"]["capitals"]["data"]["sha256"] in BUILT_IN


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
