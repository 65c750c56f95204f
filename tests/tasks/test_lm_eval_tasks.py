"""`lm_eval:NAME` against lm-eval's own `simple_evaluate`: the same prompts, metrics and standard errors, for tasks of every output type."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lm_eval_real_rows
import pytest
from lm_eval_reference import Ours, answered_by, load_from, pairs, simple_evaluate, their_pairs
from lm_eval_rows import write
from lm_eval_table import NEEDS, PAGE, TASKS, read_table, table

from evalkit.config import RunConfig
from evalkit.errors import EvalkitError
from evalkit.progress import Reporter
from evalkit.record.read import read_samples
from evalkit.record.schema import Run
from evalkit.runner import run as runner
from evalkit.tasks.lm_eval import figures
from evalkit.tasks.lm_eval.code import permit, permit_metrics
from evalkit.tasks.lm_eval.index import Index, index
from evalkit.tasks.lm_eval.tree import members_of

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]  # warnings of lm-eval, datasets and sklearn


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def both(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a task by evalkit and by lm-eval: (our record, our folder, their results)."""
    return lambda *asked, **settings: run_both(folder, tmp_path, monkeypatch, *asked, **settings)


def run_both(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, include: Path | None = None, **settings: Any
) -> tuple[Run, Path, Mapping[str, Any]]:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    monkeypatch.setattr(figures, "RESAMPLES", 100)  # some metrics take milliseconds each time
    answered_by(monkeypatch, Ours)
    ours = {"include_path": str(include)} if include else {}
    leave = runs_code(name, index(str(include) if include else None))  # without it, templates are rendered in the sandbox
    config = RunConfig((f"lm_eval:{name}",), model="oracle", data=str(folder), out=str(tmp_path), allow_task_code=leave, **ours, **settings)
    record = runner.run(config, Reporter(quiet=True))
    with monkeypatch.context() as patched:
        patched.setattr("datasets.load_dataset", load_from(folder, tmp_path / "cache"))
        entry = index(str(include) if include else None)[name]
        folders = [include] if include else [entry.path.parent]
        return record, config.folder, simple_evaluate([name], folders, **settings)


def runs_code(name: str, names: Index) -> bool:
    """Does a task need --allow-task-code?"""
    leaves = [leaf for member in members_of(name, names) for leaf in member.leaves()]
    try:
        permit(name, leaves, False)
        for leaf in leaves:
            permit_metrics(leaf, False)
    except EvalkitError:
        return True
    return False


def require_the_same(record: Run, folder: Path, theirs: Mapping[str, Any], name: str) -> None:
    """Prompts and continuations byte for byte, figures and standard errors to 1e-9."""
    (entry,) = record.tasks.values()
    rows = list(read_samples(folder, f"lm_eval:{name}"))
    asked: dict[str, list[Any]] = {}
    for leaf, samples in theirs["samples"].items():
        first = samples[0]["filter"]
        for sample in samples:
            if sample["filter"] == first:
                asked[f"{leaf}/{sample['doc_id']}" if len(theirs["samples"]) > 1 else str(sample["doc_id"])] = their_pairs(
                    sample["arguments"]
                )
    assert {row.doc_id: pairs(row.requests) for row in rows} == asked
    measured = {name: entry.metrics, **entry.groups, **entry.subjects}
    compared = 0
    for task, metrics in theirs["results"].items():
        for key, value in metrics.items():
            metric, _, chosen = key.partition(",")
            if not chosen or metric.endswith("_stderr"):
                continue
            ours = measured[task].get(metric if chosen == "none" else key)
            if ours is None:  # said, with the reason
                assert any(metric in each for each in entry.without), (task, key, entry.without)
                continue
            assert math.isclose(ours.value, value, rel_tol=1e-9, abs_tol=1e-9), (task, key)
            stderr = metrics[f"{metric}_stderr,{chosen}"]
            assert stderr == "N/A" or math.isclose(ours.stderr, stderr, rel_tol=1e-9, abs_tol=1e-9), (task, key)
            assert ours.ci95[0] - 1e-9 <= ours.value <= ours.ci95[1] + 1e-9
            compared += 1
    assert compared


GROUPS = {
    "by_documents.yaml": """
group: by_documents
task:
  - mmlu_anatomy
  - group: of_equal_weight
    num_fewshot: 1
    task: [mmlu_virology, mmlu_philosophy, {task: mmlu_sociology, num_fewshot: 2}]
    aggregate_metric_list: {metric: acc, weight_by_size: false}
aggregate_metric_list:
  - {metric: acc, weight_by_size: true}
metadata: {version: 3}
""",
    "of_equal_weight.yaml": """
group: of_equal_weight_alone
task:
  - arc_easy_twice
  - mmlu_anatomy
  - task: own
    dataset_path: allenai/ai2_arc
    dataset_name: ARC-Easy
    output_type: multiple_choice
    test_split: test
    doc_to_text: "{{question}}"
    doc_to_choice: "{{choices.text}}"
    doc_to_target: 0
    metric_list: [{metric: acc}, {metric: acc_norm}]
aggregate_metric_list:
  - {metric: acc, weight_by_size: false}
  - {metric: acc_norm, weight_by_size: true}
""",
    "arc_easy_twice.yaml": """
task: arc_easy_twice
dataset_path: allenai/ai2_arc
dataset_name: ARC-Easy
output_type: multiple_choice
test_split: test
fewshot_split: train
doc_to_text: "{{question}}"
doc_to_choice: "{{choices.text}}"
doc_to_target: "{{choices.label.index(answerKey)}}"
repeats: 2
metric_list: [{metric: acc}, {metric: acc_mutual_info}, {metric: brier_score}, {metric: acc_bytes}]
tag: two_of_ours
""",
    "sampled.yaml": """
task: sampled
dataset_path: openai/gsm8k
dataset_name: main
output_type: generate_until
test_split: test
fewshot_split: train
description: "Count well.\n"
doc_to_text: "{{question}}"
doc_to_target: "{{answer.split('#### ')[1]}}"
gen_prefix: "So:"
repeats: 5
num_fewshot: 2
generation_kwargs: {until: ["\n\n", ""], do_sample: true, temperature: 0.7, max_new_tokens: 20}
filter_list:
  - {name: vote, filter: [{function: regex, regex_pattern: 'is (\\w+)'}, {function: majority_vote}, {function: take_first}]}
  - name: first
    filter: [{function: take_first_k, k: 3}, {function: regex, regex_pattern: '(\\d+)', group_select: -1}, {function: take_first}]
metric_list: [{metric: exact_match}, {metric: chrf}, {metric: bleu}, {metric: ter}]
tag: two_of_ours
""",
}


@pytest.fixture(scope="module")
def own_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user's own task files, beside lm-eval's of MMLU, which they name."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in GROUPS.items():
        (folder / name).write_text(text)
    mmlu = index(None)["mmlu_anatomy"].path.parent
    for name in ("_default_template_yaml", "mmlu_anatomy.yaml", "mmlu_virology.yaml", "mmlu_philosophy.yaml", "mmlu_sociology.yaml"):
        (folder / name).write_bytes((mmlu / name).read_bytes())
    return folder


@pytest.mark.parametrize("name", ["by_documents", "of_equal_weight_alone", "arc_easy_twice", "sampled"])
def test_own_tasks_and_groups_of_either_weight(name: str, both: Any, own_tasks: Path) -> None:
    require_the_same(*both(name, own_tasks), name)


@pytest.mark.parametrize(
    "settings",
    [
        {"apply_chat_template": True},
        {"apply_chat_template": True, "fewshot_as_multiturn": False, "system_instruction": "Answer in one word."},
        {"system_instruction": "Answer in one word."},
    ],
)
@pytest.mark.parametrize("name", ["arc_easy", "winogrande", "gsm8k", "lambada_standard", "sampled"])
def test_chat_templates_and_system_instructions(name: str, settings: dict[str, Any], both: Any, own_tasks: Path) -> None:
    shots = {"num_fewshot": 2}
    require_the_same(*both(name, own_tasks if name == "sampled" else None, **settings, **shots), name)


def test_a_limit_has_the_shots_of_lm_evals_limit(both: Any) -> None:
    require_the_same(*both("gsm8k", limit=3), "gsm8k")


@pytest.mark.parametrize("name", TASKS)
def test_the_same_prompts_and_figures(name: str, both: Any) -> None:
    if package := NEEDS.get(name):
        pytest.importorskip(package, reason=f"{name} needs {package}")
    record, folder, theirs = both(name, **TASKS[name])
    require_the_same(record, folder, theirs, name)


@pytest.fixture(scope="module")
def real_rows(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lm_eval_real_rows.write(data_dir, tmp_path_factory.mktemp("real"), count=16)


@pytest.mark.parametrize("name", lm_eval_real_rows.TASKS)
def test_the_same_prompts_and_figures_on_real_rows(name: str, real_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_the_same(*run_both(real_rows, tmp_path, monkeypatch, name, **lm_eval_real_rows.TASKS[name]), name)


def test_the_table_of_the_page_is_that_of_these_tasks() -> None:
    assert read_table(PAGE.read_text()) == table(), "run `python tests/helpers/lm_eval_table.py`"


@pytest.mark.slow
def test_every_name_is_found_where_lm_eval_finds_it() -> None:
    """Its whole index takes ten seconds and more, ours a second."""
    from lm_eval.tasks import TaskManager

    theirs = {name: (entry.kind.name.lower().removeprefix("py_"), entry.yaml_path) for name, entry in TaskManager().task_index.items()}
    assert {name: (entry.kind, entry.path) for name, entry in index(None).items()} == theirs
    tags = {name: sorted(entry.tags) for name, entry in TaskManager().task_index.items() if entry.kind.name == "TAG"}
    assert {name: sorted(set(entry.tasks)) for name, entry in index(None).items() if entry.kind == "tag"} == tags
