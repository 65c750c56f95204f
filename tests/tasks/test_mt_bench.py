"""MT-Bench: two turns in conversation, prompts equal to FastChat's, and its published judgments to the digit."""

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evalkit import cli
from evalkit.data.sources import CACHE, FolderSource, HubSource, SampleSource
from evalkit.errors import DataError
from evalkit.judge.answered import read_answered
from evalkit.judge.asks import single
from evalkit.lm.native import NativeLM
from evalkit.tasks import Conversation, Generate, Generated, Sampling
from evalkit.tasks.registry import resolve
from evalkit_tasks.mt_bench.task import JUDGE_PROMPTS, QUESTIONS, REFERENCES, MTBench

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def task(seed: int = 0) -> MTBench:
    found = resolve("mt_bench", Sampling(seed=seed))
    assert isinstance(found, MTBench)
    return found


@pytest.fixture
def chat_model(tiny_model: Path, tmp_path: Path, one_thread: None) -> Path:
    """The tiny model with a chat template."""
    folder = tmp_path / "tiny-chat"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of 12 tokens: a tiny model never stops by itself."""
    protocol = MTBench.protocols["fastchat"]
    monkeypatch.setitem(protocol.settings, "max_new_tokens", 12)  # type: ignore[arg-type]


def test_the_second_turn_holds_the_first() -> None:
    mt_bench = task()
    doc = mt_bench.load(SampleSource())[0]
    (first,) = mt_bench.requests(doc)
    assert isinstance(first, Generate)
    assert first.messages == (("user", doc.fields["turns"][0]),)
    assert (first.temperature, first.max_new_tokens, first.until, first.context) == (0.7, 1024, (), "")
    answer = Generated(" Dear reader.\n", "eos", 4)
    (second,) = mt_bench.follow_up(doc, [answer])
    assert isinstance(second, Generate)
    assert second.messages == (*first.messages, ("assistant", "Dear reader."), ("user", doc.fields["turns"][1]))
    assert mt_bench.follow_up(doc, [answer, answer]) == ()
    scored = mt_bench.score(doc, [answer, answer])
    assert scored.metrics == {}


def test_temperatures_and_seeds() -> None:
    docs = task().load(SampleSource())
    temperatures = {doc.group: task().requests(doc)[0].temperature for doc in docs}  # type: ignore[union-attr]
    assert temperatures == {
        **{"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1},
        **{"extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0},
    }
    seeds = {(doc.group, seed): task(seed).requests(doc)[0].seed for doc in docs for seed in (0, 1)}  # type: ignore[union-attr]
    sampled = [seed for (group, _), seed in seeds.items() if temperatures[group]]
    assert len(set(sampled)) == 8
    assert {seed for (group, _), seed in seeds.items() if not temperatures[group]} == {0}


def test_a_run_asks_both_turns_and_resumes(
    chat_model: Path, short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "--tasks", "mt_bench", "--model", str(chat_model), "--data", "sample", "--limit", "4", "--out", str(tmp_path)]
    asked: list[int] = []
    generate = NativeLM.generate

    def stopped(self: NativeLM, requests: Any) -> Iterator[tuple[int, Generated]]:
        asked.append(len(requests))
        for count, answer in enumerate(generate(self, requests)):
            if len(asked) == 2 and count == 2:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(NativeLM, "generate", stopped)
    assert cli.main([*arguments, "--name", "broken"]) == 4
    assert cli.main([*arguments, "--name", "broken"]) == 0
    assert asked == [4, 4, 2]  # the first turns are known, and two of the second
    assert cli.main([*arguments, "--name", "whole"]) == 0
    samples = [(tmp_path / name / "samples" / "mt_bench.jsonl").read_bytes() for name in ("broken", "whole")]
    assert samples[0] == samples[1]
    rows = [json.loads(line) for line in samples[0].splitlines()]
    assert [len(row["responses"]) for row in rows] == [2] * 4
    for row in rows:
        assert row["requests"][1]["messages"][1] == ["assistant", row["responses"][0]["text"].strip()]
    entry = json.loads((tmp_path / "whole" / "run.json").read_text("utf-8"))["tasks"]["mt_bench"]
    assert (entry["metrics"], entry["headline"], entry["counts"]["unscored"], entry["n"]) == ({}, "score", 4, 4)
    monkeypatch.setattr(NativeLM, "open", lambda *_: pytest.fail("opened a model"))
    replay = ["run", "--tasks", "mt_bench", "--engine", f"replay:{tmp_path / 'whole'}", "--data", "sample", "--limit", "4"]
    assert cli.main([*replay, "--out", str(tmp_path), "--name", "replayed"]) == 0
    assert (tmp_path / "replayed" / "samples" / "mt_bench.jsonl").read_bytes() == samples[0]
    assert [c.category for c in read_answered(tmp_path / "whole").conversations.values()] == [row["group"] for row in rows]


def write(folder: Path, path: str, *rows: dict[str, Any]) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"category": "poetry", "turns": ["a", "b"]}, "line 1: category is 'poetry', expected one of"),
        ({"category": "writing", "turns": "a"}, "turns is 'a'"),
        ({"category": "writing", "turns": []}, "turns is"),
        ({"category": "math", "turns": ["a", "b"]}, "no reference answer"),
    ],
)
def test_malformed_questions_are_named(tmp_path: Path, question: dict[str, Any], message: str) -> None:
    write(tmp_path, QUESTIONS.path, {"question_id": 5, **question})
    write(tmp_path, REFERENCES.path, {"question_id": 5, "choices": [{"turns": ["only one"]}]})
    with pytest.raises(DataError, match=message):
        task().load(FolderSource(tmp_path))


def test_the_official_questions(data_dir: Path) -> None:
    source = FolderSource(data_dir)
    for table in MTBench.tables(source):
        source.rows(table)
    assert source.sha256() == MTBench.official_sha256
    docs = task().load(FolderSource(data_dir))
    assert [doc.id for doc in docs] == [str(i) for i in range(81, 161)]
    assert {doc.id for doc in docs if doc.fields["reference"]} == {str(i) for i in range(101, 131)}


def test_from_the_pinned_addresses(data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As `--data hub` reads them, from a cache that holds the same bytes."""
    monkeypatch.setattr("evalkit.data.sources.CACHE", tmp_path)
    (tmp_path / "files").mkdir()
    for table in (QUESTIONS, REFERENCES):
        shutil.copy(data_dir / table.path, tmp_path / "files" / table.hub.sha256)  # type: ignore[union-attr]
    shutil.copy(data_dir / JUDGE_PROMPTS.path, tmp_path / "files" / JUDGE_PROMPTS.sha256)
    assert tmp_path != CACHE
    assert task().load(HubSource()) == task().load(FolderSource(data_dir))
    assert HubSource().text(JUDGE_PROMPTS) == (data_dir / JUDGE_PROMPTS.path).read_text("utf-8")


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().splitlines()]


@pytest.fixture
def published(data_dir: Path) -> Path:
    return data_dir / "published" / "mt_bench"


def test_judge_prompts_are_fastchats_to_the_byte(data_dir: Path, published: Path) -> None:
    """All 800 prompts of a published set of judgments, rebuilt from its answers."""
    prompts = (data_dir / JUDGE_PROMPTS.path).read_text("utf-8")
    docs = {doc.id: doc for doc in task().load(FolderSource(data_dir))}
    built: dict[tuple[str, str, int], tuple[str, str]] = {}
    for file in sorted((published / "don-tpanic" / "model_answer").glob("*.jsonl.gz")):
        conversations = {}
        for row in rows_of(file):
            doc = docs[str(row["question_id"])]
            answers = row["choices"][0]["turns"]
            conversations[doc.id] = Conversation(doc.id, doc.group, doc.fields["turns"], answers, doc.fields["reference"])
        for ask in single(task(), conversations, prompts, 1):
            built[file.name.split(".")[0], ask.question_id, ask.turn] = (ask.prompt, ask.user_prompt)
    theirs = rows_of(published / "don-tpanic" / "model_judgment" / "gpt-4_single.jsonl.gz")
    assert len(theirs) == len(built) == 800
    for row in theirs:
        assert built[row["model"], str(row["question_id"]), row["turn"]] == (row["judge"][1], row["user_prompt"])


Score = Callable[..., int]


@pytest.fixture
def score(data_dir: Path, tmp_path: Path) -> Score:
    def run(file: Path, *more: str) -> int:
        return cli.main(["score", "mt_bench", str(file), "--data", str(data_dir), "--out", str(tmp_path / "runs"), "--name", "j", *more])

    return run


def figures(tmp_path: Path, model: str) -> dict[str, Any]:
    return json.loads((tmp_path / "runs" / f"j--{model}" / "run.json").read_text("utf-8"))["tasks"]["mt_bench"]


def test_published_judgments_to_the_digit(published: Path, score: Score, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(published / "don-tpanic" / "model_judgment" / "gpt-4_single.jsonl.gz") == 0
    for model, average, first, second in (("llama2_chat_7b", 6.1906, 6.7062, 5.675), ("llama2_7b", 3.9688, 4.7625, 3.175)):
        metrics = figures(tmp_path, model)["metrics"]
        found = [metrics[name]["value"] for name in ("score", "turn_1", "turn_2")]
        assert [f"{value:.4f}" for value in found] == [f"{value:.4f}" for value in (average, first, second)]
        assert metrics["score"]["value"] == metrics["score_strict"]["value"]
    entry = figures(tmp_path, "llama2_chat_7b")
    assert (entry["n"], entry["n_total"], entry["counts"]["unscored"], len(entry["groups"])) == (80, 80, 0, 8)
    assert entry["judge"]["counts"]["score_is_not_its_texts"] == 0
    low, high = entry["metrics"]["score"]["ci95"]
    assert low < 6.1906 < high
    assert "6.1906" in capsys.readouterr().out
    # the runs compare: paired by question, on the scale of the ratings
    assert cli.main(["compare", str(tmp_path / "runs" / "j--llama2_7b"), str(tmp_path / "runs" / "j--llama2_chat_7b")]) == 0
    assert "2.22" in capsys.readouterr().out


def test_repeated_and_failed_rows_are_said(published: Path, score: Score, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """FastChat pools 86 + 80 ratings: so do we; the ten repeats and four failures are counted, each turn's last rating stands beside."""
    (file,) = (published / "dreaming-panda" / "model_judgment").glob("*.jsonl.gz")
    assert score(file) == 0
    entry = figures(tmp_path, "Meta-Llama-3-8B-Instruct-Normal")
    values = {name: (figure["n"], round(figure["value"], 4)) for name, figure in entry["metrics"].items()}
    assert values == {"score": (166, 7.8434), "turn_1": (86, 8.3837), "turn_2": (80, 7.2625), "score_strict": (166, 7.8434)}
    counts = entry["judge"]["counts"]
    assert (counts["judgments"], counts["failed"], counts["repeated"], counts["missing"]) == (170, 4, 10, 0)
    assert entry["judge"]["score_without_repeats"]["value"] == 7.76875
    assert entry["judge"]["score_without_repeats"]["n"] == 160
    out = capsys.readouterr().out
    assert "4 judgments have no rating and are left out" in out
    assert "10 rows judge a turn again" in out


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda rows: rows[:-4], r"4 of 160 judgments failed or hold no rating"),
        (lambda rows: [{**row, "score": -1} if i < 4 else row for i, row in enumerate(rows)], r"4 of 160"),
        (lambda rows: [{**rows[0], "question_id": 7}], r"question '7' is none of the 80"),
        (lambda rows: [{**rows[0], "score": "8"}], r"score '8'"),
        (lambda rows: [{**rows[0], "turn": 3}], r"turn 3"),
        (lambda rows: [{**rows[0], "model": None}], r"model None; expected a model's name"),
        (lambda rows: [{"question_id": 81}], r"no model"),
        (lambda rows: [], r"holds no judgments"),
    ],
)
def test_files_that_are_no_whole_set_are_refused(
    published: Path, score: Score, tmp_path: Path, capsys: pytest.CaptureFixture[str], edit: Any, message: str
) -> None:
    rows = [r for r in rows_of(published / "don-tpanic" / "model_judgment" / "gpt-4_single.jsonl.gz") if r["model"] == "llama2_7b"]
    write(tmp_path, "some.jsonl", *edit(rows))
    assert score(tmp_path / "some.jsonl") == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert __import__("re").search(message, error), error
