"""`evalkit gate --policy`: every rule at, just inside and just outside its bound, tiers and exit codes, missing tasks, files."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import lm_eval_folders
import pytest
from bundles import rewritten
from fake_runs import edit_run, fake_run, flips, sample, write_samples

from evalkit import cli, progress
from evalkit.comparison import gate, gate_output
from evalkit.comparison.answers import read_answers
from evalkit.comparison.bundle import unpack
from evalkit.comparison.compare import difference
from evalkit.comparison.gate_config import GateConfig, Margins, Sequential
from evalkit.comparison.gate_outcome import Gate
from evalkit.errors import EvalkitError
from evalkit.record.pairs import align
from evalkit.stats.estimate import mean

SAME, WORSE, UNCLEAR = flips(2_000, 20, 20), flips(2_000, 5, 60), flips(2_000, 25, 45)


@pytest.fixture(autouse=True)
def no_github(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may themselves run on GitHub."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def two_runs(folder: Path, **tasks: tuple[Sequence[float], Sequence[float]]) -> list[str]:
    return [str(fake_run(folder / name, name, **{task: scores[i] for task, scores in tasks.items()})) for i, name in enumerate("ab")]


def policy(folder: Path, *rules: str, default: str = "margin = 0.015") -> str:
    """A gate.toml of these rules, each as lines without its header."""
    folder.mkdir(exist_ok=True)
    (folder / "gate.toml").write_text(f"[default]\n{default}\n" + "".join(f"[[rule]]\n{rule}\n" for rule in rules))
    return str(folder / "gate.toml")


def held(runs: list[str], policy: str) -> Gate:
    return gate.decide(GateConfig(tuple(runs), policy=policy))


def words(found: Gate) -> dict[str, str]:
    return {each.name: each.word for each in found.all}


def refusal(runs: list[str], policy: str, **options: Any) -> str:
    with pytest.raises(EvalkitError) as caught:
        gate.gate_runs(GateConfig(tuple(runs), policy=policy, **options))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- each rule at its bound -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ("margin = 0.025", "fail"),  # 50 of 2,000 are lost: 2.5 points, 5% of the base's 50 points
        ("margin = 0.0251", "inconclusive"),
        ("margin = 0.0249", "fail"),
        ("drop = 0.05", "fail"),
        ("drop = 0.0502", "inconclusive"),
        ("drop = 0.0498", "fail"),
    ],
)
def test_a_drop_at_the_margin(rule: str, word: str, tmp_path: Path) -> None:
    base = [1.0] * 1_000 + [0.0] * 1_000
    runs = two_runs(tmp_path, mmlu=(base, [0.0] * 50 + base[50:]))
    assert words(held(runs, policy(tmp_path, f'task = "mmlu"\n{rule}'))) == {"mmlu@qwen": word}


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
def test_a_pass_at_the_bound_of_its_alpha(alpha: float, tmp_path: Path) -> None:
    runs = two_runs(tmp_path, mmlu=UNCLEAR)
    (pairs,) = align(*(read_answers(run) for run in runs))
    bound = -difference(pairs, alpha).lower
    for margin, word in ((bound + 1e-6, "pass"), (bound - 1e-6, "inconclusive")):
        rule = f'task = "mmlu"\nmargin = {margin:.9f}\nalpha = {alpha}'
        assert words(held(runs, policy(tmp_path, rule)))["mmlu@qwen"] == word
    found = held(runs, policy(tmp_path, f'task = "mmlu"\nalpha = {alpha}'))
    assert found.outcomes[0].alpha == alpha
    # the interval that is printed stays that of 95%
    assert found.outcomes[0].difference.ci95 == difference(pairs).ci95


def test_a_failure_at_its_alpha(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, mmlu=flips(200, 3, 11))
    (pairs,) = align(*(read_answers(run) for run in runs))
    p = difference(pairs).p_drop
    assert 0.02 < p < 0.04
    for alpha, word in ((p + 1e-6, "fail"), (p - 1e-6, "inconclusive")):
        rule = f'task = "mmlu"\nmargin = 0.03\nallow_small_margin = true\nalpha = {alpha:.9f}'
        assert words(held(runs, policy(tmp_path, rule)))["mmlu@qwen"] == word


@pytest.mark.parametrize(("least", "word"), [(1_999, None), (2_000, None), (2_001, "cannot detect")])
def test_the_least_number_of_documents(least: int, word: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = two_runs(tmp_path, mmlu=SAME)
    file = policy(tmp_path, f'task = "mmlu"\nmin_documents = {least}')
    assert words(held(runs, file)).get("mmlu@qwen documents") == word
    if word:
        assert refusal(runs, file) == "mmlu@qwen documents: 2,000 of them, and the policy asks for at least 2,001: run more"
        assert "gate: CANNOT DETECT" in capsys.readouterr().out  # after the table


def with_problems(folder: Path, name: str, n: int, **problems: int) -> str:
    """A run with as many documents that have each problem; all answers are right."""
    rows = []
    for i in range(n):
        row = sample(i, 1.0, f"{name} {i}")
        response = row["responses"][0]
        if i < problems.get("truncated", 0):
            response["truncated"] = 7
        if i < problems.get("empty", 0):
            response["text"] = " \n"
        if i < problems.get("stopped_by_length", 0):
            response["finish_reason"] = "length"
        if i < problems.get("unanswered", 0):
            response["finish_reason"] = "refused"
        row["extraction_failed"] = i < problems.get("extraction_failed", 0)
        rows.append(row)
    run = fake_run(folder / name, name, mmlu=[1.0] * n)
    write_samples(run, "mmlu", rows)
    return str(run)


@pytest.mark.parametrize("count", ["truncated", "extraction_failed", "empty", "stopped_by_length", "unanswered"])
@pytest.mark.parametrize(
    ("bound", "word"),
    [("28", "fail"), ("29", "pass"), ("30", "pass"), ("{share = 0.28}", "fail"), ("{share = 0.29}", "pass"), ("{share = 0.2899}", "fail")],
)
def test_allowed_counts(count: str, bound: str, word: str, tmp_path: Path) -> None:
    """29 more than the base, of 100 documents: 0.29 of 100 is a little less than 29 in floating point."""
    runs = [with_problems(tmp_path, "a", 100, **{count: 2}), with_problems(tmp_path, "b", 100, **{count: 31})]
    file = policy(tmp_path, f'task = "mmlu"\nmargin = 0.2\nallowed.{count} = {bound}')
    found = held(runs, file)
    assert words(found) == {"mmlu@qwen": "pass", f"mmlu@qwen {count}": word}
    assert found.checks[0].reason.startswith("31 documents, 2 in the base: +29, where ")
    assert gate.gate_runs(GateConfig(tuple(runs), policy=file)) == (0 if word == "pass" else 1)
    assert held(runs[::-1], file).checks[0].word == "pass"  # fewer than the base


def test_counts_of_lm_evals_samples_are_not_known(tmp_path: Path) -> None:
    runs = [str(lm_eval_folders.write(tmp_path / name, {"arc": lm_eval_folders.rows("arc", [1.0, 0.0] * 200)})) for name in "ab"]
    rule = 'task = "arc"\nallow_small_margin = true'
    assert words(held(runs, policy(tmp_path, rule))) == {"arc": "pass"}
    assert "samples do not say which answers have a problem" in refusal(runs, policy(tmp_path, rule + "\nallowed.empty = 0"))


# --- tiers ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mmlu", "tier", "gsm8k", "other", "code"),
    [
        (SAME, "blocking", SAME, "blocking", 0),
        (SAME, "blocking", WORSE, "blocking", 1),
        (SAME, "blocking", WORSE, "warning", 0),
        (UNCLEAR, "blocking", WORSE, "warning", 3),
        (WORSE, "blocking", WORSE, "warning", 1),
        (SAME, "blocking", UNCLEAR, "warning", 0),
        (WORSE, "warning", WORSE, "warning", 0),
    ],
)
def test_a_warning_never_turns_the_exit_code(mmlu: Any, tier: str, gsm8k: Any, other: str, code: int, tmp_path: Path) -> None:
    runs = two_runs(tmp_path, mmlu=mmlu, gsm8k=gsm8k)
    file = policy(tmp_path, f'task = "mmlu"\ntier = "{tier}"', f'task = "gsm8k"\ntier = "{other}"')
    assert gate.gate_runs(GateConfig(tuple(runs), policy=file)) == code


def test_a_warning_is_told_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    runs = two_runs(tmp_path, mmlu=SAME, gsm8k=WORSE, arc=flips(20, 1, 1))
    file = policy(tmp_path, 'task = "mmlu"', 'task = "gsm8k"\ntier = "warning"', 'task = "arc"\ntier = "warning"\nmin_documents = 100')
    files = {name: str(tmp_path / name) for name in ("junit", "json", "summary")}
    assert gate.gate_runs(GateConfig(tuple(runs), policy=file, **files)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "gate: PASS, with 3 warnings" in lines
    assert any(line.startswith("- gsm8k@qwen: fail, a warning: a real drop, at least the margin") for line in lines)
    annotations = [line.partition("::fail")[0].partition("::cannot")[0] for line in lines if line.startswith("::")]
    assert annotations == [
        "::warning title=evalkit gate%3A gsm8k@qwen%3A fail",
        "::warning title=evalkit gate%3A arc@qwen%3A cannot detect",
        "::warning title=evalkit gate%3A arc@qwen documents%3A cannot detect",
    ]
    suite = ElementTree.parse(files["junit"]).getroot().find("testsuite")
    assert suite is not None
    assert [suite.get(key) for key in ("tests", "failures", "errors", "skipped")] == ["4", "0", "0", "3"]
    found = json.loads(Path(files["json"]).read_text())
    assert (found["outcome"], found["exit_code"], found["margin"]) == ("pass", 0, None)
    assert found["warnings"] == ["gsm8k@qwen", "arc@qwen", "arc@qwen documents"]
    assert found["tasks"]["gsm8k@qwen"]["tier"] == "warning"
    assert found["checks"] == {
        "arc@qwen documents": {
            "word": "cannot detect",
            "reason": "20 of them, and the policy asks for at least 100: run more",
            "tier": "warning",
        }
    }
    assert found["policy"]["rule"][1] == {"task": "gsm8k", "tier": "warning"}
    summary = Path(files["summary"]).read_text()
    assert summary.startswith("## evalkit gate: pass, with 3 warnings\n")
    assert "| gsm8k@qwen | warning | FAIL |" in summary
    assert "| arc@qwen documents | CANNOT DETECT | warning | 20 of them" in summary


def test_each_tier_is_a_family_of_its_own(tmp_path: Path) -> None:
    """A p of 0.03 fails alone, and beside warnings; beside other blocking tasks it may be chance."""
    scores, same = flips(200, 3, 11), flips(200, 1, 1)
    runs = two_runs(tmp_path, mmlu=scores, gsm8k=same, mgsm=same, arc=same)
    rule = 'task = "{}"\nmargin = 0.03\nallow_small_margin = true\ntier = "{}"'
    p = {}
    for tier in ("blocking", "warning"):
        rules = [rule.format("mmlu", "blocking"), *(rule.format(task, tier) for task in ("gsm8k", "mgsm", "arc"))]
        found = held(runs, policy(tmp_path, *rules))
        p[tier] = {outcome.task: outcome.p_drop for outcome in found.outcomes}
        assert found.word == ("fail" if tier == "warning" else "inconclusive")
    assert p["blocking"]["mmlu@qwen"] == pytest.approx(4 * p["warning"]["mmlu@qwen"])
    # and the warnings are adjusted among themselves
    assert p["warning"]["arc@qwen"] >= min(1.0, 3 * 0.5)


# --- which tasks --------------------------------------------------------------------------------------------------------------


def test_a_task_that_a_run_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = two_runs(tmp_path, mmlu=SAME)
    fake_run(tmp_path / "more", "a", mmlu=SAME[0], gsm8k=SAME[0])
    more = [str(tmp_path / "more"), runs[1]]
    both = ('task = "mmlu"', 'task = "gsm8k"')
    assert gate.gate_runs(GateConfig(tuple(more), policy=policy(tmp_path, *both))) == 1
    assert "- gsm8k: fail: gsm8k is not in the candidate, which has mmlu" in capsys.readouterr().out
    assert words(held(runs, policy(tmp_path, *both)))["gsm8k"] == "fail"
    assert "gsm8k is not in the base nor in the candidate" in held(runs, policy(tmp_path, *both)).checks[0].reason
    warned = policy(tmp_path, both[0], both[1] + '\ntier = "warning"')
    assert gate.gate_runs(GateConfig(tuple(more), policy=warned)) == 0
    ignored = held(more, policy(tmp_path, *both, default='margin = 0.015\nmissing = "ignore"'))
    assert (words(ignored), ignored.word) == ({"mmlu@qwen": "pass"}, "pass")
    assert 'gsm8k is not in the candidate, which has mmlu: not gated, as missing = "ignore" says' in ignored.notes
    refused = refusal(more, policy(tmp_path, both[0], both[1] + '\nmissing = "error"'))
    assert refused.startswith(f"{tmp_path / 'gate.toml'}:5: gsm8k is not in the candidate")
    assert 'run it there, or set missing = "fail" or "ignore"' in refused
    assert "nothing is gated" in refusal(runs, policy(tmp_path, 'task = "gsm8k"\nmissing = "ignore"'))
    misspelt = refusal(runs, policy(tmp_path, 'task = "mmluu"\ntier = "warning"'))
    assert "nothing is gated, since no task of it is in the runs: mmluu is not in the base nor in the candidate, which has mmlu" in misspelt


def test_what_no_rule_names_is_said(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, mmlu=SAME, gsm8k=WORSE)
    found = held(runs, policy(tmp_path, 'task = "mmlu@qwen"'))
    assert words(found) == {"mmlu@qwen": "pass"}
    assert found.notes == ("in the base, and in no rule of the policy, so not gated: gsm8k",)


def test_one_task_under_two_names_is_refused(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, mmlu=SAME)
    twice = refusal(runs, policy(tmp_path, 'task = "mmlu"', 'task = "mmlu@qwen"'))
    assert "gate.toml:5: mmlu has a rule already, as mmlu at" in twice
    assert "mmlu by acc has a rule already" in refusal(runs, policy(tmp_path, 'task = "mmlu"', 'task = "mmlu"\nmetric = "acc"'))
    assert "gate.toml:3: unknown metric of mmlu 'f1'" in refusal(runs, policy(tmp_path, 'task = "mmlu"\nmetric = "f1"'))


def test_several_metrics_of_one_task(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, gsm8k=SAME)
    for run, scores in zip(runs, WORSE, strict=True):
        file = Path(run) / "samples" / "gsm8k.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row, score in zip(rows, scores, strict=True):
            row["metrics"]["strict"] = score
        write_samples(Path(run), "gsm8k", rows)
        acc = json.loads((Path(run) / "run.json").read_text())["tasks"]["gsm8k"]["metrics"]["acc"]
        edit_run(Path(run), "gsm8k", metrics={"acc": acc, "strict": asdict(mean(scores))})
    both = policy(tmp_path, 'task = "gsm8k"', 'task = "gsm8k"\nmetric = "strict"\ntier = "warning"')
    found = held(runs, both)
    assert words(found) == {"gsm8k@qwen": "pass", "gsm8k@qwen strict": "fail"}
    assert (found.word, [each.name for each in found.warnings]) == ("pass", ["gsm8k@qwen strict"])


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_figure_is_cut(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """rich shortens what does not fit, to an ellipsis: in a narrow log a row is lines of figures instead."""
    runs = two_runs(tmp_path, mmlu=SAME, gsm8k=WORSE)
    monkeypatch.setattr("evalkit.comparison.gate_output.standard_output", lambda: progress._Output(width=width, force_terminal=True))
    gate.gate_runs(GateConfig(tuple(runs), policy=policy(tmp_path, 'task = "mmlu"', 'task = "gsm8k"\ntier = "warning"')))
    printed = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    for figure in ("2,000", "99.75", "97.00", "-2.75", "-3.61 to -2.03", "<0.0001", "0.34", "McNemar", "blocking", "warning", "FAIL"):
        assert figure in printed, figure
    assert "\u2026" not in printed
    table = [line for line in printed.splitlines() if line[:1] in "│┏┡└" or line.startswith("    ")]
    assert table
    assert all(len(line) <= width for line in table)
    assert ("│" in printed) == (width == 200)


# --- the command line, the bundle, and a gate that stops by itself ------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        ("--margin", "0.01"),  # the default, and still said
        ("--tasks", "mmlu"),
        ("--metric", "acc"),
        ("--cluster", "passage"),
        ("--allow-small-margin",),
        ("--against", "published"),
        ("--published", "smollm2"),
    ],
)
def test_options_that_a_policy_stands_in_for(option: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = two_runs(tmp_path, mmlu=SAME)
    arguments = ["gate", *runs, "--policy", policy(tmp_path, 'task = "mmlu"')]
    assert cli.main(arguments) == 0
    capsys.readouterr()
    assert cli.main([*arguments, *option]) == 2
    error = capsys.readouterr().err
    assert f"{option[0]} stands beside --policy, which decides what is gated and how; leave it out, or change the policy" in error
    assert cli.main(["gate", *runs, "--policy", ""]) == 2
    with pytest.raises(EvalkitError, match="--margin stands beside --policy"):
        GateConfig(tuple(runs), Margins(0.02), policy="gate.toml")


def test_the_bundle_holds_the_policy_and_the_audit_decides_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = two_runs(tmp_path, mmlu=SAME, gsm8k=WORSE, arc=SAME)
    rules = ('task = "mmlu"\nallowed.truncated = 0', 'task = "gsm8k@qwen"\ntier = "warning"\ndrop = 0.02\nalpha = 0.01', 'task = "ifeval"')
    file, bundle = policy(tmp_path, *rules), tmp_path / "gate.bundle"
    assert cli.main(["gate", *runs, "--policy", file, "--bundle", str(bundle)]) == 1
    raw = Path(file).read_bytes()
    Path(file).unlink()
    capsys.readouterr()
    assert cli.main(["audit", str(bundle)]) == 0
    printed = capsys.readouterr().out
    assert "gate: FAIL, with 1 warning" in printed
    assert "--policy gate.toml (sha256 " in printed
    assert "evalkit-audit-" not in printed
    asked, stated = unpack(bundle, tmp_path / "out")
    assert (tmp_path / "out" / "gate.toml").read_bytes() == raw
    assert asked.policy_sha256 == stated["policy"]["sha256"]
    assert {path.name for path in (tmp_path / "out" / "base" / "samples").iterdir()} == {"mmlu.jsonl", "gsm8k.jsonl"}
    # a policy that was exchanged is found, and so is one that was left out
    assert cli.main(["audit", str(rewritten(bundle, **{"gate.toml": raw.replace(b"0.015", b"0.15")}))]) == 2
    assert "holds another gate.toml than its policy.json names" in capsys.readouterr().err


def stops(runs: list[str], policy: str, **how: Any) -> Gate:
    return gate.decide(GateConfig(tuple(runs), policy=policy, sequential=Sequential(None, **how)))


def test_a_policy_and_a_gate_that_stops_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning that fails ends nothing; a failure that blocks ends the gate."""
    runs = two_runs(tmp_path, mmlu=SAME, gsm8k=WORSE)
    blocking, warning = 'task = "{}"\ntier = "blocking"', 'task = "{}"\ntier = "warning"\ndrop = 0.015'
    warned = stops(runs, policy(tmp_path, blocking.format("mmlu"), warning.format("gsm8k")))
    assert (words(warned), warned.word) == ({"mmlu@qwen": "pass", "gsm8k@qwen": "fail"}, "pass")
    assert warned.outcomes[1].margin == pytest.approx(0.015 * warned.outcomes[1].difference.base, abs=2e-4)
    assert warned.outcomes[1].tier == "warning"
    assert warned.outcomes[0].difference.n < 2_000
    failed = stops(runs, policy(tmp_path, blocking.format("mmlu"), blocking.format("gsm8k")))
    assert (failed.word, words(failed)["gsm8k@qwen"]) == ("fail", "fail")
    missing = stops(runs, policy(tmp_path, blocking.format("mmlu"), 'task = "ifeval"'))
    assert (missing.word, missing.outcomes) == ("fail", ())
    assert "mmlu: not looked at, since the gate had failed by then" in missing.notes
    qualified = stops(runs, policy(tmp_path, 'task = "mmlu@qwen"', 'task = "ifeval"'))
    assert "mmlu@qwen: not looked at, since the gate had failed by then" in qualified.notes
    gate_output.show(qualified)
    assert "95% interval" not in capsys.readouterr().out  # a table without a row
    assert "95% interval" not in gate_output.to_markdown(qualified)
    few = policy(tmp_path, blocking.format("mmlu") + "\nmin_documents = 3000")
    with pytest.raises(EvalkitError, match="mmlu@qwen documents: 2,000 of them, and the policy asks for at least 3,000"):
        stops(runs, few)
    with pytest.raises(EvalkitError, match=r"let the policy say margin = 0\.00"):
        stops(runs, policy(tmp_path, blocking.format("mmlu") + "\nmargin = 0.0001"))
    stopped = stops(runs, policy(tmp_path, blocking.format("mmlu"), warning.format("gsm8k")), max_documents=150)
    assert stopped.word == "inconclusive"


@pytest.mark.parametrize("cand", [SAME, WORSE])
def test_a_gate_that_stops_by_itself_sees_the_least_number_of_documents(cand: Any, tmp_path: Path) -> None:
    """Neither a pass nor a failure follows before so many were seen."""
    runs = two_runs(tmp_path, mmlu=cand)
    rule = 'task = "mmlu"\nmargin = 0.02\nallow_small_margin = true'
    (early,) = stops(runs, policy(tmp_path, rule)).outcomes
    assert early.difference.n < 1_500
    (late,) = stops(runs, policy(tmp_path, rule + "\nmin_documents = 1500"), max_documents=1_900).outcomes
    assert late.word == early.word
    assert 1_500 <= late.difference.n < 2_000
    with pytest.raises(
        EvalkitError, match=r"gate\.toml:3: mmlu is not decided before min_documents = 1500, and --max-documents 1499 stops"
    ):
        stops(runs, policy(tmp_path, rule + "\nmin_documents = 1500"), max_documents=1_499)
    (stopped,) = stops(runs, policy(tmp_path, rule + "\nmin_documents = 1500"), max_documents=1_500).outcomes
    assert stopped.word == early.word


@pytest.mark.parametrize("line", ['metric = "acc"', "alpha = 0.01", 'cluster = "q"', "allowed.empty = 0"])
def test_rules_that_some_documents_cannot_decide(line: str, tmp_path: Path) -> None:
    runs = two_runs(tmp_path, mmlu=SAME)
    with pytest.raises(
        EvalkitError, match=rf"gate\.toml:3: {re.split('[ .]', line)[0]} is not for a gate that stops by itself; leave it out, or finish"
    ):
        stops(runs, policy(tmp_path, f'task = "mmlu"\n{line}'))


def test_the_rules_place_is_no_part_of_the_decision(tmp_path: Path) -> None:
    """An audit reads the policy in another folder."""
    runs = two_runs(tmp_path, mmlu=SAME)
    here, there = (held(runs, policy(tmp_path / name, 'task = "mmlu"', 'task = "gsm8k"')) for name in ("here", "there"))
    assert replace(here, policy=None) == replace(there, policy=None)


@pytest.mark.parametrize(
    ("headline", "metric", "refused"),
    [("acc,strict", "acc,flex", True), ("exact_match_strict", "exact_match_flex", True), ("acc,strict", "len,strict", False)],
)
def test_extractions_of_another_filter(headline: str, metric: str, refused: bool, tmp_path: Path) -> None:
    runs = []
    for name in "ab":
        rows = [sample(i, 1.0, f"{name} {i}", metrics={headline: 1.0, metric: 1.0}) for i in range(100)]
        run = fake_run(tmp_path / name, name, gsm8k=[1.0] * 100)
        write_samples(run, "gsm8k", rows)
        one = json.loads((run / "run.json").read_text())["tasks"]["gsm8k"]["metrics"]["acc"]
        edit_run(run, "gsm8k", headline=headline, metrics={headline: one, metric: one})
        runs.append(str(run))
    file = policy(tmp_path, f'task = "gsm8k"\nmetric = "{metric}"\nmargin = 0.2\nallowed.extraction_failed = 0')
    if refused:
        assert "counts extraction_failed of gsm8k by the filter strict, and " + metric + " is by flex; leave allowed." in refusal(
            runs, file
        )
    else:
        assert words(held(runs, file)) == {f"gsm8k@qwen {metric}": "pass", f"gsm8k@qwen {metric} extraction_failed": "pass"}


def test_what_a_warning_cannot_detect_is_mended_in_the_policy(tmp_path: Path) -> None:
    """Once all documents are in, a gate that stops by itself gives the advice of the fixed one: options are refused beside a policy."""
    runs = two_runs(tmp_path, mmlu=flips(400, 20, 20), gsm8k=SAME)
    rules = policy(tmp_path / "p", 'task = "mmlu"\ntier = "warning"\nmargin = 0.001', 'task = "gsm8k"')
    found = gate.decide(GateConfig(tuple(runs), policy=rules, sequential=Sequential(None)))
    (warned,) = [each for each in found.outcomes if each.tier == "warning"]
    assert (warned.word, warned.difference.n) == ("cannot detect", 400)
    assert "let the policy say margin = " in warned.reason
    assert "--allow-small-margin" not in warned.reason
