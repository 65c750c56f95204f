"""Task and group files of one's own that state what cannot be: refused in one line, whatever they hold."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lm_eval_reference import Ours, answered_by, require_one_line

from evalkit import cli
from evalkit.record.read import read_run
from evalkit.tasks import Generated
from evalkit.tasks.lm_eval import index

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval and datasets

CHOICE = """
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_target: 0
doc_to_choice: ["a", "b"]
"""
FILTERED = """
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "5"
generation_kwargs: {until: ["\\n"]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - {name: strict, filter: [{function: regex, regex_pattern: "#### ([0-9]+)"}, {function: take_first}]}
  - {name: flex, filter: [{function: regex, regex_pattern: "([0-9]+)"}, {function: take_first}]}
"""
METRIC = "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
OTHER = "metric_list: [{metric: acc_norm, aggregation: mean, higher_is_better: true}]\n"
LOWER = "metric_list: [{metric: acc, aggregation: mean, higher_is_better: false}]\n"

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run lm_eval:NAME of these files, each text under the name of its file."""
    model = Ours()
    model.generate = lambda requests: ((i, Generated("5", "stop", 1)) for i, _ in enumerate(requests))  # type: ignore[method-assign]
    answered_by(monkeypatch, lambda: model)
    monkeypatch.setattr(index, "installed", lambda: tmp_path / "none")  # 14,000 files
    (tmp_path / "rows.jsonl").write_text('{"q": "one"}\n{"q": "two"}\n{"q": "three"}\n')
    (tmp_path / "data").mkdir()
    (tmp_path / "tasks").mkdir()

    def run_it(name: str, *more: str, data: str = "", **files: str) -> int:
        for file, text in files.items():
            (tmp_path / "tasks" / f"{file}.yaml").write_text(text.replace("NAME", file).replace("FOLDER", str(tmp_path)))
        place = ["--data", data or str(tmp_path / "data"), "--out", str(tmp_path), "--name", "r", "--include-path", str(tmp_path / "tasks")]
        return cli.main(["run", "--tasks", f"lm_eval:{name}", "--model", "oracle", *place, *more])

    return run_it


@pytest.mark.parametrize("shots", ['"2"', "-1", "1.5", "true", "[1]"])
@pytest.mark.parametrize("more", [(), ("--num-fewshot", "0")])
def test_shots_that_are_no_number(shots: str, more: tuple[str, ...], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mc", *more, "--quiet", mc=CHOICE + METRIC + f"num_fewshot: {shots}\n") == 2
    require_one_line(capsys.readouterr().err, "lm_eval:mc has num_fewshot: ", "a whole number")


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        ("g", {"g": "group: g\ntask: [g]\n"}, ["group g lists itself", "(g -> g)"]),
        ("g", {"g": "group: g\ntask: [h]\n", "h": "group: h\ntask: [mc, {group: g}]\n"}, ["(g -> h -> g)"]),
        ("g", {"g": "group: g\ntask: [h]\n", "h": "group: h\ntask: [{task: h, num_fewshot: 0}]\n"}, ["group h lists itself", "(h -> h)"]),
        ("g", {"g": "group: g\ntask: []\n"}, ["group g lists no tasks", "task: []"]),
        ("g", {"g": "group: g\ntask: [mc, h]\n", "h": "group: h\ntask: []\n"}, ["group h lists no tasks"]),
        ("g", {"g": "group: g\ntask: 5\n"}, ["group g has task: 5"]),
        ("g", {"g": "group: g\ntask: [{group: [h], task: [mc]}]\n"}, ["group g lists {'group': ['h']", "names no group"]),
        (
            "g",
            {"g": "group: g\ntask: [mc]\naggregate_metric_list: [{weight_by_size: true}]\n"},
            ["group g aggregates {'weight", "name the metric"],
        ),
        ("g", {"g": "group: g\ntask: [mc]\naggregate_metric_list: acc\n"}, ["group g aggregates 'acc'"]),
        ("g", {"g": "group: g\ntask: [mc]\nmetadata: 3\n"}, ["lm_eval:g has metadata: 3", "version"]),
        ("mc", {"mc": CHOICE + "metadata: new\n"}, ["lm_eval:mc has metadata: 'new'"]),
        ("g", {"g": "group: g\ntask: [{task: inside, metadata: new}]\n"}, ["lm_eval:g::inside has metadata: 'new'"]),
    ],
)
def test_a_file_that_states_what_cannot_be(
    name: str, files: dict[str, str], words: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, "--quiet", **{"mc": CHOICE + METRIC, **files}) == 2
    require_one_line(capsys.readouterr().err, *words)


def group(tasks: str, metric: str = "acc") -> str:
    return f"group: g\ntask: {tasks}\naggregate_metric_list: [{{metric: {metric}}}]\n"


def test_a_task_that_a_group_has_twice(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    twice = group("[{task: mc, num_fewshot: 1}, {task: mc, num_fewshot: 0}]")
    assert run("g", "--quiet", mc=CHOICE + METRIC, g=twice) == 2
    require_one_line(capsys.readouterr().err, "group g has the task mc twice, with num_fewshot: 1 and 0")


def test_a_group_in_a_group_keeps_its_tasks(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inner = group("[mc, other]").replace("group: g", "group: h")
    assert run("g", mc=CHOICE + METRIC, other=CHOICE + METRIC, h=inner, g=group("[{task: h, num_fewshot: 0}, mc_tag]")) == 2  # no mc_tag
    assert "'mc_tag'" in capsys.readouterr().err
    index.index.cache_clear()
    assert run("g", g=group("[{task: h, num_fewshot: 0}]")) == 0
    assert set(read_run(tmp_path / "r").tasks["lm_eval:g"].subjects) == {"mc", "other"}
    index.index.cache_clear()
    assert run("g", "--quiet", g=group("[{group: h, task: [mc]}]")) == 2
    assert "the group h with tasks of its own" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["num_fewshot: 1\nnum_fewshot: 0\n", "metadata: {version: 1, 'version': 2}\n", "x: [{a: 1, a: 1}]\n"])
def test_a_key_that_a_file_has_twice(text: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mc", "--quiet", mc=CHOICE + METRIC + text) == 2
    require_one_line(capsys.readouterr().err, "mc.yaml has ", " twice, again in line 1")


@pytest.mark.parametrize("metric", ["f1", "acc, filter_list: strict"])
def test_a_metric_that_none_of_a_groups_tasks_has(metric: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("g", "--quiet", mc=CHOICE + METRIC, other=CHOICE + OTHER, g=group("[mc, other]", metric)) == 2
    name = metric.replace(", filter_list: ", ",")
    require_one_line(capsys.readouterr().err, f"group g averages {name}, which none of its tasks has; they have acc, acc_norm: ")


def test_one_of_a_groups_metrics_that_none_of_its_tasks_has(run: Run, tmp_path: Path) -> None:
    two = group("[mc]").replace("[{metric", "[{metric: f1}, {metric")
    assert run("g", mc=CHOICE + METRIC, g=two) == 0
    entry = read_run(tmp_path / "r").tasks["lm_eval:g"]
    assert entry.headline == "acc"
    assert set(entry.metrics) == {"acc"}
    assert entry.without == {"f1 of g": "none of its tasks has it; they have acc"}


def test_a_metric_of_two_directions(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("g", "--quiet", mc=CHOICE + METRIC, other=CHOICE + LOWER, g=group("[mc, other]")) == 2
    require_one_line(capsys.readouterr().err, "group g averages acc, of which less is better in other and more in mc")


@pytest.mark.parametrize(("name", "failed", "value"), [("gen", 3, 0.0), ("g", 0, 1.0)])
def test_extractions_are_those_of_the_headlines_filter(name: str, failed: int, value: float, run: Run, tmp_path: Path) -> None:
    assert run(name, gen=FILTERED, g=group("[gen]", "exact_match, filter_list: flex")) == 0
    entry = read_run(tmp_path / "r").tasks[f"lm_eval:{name}"]
    assert (entry.counts.extraction_failed, entry.metrics[entry.headline].value) == (failed, value)


@pytest.mark.parametrize("data", ["hub", "sample", ""])
def test_files_of_ones_own_are_no_benchmarks_data(data: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("mc", data=data, mc=CHOICE + METRIC) == 0
    assert str(read_run(tmp_path / "r").tasks["lm_eval:mc"].data).startswith("dir ")
    assert "--data hub" not in capsys.readouterr().out


def test_documents_without_the_headline_metric_are_not_its_n(run: Run, tmp_path: Path) -> None:
    assert run("g", mc=CHOICE + METRIC, other=CHOICE + OTHER, g=group("[mc, other]")) == 0
    assert read_run(tmp_path / "r").tasks["lm_eval:g"].size == "3 with acc, of 6"
    assert run("g", "--limit", "4") == 0
    assert read_run(tmp_path / "r").tasks["lm_eval:g"].size == "2 with acc, of 4 of 6"
    assert run("mc", "--fresh") == 0
    assert read_run(tmp_path / "r").tasks["lm_eval:mc"].size == "3"
