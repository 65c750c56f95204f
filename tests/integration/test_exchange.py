"""Runs in other programs' formats: each format's own schema or reader accepts them, nothing is lost that it holds, changes are refused."""

import io
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from golden_runs import SPECS, golden_run
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_runs import MODEL, judge_server, waiting_run
from mutations import mutated_json
from report_runs import entry, run

from evalkit import cli
from evalkit.cli.export import FORMATS as NAMES
from evalkit.comparison.answers import read_answers, tasks_in
from evalkit.comparison.compare import compare
from evalkit.errors import EvalkitError
from evalkit.exchange import hub, lm_eval_write
from evalkit.exchange.formats import FORMATS, export, read_other
from evalkit.exchange.recorded import Recorded, read_ours
from evalkit.hashing import sha256_json
from evalkit.judge import screen
from evalkit.record.sample import Sample
from evalkit.report.inputs import read_inputs
from evalkit.report.sections import measured
from evalkit.stats.estimate import Estimate
from evalkit.tasks.registry import resolve
from evalkit.view.read import read as read_view

GOLDEN = Path(__file__).parents[1] / "golden"  # the schemas of the package every-eval-ever 0.3.0 (MIT), as it has them
HAS_BLEU = "flores"


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("golden")
    return {kind: golden_run(folder / kind, kind) for kind in SPECS}


def refusal(path: Path | str, what: Callable[[str], object] = lambda path: compare(path, path)) -> str:
    with pytest.raises(EvalkitError) as caught:
        what(str(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_command_names_every_format() -> None:
    assert sorted(NAMES) == sorted(FORMATS)


# --- Every Eval Ever --------------------------------------------------------------------------------------------------


def schema(name: str) -> Any:
    library = pytest.importorskip("jsonschema", reason="jsonschema is not installed: make test installs it")
    return library.Draft7Validator(json.loads((GOLDEN / f"{name}.schema.json").read_text()))


@pytest.mark.parametrize("kind", SPECS)
def test_every_eval_ever(kind: str, runs: dict[str, Path], tmp_path: Path) -> None:
    aggregate, instance = map(schema, ("every_eval_ever", "every_eval_ever_instance"))
    written = export(str(runs[kind]), "every-eval-ever", str(tmp_path), {})
    for file in written.files:
        for line in file.read_text("ascii").splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
            (instance if file.suffix == ".jsonl" else aggregate).validate(json.loads(line))
    original, back = read_ours(str(runs[kind])), read_other(str(tmp_path))
    assert back is not None
    assert (back.run, back.source) == (original.run, "evalkit")
    assert {task: rows for task, rows in back.samples.items() if task != HAS_BLEU} == {
        task: rows for task, rows in original.samples.items() if task != HAS_BLEU
    }
    if kind == "suite":
        assert written.left_out.startswith(f"{HAS_BLEU}: documents without a score of their own")
        assert f"holds 0 samples of {HAS_BLEU}" in refusal(tmp_path)
        assert compare(str(tmp_path), str(runs[kind]), ["pawsx"]).tasks[0].pairs.identical
    else:
        assert all(task.pairs.identical for task in compare(str(tmp_path), str(runs[kind])).tasks)
        again = export(str(tmp_path), "every-eval-ever", str(tmp_path / "again"), {})
        assert sorted(file.read_bytes() for file in again.files) == sorted(file.read_bytes() for file in written.files)


def theirs(run: Path, out: Path, **changes: Any) -> Path:
    """The export as another program would have written it: without what only evalkit reads."""
    files = export(str(run), "every-eval-ever", str(out), {}).files
    samples, log = next(file for file in files if file.suffix == ".jsonl"), next(file for file in files if file.suffix == ".json")
    raw = json.loads(log.read_text())
    del raw["source_metadata"]["additional_details"]
    raw["evaluation_results"] = [result for result in raw["evaluation_results"] if "/all/" in result["evaluation_result_id"]]
    samples.write_text("".join(json.dumps(json.loads(line) | {"metadata": None}) + "\n" for line in samples.read_text().splitlines()))
    del raw["detailed_evaluation_results"]["checksum"]
    log.write_text(json.dumps(raw | changes))
    return log


@pytest.mark.parametrize("kind", ["mmlu", "gsm8k", "mt_bench"])
def test_every_eval_ever_by_others(kind: str, runs: dict[str, Path], tmp_path: Path) -> None:
    log = theirs(runs[kind], tmp_path)
    original = read_ours(str(runs[kind]))
    (ours,) = original.run.tasks.values()
    back = read_other(str(log))
    assert back is not None
    for task, found in back.run.tasks.items():
        metric = task.partition(":")[2] or found.headline
        assert (found.headline, found.n) == (metric, ours.n)
        if (metric, kind) != ("score", "mt_bench"):  # a judge's interval is clustered
            assert found.metrics[metric].value == pytest.approx(ours.metrics[metric].value, abs=1e-12)
            assert found.metrics[metric].stderr == pytest.approx(ours.metrics[metric].stderr, abs=1e-12)
        rows = original.samples[kind]
        assert [(row.doc_id, row.target, row.extracted, row.metrics[metric]) for row in back.samples[task]] == [
            (row.doc_id, row.target, row.extracted, row.metrics[metric]) for row in rows
        ]
    assert all(task.pairs.identical for task in compare(str(log), str(log)).tasks)
    assert cli.main(["gate", str(log), str(log), "--margin", "0.9", "--allow-small-margin"]) == 0
    assert cli.main(["view", str(log), "--out", str(tmp_path / "view.html")]) == 0
    assert cli.main(["report", str(log), "--runs-only"]) == 0
    assert "every-eval-ever's, which hash differently; give two of one program" in refusal(log, lambda path: compare(path, str(runs[kind])))


def test_a_scale_without_an_end_is_read(runs: dict[str, Path], tmp_path: Path) -> None:
    """The schema writes it as a text."""
    log = theirs(runs["mmlu"], tmp_path)
    raw = json.loads(log.read_text())
    for result in raw["evaluation_results"]:
        result["metric_config"] |= {"metric_unit": "points", "min_score": "-Infinity", "max_score": "Infinity"}
    log.write_text(json.dumps(raw))
    back = read_other(str(log))
    assert back is not None
    assert back.run.tasks


@pytest.mark.parametrize("change", ["score", "percent", "cut", "doubled"])
def test_figures_that_their_samples_do_not_give(change: str, runs: dict[str, Path], tmp_path: Path) -> None:
    """Refused by every command that reads the file, not by those alone that need the samples."""
    log = theirs(runs["mmlu"], tmp_path)
    raw = json.loads(log.read_text())
    samples = log.with_name(Path(raw["detailed_evaluation_results"]["file_path"]).name)
    raw["detailed_evaluation_results"].pop("total_rows", None)
    (result,) = [each for each in raw["evaluation_results"] if "/acc" in each["evaluation_result_id"]][:1]
    result["score_details"]["uncertainty"].pop("confidence_interval", None)
    lines = samples.read_text().splitlines(keepends=True)
    if change in ("score", "percent"):
        result["score_details"]["score"] = 0.9 if change == "score" else 37.5
    else:
        right = [line for line in lines if json.loads(line)["evaluation"]["score"]]
        samples.write_text("".join(right if change == "cut" else lines * 2))
    log.write_text(json.dumps(raw))
    words = {
        "score": "is not the mean of its",
        "percent": "is above max_score",
        "cut": "is not the mean of its",
        "doubled": "is there twice",
    }
    assert words[change] in refusal(log, read_other)
    assert cli.main(["report", str(log), "--runs-only"]) == 2


def test_every_eval_ever_figures_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    log = theirs(runs["gsm8k"], tmp_path)
    raw = json.loads(log.read_text())
    del raw["detailed_evaluation_results"]
    log.write_text(json.dumps(raw))
    for what in (lambda path: compare(path, path), read_view):
        assert "holds figures without samples (no detailed_evaluation_results)" in refusal(log, what)
    assert cli.main(["gate", str(log), str(log)]) == 2
    assert cli.main(["report", str(log), "--runs-only"]) == 0
    del raw["evaluation_results"][0]["score_details"]["uncertainty"]
    log.write_text(json.dumps(raw))
    assert "states neither samples that give it nor a standard error and n, so it has no interval" in refusal(log)


def test_changed_files_of_every_eval_ever(runs: dict[str, Path], tmp_path: Path) -> None:
    def changed(
        name: str, change: Callable[[dict[str, Any]], None], of_samples: Callable[[list[dict[str, Any]]], None] | None = None
    ) -> str:
        files = export(str(runs["gsm8k"]), "every-eval-ever", str(tmp_path / name), {}).files
        samples, log = files
        raw = json.loads(log.read_text())
        if of_samples:
            rows = [json.loads(line) for line in samples.read_text().splitlines()]
            of_samples(rows)
            samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
            del raw["detailed_evaluation_results"]["checksum"]
        change(raw)
        log.write_text(json.dumps(raw))
        return refusal(log)

    def score(raw: dict[str, Any]) -> None:
        raw["evaluation_results"][0]["score_details"]["score"] = 0.99

    def nothing(raw: dict[str, Any]) -> None:
        pass

    def lost(rows: list[dict[str, Any]]) -> None:
        del rows[-2:]

    def right(rows: list[dict[str, Any]]) -> None:
        rows[0]["evaluation"]["score"] = 1 - rows[0]["evaluation"]["score"]

    assert "is 0.99, and evalkit wrote 0." in changed("score", score)
    assert "holds 22 rows, and" in changed("lost", nothing, lost)
    assert "is not what evalkit wrote" in changed("right", nothing, right)
    assert "schema_version '9.0'" in changed("version", lambda raw: raw.update(schema_version="9.0"))
    assert "are not beside it" in changed("gone", lambda raw: raw["detailed_evaluation_results"].update(file_path="data/no.jsonl"))
    assert "is not what Every Eval Ever's schema says (KeyError('source_metadata'))" in changed(
        "key", lambda raw: raw.pop("source_metadata")
    )
    files = export(str(runs["gsm8k"]), "every-eval-ever", str(tmp_path / "sum"), {}).files
    files[0].write_text(files[0].read_text() + "\n")
    assert "is not the file whose checksum" in refusal(files[1])


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPECS)
def test_hub(kind: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = read_ours(str(runs[kind]))
    datasets = [f"--dataset={task}=org/{task}:main" for task in original.run.tasks if task != "gsm8k"]
    assert cli.main(["export", str(runs[kind]), "--to", "hub", "--out", str(tmp_path), *datasets]) == 0
    for file in (tmp_path / ".eval_results").iterdir():
        (result,) = huggingface_hub.parse_eval_result_entries(yaml.safe_load(file.read_text()))
        figure = original.run.tasks[file.stem].figure
        assert figure is not None
        assert result.dataset_id == ("openai/gsm8k" if file.stem == "gsm8k" else f"org/{file.stem}")
        assert result.value == pytest.approx(figure.value if kind == "mt_bench" else 100 * figure.value)
    back = read_other(str(tmp_path))
    assert back is not None
    for task, found in original.run.tasks.items():
        same = back.run.tasks[task]
        kept = ("protocol", "protocol_sha256", "headline", "figure", "n", "n_total", "data")
        assert [getattr(same, name) for name in kept] == [getattr(found, name) for name in kept]
    assert (back.run.model.spec, back.run.model.fingerprint) == (original.run.model.spec, original.run.model.fingerprint)
    assert cli.main(["report", str(tmp_path), "--runs-only"]) == 0
    assert "`evalkit report` shows them" in refusal(tmp_path)


@settings(max_examples=30)
@given(
    value=st.floats(0, 1),
    stderr=st.floats(0, 1),
    n=st.integers(1, 20_000),
    spec=st.text(st.characters(exclude_characters=";", categories=("L", "N", "P")), min_size=1, max_size=20),
)
def test_hub_keeps_every_figure(tmp_path_factory: pytest.TempPathFactory, value: float, stderr: float, n: int, spec: str) -> None:
    folder = tmp_path_factory.mktemp("hub")
    stderr *= (value * (1 - value) / n) ** 0.5  # of scores that can be
    figure = Estimate(value, stderr, (value - stderr, value + stderr), n)
    settings_hash = sha256_json(asdict(resolve("gsm8k@qwen").protocol))
    measured = entry(0.5, metrics={"acc": figure}, n=n, n_total=20_000, protocol_sha256=settings_hash)
    recorded = Recorded(folder, "evalkit", run(spec, gsm8k=measured))
    (file,) = hub.write(recorded, folder, {}).files
    back = hub.read(file).run
    assert back.tasks["gsm8k"].figure == figure
    assert (back.tasks["gsm8k"].n, back.tasks["gsm8k"].n_total, back.model.spec) == (n, 20_000, spec)


def test_what_the_hub_is_not_given(runs: dict[str, Path], tmp_path: Path) -> None:
    def refused(folder: Path, **options: str) -> str:
        return refusal(folder, lambda path: export(path, "hub", str(tmp_path / "out"), options))

    assert "the hub has no benchmark for mmlu (it has gsm8k, lm_eval:mmlu_pro)" in refused(runs["mmlu"])
    assert "expected mmlu=ORG/NAME:TASK_ID" in refused(runs["mmlu"], mmlu="cais/mmlu")
    assert "--dataset nothing: the run has no such task" in refused(runs["mmlu"], nothing="a/b:c")
    sample = golden_run(tmp_path / "sample", "gsm8k")
    record = json.loads((sample / "run.json").read_text())
    record["tasks"]["gsm8k"]["data"]["source"] = "sample"
    (sample / "run.json").write_text(json.dumps(record))
    assert "was run on the bundled sample, whose figures are not openai/gsm8k's" in refused(sample)
    (sample / "run.json").write_text(json.dumps(record | {"status": "incomplete"}))
    assert "is incomplete" in refused(sample)
    for option in (["--dataset", "gsm8k"], ["--project", "p"]):
        assert cli.main(["export", str(runs["gsm8k"]), "--to", "hub", *option]) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- dataset: {id: openai/gsm8k, task_id: gsm8k}\n  value: 71\n", "has neither n nor a standard error in its notes"),
        ("- dataset: {id: openai/gsm8k}\n  value: 71\n", "0.dataset.task_id is missing"),
        ("- dataset: {id: a/b, task_id: c}\n  value: high\n", 'value is "high", expected a number'),
        ("- dataset: {id: a/b, task_id: c}\n  value: 1\n  score: 2\n", "score is no key"),
        ("- [", "is no YAML"),
        ("- dataset: {id: a/b, task_id: c}\n  value: 1\n  notes: evalkit=0.1.0; score=0.01\n", "notes lack or garble"),
    ],
)
def test_other_yaml_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "gsm8k.yaml").write_text(text)
    assert said in refusal(tmp_path / "gsm8k.yaml")


def test_a_value_that_is_not_its_notes(runs: dict[str, Path], tmp_path: Path) -> None:
    (file,) = export(str(runs["gsm8k"]), "hub", str(tmp_path), {}).files
    file.write_text(file.read_text().replace("value: 50.0", "value: 90.0"))
    assert "value 90.0 is not the score 0.5 of its notes" in refusal(file)


# --- lm-eval ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPECS)
def test_lm_eval(kind: str, runs: dict[str, Path], tmp_path: Path) -> None:
    """The export is what `evalkit run` writes beside its record, whose layout lm-eval's own tools are tested on elsewhere."""
    original = read_ours(str(runs[kind]))
    files = export(str(runs[kind]), "lm-eval", str(tmp_path / "export"), {}).files
    samples: dict[str, list[Sample]] = {task: [lm_eval_write.sample_of(row) for row in rows] for task, rows in original.samples.items()}
    assert {task: [sample.row().metrics for sample in some] for task, some in samples.items()} == {
        task: [row.metrics for row in rows] for task, rows in original.samples.items()
    }
    assert len({file.parent for file in files}) == 1
    results = json.loads(next(file for file in files if file.name.startswith("results_")).read_text())
    for task, found in original.run.tasks.items():
        assert found.figure
        assert found.figure.value in results["results"][task].values()
    if kind in ("mmlu", "gsm8k", "humaneval"):
        answers = read_answers(str(files[0].parent))
        assert sum(len(task.answers) for task in answers.tasks.values()) == sum(found.n for found in original.run.tasks.values())


# --- EvalPlus, FastChat -----------------------------------------------------------------------------------------------


def test_evalplus(runs: dict[str, Path], tmp_path: Path) -> None:
    original = read_ours(str(runs["humaneval"]))
    samples, results = export(str(runs["humaneval"]), "evalplus", str(tmp_path), {}).files
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    for row, sample in zip(rows, original.samples["humaneval"], strict=True):
        assert row["task_id"] == sample.doc_id
        compile(sample.doc["prompt"] + "    pass\n", row["task_id"], "exec")
        assert row["solution"].startswith(sample.doc["prompt"])
    back = read_other(str(results))
    assert back is not None
    assert back.run.tasks["humaneval"].figure == original.run.tasks["humaneval"].figure
    assert tasks_in(str(results)) == {"humaneval": ("humaneval",), "humaneval@evalplus": ("humaneval",)}
    worse = json.loads(results.read_text())
    for outcomes in worse["eval"].values():
        outcomes[0] |= {"base_status": "fail", "solution": "no"}
    del worse["pass_at_k"]
    (tmp_path / "worse_eval_results.json").write_text(json.dumps(worse))
    found = compare(str(results), str(tmp_path / "worse_eval_results.json")).tasks[0]
    assert (found.difference.base, found.difference.cand) == (original.run.tasks["humaneval"].metrics["pass@1"].value, 0)
    assert cli.main(["gate", str(results), str(results), "--allow-small-margin"]) == 0
    assert cli.main(["view", str(results), "--out", str(tmp_path / "view.html")]) == 0


def test_evalplus_by_its_own_tests(tmp_path: Path) -> None:
    """Several programs a problem; "plus" counts what passes both, as EvalPlus's pass@1 does."""

    def outcome(base: str, plus: str, number: int = 0) -> dict[str, Any]:
        return {
            "task_id": f"HumanEval/{number}",
            "solution": "def f(): pass",
            "base_status": base,
            "plus_status": plus,
            "base_fail_tests": [],
            "plus_fail_tests": [],
        }

    file = tmp_path / "model_eval_results.json"
    problems = {
        "HumanEval/0": [outcome("pass", "pass"), outcome("pass", "fail")],
        "HumanEval/1": [outcome("fail", "pass", 1), outcome("timeout", "fail", 1)],
    }
    raw = {"date": "2026-01-01", "hash": "h", "eval": problems, "pass_at_k": {"base": {"pass@1": 0.5}, "plus": {"pass@1": 0.25}}}
    file.write_text(json.dumps(raw))
    recorded = read_other(str(file))
    assert recorded is not None
    assert {name: figure.value for name, figure in recorded.run.tasks["humaneval"].metrics.items()} == {"pass@1": 0.5, "plus_pass@1": 0.25}
    assert compare(str(file), str(file), metric="plus_pass@1").tasks[0].difference.base == 0.25
    for change, said in (
        ({"pass_at_k": {"base": {"pass@1": 0.75}}}, "pass@1 0.75 is not the mean of its 2 samples"),
        ({"eval": {"HumanEval/0": [outcome("maybe", "fail")]}, "pass_at_k": None}, "base_status is 'maybe', expected pass, fail, timeout"),
        ({"eval": {"LCB/0": [outcome("pass", "fail")]}}, "task_ids begin with LCB"),
        ({"eval": {"HumanEval/0": []}}, "HumanEval/0 has no programs"),
        ({"eval": [1]}, "is not EvalPlus's results"),
    ):
        file.write_text(json.dumps(raw | change))
        assert said in refusal(file)


def test_fastchat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "write_plots", lambda *_: None)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder = waiting_run(tmp_path / "run", 4)
    (answers,) = export(str(folder), "fastchat", str(tmp_path / "before"), {}).files
    assert [json.loads(line)["question_id"] for line in answers.read_text().splitlines()] == [0, 1, 2, 3]
    with judge_server() as (_, url):
        assert cli.main(["judge", str(folder), "--judge-model", MODEL, "--judge-url", url, "--quiet"]) == 0
    files = export(str(folder), "fastchat", str(tmp_path / "out"), {}).files
    assert [file.read_bytes() for file in files] == [
        (folder / "mt_bench" / file.relative_to(tmp_path / "out")).read_bytes() for file in files
    ]
    for place in (tmp_path / "out", files[1]):
        assert f"make runs of them: evalkit score mt_bench {files[1]}" in refusal(place)
    shutil.rmtree(folder / "mt_bench")
    assert "is missing, which evalkit judge wrote" in refusal(folder, lambda path: export(path, "fastchat", str(tmp_path / "no"), {}))


@pytest.mark.parametrize(("to", "said"), [("evalplus", "it has none"), ("fastchat", "holds nothing to judge")])
def test_other_tasks_are_not_exported(to: str, said: str, runs: dict[str, Path], tmp_path: Path) -> None:
    assert said in refusal(runs["gsm8k"], lambda path: export(path, to, str(tmp_path), {}))


# --- inspect ----------------------------------------------------------------------------------------------------------


def inspect_log() -> Any:
    return pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed: pip install 'evalkit-lm[inspect]'")


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.filterwarnings("ignore")  # of the libraries that inspect_ai brings
def test_inspect(kind: str, runs: dict[str, Path], tmp_path: Path) -> None:
    library = inspect_log()
    original = read_ours(str(runs[kind]))
    files = export(str(runs[kind]), "inspect", str(tmp_path), {}).files
    for file, (task, found) in zip(files, original.run.tasks.items(), strict=True):
        log = library.read_eval_log(str(file))
        assert (log.status, log.eval.task, len(log.samples), log.results.total_samples) == ("success", task, found.n, found.n)
        by_id = {sample.id: sample for sample in log.samples}
        assert {str(each.id) for each in library.read_eval_log_sample_summaries(str(file))} == {
            row.doc_id for row in original.samples[task]
        }
        for row in original.samples[task]:
            sample = by_id[row.doc_id]
            assert sample.target == row.target
            assert {name: score.value for name, score in sample.scores.items()} == {
                name: value for name, value in row.metrics.items() if isinstance(value, float)
            }
            texts = [response.text for response in row.responses if hasattr(response, "text")]
            assert not texts or sample.output.completion == texts[-1]
    back = read_other(str(tmp_path))
    assert back is not None
    assert back.run == original.run
    assert {task: list(rows) for task, rows in back.samples.items()} == dict(original.samples)
    assert all(task.pairs.identical for task in compare(str(tmp_path), str(runs[kind])).tasks)


@pytest.mark.filterwarnings("ignore")
def test_changed_logs_of_inspect(runs: dict[str, Path], tmp_path: Path) -> None:
    library = inspect_log()
    (file,) = export(str(runs["gsm8k"]), "inspect", str(tmp_path), {}).files

    def changed(change: Callable[[Any], object]) -> str:
        log = library.read_eval_log(str(file))
        change(log)
        library.write_eval_log(log, str(tmp_path / "changed" / file.name))
        return refusal(tmp_path / "changed" / file.name)

    (tmp_path / "changed").mkdir()
    assert "is not what evalkit wrote" in changed(lambda log: setattr(next(iter(log.samples[0].scores.values())), "value", 0.5))
    assert "holds 11 samples of gsm8k, and its figure is of 12" in changed(lambda log: log.samples.pop())
    assert "status is error" in changed(lambda log: setattr(log, "status", "error"))
    assert "is 0.75, and evalkit wrote 0.5" in changed(lambda log: setattr(log.results.scores[0].metrics["mean"], "value", 0.75))
    file.write_bytes(b"PK not a log")
    assert "can't be read by inspect_ai" in refusal(file)


@pytest.mark.filterwarnings("ignore")
def test_logs_by_inspect_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect_log()
    from inspect_ai import Task
    from inspect_ai import eval as run_inspect
    from inspect_ai.dataset import MemoryDataset
    from inspect_ai.dataset import Sample as Question
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import includes, match

    monkeypatch.chdir(tmp_path)
    questions = MemoryDataset([Question(id=f"q{i}", input=f"What is {i} + 1?", target=str(i + 1)) for i in range(6)])

    def answer(i: int, right: bool) -> Any:
        said = ModelOutput.from_content("mockllm/model", f"It is {i + 1 if right else 99}")
        return said.model_copy(update={"usage": ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)})

    def made(name: str, epochs: int, right: Callable[[int], bool]) -> str:
        model = get_model("mockllm/model", custom_outputs=[answer(i, right(i)) for i in range(6)] * epochs, memoize=False)
        task = Task(dataset=questions, scorer=[match(), includes()], name="adding", epochs=epochs)
        (log,) = run_inspect(task, model=model, log_dir=str(tmp_path / name), display="none", max_samples=1, max_tasks=1)
        assert log.status == "success", log.error
        return str(tmp_path / name)

    base, cand = made("base", 1, lambda i: True), made("cand", 1, lambda i: i % 2 == 0)
    found = compare(base, cand).tasks[0]
    assert (found.pairs.metric, found.difference.base, found.difference.cand, found.difference.lost) == ("match", 1.0, 0.5, 3)
    assert compare(base, cand, metric="includes").tasks[0].difference.cand == 0.5
    assert cli.main(["gate", base, cand, "--margin", "0.1", "--allow-small-margin"]) == 3
    assert cli.main(["gate", base, base, "--margin", "0.1", "--allow-small-margin"]) == 0
    assert cli.main(["view", base, cand, "--out", str(tmp_path / "view.html")]) == 0
    assert cli.main(["report", base, "--runs-only"]) == 0
    repeated = read_other(made("twice", 2, lambda i: i < 3))
    assert repeated is not None
    assert repeated.run.tasks["adding"].n == 6
    assert repeated.run.tasks["adding"].figure is not None
    assert repeated.run.tasks["adding"].figure.value == 0.5
    assert cli.main(["export", base, "--to", "every-eval-ever", "--out", str(tmp_path / "eee")]) == 0


# --- trackio ----------------------------------------------------------------------------------------------------------


def test_trackio(runs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed: pip install 'evalkit-lm[trackio]'")
    code = (
        "import sys\nfrom evalkit import cli\n"
        "sys.exit(max(cli.main(['export', run, '--to', 'trackio', '--out', out, '--project', project])"
        " for out in sys.argv[1:2] for project, run in zip(sys.argv[2::2], sys.argv[3::2])))"
    )
    pairs = [each for kind, folder in runs.items() for each in (kind, str(folder))]
    subprocess.run([sys.executable, "-c", code, str(tmp_path), *pairs], check=True, capture_output=True, timeout=300)
    for kind, folder in runs.items():
        file = tmp_path / f"{kind}.db"
        back = read_other(str(file))
        assert back is not None
        assert back.run == read_ours(str(folder)).run
        assert "holds figures without samples (trackio holds metrics)" in refusal(file)
        assert cli.main(["report", str(file), "--runs-only"]) == 0
    with sqlite3.connect(tmp_path / "gsm8k.db") as database:
        database.execute("UPDATE metrics SET metrics = '{}'")
    assert "gsm8k/n is None, and evalkit wrote 12" in refusal(tmp_path / "gsm8k.db")
    (tmp_path / "no.db").write_text("no database")
    assert "is no project of trackio" in refusal(tmp_path / "no.db")


def test_trackio_as_a_run_goes(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed: pip install 'evalkit-lm[trackio]'")
    command = ["run", "--tasks", "mmlu", "--model", str(tiny_model), "--data", "sample", "--limit", "4", "--name", "r", "--trackio", "live"]
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "evalkit", *command, "--out", str(tmp_path), "--quiet"]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=300, env=environment)
    assert "Trackio metrics logged" not in done.stdout
    with sqlite3.connect(tmp_path / "live.db") as database:
        logged = [json.loads(metrics) for (metrics,) in database.execute("SELECT metrics FROM metrics ORDER BY id")]
    figure = read_ours(str(tmp_path / "r")).run.tasks["mmlu"].figure
    assert figure is not None
    assert logged[-2] == {"mmlu@qwen/answered": 4, "mmlu@qwen/running acc": pytest.approx(figure.value, abs=5e-4)}
    assert (logged[-1]["mmlu/acc"], logged[-1]["mmlu/acc_stderr"], logged[-1]["mmlu/n"]) == (figure.value, figure.stderr, 4)


@pytest.mark.parametrize(("to", "module"), [("inspect", "inspect_ai.log"), ("trackio", "trackio")])
def test_extras_that_are_missing(to: str, module: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    assert f"pip install 'evalkit-lm[{to}]'" in refusal(runs["gsm8k"], lambda path: export(path, to, str(tmp_path), {}))
    if to == "trackio":
        assert cli.main(["run", "--tasks", "mmlu", "--data", "sample", "--out", str(tmp_path), "--trackio", "p"]) == 2


def test_figures_alone_are_exported_as_figures(runs: dict[str, Path], tmp_path: Path) -> None:
    export(str(runs["gsm8k"]), "hub", str(tmp_path), {})
    assert "holds figures without samples" in refusal(tmp_path, lambda path: export(path, "lm-eval", str(tmp_path / "no"), {}))
    files = export(str(tmp_path), "every-eval-ever", str(tmp_path / "eee"), {}).files
    assert [file.suffix for file in files] == [".json"]


@pytest.mark.parametrize("kind", ["eee", "evalplus", "hub"])
def test_damaged_files_are_refused_in_one_line(kind: str, runs: dict[str, Path], tmp_path: Path) -> None:
    """A value replaced or removed anywhere: the file is read as before, or refused; nothing else happens."""
    if kind == "eee":
        file = theirs(runs["gsm8k"], tmp_path)
    elif kind == "evalplus":
        file = export(str(runs["humaneval"]), "evalplus", str(tmp_path), {}).files[1]
    else:
        (file,) = export(str(runs["gsm8k"]), "hub", str(tmp_path), {}).files
    raw = yaml.safe_load(file.read_text()) if kind == "hub" else json.loads(file.read_text())
    refused: list[str] = []
    for seed in range(40):
        file.write_bytes(mutated_json(raw, random.Random(seed), {"more": 1}))
        for what in (read_answers, lambda path: read_inputs([], [path])):
            try:
                what(str(file))
            except EvalkitError as error:
                refused.append(str(error))
    assert len(refused) > 20
    assert not [message for message in refused if "\n" in message]


def test_pandas_reads_our_tables(runs: dict[str, Path]) -> None:
    """quality.csv: numbers as numbers, one row a figure, texts with commas and quotes whole."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    (page,) = read_inputs([], [str(runs["mmlu"]), str(runs["gsm8k"])])
    table = pandas.read_csv(io.StringIO(measured.section(page).csv["quality"]))
    assert list(table["task"]) == ["gsm8k", "mmlu"]
    assert {str(table[name].dtype) for name in ("measured", "ci95_low", "ci95_high")} == {"float64"}
    assert str(table["n"].dtype) == "int64"
    figures = [read_ours(str(runs[kind])).run.tasks[kind].figure for kind in ("gsm8k", "mmlu")]
    assert list(table["measured"]) == [pytest.approx(100 * figure.value, abs=1e-4) for figure in figures if figure]
    assert all(table["ci95_low"] <= table["measured"])
