"""`evalkit compare` on results that lm-eval itself wrote: its figures, its group, what must agree."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from evalkit.comparison import compare
from evalkit.errors import EvalkitError


def refusal(base: Path, cand: Path, **options: object) -> str:
    with pytest.raises(EvalkitError) as caught:
        compare.compare_runs(str(base), str(cand), **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    return str(caught.value)


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
