"""Other programs' files that contradict themselves are refused in one line, with the value that can't be."""

import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden_runs import golden_run
from lm_eval_folders import row, rows
from lm_eval_folders import write as write_lm_eval

from evalkit.comparison.answers import read_answers
from evalkit.comparison.compare import compare
from evalkit.comparison.gate import decide
from evalkit.comparison.gate_config import GateConfig
from evalkit.errors import EvalkitError, RunIncomplete
from evalkit.exchange.formats import export, read_other
from evalkit.exchange.lm_eval_read import find_results, read_results
from evalkit.exchange.lm_eval_run import run_of
from evalkit.files import kept
from evalkit.stats.estimate import mean

SCORES = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0] * 4


def refusal(path: Path, read: Callable[[str], object] = read_other) -> str:
    with pytest.raises(EvalkitError) as caught:
        read(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gsm8k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden_run(tmp_path_factory.mktemp("gsm8k"), "gsm8k")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"value: \S+(.*)score=\S+;", r"value: 162.5\1score=1.625;", "score 1.625 is not within 0 to 1"),
        (r"value: \S+(.*)score=\S+;", r"value: 8.5\1score=8.5;", "value 8.5 is not the score 8.5 of its notes in percent"),
        (r"value: \S+", "value: 0.5", "value 0.5 is not the score 0.5 of its notes in percent"),
        (r"ci95=[^;]*", "ci95=0.9 to 0.1", "score 0.5 is not in its interval 0.9 to 0.1"),
        (r"ci95=[^;]*", "ci95=0.6 to 0.7", "score 0.5 is not in its interval 0.6 to 0.7"),
        (r"stderr=[^;]*", "stderr=-1", "score 0.5 has a standard error below 0, -1.0"),
        (r" n=[^;]*", " n=1319 of 1319", "1,319 scores have a standard error of at most 0.013772"),
        (r" n=[^;]*", " n=12 of 3", "n is 12 of 3, more than there are"),
        ("; score=", "; score=0.9; score=", "score is there twice in its notes"),
        ("  value: ", "  value: 99\n  value: ", "the key 'value' is there twice"),
        ("settings=....", "settings=0000", "are not those of gsm8k@lm-eval"),
        ("metric=[^;]*", "metric=foo", "metric 'foo' is not exact_match_strict, the headline of gsm8k@lm-eval"),
        ("task=gsm8k@lm-eval", "task=mmlu@lm-eval", "openai/gsm8k:gsm8k is not the benchmark of mmlu; that is gsm8k's"),
        ("id: openai/gsm8k", "id: cais/mmlu", "cais/mmlu:gsm8k is not the benchmark of gsm8k; openai/gsm8k:gsm8k is gsm8k's"),
    ],
)
def test_figures_on_the_hub_that_cannot_be(old: str, new: str, said: str, gsm8k: Path, tmp_path: Path) -> None:
    (file,) = export(str(gsm8k), "hub", str(tmp_path), {}).files
    changed = re.sub(old, new, text := file.read_text(), count=1, flags=re.DOTALL)
    assert changed != text
    file.write_text(changed)
    assert said in refusal(file)


def test_another_tasks_benchmark_is_not_written(gsm8k: Path, tmp_path: Path) -> None:
    said = refusal(gsm8k, lambda path: export(path, "hub", str(tmp_path), {"gsm8k": "cais/mmlu:mmlu"}))
    assert "--dataset gsm8k=cais/mmlu:mmlu: cais/mmlu:mmlu is not the benchmark of gsm8k" in said


@pytest.mark.parametrize("right", [0, 24])
def test_figures_at_the_ends_are_read(right: int, gsm8k: Path, tmp_path: Path) -> None:
    """Wilson's interval ends there but for rounding."""
    (file,) = export(str(gsm8k), "hub", str(tmp_path), {}).files
    end = mean([1.0] * right + [0.0] * (24 - right))
    notes = f"score={end.value}; stderr={end.stderr}; ci95={end.ci95[0]} to {end.ci95[1]}; n=24 of 60; model="
    text = re.sub("score=.*; model=", notes, file.read_text())
    file.write_text(re.sub("value: .*", f"value: {100 * end.value}", text))
    assert (found := read_other(str(file))) is not None
    assert found.run.tasks["gsm8k"].figure == end


def test_figures_alone_go_to_report(gsm8k: Path, tmp_path: Path) -> None:
    export(str(gsm8k), "hub", str(tmp_path), {})
    said = refusal(tmp_path, lambda path: decide(GateConfig((path,), against="published")))
    assert "is hub's, and --against published takes a run of evalkit's; `evalkit report`" in said


# --- Every Eval Ever --------------------------------------------------------------------------------------------------


def strangers(gsm8k: Path, out: Path, change: Callable[[dict[str, Any], list[dict[str, Any]]], None]) -> Path:
    """The export as another program's, changed: its one result, exact_match_strict, and that result's samples."""
    samples, log = export(str(gsm8k), "every-eval-ever", str(out), {}).files
    raw = json.loads(log.read_text())
    del raw["source_metadata"]["additional_details"], raw["detailed_evaluation_results"]["checksum"]
    (result,) = [each for each in raw["evaluation_results"] if each["evaluation_result_id"].endswith("strict")]
    raw["evaluation_results"] = [result]
    its = [json.loads(line) | {"metadata": None} for line in samples.read_text().splitlines()]
    its = [each for each in its if each["evaluation_result_id"] == result["evaluation_result_id"]]
    change(result, its)
    raw["detailed_evaluation_results"]["total_rows"] = len(its)
    samples.write_text("".join(json.dumps(each) + "\n" for each in its))
    log.write_text(json.dumps(raw))
    return log


def above(result: dict[str, Any], its: list[dict[str, Any]]) -> None:
    for each in its:
        each["evaluation"]["score"] *= 1.7
    result["score_details"]["score"] *= 1.7


def of_figure(**changes: Any) -> Callable[[dict[str, Any], list[dict[str, Any]]], None]:
    return lambda result, _: result["score_details"]["uncertainty"].update(changes)


def of_sample(**changes: Any) -> Callable[[dict[str, Any], list[dict[str, Any]]], None]:
    return lambda _, its: its[3].update(changes)


def inverted(_: dict[str, Any], its: list[dict[str, Any]]) -> None:
    its[3]["evaluation"]["is_correct"] ^= True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (above, "exact_match_strict 1.7 is not within 0 to 1"),
        (lambda result, _: result["metric_config"].update(min_score=0.5), "exact_match_strict 0.0 is not within 0.5 to 1"),
        (lambda result, its: (result["metric_config"].update(min_score=0.9), its.clear()), "is below min_score 0.9"),
        (of_sample(model_id="org/other"), "line 4: model_id 'org/other' is not 'org/model'"),
        (of_sample(evaluation_name="mmlu"), "line 4: evaluation_name 'mmlu' is not 'gsm8k'"),
        (inverted, "line 4: is_correct is "),
        (of_figure(num_samples=1319), "is stated to be of 1319 samples, and has 12"),
        (of_figure(standard_error={"value": 0.001}), "the standard error is stated as 0.001, and of its 12 samples 0.15"),
        (of_figure(standard_error={"value": -0.2}), "the standard error is stated as -0.2"),
        (of_figure(confidence_interval={"lower": 0.6, "upper": 0.7, "confidence_level": 0.95}), "is not in its interval 0.6 to 0.7"),
    ],
)
def test_samples_that_contradict_their_file(change: Any, said: str, gsm8k: Path, tmp_path: Path) -> None:
    assert said in refusal(strangers(gsm8k, tmp_path, change))


def test_other_estimates_of_an_error_are_read(gsm8k: Path, tmp_path: Path) -> None:
    """A bootstrap's, or one over n where ours is over n - 1; and an interval that is not Wilson's."""
    changes = of_figure(standard_error={"value": 0.144}, confidence_interval={"lower": 0.2, "upper": 0.8, "confidence_level": 0.95})
    assert read_other(str(strangers(gsm8k, tmp_path, changes))) is not None


# --- lm-eval ----------------------------------------------------------------------------------------------------------


def test_lm_evals_files_that_contradict_themselves(tmp_path: Path) -> None:
    its = rows("sums", SCORES)
    above_one = write_lm_eval(tmp_path / "above", {"sums": [each | {"acc": 1.7 * each["acc"]} for each in its]})
    assert "document 0: acc 1.7 is not within 0 to 1" in refusal(above_one, read_answers)
    figures = {"acc,none": mean(SCORES).value, "acc_stderr,none": 0.001}
    error = write_lm_eval(tmp_path / "error", {"sums": its}, {"sums": figures})
    assert "the standard error is stated as 0.001, and of its 24 samples 0.098" in refusal(error, read_answers)
    target = write_lm_eval(tmp_path / "target", {"sums": [*its[:-1], its[-1] | {"target": "no"}]})
    assert "document 23: target 'no' is not its target_hash's" in refusal(target, read_answers)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"versions": {"gsm8k": 3.0}}, "version of gsm8k is 3.0, and evalkit wrote 'evalkit lm-eval'"),
        (
            {"higher_is_better": {"gsm8k": {"exact_match": False}}},
            "higher_is_better of exact_match of gsm8k is false, and evalkit wrote true",
        ),
    ],
)
def test_a_changed_export_in_lm_evals_format(change: dict[str, Any], said: str, gsm8k: Path, tmp_path: Path) -> None:
    results = next(file for file in export(str(gsm8k), "lm-eval", str(tmp_path), {}).files if file.name.startswith("results_"))
    raw = json.loads(results.read_text())
    results.write_text(json.dumps(raw | change))
    assert said in refusal(results.parent, read_answers)


def test_where_less_is_better_the_report_says_so(tmp_path: Path) -> None:
    folder = write_lm_eval(tmp_path, {"sums": rows("sums", SCORES)}, higher_is_better={"sums": {"acc": False}})
    assert run_of(read_results(find_results(folder))).tasks["sums"].lower_is_better == ("acc",)


def test_same_answers_with_other_scores_are_not_the_same(tmp_path: Path) -> None:
    def folder(name: str, score: float) -> str:
        its = [row(i, "sums", err=0.5) | {"err": score if i == 3 else 0.5} for i in range(24)]
        return str(write_lm_eval(tmp_path / name, {"sums": its}))

    base, cand, rounded = folder("base", 0.5), folder("cand", 5.0), folder("rounded", 0.5 + 1e-6)
    assert not compare(base, cand).tasks[0].pairs.identical
    assert compare(base, rounded).tasks[0].pairs.identical


# --- EvalPlus ---------------------------------------------------------------------------------------------------------


def evalplus(file: Path, *doc_ids: str, inner: str | None = None, **changes: Any) -> Path:
    problems = {each: [{"task_id": inner or each, "solution": "", "base_status": "pass"}] for each in doc_ids}
    file.write_text(json.dumps({"date": "2026-01-01", "hash": "h", "eval": problems} | changes))
    return file


def test_evalplus_results_of_no_problem(tmp_path: Path) -> None:
    file = tmp_path / "m_eval_results.json"
    for number in ("164", "00", "", "1 ", "-1", "²"):
        assert f"there is no problem 'HumanEval/{number}'" in refusal(evalplus(file, "HumanEval/0", f"HumanEval/{number}"))
    assert "HumanEval/0 has a program for task_id 'HumanEval/7'" in refusal(evalplus(file, "HumanEval/0", inner="HumanEval/7"))
    figure = {"plus": {"pass@1": 0.9}}
    assert "plus_pass@1 is stated as 0.9, and no problem has its outcomes" in refusal(evalplus(file, "HumanEval/0", pass_at_k=figure))


@pytest.mark.parametrize(("doc_id", "task", "size"), [("HumanEval/163", "humaneval", "1 of 164"), ("Mbpp/809", "mbpp", "1 of 378")])
def test_some_problems_of_evalplus_are_said_to_be_some(doc_id: str, task: str, size: str, tmp_path: Path) -> None:
    found = read_other(str(evalplus(tmp_path / "m_eval_results.json", doc_id)))
    assert found is not None
    assert {name: entry.size for name, entry in found.run.tasks.items()} == {task: size}


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_to_be_freed() -> None:
    said = "nothing answered is lost, free some space or mend the disk and run the same command again"
    with pytest.raises(RunIncomplete, match=said), kept(Path("x")):
        raise OSError(errno.ENOSPC, "No space left on device")
