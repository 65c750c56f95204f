"""A judge's server that misbehaves on schedule, and a client that is killed: every judgment arrives, none twice, no key anywhere."""

import json
import os
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from judge_runs import MODEL, JudgeServer, answer, completion, judge_server, send, wait_for, waiting_run

from evalkit.judge.answered import read_answered
from evalkit.judge.config import JudgeConfig
from evalkit.judge.judgments import judgment_key
from evalkit.judge.runner import _asks

KEY = "sk-test-0123456789abcdef"
CONCURRENCY = 8
KILLS = 3
TIMEOUT = 0.5  # seconds a try may take


def too_many(server: JudgeServer, handler: BaseHTTPRequestHandler) -> None:
    send(handler, 429, json.dumps({"error": {"message": f"slow down, {handler.headers['Authorization']}"}}).encode())


def wait_seconds(server: JudgeServer, handler: BaseHTTPRequestHandler) -> None:
    send(handler, 429, b'{"error": {"message": "slow down"}}', Retry_After="0.3")


def wait_until(server: JudgeServer, handler: BaseHTTPRequestHandler) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    send(handler, 429, b'{"error": {"message": "slow down"}}', Retry_After=date)


def broken(server: JudgeServer, handler: BaseHTTPRequestHandler) -> None:
    send(handler, 500, b"<html>Internal error</html>")


def hang(server: JudgeServer, handler: BaseHTTPRequestHandler) -> None:
    server.stopping.wait(0.9 * TIMEOUT)
    server.release(handler)
    server.stopping.wait(TIMEOUT)
    handler.close_connection = True


def reset(server: JudgeServer, handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True


def half(server: JudgeServer, handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, completion("Rating: [[9]]")[:-40])


def error_with_200(server: JudgeServer, handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, json.dumps({"error": {"message": f"overloaded {KEY}"}}).encode())


def wrong_model(server: JudgeServer, handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, completion("Rating: [[1]]", model="cheaper-model"))


def empty(server: JudgeServer, handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, completion(" \n"))


def drip(server: JudgeServer, handler: BaseHTTPRequestHandler) -> None:
    body = completion("Rating: [[2]]" * 100)
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    for sent, byte in enumerate(body[:60]):  # a byte now and then, each sooner than the time-out
        handler.wfile.write(bytes([byte]))
        if sent == 4:
            server.release(handler)
        if server.stopping.wait(TIMEOUT / 5):
            return
    handler.close_connection = True


FAULTS = (too_many, wait_seconds, wait_until, broken, hang, reset, half, error_with_200, wrong_model, empty, drip)


def on_schedule(server: JudgeServer, handler: BaseHTTPRequestHandler, prompt: str, number: int) -> None:
    """Every other request meets the next fault; all others are answered."""
    if number % 2:
        FAULTS[number // 2 % len(FAULTS)](server, handler)
    else:
        server.stopping.wait(0.02)  # else the whole set is judged before a kill can strike
        answer(server, handler, prompt)


def command(run: Path, url: str) -> list[str]:
    settings = ["--attempts", "14", "--backoff", "0.01", "--timeout", str(TIMEOUT), "--concurrency", str(CONCURRENCY)]
    return [sys.executable, "-m", "evalkit", "judge", str(run), "--judge-model", MODEL, "--judge-url", url, *settings]


def kept(run: Path) -> set[str]:
    try:
        with sqlite3.connect(f"file:{run / 'judgments.sqlite'}?mode=ro", uri=True) as db:
            return {key for (key,) in db.execute("SELECT key FROM judgments")}
    except sqlite3.OperationalError:  # not there yet
        return set()


def test_a_misbehaving_judge_and_three_kills(tmp_path: Path) -> None:
    run = waiting_run(tmp_path / "run", 80)
    environment = os.environ | {"EVALKIT_JUDGE_KEY": KEY}
    said = ""
    with judge_server(on_schedule) as (server, url):
        config = JudgeConfig(run, MODEL, url)
        asks, _ = _asks(config, read_answered(run), None)
        prompt_of = {judgment_key(config.identity, ask): ask.user_prompt for ask in asks}
        assert len(prompt_of) == len(set(prompt_of.values())) == 160
        frozen: dict[str, int] = {}  # prompts that were judged before a kill: how often they had been asked for then
        for kill in range(KILLS):
            process = subprocess.Popen(command(run, url), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
            target = (kill + 1) * 30
            while process.poll() is None and len(kept(run)) < target:
                time.sleep(0.01)
            assert process.poll() is None, "the judge ended before it could be killed"
            process.send_signal(signal.SIGKILL)
            said += process.communicate()[0]
            now = kept(run)
            assert set(frozen) <= {prompt_of[key] for key in now}, "a judgment was lost"
            frozen |= {prompt_of[key]: server.prompts[prompt_of[key]] for key in now if prompt_of[key] not in frozen}
            assert target <= len(now) < 160
        done = subprocess.run(command(run, url), capture_output=True, text=True, env=environment, check=False)
        said += done.stdout + done.stderr
        assert done.returncode == 0, done.stderr
        assert kept(run) == set(prompt_of)
        # what was stored at a kill was never asked for again; what was in flight may have been, once a kill
        assert {prompt: server.prompts[prompt] for prompt in frozen} == frozen
        assert sum(server.delivered.values()) - 160 <= KILLS * CONCURRENCY
        assert set(server.delivered) == set(prompt_of.values())
        assert server.most <= CONCURRENCY
        assert server.authorizations == {f"Bearer {KEY}"}
    record = json.loads((run / "run.json").read_text("utf-8"))
    judge = record["tasks"]["mt_bench"]["judge"]
    assert judge["counts"]["judgments"] == judge["counts"]["published"] == 160
    assert judge["answered_as"] == {f"{MODEL}-0613": 160}
    assert judge["spent"]["requests"] >= server.requests - KILLS * CONCURRENCY
    assert record["tasks"]["mt_bench"]["metrics"]["score"]["value"] == 7.0
    rows = [json.loads(line) for line in (run / "mt_bench" / "model_judgment" / f"{MODEL}_single.jsonl").read_text("utf-8").splitlines()]
    assert len({(row["question_id"], row["turn"]) for row in rows}) == len(rows) == 160
    assert KEY not in said
    assert "tried again" in said
    for file in run.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("concurrency", [1, 3, 8])
def test_never_more_requests_at_a_time_than_asked_for(tmp_path: Path, concurrency: int) -> None:
    from evalkit.judge.runner import judge
    from evalkit.progress import Reporter

    def slowly(server: JudgeServer, handler: BaseHTTPRequestHandler, prompt: str, number: int) -> None:
        wait_for(lambda: server.most >= concurrency)  # all that may come at once are there
        server.stopping.wait(0.05)  # and no more of them
        answer(server, handler, prompt)

    run = waiting_run(tmp_path / "run", 16)
    with judge_server(slowly) as (server, url):
        judged = judge(JudgeConfig(run, MODEL, url, concurrency=concurrency), Reporter(quiet=True))
    assert server.most == concurrency
    assert server.requests == len(judged.judgments) == 32


HUGE = "9" * 20_000
ODD = {  # whatever one judgment says, the others are made and kept
    0: completion("Rating: [[" + "9" * 400 + "]]"),
    1: completion("Rating: [[100]]"),
    2: completion("Rating: [[0]]"),
    3: completion(f"[[{HUGE}"),
    4: completion("half a pair \ud83d, Rating: [[7]]"),
    5: completion("Rating: [[7]]").replace(b'"prompt_tokens": ', b'"prompt_tokens": -'),
    6: b'{"usage": {"prompt_tokens": Infinity}, "model": "' + MODEL.encode() + b'", "choices": [{"message": {"content": "[[7]]"}}]}',
    7: b"[" * 200_000 + b"]" * 200_000,
    8: b'{"usage": [], "model": 7, "choices": []}',
    9: b'{"error": {"code": ' + HUGE[:4000].encode() + b"}}",
}


def test_nothing_that_one_judgment_says_stops_the_others(tmp_path: Path) -> None:
    def reply(server: JudgeServer, handler: BaseHTTPRequestHandler, prompt: str, number: int) -> None:
        asked = re.search(r"to question (\d+), turn", prompt)
        assert asked
        send(handler, 200, ODD.get(int(asked[1]), completion("Rating: [[7]]")))

    run = waiting_run(tmp_path / "run", 20)
    with judge_server(reply) as (_, url):
        more = ["--attempts", "2", "--backoff", "0", "--max-failed", "0.9"]
        done = subprocess.run([*command(run, url), *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    entry = json.loads((run / "run.json").read_text("utf-8"))["tasks"]["mt_bench"]
    counts = entry["judge"]["counts"]
    assert entry["metrics"]["score"]["value"] == 7.0
    assert (counts["judgments"], counts["failed"], counts["published"]) == (40, 6, 26)
    assert counts["outside_scale"] == 4  # 100 and 0, two turns each
    for file in (*run.rglob("*.jsonl"), run / "run.json"):
        file.read_text("utf-8")


def test_a_terminated_judge_says_so(tmp_path: Path) -> None:
    run = waiting_run(tmp_path / "run", 40)

    def slowly(server: JudgeServer, handler: BaseHTTPRequestHandler, prompt: str, number: int) -> None:
        server.stopping.wait(0.05)
        answer(server, handler, prompt)

    with judge_server(slowly) as (_, url):
        process = subprocess.Popen(command(run, url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and len(kept(run)) < 8:
            time.sleep(0.01)
        process.terminate()
        _, error = process.communicate()
    assert process.returncode == 4
    assert "judgments are kept" in error
    assert "Traceback" not in error
    assert 8 <= len(kept(run)) < 80
