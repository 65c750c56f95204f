"""A run whose answers wait for a judge, as `evalkit run --tasks mt_bench` leaves it, without a model; and a judge on loopback."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from evalkit.data.sources import SampleSource
from evalkit.record.sample import Sample
from evalkit.record.schema import DataInfo, ModelInfo
from evalkit.record.write import begin, task_entry, write_run
from evalkit.tasks import Generated
from evalkit.tasks.registry import resolve
from evalkit_tasks.mt_bench.task import MTBench

MODEL = "judge-1"


def waiting_run(folder: Path, n: int, says: str = "first") -> Path:
    """n questions of the bundled sample's kinds, two turns each; the answers tell question and turn."""
    task = resolve("mt_bench")
    assert isinstance(task, MTBench)
    originals = task.load(SampleSource())
    samples = []
    for i in range(n):
        of = originals[i % len(originals)]
        doc = type(of)(str(i), of.group, {**of.fields, "question_id": i, "turns": [f"question {i}, {turn}" for turn in of.fields["turns"]]})
        requests = list(task.requests(doc))
        responses: list[Any] = []
        for turn in (1, 2):
            responses.append(Generated(f"The {says} answer to question {i}, turn {turn}.\n", "eos", 9))
            requests += task.follow_up(doc, responses)
        samples.append(Sample(doc, requests, responses, task.score(doc, responses)))
    model = ModelInfo(spec=f"org/{says}-model", fingerprint=f"sha256:{says}", engine="native")
    entry = task_entry(task, samples, n, DataInfo(source="sample", sha256="0"))
    folder.mkdir(parents=True)
    run = replace(begin(folder.name, model, None, 0, None), status="complete", tasks={"mt_bench": entry})
    write_run(folder, run, {"mt_bench": samples})
    return folder


class JudgeServer:
    """Answers chat completions with `reply(prompt, number of the request)`: a text, or what a fault writes. Stops by itself."""

    def __init__(self, reply: Callable[["JudgeServer", BaseHTTPRequestHandler, str, int], None]):
        self.reply = reply
        self.prompts: Counter[str] = Counter()  # by the user's message
        self.delivered: Counter[str] = Counter()
        self.authorizations: set[str | None] = set()
        self.requests = self.most = 0
        self.now: set[int] = set()  # handlers at work; one a connection
        self.mutex = threading.Lock()
        self.stopping = threading.Event()

    def release(self, handler: BaseHTTPRequestHandler) -> None:
        """The client waits for this request no more, or is about to give it up."""
        with self.mutex:
            self.now.discard(id(handler))


def send(handler: Any, status: int, body: bytes, **headers: str) -> None:
    """One whole answer. The client may ask the next thing as soon as it has it: no more counted from here on."""
    handler.state.release(handler)
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def completion(text: str | None, model: str = f"{MODEL}-0613", **more: Any) -> bytes:
    """A chat completion as OpenAI's servers send it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    body = {"id": "c", "object": "chat.completion", "model": model, "choices": [choice], "usage": usage, "system_fingerprint": "fp_1"}
    return json.dumps(body | more).encode()


def answer(server: JudgeServer, handler: BaseHTTPRequestHandler, prompt: str, text: str = "It is fine. Rating: [[7]]") -> None:
    """A good judgment; delivered counts it."""
    with server.mutex:
        server.delivered[prompt] += 1
    send(handler, 200, completion(text))


@contextmanager
def judge_server(
    reply: Callable[[JudgeServer, BaseHTTPRequestHandler, str, int], None] = lambda server, handler, prompt, _: answer(
        server, handler, prompt
    ),
) -> Iterator[tuple[JudgeServer, str]]:
    """The server and its address."""
    state = JudgeServer(reply)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20
        state: JudgeServer

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            with state.mutex:
                state.requests += 1
                number = state.requests
                state.prompts[prompt] += 1
                state.authorizations.add(self.headers["Authorization"])
                state.now.add(id(self))
                state.most = max(state.most, len(state.now))
            try:
                state.reply(state, self, prompt, number)
            except OSError:  # the client is gone
                self.close_connection = True
            finally:
                state.release(self)

        def log_message(self, *_: object) -> None:
            pass

    Handler.state = state
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    http.block_on_close = False
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state, f"http://127.0.0.1:{http.server_address[1]}/v1"
    finally:
        state.stopping.set()
        http.shutdown()
        http.server_close()
        thread.join(5)


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Did it come true in time?"""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
