"""`evalkit compare`: figures against the statistics, what it refuses, and lm-eval's own results."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fake_runs import edit_run, fake_run, flips, sample, write_samples

from evalkit import cli
from evalkit.comparison import compare
from evalkit.comparison.answers import read_answers
from evalkit.errors import EvalkitError
from evalkit.stats.paired import paired


@pytest.fixture(scope="module")
def tiny_runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of one model."""
    import torch

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        arguments = ["run", "--tasks", "mmlu,gsm8k@lm-eval", "--model", str(tiny_model), "--data", "sample", "--limit", "5"]
        assert cli.main([*arguments, "--out", str(out), "--name", name, "--quiet"]) == 0
    return out


def refusal(base: Path, cand: Path, **options: object) -> str:
    with pytest.raises(EvalkitError) as caught:
        compare.compare_runs(str(base), str(cand), **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_figures_of_real_runs(tiny_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.compare_runs(str(tiny_runs / "a"), str(tiny_runs / "b" / "run.json"), str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "mmlu@qwen" in printed
    assert "gsm8k@lm-eval: every answer is the same" in printed
    found = json.loads((tmp_path / "compare.json").read_text())
    assert (found["schema"], found["kind"], set(found["tasks"])) == (1, "compare", {"mmlu", "gsm8k"})
    mmlu = found["tasks"]["mmlu"]
    assert (mmlu["n"], mmlu["value"], mmlu["gained"], mmlu["lost"], mmlu["identical"], mmlu["flips"]) == (5, 0, 0, 0, True, {})
    record = json.loads((tiny_runs / "a" / "run.json").read_text())
    assert mmlu["base"] == record["tasks"]["mmlu"]["metrics"]["acc"]["value"]
    assert "| mmlu@qwen | 5 |" in (tmp_path / "compare.md").read_text()


def test_our_lm_eval_export_reads_the_same(tiny_runs: Path) -> None:
    ours = read_answers(str(tiny_runs / "a"))
    theirs = read_answers(str(tiny_runs / "a" / "lm_eval"))
    assert set(theirs.tasks) == set(ours.tasks)
    for name, task in ours.tasks.items():
        assert sorted(a.score for a in task.answers.values()) == sorted(a.score for a in theirs.tasks[name].answers.values())
    found = compare.compare(str(tiny_runs / "a" / "lm_eval"), str(tiny_runs / "b" / "lm_eval"))
    assert all(task.pairs.identical for task in found.tasks)
    assert {task.pairs.protocol for task in found.tasks} == {"mmlu@qwen", "gsm8k@lm-eval"}
    assert "give" in refusal(tiny_runs / "a", tiny_runs / "b" / "lm_eval")


def test_flips_by_subject_and_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, cand = flips(300, 4, 9)
    fake_run(tmp_path / "a", "old", mmlu=base, gsm8k=base)
    fake_run(tmp_path / "b", "new", mmlu=cand, gsm8k=base)
    found = compare.compare(str(tmp_path / "a"), str(tmp_path / "b"))
    mmlu, gsm8k = found.tasks
    assert mmlu.difference == paired(base, cand)
    assert {subject: (f.gained, f.lost) for subject, f in mmlu.flips.items()} == {
        "subject1": (1, 3),
        "subject2": (1, 3),
        "subject0": (2, 3),
    }
    assert [mmlu.pairs.ids[i] for i in mmlu.examples] == ["d4", "d5", "d6", "d7", "d8"]
    assert (mmlu.holm_p, gsm8k.holm_p) == (2 * mmlu.difference.p, 1.0)
    assert found.overall is not None
    assert found.overall.value == pytest.approx(-5 / 300 / 2)
    assert compare.compare_runs(str(tmp_path / "a"), str(tmp_path / "b")) == 0
    printed = capsys.readouterr().out
    assert "mmlu@qwen: 9 right to wrong, 4 wrong to right: subject1 -3 +1" in printed
    assert "document d4 (right: A)" in printed
    assert "prompt: question 4 Answer:" in printed
    assert "overall (mean of tasks)" in printed


@pytest.mark.parametrize(
    ("n", "discordant", "mde"), [(14_042, 702, 0.47), (14_042, 280, 0.30), (1_319, 66, 1.53), (1_319, 26, 0.97), (164, 8, 4.3)]
)
def test_detectable_effects_of_full_benchmarks(n: int, discordant: int, mde: float, tmp_path: Path) -> None:
    base, cand = flips(n, discordant // 2, discordant - discordant // 2)
    fake_run(tmp_path / "a", "a", mmlu=base)
    fake_run(tmp_path / "b", "b", mmlu=cand)
    assert compare.compare_runs(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path)) == 0
    found = json.loads((tmp_path / "compare.json").read_text())["tasks"]["mmlu"]
    assert 100 * found["mde"] == pytest.approx(mde, abs=0.012)
    assert found["method"] == "McNemar"


def test_documents_that_share_a_source(tmp_path: Path) -> None:
    base, cand = [1.0, 0.0] * 40, [1.0] * 40 + [0.0] * 40
    fake_run(tmp_path / "a", "a", t=base)
    fake_run(tmp_path / "b", "b", t=cand)
    found = compare.compare(str(tmp_path / "a"), str(tmp_path / "b"), cluster="passage").tasks[0].difference
    assert found == paired(base, cand, [f"passage{i // 4}" for i in range(80)])
    assert found.clusters == 20
    # the same where the samples say so themselves
    for name, scores in (("a", base), ("b", cand)):
        write_samples(tmp_path / name, "t", [sample(i, s, name, cluster=f"passage{i // 4}") for i, s in enumerate(scores)])
    assert compare.compare(str(tmp_path / "a"), str(tmp_path / "b")).tasks[0].difference == found
    assert "no such field; they have group, question, passage" in refusal(tmp_path / "a", tmp_path / "b", cluster="source")


def test_repeats_are_averaged_first(tmp_path: Path) -> None:
    for name, scores in (("a", [1.0, 0.0, 1.0, 1.0]), ("b", [0.0, 0.0, 1.0, 0.0])):
        fake_run(tmp_path / name, name, t=[1.0])
        write_samples(tmp_path / name, "t", [sample(i // 2, s, name, prompt_hash=f"p{i}") for i, s in enumerate(scores)])
    found = compare.compare(str(tmp_path / "a"), str(tmp_path / "b")).tasks[0].difference
    assert (found.n, found.base, found.cand, found.gained) == (2, 0.75, 0.25, None)


def test_what_is_not_comparable(tmp_path: Path) -> None:
    base = fake_run(tmp_path / "a", "a", mmlu=[1.0] * 8)
    cand = fake_run(tmp_path / "b", "b", mmlu=[1.0] * 7)
    assert "1 documents are only in BASE, 0 only in CAND; run both with the same --data and --limit" in refusal(base, cand)
    rows = [sample(i, 1.0, "x") for i in range(8)]
    write_samples(cand, "mmlu", [*rows[:7], rows[7] | {"doc_hash": "other"}])
    assert "mmlu: the data of 1 of 8 documents differ (first: d7)" in refusal(base, cand)
    write_samples(cand, "mmlu", [*rows[:7], rows[7] | {"prompt_hash": "other"}])
    assert "mmlu: the prompts of 1 of 8 documents differ (first: d7)" in refusal(base, cand)
    write_samples(cand, "mmlu", rows)
    edit_run(cand, "mmlu", protocol="lm-eval")
    assert "protocol differs (BASE mmlu@qwen, CAND mmlu@lm-eval)" in refusal(base, cand)
    edit_run(cand, "mmlu", protocol="qwen", protocol_sha256="1" * 64)
    assert "mmlu: settings differs" in refusal(base, cand)
    edit_run(cand, "mmlu", protocol_sha256="0" * 64)
    assert compare.compare_runs(str(base), str(cand)) == 0
    two = fake_run(tmp_path / "two", "c", mmlu=[1.0] * 8, gsm8k=[1.0])
    assert "gsm8k is in" in refusal(two, base)
    assert "pass --tasks mmlu" in refusal(base, two)
    assert compare.compare_runs(str(base), str(two), tasks=["mmlu"]) == 0
    assert "unknown metric of mmlu 'acc_norm'" in refusal(base, cand, metric="acc_norm")
    assert "unknown task" in refusal(base, cand, tasks=["mmul"])


def test_what_is_no_run(tmp_path: Path) -> None:
    base = fake_run(tmp_path / "a", "a", mmlu=[1.0] * 8)
    assert "no such run" in refusal(base, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "holds neither run.json nor lm-eval's" in refusal(base, tmp_path / "empty")
    (base / "samples" / "mmlu.jsonl").write_text('{"doc_id": "d0"}\n')
    assert "mmlu.jsonl line 1: group is missing; run it again" in refusal(base, base)
    (base / "samples" / "mmlu.jsonl").write_text("{\n")
    assert "line 1 is damaged" in refusal(base, base)
    (base / "samples" / "mmlu.jsonl").unlink()
    assert "samples lie beside its figures" in refusal(base, base)
    record = json.loads((base / "run.json").read_text()) | {"status": "incomplete"}
    (base / "run.json").write_text(json.dumps(record))
    assert "is incomplete; run `evalkit run` again" in refusal(base, base)


def test_hostile_texts_stay_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, cand = flips(300, 0, 30)
    hostile = "[red]x[/red] \x1b[31m\u202e</td><script>alert(1)</script>|a\n::error::owned\n##[error]owned\x00"
    fake_run(tmp_path / "a", hostile, mmlu=base)
    fake_run(tmp_path / "b", hostile, mmlu=cand)
    write_samples(tmp_path / "b", "mmlu", [sample(i, s, hostile + "z" * 10**6 if i == 0 else hostile) for i, s in enumerate(cand)])
    assert compare.compare_runs(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    markdown = (tmp_path / "out" / "compare.md").read_text()
    for bad in ("\x1b", "\u202e", "\x00", "##[error]"):
        assert bad not in printed + markdown
    assert not [line for line in printed.splitlines() if line.lstrip().startswith("::")]
    assert "[red]x[/red]" in printed  # shown, not obeyed
    assert "<script>" not in markdown.replace("\\<", "")
    assert max(map(len, printed.splitlines())) < 400


LM_EVAL = """
import json, sys
import lm_eval
from lm_eval.api.model import LM
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

class Dummy(LM):
    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong
    def loglikelihood(self, requests, **_):
        # option b is liked, but for the documents of `wrong`
        return [(-1.0 if (r.args[1] == " b") != (r.args[0] in self.wrong) else -2.0, False) for r in requests]
    def loglikelihood_rolling(self, requests, **_):
        return [-len(r.args[0]) - 3.0 * len(self.wrong) for r in requests]
    def generate_until(self, requests, **_):
        return ["no" if r.args[0] in self.wrong else f"it is the word {r.args[0]} that you said" for r in requests]

out = sys.argv[1]
manager = TaskManager(include_path=out, include_defaults=False)
for name, wrong in (("base", ()), ("cand", ("q1", "q2", "q5"))):
    tracker = EvaluationTracker(output_path=f"{out}/{name}")
    results = lm_eval.simple_evaluate(
        model=Dummy(wrong), tasks=["tiny", "tiny_gen"], task_manager=manager, evaluation_tracker=tracker, bootstrap_iters=10
    )
    samples = results.pop("samples")
    figures = {task: {k: v for k, v in row.items() if isinstance(v, float)} for task, row in results["results"].items()}
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=rows)
    print(json.dumps(figures))
"""

TASKS = {
    "tiny_choice.yaml": """
        task: tiny_{leaf}
        dataset_path: json
        dataset_kwargs: {{data_files: {{test: {out}/docs.jsonl}}}}
        test_split: test
        output_type: multiple_choice
        doc_to_text: "{{{{q}}}}"
        doc_to_choice: [a, b]
        doc_to_target: 1
        metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
        metadata: {{version: 1.0}}
    """,
    "tiny_gen.yaml": """
        task: tiny_gen
        dataset_path: json
        dataset_kwargs: {{data_files: {{test: {out}/docs.jsonl}}}}
        test_split: test
        output_type: generate_until
        doc_to_text: "{{{{q}}}}"
        doc_to_target: "it is the word {{{{q}}}} that you said"
        generation_kwargs: {{until: ["\\n"], do_sample: false}}
        metric_list: [{{metric: exact_match}}, {{metric: bleu}}]
        filter_list:
          - {{name: upper, filter: [{{function: uppercase}}, {{function: take_first}}]}}
          - {{name: plain, filter: [{{function: take_first}}]}}
        metadata: {{version: 1.0}}
    """,
}


@pytest.fixture(scope="module")
def lm_evals_own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """Two results folders that lm-eval itself wrote, and the figures that it printed."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    out = tmp_path_factory.mktemp("lm_eval")
    (out / "docs.jsonl").write_text("".join(json.dumps({"q": f"q{i}"}) + "\n" for i in range(12)))
    for leaf in ("one", "two"):
        text = textwrap.dedent(TASKS["tiny_choice.yaml"]).format(leaf=leaf, out=out)
        (out / f"tiny_{leaf}.yaml").write_text(text)
    (out / "tiny_gen.yaml").write_text(textwrap.dedent(TASKS["tiny_gen.yaml"]).format(out=out))
    group = "group: tiny\ntask: [tiny_one, tiny_two]\naggregate_metric_list: [{metric: acc}]\nmetadata: {version: 1.0}\n"
    (out / "tiny_group.yaml").write_text(group)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(out / "hf"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", LM_EVAL, str(out)]
    done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    return out, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_results_that_lm_eval_wrote(lm_evals_own: tuple[Path, list[dict]]) -> None:
    out, (base, cand) = lm_evals_own
    found = compare.compare(str(out / "base"), str(out / "cand"))
    tasks = {task.pairs.task: task for task in found.tasks}
    assert set(tasks) == {"tiny", "tiny_gen"}  # the group's leaves are one task
    tiny = tasks["tiny"]
    assert (tiny.pairs.metric, tiny.difference.n, tiny.difference.lost) == ("acc,none", 24, 6)
    assert (tiny.difference.base, tiny.difference.cand) == (base["tiny"]["acc,none"], cand["tiny"]["acc,none"])
    assert {subject: f.lost for subject, f in tiny.flips.items()} == {"tiny_one": 3, "tiny_two": 3}
    assert [(tiny.pairs.base[i].shown, tiny.pairs.cand[i].shown) for i in tiny.examples[:1]] == [(" b", " a")]
    plain = compare.compare(str(out / "base"), str(out / "cand"), ["tiny_gen"], "exact_match,plain").tasks[0].difference
    assert (plain.base, plain.cand) == (base["tiny_gen"]["exact_match,plain"], cand["tiny_gen"]["exact_match,plain"]) == (1.0, 0.75)
    bleu = compare.compare(str(out / "base"), str(out / "cand"), ["tiny_gen"], "bleu,plain").tasks[0].difference
    assert bleu.method == "bootstrap"
    assert (100 * bleu.base, 100 * bleu.cand) == pytest.approx((base["tiny_gen"]["bleu,plain"], cand["tiny_gen"]["bleu,plain"]), abs=1e-9)
    assert "unknown metric of tiny_gen 'f1'" in refusal(out / "base", out / "cand", tasks=["tiny_gen"], metric="f1")


def test_lm_eval_prompts_and_settings_must_agree(lm_evals_own: tuple[Path, list[dict]], tmp_path: Path) -> None:
    out, _ = lm_evals_own
    for old, new, complaint in (
        ('"arg_1": " a"', '"arg_1": " A"', "tiny: the prompts of 12 of 24 documents differ"),
        ('"target_hash": "', '"target_hash": "0', "tiny: the data of 12 of 24 documents differ"),
    ):
        (source,) = (out / "cand").glob("*/results_*.json")
        other = tmp_path / complaint[12:16].strip()
        other.mkdir()
        for file in source.parent.iterdir():
            text = file.read_text()
            (other / file.name).write_text(text.replace(old, new) if file.name.startswith("samples_tiny_one") else text)
        assert complaint in refusal(out / "base", other, tasks=["tiny"])
    results = other / source.name
    for file in other.glob("samples_tiny_one*"):
        file.write_text(file.read_text().replace('"target_hash": "0', '"target_hash": "'))
    results.write_text(results.read_text().replace('"num_fewshot": 0', '"num_fewshot": 5'))
    assert "num_fewshot differs (BASE 0, CAND 5)" in refusal(out / "base", other, tasks=["tiny"])
    for file in other.glob("samples_*"):
        file.unlink()
    assert "--log_samples" in refusal(out / "base", other)
