"""A judged benchmark beside MT-Bench, defined here alone: it runs, is judged and reported, and evalkit/judge/ knows nothing of it."""

import json
import re
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from judge_runs import MODEL, JudgeServer, answer, judge_server

import evalkit_tasks
from evalkit import cli
from evalkit.lm.base import LM
from evalkit.tasks import Conversation, DataSource, Doc, Generate, Generated, JudgedTask, JudgePrompt, Protocol, Table, TextFile

QUESTIONS = (
    {"id": "frog", "kind": "haiku", "ask": "A haiku on a frog."},
    {"id": "sea", "kind": "limerick", "ask": "A limerick on the sea."},
)
PROMPT = "Rate this poem.\n\n{ask}\n---\n{poem}\n\nEnd with Score: N/10."
PROTOCOL = Protocol("poem_bench", "own", "one poem each", "this test", "score", "micro", {"max_new_tokens": 50})


def file(path: str) -> TextFile:
    return TextFile(path, f"https://example.org/{path}", "0" * 64)


class PoemBench(JudgedTask):
    """One turn per question, one judge prompt, ratings as "Score: 7/10"."""

    name = "poem_bench"
    title = "Poem bench"
    protocols = MappingProxyType({"own": PROTOCOL})
    default_protocol = "own"
    judge_prompts = file("poems/judge.txt")
    text_files = (judge_prompts,)
    scale = (0.0, 10.0)
    official_n = 2
    official_sha256 = ""
    table = Table("poems/questions.jsonl", ("id", "kind", "ask"), file("poems/questions.jsonl"))

    @classmethod
    def tables(cls, source: DataSource) -> list[Table]:
        return [cls.table]

    def load(self, source: DataSource) -> list[Doc]:
        return [Doc(row["id"], row["kind"], {"turns": [row["ask"]]}) for row in source.rows(self.table)]

    def rating_prompts(self, conversation: Conversation, prompts: str) -> Sequence[JudgePrompt]:
        text = prompts.format(ask=conversation.turns[0], poem=conversation.answers[0])
        return [JudgePrompt(1, "poem", (("user", text),))]

    def published_rating(self, text: str) -> float | None:
        found = re.search(r"Score: (\d+)/10", text)
        return float(found[1]) if found else None


class Poet(LM):
    fingerprint = "sha256:poet"

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        for i, request in enumerate(requests):
            assert request.max_new_tokens == 50
            yield i, Generated(f"A poem for: {request.messages[-1][1]}\n", "eos", 5)

    loglikelihood = loglikelihood_rolling = None  # type: ignore[assignment]

    def describe(self) -> dict[str, Any]:
        return {"family": None, "parameters": None, "dtype": "none", "device": "cpu"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "poems").mkdir(parents=True)
    (folder / "poems" / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (folder / "poems" / "judge.txt").write_text(PROMPT)
    return folder


@pytest.fixture
def poems(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of the benchmark."""
    for name in ("EVALKIT_JUDGE_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(evalkit_tasks.TASKS, "poem_bench", PoemBench)
    monkeypatch.setattr("evalkit.runner.run.open_lm", lambda config: Poet())
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "--tasks", "poem_bench", "--model", "org/poet", "--data", str(data), "--out", "runs", "--name", "poems"]) == 0
    return tmp_path / "runs" / "poems"


def judge(run: Path, url: str, *more: str) -> int:
    return cli.main(["judge", str(run), "--judge-model", MODEL, "--judge-url", url, "--quiet", *more])


def test_it_is_run_judged_and_reported(poems: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ls", "runs", "--out", "runs"]) == 0
    assert "poem_bench waits for a judge: evalkit judge runs/poems" in capsys.readouterr().out

    def rate(server: JudgeServer, handler: BaseHTTPRequestHandler, prompt: str, number: int) -> None:
        answer(server, handler, prompt, "Lovely. Score: 9/10" if "frog" in prompt else "[[1]] Score: 6/10")

    with judge_server(rate) as (server, url):
        assert judge(poems, url, "--data", str(data)) == 0
    assert sorted(server.prompts) == sorted(PROMPT.format(ask=q["ask"], poem=f"A poem for: {q['ask']}") for q in QUESTIONS)
    out = capsys.readouterr().out
    assert "both turns" not in out
    assert "2 judgments: 2 have a rating as published, 2 strictly, 0 failed" in out
    entry = json.loads((poems / "run.json").read_text("utf-8"))["tasks"]["poem_bench"]
    assert {name: figure["value"] for name, figure in entry["metrics"].items()} == {"score": 7.5, "turn_1": 7.5, "score_strict": 7.5}
    assert {name: group["score"]["value"] for name, group in entry["groups"].items()} == {"haiku": 9.0, "limerick": 6.0}
    low, high = entry["metrics"]["score"]["ci95"]
    assert 0 <= low < 7.5 < high == 10.0
    assert {path.suffix for path in (poems / "poem_bench").iterdir()} == {".png", ".svg"}  # no other program's files
    assert cli.main(["ls", "runs", "--out", "runs"]) == 0
    assert "7.5" in capsys.readouterr().out  # of ten, not percent
    assert cli.main(["report", str(poems), "--out", "report"]) == 0
    page = Path("report/report.md").read_text("utf-8")
    assert "## Poem bench" in page
    assert "Ratings from 0 to 10" in page
    assert "| Run | Judge | Score | 95% interval | haiku | limerick |" in page


@pytest.mark.parametrize("reader", ["published", "strict"])
def test_a_rating_off_the_scale_is_a_failed_judgment(poems: Path, data: Path, reader: str, capsys: pytest.CaptureFixture[str]) -> None:
    def rate(prompt: str) -> str:
        return "Score: 12/10" if "frog" in prompt else "Score: 8/10"

    with judge_server(lambda server, handler, prompt, _: answer(server, handler, prompt, rate(str(prompt)))) as (_, url):
        assert judge(poems, url, "--data", str(data), "--rating", reader) == 4
        assert f"1 of 2 judgments failed or hold no rating ({reader})" in capsys.readouterr().err
        assert judge(poems, url, "--data", str(data), "--rating", reader, "--max-failed", "0.5") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 published ratings lie outside the benchmark's scale" in said
    assert "1 judgments have no rating and are left out (--max-failed 0.5)" in said


def test_what_it_does_not_have_is_refused_in_one_line(poems: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert judge(poems, "http://127.0.0.1:9/v1", "--data", str(data), "--against", str(poems)) == 2
    assert "poem_bench has no pairwise comparison" in capsys.readouterr().err
    assert cli.main(["score", "poem_bench", str(tmp_path / "some.jsonl"), "--data", str(data)]) == 2
    assert "poem_bench reads no files of judgments" in capsys.readouterr().err


def test_the_judge_knows_no_benchmark_by_name() -> None:
    folder = Path(cli.__file__).parents[1] / "judge"
    for file in folder.glob("*.py"):
        code = re.sub(r'""".*?"""|#.*', "", file.read_text("utf-8"), flags=re.DOTALL)
        assert not re.search("mt.bench|multi-turn|turn_2", code, re.IGNORECASE), file
