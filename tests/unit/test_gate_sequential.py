"""`evalkit gate BASE CAND --replay-order`: what a gate that stops by itself decides, when, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import edit_run, fake_run, flips, sample, write_samples
from report_runs import entry, run

from evalkit import cli
from evalkit.comparison import gate
from evalkit.comparison.gate_config import GateConfig, Margins, Sequential
from evalkit.comparison.gate_outcome import GateOutcome
from evalkit.comparison.gate_rule import fails, passes
from evalkit.comparison.sequential_task import SequentialTask
from evalkit.errors import EvalkitError
from evalkit.record.pairs import Answer, Pairs
from evalkit.record.write import write_record
from evalkit.stats.estimate import macro, mean
from evalkit.stats.paired import paired


def two_runs(folder: Path, n: int, gained: int, lost: int) -> list[str]:
    base, cand = flips(n, gained, lost)
    order = np.random.default_rng(n).permutation(n)
    scores = [[run[i] for i in order] for run in (base, cand)]
    return [str(fake_run(folder / name, name, mmlu=some)) for name, some in zip("ab", scores, strict=True)]


def decided(runs: list[str], margin: str | float = 0.01, limits: dict[str, Any] | None = None, **options: Any) -> Any:
    return gate.decide(GateConfig(tuple(runs), Margins.parse(str(margin)), sequential=Sequential(None, **(limits or {})), **options))


def only(runs: list[str], *arguments: Any, **options: Any) -> GateOutcome:
    (outcome,) = decided(runs, *arguments, **options).outcomes
    assert isinstance(outcome, GateOutcome)
    return outcome


def test_it_stops_when_it_is_decided(tmp_path: Path) -> None:
    passed = only(two_runs(tmp_path / "pass", 5_000, 5, 5))
    assert passed.word == "pass"
    assert 300 <= passed.difference.n < 1_500
    assert passed.reason == f"a drop of the margin over all 5,000 documents is excluded after {passed.difference.n:,}"
    assert passed.difference.lower > -0.01
    failed = only(two_runs(tmp_path / "fail", 5_000, 10, 260))
    assert failed.word == "fail"
    assert failed.difference.n < 1_000
    assert failed.difference.upper < 0
    for outcome in (passed, failed):
        assert (outcome.of, outcome.difference.method) == (5_000, "betting")
        assert [look.documents for look in outcome.looks] == sorted({look.documents for look in outcome.looks})
        assert outcome.looks[-1].documents == outcome.difference.n
        assert outcome.looks[-1].ci95 == outcome.difference.ci95


def test_another_seed_is_another_order_and_the_same_seed_the_same(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, 3_000, 30, 40)
    assert only(runs, 0.02) == only(runs, 0.02) != only(runs, 0.02, {"order_seed": 1})


def test_once_all_are_in_it_is_the_fixed_gate(tmp_path: Path) -> None:
    """Neither a drop nor its absence: the documents come to their end, and the fixed gate's figures stand to the last digit."""
    for name, n, gained, lost, margin in (("a", 1_000, 30, 38, 0.015), ("b", 60, 0, 0, 0.03)):
        runs = two_runs(tmp_path / name, n, gained, lost)
        (fixed,) = gate.decide(GateConfig(tuple(runs), Margins.parse(str(margin)), allow_small_margin=True)).outcomes
        found = only(runs, margin, allow_small_margin=True)
        assert found.looks[-1].documents == n
        assert replace(found, looks=(), of=None) == fixed


def test_an_early_pass_is_one_that_the_fixed_gate_gives_on_the_documents_seen() -> None:
    """All but the last documents tell their mean almost exactly, which alone would pass what the whole run could not."""
    base, cand = flips(1_000, 60, 70)
    order = np.random.default_rng(1_000).permutation(1_000)
    scores = [(base[i], cand[i]) for i in order]
    task = SequentialTask(pairs(scores, [f"subject{i % 3}" for i in range(1_000)]), 0.0275, 0, allow_small_margin=True)
    while len(task.blocks) > 1:
        look(task)
        assert task.decide(task.p_drop) is None
    assert task.difference.lower > -0.0275
    look(task)
    assert task.decide(task.p_drop).word == "inconclusive"  # type: ignore[union-attr]


def test_the_margin_that_these_documents_cannot_detect_is_refused_before_the_first(tmp_path: Path) -> None:
    with pytest.raises(EvalkitError, match=r"margin 0\.01 is below what mmlu@qwen's 50 documents can detect"):
        decided(two_runs(tmp_path, 50, 20, 1))


def test_a_limit(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, 5_000, 250, 255)
    found = only(runs, 0.01, {"max_documents": 400})
    assert found.word == "inconclusive"
    assert 390 <= found.difference.n <= 410
    assert found.needed is not None
    assert 400 < found.needed <= 5_000
    assert found.reason.startswith(
        f"undecided: --max-documents 400 after {found.difference.n} of 5,000 documents; about {found.needed:,} would"
    )
    assert gate.gate_runs(GateConfig(tuple(runs), sequential=Sequential(max_documents=400))) == 3


def test_a_limit_before_documents_that_would_hardly_decide(tmp_path: Path) -> None:
    found = only(two_runs(tmp_path, 60, 2, 1), 0.01, {"max_documents": 40}, allow_small_margin=True)
    assert found.needed == 60
    assert "of 60 documents; all of them may be too few" in found.reason


def test_blocks_of_another_size(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, 3_000, 0, 0)
    assert [look.documents for look in only(runs, 0.01, {"block": 400}).looks] == pytest.approx([400, 800], abs=10)
    assert len(only(runs, 0.01, {"block": 50}).looks) > 6


def test_a_margin_by_the_task_and_its_protocol(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, 3_000, 0, 0)
    assert decided(runs, "mmlu@qwen=0.02").word == decided(runs, "mmlu=0.02").word == "pass"


def test_tasks_take_turns_and_the_first_that_fails_ends_the_gate(tmp_path: Path) -> None:
    good, bad, unclear = flips(2_000, 0, 0), flips(2_000, 5, 360), flips(2_000, 80, 96)
    runs = [str(fake_run(tmp_path / name, name, mmlu=unclear[i], arc=good[i], gsm8k=bad[i])) for i, name in enumerate("ab")]
    found = decided(runs)
    assert {o.task: o.word for o in found.outcomes} == {"mmlu@qwen": "inconclusive", "arc@qwen": "inconclusive", "gsm8k@qwen": "fail"}
    assert found.word == "fail"
    assert found.outcomes[0].reason.startswith("not decided, since the gate had failed by then, after")
    assert max(o.difference.n for o in found.outcomes) < 400
    # what had no turn is said, and has no figure
    first = [str(fake_run(tmp_path / f"first {name}", name, gsm8k=bad[i], mmlu=unclear[i])) for i, name in enumerate("ab")]
    assert [o.task for o in decided(first).outcomes] == ["gsm8k@qwen"]
    assert "mmlu@qwen: not looked at, since the gate had failed by then" in decided(first).notes
    assert decided(runs, tasks=("arc",)).word == "pass"


def test_holm_over_tasks(tmp_path: Path) -> None:
    """The p of each is larger among four, so the same drop takes at least as many documents."""
    some, same = flips(2_000, 10, 70), flips(2_000, 20, 20)
    alone = [str(fake_run(tmp_path / "1" / name, name, mmlu=some[i])) for i, name in enumerate("ab")]
    four = [
        str(fake_run(tmp_path / "4" / name, name, mmlu=some[i], arc=same[i], gsm8k=same[i], mgsm=same[i])) for i, name in enumerate("ab")
    ]
    one = only(alone, 0.02)
    among = decided(four, 0.02).outcomes[0]
    assert one.word == among.word == "fail"
    assert one.difference.n <= among.difference.n
    look = next(look for look in one.looks if look.documents == among.looks[0].documents)
    assert look == among.looks[0]  # the sequence itself is the same
    assert among.p_drop >= among.difference.p_drop


@pytest.mark.parametrize(("gained", "lost", "word", "most"), [(0, 0, "pass", 700), (140, 702, "fail", 700)])
def test_documents_of_all_mmlu(gained: int, lost: int, word: str, most: int) -> None:
    """Identical, and a drop of 4 points: at a margin of 1 point, of 14,042 documents."""
    base, cand = flips(14_042, gained, lost)
    order = np.random.default_rng(0).permutation(14_042)
    task = SequentialTask(pairs([(base[i], cand[i]) for i in order], [f"subject{i % 57}" for i in range(14_042)]), 0.01, 0)
    while (outcome := task.decide(task.p_drop) if task.seen else None) is None:
        look(task)
    assert (outcome.word, outcome.difference.n <= most) == (word, True)


def test_the_simulated_rule_is_the_gates() -> None:
    """docs/statistics.md's figures are of the rule that the gate applies."""
    from tests.simulations.sequential_gate import fixed_rule

    rng = np.random.default_rng(5)
    for cluster in (1, 4):
        for _ in range(40):
            n, margin = int(rng.integers(30, 300)), float(rng.choice([0.02, 0.05, 0.1]))
            lost, gained = (int(x) for x in rng.integers(0, n // 5, 2) * rng.integers(0, 2, 2))
            base, cand = flips(n, gained, lost)
            clusters = [f"{i}" for i in range(n) for _ in range(cluster)] if cluster > 1 else []
            d = paired(np.repeat(base, cluster).tolist(), np.repeat(cand, cluster).tolist(), clusters)
            found = fixed_rule(np.array([[lost, n - lost - gained, gained]], float), margin, cluster)
            if cluster == 1 or lost + gained:
                assert [bool(x[0]) for x in found] == [passes(d, margin), fails(d, d.p_drop, margin)], (n, gained, lost, margin, cluster)


# --- what is drawn ---------------------------------------------------------------------------------------------------


def pairs(scores: list[tuple[float, float]], groups: list[str], clusters: list[str] | None = None, averaging: str = "micro") -> Pairs:
    ids = tuple(f"d{i}" for i in range(len(scores)))

    def answers(side: int) -> tuple[Answer, ...]:
        return tuple(
            Answer("", "", groups[i], clusters[i] if clusters else "", score[side], "", "", "", (f"{side}{i}",))
            for i, score in enumerate(scores)
        )

    return Pairs("t", "acc", "t@p", averaging, ids, answers(0), answers(1))


def look(task: SequentialTask) -> None:
    """The next block's answers are those that the pairs hold."""
    by_id = dict(zip(task.pairs.ids, task.pairs.cand, strict=True))
    task.look({doc: by_id[doc] for doc in task.due})


def test_clusters_are_drawn_whole_and_are_the_unit() -> None:
    """A passage's four documents change together: as documents they would seem to say four times as much."""
    rng = np.random.default_rng(0)
    lost = np.repeat(rng.random(500) < 0.03, 4)
    scores = [(1.0, float(not x)) for x in lost]
    clusters = [f"passage {i // 4}" for i in range(2_000)]
    task = SequentialTask(pairs(scores, ["g"] * 2_000, clusters), 0.05, 0)
    assert len(task.units) == 500
    for block in task.blocks:
        assert len({i // 4 for unit in block for i in task.units[unit]}) * 4 == sum(len(task.units[unit]) for unit in block)
    alone = SequentialTask(pairs(scores, ["g"] * 2_000), 0.05, 0)
    for each in (task, alone):
        look(each)
        look(each)
    assert task.difference.lower < alone.difference.lower
    assert task.sequence.n * 4 == task.difference.n


def test_groups_of_equal_weight() -> None:
    """The mean of the groups' means, however many documents each has: its interval closes on that figure."""
    groups = ["small"] * 40 + ["large"] * 400
    scores = [(1.0, 0.0)] * 10 + [(1.0, 1.0)] * 430
    task = SequentialTask(pairs(scores, groups, averaging="macro"), 0.05, 0, allow_small_margin=True)
    figure = macro([[-1.0] * 10 + [0.0] * 30, [0.0] * 400]).value
    while task.due:
        look(task)
    assert task.sequence.mean == pytest.approx(figure) == pytest.approx(task.difference.value)
    for each in task.looks:
        assert each.ci95[0] - 1e-9 <= figure <= each.ci95[1] + 1e-9


def test_graded_scores_and_a_metric_where_lower_is_better() -> None:
    rng = np.random.default_rng(3)
    scores = [(x, min(1.0, x + 0.2)) for x in rng.uniform(0, 0.8, 600).tolist()]
    better = SequentialTask(pairs(scores, ["g"] * 600), 0.05, 0, allow_small_margin=True)
    worse = SequentialTask(replace(pairs(scores, ["g"] * 600), lower_is_better=True), 0.05, 0, allow_small_margin=True)
    for task in (better, worse):
        for _ in range(3):
            look(task)
    assert (better.difference.value, better.difference.gain) == (pytest.approx(0.2), pytest.approx(0.2))
    assert worse.difference.gain == pytest.approx(-0.2)
    for task in (better, worse):  # intervals are of candidate - base
        assert 0 < task.difference.ci95[0] < 0.2 < task.difference.ci95[1]
    assert better.decide(better.p_drop).word == "pass"  # type: ignore[union-attr]
    assert worse.decide(worse.p_drop).word == "fail"  # type: ignore[union-attr]


def test_metrics_that_have_no_bounds_are_refused(tmp_path: Path) -> None:
    for name, score in (("bleu", [["reference"], "hypothesis"]), ("rating", 7.0)):
        for run_name in "ab":
            folder = tmp_path / name / run_name
            metrics = {"acc": mean([7.0] * 30)}
            write_samples(folder, "mmlu", [sample(i, 1.0, f"{i}", metrics={"acc": score}) for i in range(30)])
            if name == "rating":
                write_record(folder, run(run_name, run_name, mmlu=entry(0.0, metrics=metrics, n=30, n_total=30)))
        if name == "rating":
            with pytest.raises(EvalkitError, match=r"mmlu: acc is no mean of scores between 0 and 1.*without --sequential"):
                decided([str(tmp_path / name / each) for each in "ab"])


def test_a_score_out_of_bounds_is_refused_where_it_is_met() -> None:
    task = SequentialTask(pairs([(1.0, 1.0)] * 500 + [(1.0, 1.5)], ["g"] * 501), 0.05, 0)
    while "d500" not in task.due:
        look(task)
    with pytest.raises(EvalkitError, match=r"acc of document d500 is 1\.5, not between 0 and 1"):
        look(task)


# --- the command -----------------------------------------------------------------------------------------------------


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = two_runs(tmp_path, 5_000, 5, 5)
    assert cli.main(["gate", *runs, "--replay-order", "--json", str(tmp_path / "g.json"), "--junit", str(tmp_path / "g.xml")]) == 0
    printed = capsys.readouterr().out
    assert "- mmlu@qwen: pass: a drop of the margin over all 5,000 documents is excluded after" in printed
    assert "mmlu@qwen: a look after every block, in the order of --order-seed 0 --block 100;" in printed
    assert "betting" in printed
    found = json.loads((tmp_path / "g.json").read_text())["tasks"]["mmlu@qwen"]
    assert (found["word"], found["of"], found["mcnemar_p"]) == ("pass", 5_000, None)
    assert found["looks"][-1] == {
        "documents": found["n"],
        "value": found["value"],
        "ci95": found["ci95"],
        "p_drop": found["p_drop"],
    }
    assert cli.main(["gate", *runs, "--json", str(tmp_path / "fixed.json")]) == 0
    assert not {"looks", "of"} & json.loads((tmp_path / "fixed.json").read_text())["tasks"]["mmlu@qwen"].keys()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["a", "b", "--sequential"], "--sequential takes BASE alone"),
        (["a", "--replay-order"], "evalkit gate takes BASE CAND"),
        (["a", "b", "--order-seed", "1"], "--order-seed has no effect, since nothing is run"),
        (["a", "b", "--model", "demo"], "--model has no effect, since nothing is run: add --sequential"),
        (["a", "b", "--replay-order", "--model", "demo"], "--model has no effect, since two finished runs are given"),
        (["a", "b", "--replay-order", "--max-minutes", "1"], "--max-minutes is for a candidate that still has to answer"),
        (["a", "--sequential", "--max-documents", "0"], "--max-documents is 0"),
        (["a", "--sequential", "--block", "0"], "--block is 0"),
        (["a", "b", "--block", "10"], "--block has no effect"),
        (["a", "--sequential", "--max-minutes", "nan"], "--max-minutes is nan"),
        (["a", "--sequential", "--against", "published"], "leave one of them out"),
    ],
)
def test_wrong_use(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gate", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_runs_that_differ_are_not_comparable(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, 500, 1, 1)
    edit_run(Path(runs[1]), "mmlu", protocol_sha256="1" * 64)
    with pytest.raises(EvalkitError, match="not comparable"):
        decided(runs)
