"""A run.json that contradicts itself is refused in one line, whoever reads it."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_runs import fake_run

from evalkit import cli
from evalkit.record.consistent import contradictions
from evalkit.record.read import read_run

BASELINES = sorted((Path(__file__).parents[2] / "results" / "baselines").glob("*/run.json"))


@pytest.mark.parametrize(
    ("keys", "value", "complaint"),
    [
        ("tasks.mmlu.n", 164, "tasks.mmlu.n is 164 of n_total 100"),
        ("limit", 50, "tasks.mmlu.n is 100, and the run's limit 50"),
        ("tasks.mmlu.counts.truncated", -5, "tasks.mmlu.counts.truncated is -5 of n 100"),
        ("tasks.mmlu.counts.extraction_failed", 500, "tasks.mmlu.counts.extraction_failed is 500 of n 100"),
        ("tasks.mmlu.metrics.acc.ci95", [0.7, 0.5], "tasks.mmlu.metrics.acc.ci95 begins at 0.7 and ends at 0.5"),
        ("tasks.mmlu.metrics.acc.value", 0.9, "tasks.mmlu.metrics.acc.value is 0.9, far outside its ci95 of 0.502"),
        ("tasks.mmlu.groups", {"a": {"acc": {"value": 1.6, "stderr": 0, "ci95": [0, 1], "n": 3}}}, "tasks.mmlu.groups.a.acc.value is 1.6"),
    ],
)
def test_contradictions(keys: str, value: Any, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = fake_run(tmp_path / "r", "r", mmlu=[1.0] * 60 + [0.0] * 40) / "run.json"
    read_run(file)
    record = json.loads(file.read_text())
    *path, last = keys.split(".")
    place = record
    for key in path:
        place = place[key]
    place[last] = value
    file.write_text(json.dumps(record))
    assert cli.main(["report", str(tmp_path / "r"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"run.json contradicts itself: {complaint}" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("file", BASELINES, ids=lambda file: file.parent.name)
def test_tracked_runs_do_not(file: Path) -> None:
    assert list(contradictions(read_run(file))) == []
