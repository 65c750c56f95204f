"""`evalkit run --tasks lm_eval:NAME` as a user has it: refusals in one line, resume, replay, comparison, stable shots, lm-eval's layout."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from lm_eval_reference import Ours, answered_by, load_from
from lm_eval_rows import write
from lm_eval_table import PAGE

from evalkit import cli
from evalkit.comparison.answers import read_answers
from evalkit.data.hub_files import Listing, Repository, Unavailable
from evalkit.record.read import read_run, read_samples
from evalkit.tasks import Generate, Generated
from evalkit.tasks.lm_eval.index import index

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of lm-eval, datasets and sklearn


# a task whose rows for shots are not there
ALONE = """
task: nq_open_alone
dataset_path: facebook/belebele
dataset_name: deu_Latn
training_split: train
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{mc_answer1}}"
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Ours:
    """The model of every run of the test."""
    model = Ours()
    answered_by(monkeypatch, lambda: model)
    return model


def run(rows: Path, out: Path, tasks: str, *more: str) -> int:
    return cli.main(["run", "--tasks", tasks, "--model", "oracle", "--data", str(rows), "--out", str(out), "--name", "r", *more])


@pytest.mark.parametrize(
    ("tasks", "more", "words"),
    [
        ("lm_eval:arc_eazy", (), ["no task, group or tag 'arc_eazy'", "did you mean arc_easy"]),
        ("lm_eval:", (), ["needs the name"]),
        ("lm_eval", (), ["lm_eval:arc_easy"]),
        ("lm_eval:arc_easy@qwen", (), ["no protocol 'qwen'", "@stable"]),
        ("lm_eval:arc_easy,lm_eval:arc_easy", (), ["given twice"]),
        ("lm_eval:arc_easy", ("--temperature", "0.5"), ["leave --repeats and --temperature out"]),
        ("lm_eval:arc_easy", ("--num-fewshot", "-1"), ["num_fewshot is -1"]),
        ("lm_eval:arc_easy", ("--num-fewshot", "9"), ["9 shots are asked for", "8 rows"]),
        ("lm_eval:truthfulqa_mc1", ("--num-fewshot", "2"), ["num_fewshot: 0"]),
        ("lm_eval:arc_easy", ("--include-path", "/nowhere"), ["--include-path /nowhere"]),
        ("mmlu", ("--include-path", "."), ["--include-path is for lm-eval's tasks", "mmlu"]),
        ("mmlu", ("--no-fewshot-as-multiturn",), ["--no-fewshot-as-multiturn has no effect"]),
        ("lm_eval:arc_easy", ("--no-fewshot-as-multiturn",), ["--no-fewshot-as-multiturn has no effect without --apply-chat-template"]),
        ("lm_eval:arc_easy,gsm8k", ("--allow-task-code",), ["--allow-task-code is for lm-eval's tasks", "gsm8k"]),
        ("lm_eval:hellaswag", (), ["utils.process_docs", "--allow-task-code", "hellaswag"]),
        ("lm_eval:squad_completion", (), ["task.SQUADCompletion", "--allow-task-code"]),
        ("lm_eval:humaneval", ("--allow-task-code",), ["runs programs that the model writes", "humaneval@lm-eval"]),
        (
            "lm_eval:nq_open_alone",
            ("--num-fewshot", "1", "--include-path", "TASKS"),
            ["1 shots are drawn from", "train.jsonl, which is missing"],
        ),
        ("lm_eval:squadv2", ("--allow-task-code",), ["lighteval/squad_v2/default/validation.jsonl is missing"]),
    ],
)
def test_what_is_wrong_is_one_line(
    tasks: str, more: Sequence[str], words: Sequence[str], rows: Path, tmp_path: Path, oracle: Ours, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "alone.yaml").write_text(ALONE)
    assert run(rows, tmp_path, tasks, *[str(tmp_path) if each == "TASKS" else each for each in more], "--quiet") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(word in said for word in words), said
    assert not (tmp_path / "r").exists()


def test_without_lm_eval(
    rows: Path, tmp_path: Path, oracle: Ours, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    index.cache_clear()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "lm_eval" else find(name, *more))
    assert run(rows, tmp_path, "lm_eval:arc_easy", "--quiet") == 2
    assert "pip install 'evalkit-lm[lm-eval]'" in capsys.readouterr().err
    index.cache_clear()


def test_the_sample_and_a_hub_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oracle: Ours, capsys: pytest.CaptureFixture[str]
) -> None:
    def out_of_reach(repository: Repository) -> Listing:
        raise Unavailable(f"{repository} can't be downloaded: no route to the hub; check the network")

    monkeypatch.setattr(Repository, "listing", out_of_reach)
    for data, word in (("sample", "bundled sample has no allenai/ai2_arc"), ("hub", "dataset allenai/ai2_arc can't be downloaded")):
        assert cli.main(["run", "--tasks", "lm_eval:arc_easy", "--model", "m", "--data", data, "--out", str(tmp_path), "--quiet"]) == 2
        said = capsys.readouterr().err
        assert word in said
        assert "DIR/lm_eval/allenai/ai2_arc/ARC-Easy/test.jsonl" in said
        assert said.count("\n") == 1


def test_the_hubs_commit_is_pinned_and_recorded(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oracle: Ours) -> None:
    asked: list[object] = []

    def load_dataset(path: str, name: str | None = None, **settings: object) -> object:
        asked.append((path, name, settings))
        return load_from(rows, tmp_path / "cache")(path, name)

    monkeypatch.setattr(Repository, "listing", lambda repository: Listing("c" * 40, {}))
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    command = ["run", "--tasks", "lm_eval:arc_easy", "--model", "m", "--data", "hub", "--out", str(tmp_path), "--name", "hub"]
    assert cli.main(command) == 0
    assert run(rows, tmp_path, "lm_eval:arc_easy") == 0
    assert asked == [("allenai/ai2_arc", "ARC-Easy", {"revision": "c" * 40})]
    hub, folder = (read_run(tmp_path / name).tasks["lm_eval:arc_easy"].data for name in ("hub", "r"))
    assert hub.revision == f"allenai/ai2_arc@{'c' * 40}"
    assert hub.sha256 == folder.sha256  # the same rows


def test_rows_that_do_not_fit(rows: Path, tmp_path: Path, oracle: Ours, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "data" / "lm_eval" / "allenai" / "ai2_arc" / "ARC-Easy"
    place.mkdir(parents=True)
    for text, word in (('{"question": "?"}\n', "choices"), ('{"a": 1}\n{"a": "x"}\n', "one type"), ("", "no rows"), ("[1", "JSON")):
        (place / "test.jsonl").write_text(text)
        assert run(tmp_path / "data", tmp_path, "lm_eval:arc_easy", "--quiet") == 2
        assert word in capsys.readouterr().err


def test_the_same_command_again_asks_nothing(rows: Path, tmp_path: Path, oracle: Ours, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = "lm_eval:ai2_arc,lm_eval:pile_arxiv,lm_eval:gsm8k"
    assert run(rows, tmp_path, tasks, "--limit", "3") == 0
    screen = capsys.readouterr().out
    assert all(f"measured is {metric}" in screen for metric in ("exact_match,strict-match", "word_perplexity (lower is better)"))
    first = {file.name: file.read_bytes() for file in (tmp_path / "r" / "samples").iterdir()}
    assert set(first) == {f"lm_eval:{name}.jsonl" for name in ("arc_easy", "arc_challenge", "pile_arxiv", "gsm8k")}
    oracle.loglikelihood = oracle.loglikelihood_rolling = oracle.generate = None  # type: ignore[method-assign, assignment]
    assert run(rows, tmp_path, tasks, "--limit", "3") == 0
    assert {file.name: file.read_bytes() for file in (tmp_path / "r" / "samples").iterdir()} == first
    entry = read_run(tmp_path / "r").tasks["lm_eval:pile_arxiv"]
    assert entry.lower_is_better == ("word_perplexity", "byte_perplexity", "bits_per_byte") == entry.no_shares
    assert entry.counts.unscored == 0
    perplexity = f"{entry.metrics['word_perplexity'].value:.4g}"  # no share of anything, on every screen
    assert perplexity in screen
    assert cli.main(["ls", "runs", "--out", str(tmp_path)]) == 0
    assert perplexity in capsys.readouterr().out


def test_a_replay_has_the_same_answers(rows: Path, tmp_path: Path, oracle: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = "lm_eval:arc_easy,lm_eval:pile_arxiv,lm_eval:gsm8k"
    assert run(rows, tmp_path, tasks) == 0
    monkeypatch.undo()
    replayed = ["--engine", f"replay:{tmp_path / 'r'}", "--data", str(rows), "--out", str(tmp_path), "--name", "again"]
    assert cli.main(["run", "--tasks", tasks, *replayed]) == 0
    one, other = read_run(tmp_path / "r"), read_run(tmp_path / "again")
    assert {name: entry.metrics for name, entry in one.tasks.items()} == {name: entry.metrics for name, entry in other.tasks.items()}


def test_comparison_gate_view_and_report(rows: Path, tmp_path: Path, oracle: Ours, capsys: pytest.CaptureFixture[str]) -> None:
    base, cand = tmp_path / "base", tmp_path / "cand"
    assert run(rows, base, "lm_eval:mmlu,lm_eval:gsm8k,lm_eval:pile_arxiv", "--num-fewshot", "1") == 0
    oracle.fingerprint = "sha256:another"
    oracle.generate = lambda requests: ((i, Generated("#### 5", "stop", 2)) for i, _ in enumerate(requests))  # type: ignore[method-assign]
    assert run(rows, cand, "lm_eval:mmlu,lm_eval:gsm8k,lm_eval:pile_arxiv", "--num-fewshot", "1") == 0
    runs = [str(base / "r"), str(cand / "r")]
    capsys.readouterr()
    assert cli.main(["compare", *runs]) == 2
    assert "word_perplexity of lm_eval:pile_arxiv is one figure of all documents together" in capsys.readouterr().err
    assert cli.main(["compare", *runs, "--tasks", "lm_eval:mmlu,lm_eval:gsm8k"]) == 0
    assert cli.main(["compare", *runs, "--tasks", "lm_eval:gsm8k", "--metric", "exact_match,flexible-extract"]) == 0
    assert cli.main(["gate", *runs, "--tasks", "lm_eval:mmlu", "--margin", "0.3"]) == 0
    assert cli.main(["view", *runs, "--out", str(tmp_path / "view.html")]) == 0
    assert cli.main(["report", *runs, "--out", str(tmp_path / "report")]) == 0
    asked = ["--model", "oracle", "--data", str(rows), "--out", str(tmp_path / "sequential"), "--num-fewshot", "1", "--margin", "0.3"]
    assert cli.main(["gate", runs[0], "--sequential", "--tasks", "lm_eval:mmlu", *asked]) == 0
    entry = read_run(runs[0]).tasks["lm_eval:mmlu"]
    assert len(entry.subjects) == 57
    assert set(entry.groups) == {"mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities"}
    assert run(rows, cand, "lm_eval:gsm8k", "--fresh", "--num-fewshot", "2") == 0
    assert cli.main(["compare", *runs, "--tasks", "lm_eval:gsm8k"]) == 2
    assert "differs" in capsys.readouterr().err


def test_lm_evals_layout_has_lm_evals_names(rows: Path, tmp_path: Path, oracle: Ours) -> None:
    assert run(rows, tmp_path, "lm_eval:mmlu,lm_eval:gsm8k") == 0
    (results,) = (tmp_path / "r" / "lm_eval").glob("*/results_*.json")
    written = json.loads(results.read_text())
    assert {"mmlu", "mmlu_stem", "mmlu_anatomy", "gsm8k"} <= set(written["results"])
    assert {"exact_match,strict-match", "exact_match,flexible-extract"} <= set(written["results"]["gsm8k"])
    answers = read_answers(str(tmp_path / "r" / "lm_eval"))
    assert set(answers.tasks) == {"gsm8k", "mmlu"}


def test_stable_shots_do_not_depend_on_the_documents_before(rows: Path, tmp_path: Path, oracle: Ours) -> None:
    def prompts(name: str, *more: str) -> dict[str, str]:
        assert run(rows, tmp_path / name, "lm_eval:gsm8k@stable", *more) == 0
        found = {row.doc_id: row.requests[0] for row in read_samples(tmp_path / name / "r", "lm_eval:gsm8k")}
        return {doc: request.context for doc, request in found.items() if isinstance(request, Generate)}

    whole, part, other = prompts("whole"), prompts("part", "--limit", "3"), prompts("other", "--seed", "1")
    assert part == {doc: whole[doc] for doc in ("0", "1", "2")}
    assert len({prompt.rpartition("Question")[0] for prompt in whole.values()}) > 4
    assert other.keys() == whole.keys()
    assert other != whole
    assert read_run(tmp_path / "whole" / "r").tasks["lm_eval:gsm8k"].protocol.endswith("-stable")


def test_the_pages_own_task_runs_and_its_file_is_hashed_into_the_protocol(
    rows: Path, tmp_path: Path, oracle: Ours, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks").mkdir()
    file = tmp_path / "tasks" / "capitals.yaml"
    text = PAGE.read_text().partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "capitals.jsonl").write_text('{"q": "The capital of France is"}\n{"q": "France is ruled from"}\n')
    monkeypatch.chdir(tmp_path)
    hashes = []
    for version in ("", "description: Answer.\n"):
        file.write_text(text + version)
        index.cache_clear()
        assert run(rows, tmp_path, "lm_eval:capitals", "--include-path", str(file.parent)) == 0
        hashes.append(read_run(tmp_path / "r").tasks["lm_eval:capitals"].protocol_sha256)
    assert hashes[0] != hashes[1]
