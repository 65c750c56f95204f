"""A task file and rows of the user's own: what would run code or be scored wrong in silence is refused in one line."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval_reference import Ours, answered_by, require_one_line

from evalkit import cli
from evalkit.record.read import read_samples
from evalkit.tasks.lm_eval.index import index

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval and datasets

TASK: dict[str, Any] = {
    "task": "own",
    "dataset_path": "me/own",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": ["Paris", "Rome"],
    "doc_to_target": "a",
    "metric_list": [{"metric": "acc"}],
}
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the task with `changes` over rows (JSON lines): the exit code, and what was said."""
    answered_by(monkeypatch, Ours)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evalkit.tasks.lm_eval.index.installed", lambda: tmp_path / "none")  # its thousands of files take seconds

    def run_own(lines: Sequence[Any], *options: str, shots: Sequence[Any] = (), **changes: Any) -> tuple[int, str]:
        place = tmp_path / "lm_eval" / "me" / "own" / "default"
        place.mkdir(parents=True, exist_ok=True)
        for split, rows in (("test", lines), ("train", shots)):
            if rows:
                (place / f"{split}.jsonl").write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        config = {key: value for key, value in {**TASK, **changes}.items() if value is not None}
        (tmp_path / "tasks").mkdir(exist_ok=True)
        (tmp_path / "tasks" / "own.yaml").write_text("".join(f"{key}: {json.dumps(config[key])}\n" for key in config))
        command = ["run", "--tasks", "lm_eval:own", "--model", "m", "--data", str(tmp_path), "--out", str(tmp_path), "--name", "r"]
        code = cli.main([*command, "--quiet", "--include-path", str(tmp_path / "tasks"), *options])
        return code, capsys.readouterr().err

    return run_own


def require_refused(found: tuple[int, str], *words: str) -> None:
    code, said = found
    assert code == 2, said
    require_one_line(said, *words)


ROWS = [{"q": "The capital of France is", "a": 0}, {"q": "The capital of Italy is", "a": 1}]
REACH = "{{ q }}{{ cycler.__init__.__globals__.os.system('touch pwned') }}"


@pytest.mark.parametrize(
    "changes",
    [{"doc_to_text": REACH}, {"description": REACH}, {"doc_to_target": REACH}, {"doc_to_choice": REACH}, {"gen_prefix": REACH}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_template_runs_no_code_without_leave(changes: dict[str, str], run: Run, tmp_path: Path) -> None:
    from lm_eval import utils

    environment = utils.env
    require_refused(run(ROWS, **changes), "lm_eval:own", "--allow-task-code")
    assert not (tmp_path / "pwned").exists()
    assert utils.env is environment  # as other users of lm-eval have it


def test_a_template_runs_what_it_likes_with_leave(run: Run, tmp_path: Path) -> None:
    assert run(ROWS, "--allow-task-code", doc_to_text=REACH) == (0, "")
    assert (tmp_path / "pwned").exists()


def test_lm_evals_own_filters_and_errors_stay(run: Run, tmp_path: Path) -> None:
    assert run(ROWS, doc_to_text="{{ q | regex_replace('capital', 'seat') }}") == (0, "")
    assert [row.requests[0].context for row in read_samples(tmp_path / "r", "lm_eval:own")] == [
        "The seat of France is",
        "The seat of Italy is",
    ]
    require_refused(run(ROWS, doc_to_text="{{ nothing }}"), "lm_eval:own", "nothing")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (7, ["label 7 is none of its 2 choices ('Paris', 'Rome')", "index"]),
        (-1, ["label -1", "a hidden test set has no labels; use a split that has them"]),
        ("Oslo", ["label 'Oslo'"]),
        ([0, 2], ["label 2"]),
        ([], ["label []"]),
    ],
)
def test_a_label_that_is_no_choice_is_refused(label: Any, words: Sequence[str], run: Run) -> None:
    right = {int: 0, str: "Rome", list: [0, 1]}[type(label)]
    require_refused(run([{"q": "One", "a": right}, {"q": "Two", "a": label}]), "lm_eval:own: document 1", *words)
    assert run([{"q": "One", "a": right}, {"q": "Two", "a": right}]) == (0, "")


def test_a_label_of_a_shot_or_of_a_generated_answer_is_refused(run: Run) -> None:
    shots = [{"q": "The capital of Greece is", "a": -1}] * 2
    require_refused(run(ROWS, "--num-fewshot", "1", shots=shots, fewshot_split="train"), "a shot", "label -1")
    generated = {"output_type": "generate_until", "metric_list": [{"metric": "exact_match"}]}
    require_refused(run([{"q": "One", "a": -1}], **generated), "document 0", "label -1")


@pytest.mark.parametrize("field", ["doc_to_text", "doc_to_target"])
def test_a_word_that_is_no_column_is_refused(field: str, run: Run) -> None:
    require_refused(run(ROWS, **{field: "aa"}), f"{field}: aa is no column", "a, q")


def test_one_target_for_all_rows(run: Run) -> None:
    assert run(ROWS, doc_to_target="Rome") == (0, "")  # a choice
    assert run(ROWS, doc_to_target="yes", doc_to_choice=None, output_type="loglikelihood") == (0, "")


@pytest.mark.parametrize("text", ["{{q}}", "q"])
@pytest.mark.parametrize("row", [{"a": 0, "b": 1}, {"q": None, "a": 0}])
def test_a_null_in_a_prompt_is_refused(row: dict[str, Any], text: str, run: Run) -> None:
    require_refused(run([*ROWS, row], doc_to_text=text), "lm_eval:own", "q is null")
    shots = {"fewshot_split": "train", "shots": [ROWS[0], row]}
    require_refused(run(ROWS, "--num-fewshot", "2", doc_to_text=text, **shots), "lm_eval:own", "q is null")


def test_a_null_target_or_choice_is_refused(run: Run) -> None:
    generated = {"output_type": "generate_until", "doc_to_choice": None, "metric_list": [{"metric": "exact_match"}]}
    for target in ("a", "{{a}}"):
        require_refused(run([{"q": "One", "a": "x"}, {"q": "Two", "a": None}], doc_to_target=target, **generated), "a is null")
    for choices in ("c", "{{c}}", "{{[c[0], c[1]]}}"):
        require_refused(run([{"q": "One", "a": 0, "c": ["Rome", None]}], doc_to_choice=choices), "a null is written")


def test_a_null_that_nothing_writes_is_no_fault(run: Run) -> None:
    rows = [{**ROWS[0], "hint": None}, {**ROWS[1], "hint": "Think."}]
    assert run(rows) == (0, "")
    assert run(rows, doc_to_text="{{ q }}{% if hint %} {{ hint }}{% endif %}") == (0, "")


@pytest.mark.parametrize("cell", ["NaN", "-Infinity", "1e999", '{"b": [NaN]}'])
def test_a_number_that_is_none_is_refused(cell: str, run: Run) -> None:
    require_refused(run([ROWS[0], f'{{"q": "Two", "a": 1, "c": {cell}}}']), "test.jsonl line 2", "c holds")


GENERATED = {"output_type": "generate_until", "doc_to_choice": None, "doc_to_target": "q"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric_list": "acc"}, ["metric_list: 'acc'", "list its metrics there"]),
        ({"metric_list": ["acc"]}, ["metric_list: ['acc']", "list its metrics there"]),
        ({"metric_list": {"metric": "acc"}}, ["metric_list: {'metric': 'acc'}"]),
        (GENERATED | {"generation_kwargs": {"until": ["#", 5]}}, ["stops at 5, which is no text"]),
        (GENERATED | {"generation_kwargs": {"until": ["#", None]}}, ["stops at None, which is no text"]),
        (GENERATED | {"generation_kwargs": {"until": {"#": 1}}}, ["stops at {'#': 1}, which is no list of texts"]),
        (GENERATED | {"generation_kwargs": {"until": 5}}, ["stops at 5, which is no list of texts"]),
        (GENERATED | {"generation_kwargs": {"max_gen_toks": 2.5}}, ["generates at most 2.5 tokens", "a whole number"]),
        (GENERATED | {"generation_kwargs": {"max_gen_toks": "many"}}, ["generates at most 'many' tokens"]),
        (GENERATED | {"repeats": 0}, ["has repeats: 0"]),
        (GENERATED | {"generation_kwargs": {"max_gen_toks": 0}}, ["generates at most 0 tokens"]),
        (GENERATED | {"generation_kwargs": {"max_new_tokens": -4}}, ["generates at most -4 tokens"]),
    ],
)
def test_settings_of_another_type(changes: dict[str, Any], words: list[str], run: Run) -> None:
    require_refused(run(ROWS, **changes), *words)


@pytest.mark.parametrize("style", ["JSON", "indented"])
def test_a_file_in_any_style_of_yaml_has_its_name(style: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """lm-eval parses each; one that is not found would leave the name to a task of lm-eval's own."""
    assert run(ROWS) == (0, "")
    file = tmp_path / "tasks" / "own.yaml"
    file.write_text(json.dumps(TASK) if style == "JSON" else "".join(f"  {key}: {json.dumps(TASK[key])}\n" for key in TASK))
    index.cache_clear()
    command = [
        "run",
        "--tasks",
        "lm_eval:own",
        "--model",
        "m",
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path),
        "--name",
        "again",
        "--quiet",
    ]
    assert cli.main([*command, "--include-path", str(tmp_path / "tasks")]) == 0
    assert (tmp_path / "again" / "samples").exists()
