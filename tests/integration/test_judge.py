"""`evalkit judge`: what is asked, kept, counted, refused and written, with a judge on loopback."""

import json
import sqlite3
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from judge_runs import MODEL, JudgeServer, answer, completion, judge_server, send, waiting_run

from evalkit import cli
from evalkit.errors import EvalkitError
from evalkit.judge import screen
from evalkit.judge.client import is_judge
from evalkit.judge.config import JudgeConfig
from evalkit.judge.judgments import Judgment, JudgmentStore, Spent

N = 8  # questions, one a category; two turns each


WRITE_PLOTS = screen.write_plots


@pytest.fixture(autouse=True)
def _no_key_and_no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take most of a small run's time; one test draws them."""
    monkeypatch.setattr(screen, "write_plots", lambda *_: None)
    for name in ("EVALKIT_JUDGE_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return waiting_run(tmp_path / "run", N)


def judge(run: Path, url: str, *more: str) -> int:
    return cli.main(["judge", str(run), "--judge-model", MODEL, "--judge-url", url, "--backoff", "0.001", "--quiet", *more])


def entry(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text("utf-8"))["tasks"]["mt_bench"]


def saying(text: Callable[[str, int], str | None]) -> Callable[[JudgeServer, BaseHTTPRequestHandler, str, int], None]:
    """A judge that says text(prompt, how often it was asked for it)."""

    def reply(server: JudgeServer, handler: BaseHTTPRequestHandler, prompt: str, number: int) -> None:
        said = text(prompt, server.prompts[prompt])
        if said is None:
            send(handler, 400, b'{"error": {"message": "not this one"}}')
        else:
            answer(server, handler, prompt, said)

    return reply


def turn(prompt: str) -> int:
    return 2 if "turn 2" in prompt else 1


def test_what_a_judged_run_leaves(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "write_plots", WRITE_PLOTS)
    before = entry(run)
    assert before["metrics"] == {}
    assert before["counts"]["unscored"] == N
    with judge_server(saying(lambda prompt, _: f"Fine. [[{9 - 2 * turn(prompt)}]]")) as (server, url):
        assert judge(run, url) == 0
        assert (server.requests, server.authorizations) == (2 * N, {None})
        after = entry(run)
        assert {name: figure["value"] for name, figure in after["metrics"].items()} == {
            "score": 6.0,
            "turn_1": 7.0,
            "turn_2": 5.0,
            "score_strict": 6.0,
        }
        assert after["metrics"]["score"]["stderr"] == 0  # both turns of a question are one conversation
        assert after["metrics"]["turn_1"]["n"] == N
        assert after["counts"]["unscored"] == 0
        assert set(after["groups"]) == {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}
        about = after["judge"]
        assert (about["model"], about["url"], about["temperature"], about["max_tokens"]) == (MODEL, url, 0.0, 2048)
        assert about["answered_as"] == {f"{MODEL}-0613": 2 * N}
        assert about["system_fingerprints"] == {"fp_1": 2 * N}
        assert about["spent"] == {"requests": 2 * N, "prompt_tokens": 200 * N, "completion_tokens": 20 * N, "cost": None}
        assert after["protocol_sha256"] != before["protocol_sha256"]
        rows = [json.loads(line) for line in (run / "samples" / "mt_bench.jsonl").read_text("utf-8").splitlines()]
        assert [row["metrics"]["score"] for row in rows] == [6.0] * N
        assert rows[0]["extracted"] == "turn 1: 7, turn 2: 5"
        assert {path.name for path in (run / "mt_bench").iterdir()} >= {"mt-bench-radar.png", "mt-bench-turns.svg"}
        out = capsys.readouterr().out
        assert "16 judgments: 16 have a rating as published, 16 strictly, 0 failed" in out
        assert "bundled sample" in out
        # the same command again asks nothing and writes the same
        assert judge(run, url) == 0
        assert server.requests == 2 * N
        assert entry(run) == after


def test_prompts_reach_the_judge_with_their_references(run: Path) -> None:
    with judge_server() as (server, url):
        assert judge(run, url) == 0
    math = [prompt for prompt in server.prompts if "150 / 6 = 25" in prompt]
    assert len(math) == 2
    assert sum("150 / 4 = 37.5" in prompt for prompt in math) == 1  # turn 1 is judged beside its own reference alone
    assert sum("Reference" in prompt or "[Reference" in prompt for prompt in server.prompts) == 6


def test_fastchats_files(run: Path) -> None:
    with judge_server() as (_, url):
        assert judge(run, url) == 0
    answers = [json.loads(line) for line in (run / "mt_bench" / "model_answer" / "first-model.jsonl").read_text("utf-8").splitlines()]
    assert [row["question_id"] for row in answers] == list(range(N))
    assert answers[3]["choices"] == [{"index": 0, "turns": [f"The first answer to question 3, turn {t}." for t in (1, 2)]}]
    rows = [json.loads(line) for line in (run / "mt_bench" / "model_judgment" / f"{MODEL}_single.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 2 * N
    assert set(rows[0]) == {"question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"}
    assert {tuple(row["judge"]) for row in rows} == {
        (MODEL, name) for name in ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
    }
    assert {row["score"] for row in rows} == {7}


def test_a_rating_that_is_missing_is_counted_and_too_many_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with judge_server(saying(lambda prompt, times: "[[8/10]]" if "question 2" in prompt and times == 1 else "[[8]]")) as (server, url):
        assert judge(run, url) == 4
        assert "no score: 2 of 16 judgments failed or hold no rating (published)" in capsys.readouterr().err
        assert entry(run)["metrics"] == {}
        assert "[[8/10]]" in (run / "mt_bench" / "model_judgment" / f"{MODEL}_single.jsonl").read_text("utf-8")
        assert judge(run, url, "--rating", "strict") == 0  # no new request: the same texts, read by another reader
        assert server.requests == 2 * N
        counts = entry(run)["judge"]["counts"]
        assert (counts["published"], counts["strict"], counts["readers_differ"]) == (2 * N - 2, 2 * N, 2)
        assert judge(run, url, "--retry-failed") == 0
        assert server.requests == 2 * N + 2
        assert entry(run)["metrics"]["score"]["value"] == 8.0
    with sqlite3.connect(run / "judgments.sqlite") as db:  # what was said first is kept beside
        assert db.execute("SELECT count(*), max(attempt) FROM judgments").fetchone() == (2 * N + 2, 1)


def test_a_raised_limit_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with judge_server(saying(lambda prompt, _: "no idea" if "question 2," in prompt else "[[8]]")) as (_, url):
        assert judge(run, url) == 4
        assert judge(run, url, "--max-failed", "0.5") == 0
    assert "judgments have no rating and are left out (--max-failed 0.5)" in capsys.readouterr().out
    assert entry(run)["judge"]["max_failed"] == 0.5
    assert entry(run)["counts"]["unscored"] == 1
    assert judge(run, url, "--max-failed", "1") == 2


def test_few_failures_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = waiting_run(tmp_path / "run", 40)
    with judge_server(saying(lambda prompt, _: None if "question 7," in prompt and turn(prompt) == 1 else "[[5]]")) as (_, url):
        assert judge(run, url) == 0
    assert "1 judgments have no rating and are left out" in capsys.readouterr().out
    assert entry(run)["judge"]["counts"]["failed"] == 1
    assert entry(run)["metrics"]["score"]["n"] == 79
    exported = (run / "mt_bench" / "model_judgment" / f"{MODEL}_single.jsonl").read_text("utf-8")
    assert [(r["question_id"], r["turn"]) for r in map(json.loads, exported.splitlines()) if r["score"] == -1] == [(7, 1)]


def test_repeats_show_the_judges_own_spread(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with judge_server(saying(lambda _, times: f"[[{4 + 2 * times}]]")) as (server, url):
        assert judge(run, url, "--concurrency", "1", "--repeats", "2") == 0
    assert server.requests == 4 * N
    spread = entry(run)["judge"]["spread"]
    assert spread["scores"] == [6.0, 8.0]
    assert spread["range"] == 2.0
    assert entry(run)["metrics"]["score"]["value"] == 7.0
    assert "own spread over 2 repeats: 6.00, 8.00; stdev 1.414" in capsys.readouterr().out


def test_a_budget_of_requests_holds_over_sessions(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with judge_server() as (server, url):
        for _ in range(2):
            assert judge(run, url, "--max-requests", "5") == 4
            assert server.requests == 5
            assert "--max-requests 5 is reached; 5 of 16 judgments are kept" in capsys.readouterr().err
        assert judge(run, url, "--max-requests", "16") == 0
        assert server.requests == 2 * N


def test_a_budget_of_money_is_never_overdrawn(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = ["--price-in", "1000", "--price-out", "1000", "--max-tokens", "100"]  # 0.11 a judgment
    with judge_server() as (server, url):
        assert judge(run, url, *prices, "--max-cost", "1.0") == 4
        assert "may cost" in capsys.readouterr().err
        assert 0 < server.requests <= 9
        assert judge(run, url, *prices, "--max-cost", "50") == 0
    assert entry(run)["judge"]["spent"]["cost"] == pytest.approx(0.11 * 2 * N)


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "status 401"), (404, "status 404")],
)
def test_a_judge_that_refuses_us_altogether_ends_the_run_at_once(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-this-one")

    def refuse(server: JudgeServer, handler: BaseHTTPRequestHandler, prompt: str, number: int) -> None:
        send(handler, status, b'{"error": {"message": "Incorrect API key provided: sk-not-this-one"}}')

    with judge_server(refuse) as (server, url):
        assert judge(run, url, "--concurrency", "2") == 4
    error = capsys.readouterr().err
    assert message in error
    assert "sk-not-this-one" not in error
    assert server.requests <= 2
    assert server.authorizations == {"Bearer sk-not-this-one"}


def test_a_dead_server_ends_the_run(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalkit.judge.runner.GIVE_UP", 3)
    assert judge(run, "http://127.0.0.1:9/v1", "--attempts", "1", "--concurrency", "1") == 4
    error = capsys.readouterr().err
    assert "the last 3 judgments failed" in error
    assert "with --retry-failed" in error


def test_a_judge_that_quotes_the_key_does_not_leak_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALKIT_JUDGE_KEY", "sk-quoted")
    with judge_server(saying(lambda *_: "Your key is sk-quoted. [[5]]")) as (_, url):
        assert judge(run, url) == 0
    for file in run.rglob("*"):
        assert not file.is_file() or b"sk-quoted" not in file.read_bytes()


def test_pairwise_asks_both_orders(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = waiting_run(tmp_path / "other", N, says="second")

    def prefers(prompt: str, _: int) -> str:
        if "question 0," in prompt:
            return "[[A]]"  # whoever stands first
        if "question 1," in prompt:
            return "[[C]]"
        first = prompt.index("The first answer") < prompt.index("The second answer")
        return "[[A]]" if first else "[[B]]"

    with judge_server(saying(prefers)) as (server, url):
        assert judge(run, url, "--against", str(other)) == 0
        assert server.requests == 4 * N
    (pairwise,) = entry(run)["pairwise"]
    overall = pairwise["overall"]
    assert (overall["games"], overall["win"], overall["loss"], overall["tie"], overall["no_verdict"]) == (2 * N, 2 * N - 4, 0, 4, 0)
    assert overall["win_rate_adjusted"]["value"] == (2 * N - 4 + 2) / (2 * N)
    assert overall["inconsistent"] == 2 / (2 * N)
    assert entry(run)["metrics"] == {}  # a comparison is no score
    rows = [json.loads(line) for line in (run / "mt_bench" / "model_judgment" / f"{MODEL}_pair.jsonl").read_text("utf-8").splitlines()]
    assert {(row["model_1"], row["model_2"]) for row in rows} == {("first-model", "second-model")}
    assert [(r["g1_winner"], r["g2_winner"]) for r in rows[:6]] == [("model_1", "model_2")] * 2 + [("tie", "tie")] * 2 + [
        ("model_1", "model_1")
    ] * 2
    assert {row["judge"][1] for row in rows} == {"pair-v2", "pair-math-v1", "pair-v2-multi-turn", "pair-math-v1-multi-turn"}
    assert "win rate" in capsys.readouterr().out


def test_pairwise_needs_the_same_questions(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = waiting_run(tmp_path / "other", N - 1)
    assert judge(run, "http://127.0.0.1:9/v1", "--against", str(other)) == 2
    assert "different questions" in capsys.readouterr().err


def test_another_judge_is_another_row(run: Path) -> None:
    with judge_server() as (server, url):
        assert judge(run, url) == 0
        before = entry(run)["protocol_sha256"]
        assert judge(run, url, "--temperature", "0.5") == 0
        assert server.requests == 4 * N
        assert entry(run)["protocol_sha256"] != before  # never compared with the other's figures
        assert judge(run, url) == 0
        assert (server.requests, entry(run)["protocol_sha256"]) == (4 * N, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--concurrency", "0"], "concurrency is 0"),
        (["--repeats", "-1"], "repeats is -1"),
        (["--max-cost", "1"], "give --price-in and --price-out"),
        (["--timeout", "0"], "timeout is 0"),
        (["--judge-url", "http://user:secret@host/v1"], "must not contain a user name"),
        (["--judge-url", "ftp://host"], "not an http(s) address"),
    ],
)
def test_wrong_use_is_one_line(run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert judge(run, "http://127.0.0.1:9/v1", *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]
    assert "secret" not in error[0]


def test_where_the_judge_prompts_come_from_is_never_guessed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (run / "run.json").read_text("utf-8")
    (run / "run.json").write_text(text.replace('"source": "sample"', '"source": "dir"'))
    assert judge(run, "http://127.0.0.1:9/v1") == 2
    assert "pass --data DIR" in capsys.readouterr().err


def test_what_is_no_judged_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fake_runs import fake_run

    (tmp_path / "mmlu").mkdir()
    fake_run(tmp_path / "mmlu", mmlu=[1.0, 0.0])
    assert judge(tmp_path / "mmlu", "http://127.0.0.1:9/v1") == 2
    assert "holds nothing to judge" in capsys.readouterr().err
    assert judge(tmp_path / "gone", "http://127.0.0.1:9/v1") == 2


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("gpt-4", True),
        ("gpt-4-0613", True),
        ("gpt-4-2024-08-06", True),
        ("gpt-4-20240806", True),
        ("gpt-4-turbo", False),
        ("gpt-4o", False),
        ("gpt-3.5", False),
    ],
)
def test_which_names_are_the_judge(name: str, fits: bool) -> None:
    assert is_judge(name, JudgeConfig(Path(), "gpt-4")) is fits
    assert is_judge("whatever", JudgeConfig(Path(), "gpt-4", snapshot="whatever"))
    assert not is_judge("gpt-4", JudgeConfig(Path(), "gpt-4", snapshot="gpt-4-0613"))


def test_the_store_keeps_and_refuses(tmp_path: Path) -> None:
    path = tmp_path / "judgments.sqlite"
    store = JudgmentStore(path)
    store.put("k", Judgment(None, error="no"))
    store.put("k", Judgment("yes ", model="m"))
    store.charge("j", Spent(1, 2, 3))
    store.charge("j", Spent(1, 0, 0))
    with pytest.raises(EvalkitError, match=r"another evalkit process .*is judging"):
        JudgmentStore(path)
    store.close()
    again = JudgmentStore(path)
    assert again.get("k") == Judgment("yes ", model="m")
    assert again.get("other") is None
    assert again.spent("j") == Spent(2, 2, 3)
    again.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE judgments SET judgment = replace(judgment, 'yes', 'yed')")
    db.close()
    damaged = JudgmentStore(path)
    with pytest.raises(EvalkitError, match="not as it was written"):
        damaged.get("k")
    damaged.close()
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(EvalkitError, match="not a readable database"):
        JudgmentStore(path)


def test_an_answer_without_usage_is_an_answer(run: Path) -> None:
    def reply(server: JudgeServer, handler: BaseHTTPRequestHandler, prompt: str, number: int) -> None:
        send(handler, 200, completion("[[3]]", usage=None, system_fingerprint=None))

    with judge_server(reply) as (_, url):
        assert judge(run, url) == 0
    assert entry(run)["judge"]["spent"]["prompt_tokens"] == 0
    assert entry(run)["judge"]["system_fingerprints"] == {}


def test_a_judge_behind_our_own_server(
    run: Path, tiny_model: Path, one_thread: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of random weights rates nothing: real text is kept, and the score refused."""
    import shutil

    from served import listening

    from evalkit.config import ModelSpec
    from evalkit.lm.native import NativeLM
    from evalkit.serve.app import make_app

    folder = tmp_path / MODEL
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    app = make_app(NativeLM.load(ModelSpec(str(folder))), MODEL)
    with listening(app) as address:
        assert judge(run, f"{address}/v1", "--max-tokens", "8") == 4
    assert "16 of 16 judgments failed or hold no rating" in capsys.readouterr().err
    with sqlite3.connect(run / "judgments.sqlite") as db:
        kept = [json.loads(text) for (text,) in db.execute("SELECT judgment FROM judgments")]
    assert {row["model"] for row in kept} == {MODEL}
    assert all(row["text"] or row["error"] for row in kept)
    assert any(row["text"] for row in kept)


def test_where_every_request_fails_the_refusal_says_why(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An answer under another model's name is none, and --rating strict reads no text that is not there."""
    reply = {"model": "another-judge", "choices": [{"message": {"content": "[[8]]"}, "finish_reason": "stop"}]}
    with judge_server(lambda _server, handler, *_: send(handler, 200, json.dumps(reply).encode())) as (_, url):
        assert judge(run, url, "--attempts", "1") == 4
    said = capsys.readouterr().err
    assert "judgments failed" in said
    assert "another-judge" in said
    assert "--rating strict" not in said
