"""`evalkit gate BASE CAND --replay-order --order margin`: what is drawn first, what follows, where it is told, and what is refused."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from fake_runs import fake_run, sample, write_samples

from evalkit import cli
from evalkit.comparison.gate_config import Sequential
from evalkit.comparison.gate_rule import fails, passes
from evalkit.comparison.sequential_task import SequentialTask
from evalkit.errors import EvalkitError
from evalkit.record.pairs import Answer, Pairs
from evalkit.tasks import Loglikelihood, Loglikelihoods


def choices(n: int, flipped: float, lower_is_better: bool = False, drop: float = 0.0, seed: int = 0) -> Pairs:
    """Questions of four options: the closer the base's decision, the likelier the candidate flips it; `drop`: lost on top, anywhere."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1.0, n)
    before = rng.random(n) < 0.5
    flips = rng.random(n) < np.where(gaps < np.quantile(gaps, 0.1), 10 * flipped, 0.0)
    after = np.where(flips, ~before, before) & ~(before & (rng.random(n) < drop / 0.5))
    ids = tuple(f"d{i}" for i in range(n))

    def answers(scores: Any, side: int) -> tuple[Answer, ...]:
        said = [(-1.0 - gap, -1.0, -9.0, -8.0 - side) for gap in gaps.tolist()]
        scores = 1 - scores if lower_is_better else scores
        return tuple(Answer("", "", f"g{i % 19}", "", float(scores[i]), "", "", "", said[i]) for i in range(n))

    return Pairs("t", "acc", "t@p", "micro", ids, answers(before, 0), answers(after, 1), lower_is_better=lower_is_better)


def look(task: SequentialTask) -> None:
    by_id = dict(zip(task.pairs.ids, task.pairs.cand, strict=True))
    task.look({doc: by_id[doc] for doc in task.due})


def decided(pairs: Pairs, seed: int, guided: bool, margin: float = 0.03) -> tuple[str, int]:
    task = SequentialTask(pairs, margin, seed, guided=guided, allow_small_margin=True)
    while (outcome := task.decide(task.p_drop) if task.seen else None) is None:
        look(task)
    return outcome.word, len(task.seen)


def test_documents_whose_decision_was_close_come_first_and_spare_others() -> None:
    pairs = choices(2_000, 0.08)
    runs = {guided: [decided(pairs, seed, guided) for seed in range(5)] for guided in (False, True)}
    assert {word for some in runs.values() for word, _ in some} == {"pass"}
    assert median(n for _, n in runs[True]) < 0.75 * median(n for _, n in runs[False])
    assert decided(choices(2_000, 0.02, drop=0.1), 0, True)[0] == "fail"
    # nothing flips: as many as in the other order
    same = choices(2_000, 0.0)
    assert abs(decided(same, 0, True)[1] - decided(same, 0, False)[1]) < 60


def test_the_same_seed_is_the_same_order_and_the_bounds_hold_the_mean() -> None:
    pairs = choices(600, 0.05, drop=0.02)
    mean = float(np.mean([b.score - a.score for a, b in zip(pairs.base, pairs.cand, strict=True)]))  # type: ignore[operator]
    tasks = [SequentialTask(pairs, 0.03, seed, guided=True, allow_small_margin=True) for seed in (0, 0, 1)]
    for task in tasks:
        while task.due:
            look(task)
        for each in task.looks:
            assert each.ci95[0] - 1e-9 <= mean <= each.ci95[1] + 1e-9
        assert sorted(task.seen) == list(range(600))
    assert tasks[0].looks == tasks[1].looks != tasks[2].looks


def test_once_all_are_in_it_is_the_fixed_gate() -> None:
    pairs = choices(400, 0.1, drop=0.02)
    ends = []
    for guided in (False, True):
        task = SequentialTask(pairs, 0.03, 0, guided=guided, allow_small_margin=True)
        while task.due:
            look(task)
        ends.append(replace(task.decide(task.p_drop), looks=()))  # type: ignore[type-var]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_the_documents_seen_are_weighted(lower_is_better: bool) -> None:
    """The closest 8th flips most and is drawn most: as if all were drawn alike, the drop would seem larger than it is."""
    pairs = choices(2_000, 0.08, lower_is_better)
    cand = [replace(b, score=a.score) if (b.score > a.score) != lower_is_better else b for a, b in zip(pairs.base, pairs.cand, strict=True)]  # type: ignore[operator]
    pairs = replace(pairs, cand=tuple(cand))  # what was gained is not: a real drop
    task = SequentialTask(pairs, 0.02, 0, guided=True, allow_small_margin=True)
    for _ in range(5):
        look(task)
    d = task.fixed.difference
    assert task.guided
    sums, counts = np.zeros(5), np.zeros(5)
    for i in task.seen:
        counts[task.guided.strata[i]] += 1
        sums[task.guided.strata[i]] += task.seen[i].score - pairs.base[i].score  # type: ignore[operator]
    assert d.value == pytest.approx(float((sums / counts) @ task.guided.sizes_S / 2_000))
    assert abs(d.value) < 0.8 * abs(sums.sum() / counts.sum())
    assert d.gain < 0
    assert d.cand - d.base == pytest.approx(d.value)
    assert d.lower < d.value < d.upper
    assert d.p_drop < 0.05 < 1 - d.p_drop
    assert task.difference.method == "guided betting"
    assert task.difference.value == d.value
    assert task.difference.ci95[0] < d.value < task.difference.ci95[1]


def test_the_simulated_rule_is_the_gates() -> None:
    """docs/statistics.md's figures are of the rule that the gate applies."""
    from tests.simulations.guided_gate import weighted_rule

    for seed, (flipped, drop) in enumerate([(0.02, 0.0), (0.06, 0.0), (0.02, 0.03), (0.0, 0.05), (0.0, 0.0)]):
        pairs = choices(1_500, flipped, drop=drop, seed=seed)
        task = SequentialTask(pairs, 0.02, seed, guided=True, allow_small_margin=True)
        assert task.guided
        for _ in range(6):
            look(task)
            seen = np.zeros((1, 5, 3), int)
            for i in task.seen:
                seen[0, task.guided.strata[i], int(task.seen[i].score - pairs.base[i].score) + 1] += 1  # type: ignore[operator]
            d = task.fixed.difference
            found = weighted_rule(seen, task.guided.sizes_S.astype(int), 0.02)
            assert [bool(each[0]) for each in found] == [passes(d, 0.02), fails(d, d.p_drop, 0.02)]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """Two runs of 600 questions with options; the closest decisions flip."""
    folders = []
    for name in "ab":
        scores = [1.0 if name == "a" or i % 40 else 0.0 for i in range(600)]
        folders.append(str(fake_run(tmp_path / name, name, mmlu=scores)))
        rows = [sample(i, score, "") for i, score in enumerate(scores)]
        for i, row in enumerate(rows):
            gap = 0.01 * i if i % 40 else 0.001
            row["requests"] = [asdict(Loglikelihood(f"q{i}", (" A", " B")))]
            row["responses"] = [asdict(Loglikelihoods((-1.0, -1.0 - gap - (name == "b")), (True, False)))]
        write_samples(tmp_path / name, "mmlu", rows)
    return folders


def test_the_order_is_told_and_audited(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = ["gate", *runs, "--replay-order", "--order", "margin", "--margin", "0.06", "--allow-small-margin"]
    assert cli.main([*gate, "--json", str(tmp_path / "gate.json"), "--bundle", str(tmp_path / "bundle")]) == 0
    assert "in the order of --order-seed 0 --block 17 --order margin; docs/statistics.md" in capsys.readouterr().out
    found = json.loads((tmp_path / "gate.json").read_text())["tasks"]["mmlu@qwen"]
    assert (found["method"], found["of"]) == ("guided betting", 600)
    assert found["n"] < 600
    assert cli.main(["audit", str(tmp_path / "bundle")]) == 0
    assert "--order margin" in capsys.readouterr().out
    assert cli.main([*gate, "--order", "uniform", "--json", str(tmp_path / "other.json")]) == 0
    other = json.loads((tmp_path / "other.json").read_text())["tasks"]["mmlu@qwen"]
    assert other["method"] == "betting"
    assert "--order margin" not in capsys.readouterr().out


def test_answers_that_do_not_tell_how_close_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [str(fake_run(tmp_path / name, name, gsm8k=[1.0] * 400)) for name in "ab"]
    assert cli.main(["gate", *texts, "--replay-order", "--order", "margin", "--margin", "0.05"]) == 2
    assert "--order margin: gsm8k@qwen's answers hold no log-probabilities of options" in capsys.readouterr().err
    assert cli.main(["gate", *texts, "--order", "margin"]) == 2
    assert "--order has no effect, since nothing is run: add --sequential" in capsys.readouterr().err
    with pytest.raises(EvalkitError, match="--order"):
        Sequential(None, order="closest")
