"""Generated configurations run by lm-eval itself: compare and view give its own figures, or refuse; none is another one."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lm_eval_configs import evaluate, make

from evalkit.comparison.compare import compare
from evalkit.errors import EvalkitError
from evalkit.view.read import read

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytest.importorskip("yaml", reason="comes with lm-eval")


def stated(folder: Path) -> dict[str, dict[str, Any]]:
    """lm-eval's own figures, by task or group."""
    (file,) = folder.glob("*/results_*.json")
    found: dict[str, dict[str, Any]] = json.loads(file.read_text())["results"]
    return found


def check(folder: Path) -> Counter[str]:
    """Compare and view one configuration, as a whole and metric by metric; every figure must be lm-eval's."""
    base, cand = (str(folder / name) for name in ("base", "cand"))
    figures = {name: stated(folder / name) for name in ("base", "cand")}
    outcomes: Counter[str] = Counter()
    leaves = {file.stem.removeprefix("samples_").rpartition("_")[0] for file in folder.glob("base/*/samples_*")}
    asked: list[tuple[tuple[str, ...], str | None]] = [((), None)]
    asked += [((name,), key) for name in figures["base"] for key in figures["base"][name] if "," in key and "_stderr," not in key]
    for tasks, metric in asked:
        try:
            found = compare(base, cand, tasks, metric)
        except EvalkitError:
            outcomes["refused"] += 1
            continue
        for task in found.tasks:
            pairs, d = task.pairs, task.difference
            points = 100 if pairs.metric.startswith("bleu,") else 1
            task_name = pairs.task.partition("/")[0]  # of documents that have this metric
            own = [figures[name][task_name][pairs.metric] for name in ("base", "cand")]
            assert (points * d.base, points * d.cand) == pytest.approx(own, abs=1e-9, rel=1e-9), (
                f"{folder.name} {pairs.task} {pairs.metric}"
            )
            outcomes["a group" if task_name not in leaves else "a task"] += 1
    try:
        about = read(base).about["tasks"]
    except EvalkitError:
        outcomes["view refused"] += 1
        return outcomes
    for name, task in about.items():
        assert task["value"] == pytest.approx(figures["base"][name.partition("/")[0]][task["metric"]], abs=1e-9, rel=1e-9)
        outcomes["viewed"] += 1
    return outcomes


def differential(folder: Path, count: int) -> Counter[str]:
    configs = make(folder, count)
    evaluate(folder, configs)
    return sum((check(folder / config["name"]) for config in configs), Counter())


@pytest.mark.slow
def test_a_few_configurations(tmp_path: Path) -> None:
    outcomes = differential(tmp_path, 8)
    assert outcomes["a task"] >= 5
    assert outcomes["a group"] >= 1
    assert outcomes["viewed"] >= 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sixty_configurations(tmp_path: Path) -> None:
    outcomes = differential(tmp_path, 60)
    assert outcomes["a task"] >= 60
    assert outcomes["a group"] >= 10
    assert outcomes["viewed"] >= 30
    assert outcomes["refused"] >= 10
