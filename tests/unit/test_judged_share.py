"""A judge's score corrected by its errors: the formulas, their coverage, and `evalkit correct` on runs and labels."""

import json
from collections.abc import Sequence
from gzip import open as open_gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import fake_run, sample, write_samples
from report_runs import entry, run

from evalkit import cli
from evalkit.errors import EvalkitError
from evalkit.record.write import write_record
from evalkit.stats.estimate import mean
from evalkit.stats.judged_share import Count, JudgeRates, corrected


@pytest.mark.parametrize(
    ("passed", "sensitivity", "specificity", "value", "interval"),
    [
        (Count(400, 1_000), Count(180, 200), Count(140, 200), 0.1666666666666668, (0.05635072484160894, 0.2627330257859588)),
        (Count(742, 1_319), Count(90, 100), Count(70, 80), 0.5645772701704614, (0.4932278906137983, 0.6353414469202637)),
        (Count(12, 100), Count(45, 50), Count(48, 50), 0.09302325581395358, (0.0, 0.192341321370018)),
    ],
)
def test_the_papers_figures(passed: Count, sensitivity: Count, specificity: Count, value: float, interval: tuple[float, float]) -> None:
    """What the authors' own code gives (UW-Madison-Lee-Lab/LLM-judge-reporting, point_estimator and confidence_interval)."""
    found = corrected(passed, JudgeRates(sensitivity, specificity))
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.ci95 == pytest.approx(interval, abs=1e-12)


def test_a_perfect_judge_is_believed() -> None:
    found = corrected(Count(300, 1_000), JudgeRates(Count(5_000, 5_000), Count(5_000, 5_000)))
    assert found.value == pytest.approx(0.3)
    assert found.ci95[0] < 0.3 < found.ci95[1]
    assert found.ci95[1] - found.ci95[0] == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 1_000), rel=0.03)


@pytest.mark.parametrize(
    ("theta", "sensitivity", "specificity", "n", "labelled"),
    [(0.3, 0.9, 0.7, 500, 100), (0.8, 0.8, 0.9, 1_319, 200), (0.55, 0.95, 0.6, 300, 60), (0.1, 0.85, 0.95, 1_000, 300)],
)
def test_coverage(theta: float, sensitivity: float, specificity: float, n: int, labelled: int) -> None:
    """2,000 draws of all three: the interval holds the truth in 95% of them, where the raw share hardly ever does."""
    rng = np.random.default_rng(0)
    hits = raw = 0
    for _ in range(2_000):
        right = int(rng.binomial(n, theta))
        passed = int(rng.binomial(right, sensitivity) + rng.binomial(n - right, 1 - specificity))
        rates = JudgeRates(
            Count(int(rng.binomial(labelled, sensitivity)), labelled), Count(int(rng.binomial(labelled, specificity)), labelled)
        )
        low, high = corrected(Count(passed, n), rates).ci95
        hits += low <= theta <= high
        low, high = Count(passed, n).share.ci95
        raw += low <= theta <= high
    assert 0.94 <= hits / 2_000 <= 0.975
    assert raw / 2_000 < 0.9


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        (Count(0, 0), Count(5, 10), "none of the labelled answers is right"),
        (Count(9, 10), Count(0, 0), "none of the labelled answers is wrong"),
        (Count(50, 100), Count(50, 100), "passed 50 of 100 right answers and 50 of 100 wrong ones, which chance may explain"),
        (Count(3, 4), Count(3, 4), "label more answers"),
        (Count(10, 100), Count(10, 100), "cannot be corrected"),  # worse than chance: the labels may be the wrong way round
    ],
)
def test_a_judge_that_says_nothing_is_refused(right: Count, wrong: Count, complaint: str) -> None:
    with pytest.raises(EvalkitError, match=complaint):
        corrected(Count(50, 100), JudgeRates(right, wrong))


# --- the command -----------------------------------------------------------------------------------------------------


def labels(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def judged_run(folder: Path, truth: Sequence[bool], sensitivity: float, specificity: float, seed: int) -> str:
    """A run whose judge errs at these rates."""
    chance = np.random.default_rng(seed).random(len(truth))
    return str(
        fake_run(
            folder,
            folder.name,
            gsm8k=[float(x < sensitivity if right else x >= specificity) for right, x in zip(truth, chance, strict=True)],
        )
    )


def test_labels_of_some_answers_correct_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = (np.random.default_rng(1).random(1_000) < 0.4).tolist()
    judged = judged_run(tmp_path / "run", truth, 0.9, 0.75, 3)
    file = labels(tmp_path / "labels.jsonl", [{"id": f"d{i}", "right": right} for i, right in enumerate(truth[:300])])
    assert cli.main(["correct", judged, "--labels", file, "--json", str(tmp_path / "c.json")]) == 0
    printed = capsys.readouterr().out
    assert "700 answers without a label" in printed
    found = json.loads((tmp_path / "c.json").read_text())
    assert (found["schema"], found["kind"], found["task"], found["right_from"]) == (1, "correction", "gsm8k", 1.0)
    assert found["sensitivity"]["n"] == sum(truth[:300])
    assert found["specificity"]["n"] == 300 - sum(truth[:300])
    assert found["passed"]["n"] == found["corrected"]["n"] == 700
    true_share = sum(truth[300:]) / 700
    low, high = found["corrected"]["ci95"]
    assert low < true_share < high
    assert not found["passed"]["ci95"][0] < true_share < found["passed"]["ci95"][1]
    assert f"{100 * low:.2f} to {100 * high:.2f}" in printed


def test_labels_of_another_run_and_ratings(tmp_path: Path) -> None:
    """A judge rates from 1 to 10; its labels are of another model's answers, found by their questions."""
    rng = np.random.default_rng(3)
    for name, share in (("labelled", 0.5), ("run", 0.7)):
        folder = tmp_path / name
        truth = rng.random(400) < share
        ratings = np.where(truth, rng.integers(6, 11, 400), rng.integers(1, 8, 400)).tolist()
        rows = [sample(i, rating, name, metrics={"score": float(rating)}) for i, rating in enumerate(ratings)]
        write_samples(folder, "mt_bench", rows)
        record = entry(0.0, headline="score", metrics={"score": mean(ratings)}, n=400, n_total=400)
        write_record(folder, run(name, name, mt_bench=record))
        labels(tmp_path / f"{name}.jsonl", [{"question": f"q{i}", "right": bool(right)} for i, right in enumerate(truth)])
    arguments = ["correct", str(tmp_path / "run"), "--labels", str(tmp_path / "labelled.jsonl"), "--labelled", str(tmp_path / "labelled")]
    assert cli.main([*arguments, "--right-from", "7", "--json", str(tmp_path / "c.json")]) == 0
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["corrected"]["n"] == 400
    assert found["corrected"]["ci95"][0] < truth.mean() < found["corrected"]["ci95"][1]


def test_what_does_not_fit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = [True, False] * 50
    judged = judged_run(tmp_path / "run", truth, 0.9, 0.9, 0)
    good = [{"id": f"d{i}", "right": right} for i, right in enumerate(truth)]
    for rows, complaint in (
        ([{"id": "d1"}], 'line 1 is no label; each is {"id": .. or "question": .., "right": true or false}'),
        ([{"id": "d1", "right": 1}], "line 1 is no label"),
        ([*good[:2], {"id": "x", "right": True}], "line 3 fits no document of the run: 'x'; ids are those of its samples/"),
        ([*good[:2], good[0]], "line 3 labels document d0 again"),
        (good, "has a label for every answer"),
        ([], "holds no labels"),
        (good[:3], "chance may explain"),
        ([{"question": ["q1"], "right": True}], "line 1 fits no document of the run: \"['q1']\""),
        ([{"question": None, "right": True}], "line 1 fits no document of the run: 'None'"),
        ([{**good[0], "question": "q1"}], "line 1: document d0 asks another question"),
    ):
        assert cli.main(["correct", judged, "--labels", labels(tmp_path / "l.jsonl", rows)]) == 2
        assert complaint in capsys.readouterr().err
    file = labels(tmp_path / "l.jsonl", good[:60])
    for options, complaint in (
        (["--task", "mmlu"], "unknown task in"),
        (["--labels", str(tmp_path / "none.jsonl")], "none.jsonl: no such file"),
        (["--labels", "/dev/null"], "/dev/null: not a regular file"),
        (["--metric", "score"], "has no number as its score"),
        (["--right-from", "nan"], "--right-from is nan; give a score"),
        (["--labelled", str(tmp_path / "none")], "is not a run"),
        (["--json", ""], "--json . is a folder; give a file's name"),
    ):
        assert cli.main(["correct", judged, "--labels", file, *options]) == 2
        assert complaint in capsys.readouterr().err
    write_samples(tmp_path / "run", "gsm8k", [sample(i, 3.0, "x") for i in range(100)])
    assert cli.main(["correct", judged, "--labels", file]) == 2
    assert "acc of gsm8k is a rating; say from which one an answer counts as right" in capsys.readouterr().err
    write_samples(tmp_path / "run", "gsm8k", [sample(i, 1.0, "x", cluster="passage 1") for i in range(100)])
    assert cli.main(["correct", judged, "--labels", file]) == 2
    assert "share sources (passage 1)" in capsys.readouterr().err


def test_questions_that_are_no_texts_are_no_names(tmp_path: Path) -> None:
    """Of some tasks "question" is a list or an object."""
    truth = [True, False] * 100
    judged = judged_run(tmp_path / "run", truth, 0.9, 0.9, 0)
    file = tmp_path / "run" / "samples" / "gsm8k.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"doc": {"question": [{"role": "user"}]}}) + "\n" for row in rows))
    given = labels(tmp_path / "l.jsonl", [{"id": f"d{i}", "right": right} for i, right in enumerate(truth[:100])])
    assert cli.main(["correct", judged, "--labels", given]) == 0


def test_openais_solutions(data_dir: Path, tmp_path: Path) -> None:
    """4 x 1,319 published answers with their right verdicts: a judge of known errors, measured on one model's, corrects the others'."""
    with open_gzip(data_dir / "published" / "gsm8k" / "openai_example_model_solutions.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    models = [name for name, value in rows[0].items() if isinstance(value, dict)]
    truth = {model: [row[model]["is_correct"] for row in rows] for model in models}
    assert {model: sum(right) for model, right in truth.items()} == {
        "6b_finetuning": 286,
        "6b_verification": 515,
        "175b_finetuning": 458,
        "175b_verification": 742,
    }
    first, second = models[-1], models[0]
    judged = {model: judged_run(tmp_path / model, truth[model], 0.92, 0.8, seed) for seed, model in enumerate((first, second), 10)}
    file = labels(tmp_path / "labels.jsonl", [{"id": f"d{i}", "right": right} for i, right in enumerate(truth[first])])
    out = tmp_path / "c.json"
    assert cli.main(["correct", judged[second], "--labels", file, "--labelled", judged[first], "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["corrected"]["ci95"][0] <= 286 / 1_319 <= found["corrected"]["ci95"][1]
    assert found["passed"]["ci95"][0] > 286 / 1_319
    # and over many such judges
    rng, hits = np.random.default_rng(0), 0
    for _ in range(500):
        for model in models[:-1]:
            known, right = np.array(truth[first]), np.array(truth[model])
            said, passed = (np.where(t, rng.random(1_319) < 0.92, rng.random(1_319) >= 0.8) for t in (known, right))
            rates = JudgeRates(Count(int(said[known].sum()), 742), Count(int((~said[~known]).sum()), 577))
            low, high = corrected(Count(int(passed.sum()), 1_319), rates).ci95
            hits += low <= right.mean() <= high
    assert hits / 1_500 >= 0.94
