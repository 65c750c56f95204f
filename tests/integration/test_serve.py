"""evalkit serve over a real connection: OpenAI's routes, the native engine's answers, every refusal in OpenAI's words."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from served import listening, with_template

pytest.importorskip("fastapi", reason="pip install 'evalkit-lm[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'evalkit-lm[serve]'")

from evalkit.cli import _Parser
from evalkit.cli.serve import add
from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.lm.native import NativeLM
from evalkit.progress import Reporter
from evalkit.serve import ServeConfig, serve
from evalkit.serve.app import make_app
from evalkit.serve.stream import settled
from evalkit.tasks import Generate
from moe_lm.backends.cpu.backend import CpuBackend
from moe_lm.backends.cpu.pack import PANEL

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"


@pytest.fixture(scope="module")
def lm(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> NativeLM:
    return with_template(tiny_model, tmp_path_factory.mktemp("served") / "chatty", TEMPLATE)


@pytest.fixture(scope="module")
def http(lm: NativeLM) -> Iterator[httpx2.Client]:
    with listening(make_app(lm, "tiny")) as address, httpx2.Client(base_url=address, timeout=60) as client:
        yield client


def complete(http: httpx2.Client, prompt: Any, **settings: Any) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0} | settings
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def native(lm: NativeLM, prompt: str, until: tuple[str, ...] = (), tokens: int = 8, temperature: float = 0.0, seed: int = 0) -> str:
    ((_, answer),) = lm.generate([Generate(prompt, until, tokens, temperature, seed)])
    return answer.text


def test_models(http: httpx2.Client, lm: NativeLM) -> None:
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    (entry,) = listed["data"]
    assert (entry["id"], entry["object"], entry["max_model_len"]) == ("tiny", "model", 8192)
    assert entry["fingerprint"] == lm.fingerprint
    assert http.get("/health").json() == {"status": "ok"}


def test_a_completion_is_the_native_engines(http: httpx2.Client, lm: NativeLM) -> None:
    answer = complete(http, "Hello there")
    assert (answer["object"], answer["system_fingerprint"]) == ("text_completion", lm.fingerprint)
    assert answer["choices"][0]["text"] == native(lm, "Hello there")
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 11, "completion_tokens": 8, "total_tokens": 19}
    assert complete(http, lm.tokenizer.encode("Hello there"))["choices"][0]["text"] == native(lm, "Hello there")
    many = complete(http, ["Hello there", "Good bye"])
    assert [c["text"] for c in many["choices"]] == [native(lm, "Hello there"), native(lm, "Good bye")]
    assert [c["index"] for c in many["choices"]] == [0, 1]
    assert many["usage"]["completion_tokens"] == 16


def test_stop_strings(http: httpx2.Client, lm: NativeLM) -> None:
    whole = native(lm, "Hello there", tokens=40)
    stop = whole[20:23]
    expected = whole[: whole.find(stop)]
    for given in (stop, [stop, "never to be seen"]):
        choice = complete(http, "Hello there", max_tokens=40, stop=given)["choices"][0]
        assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (expected, "stop", stop)


def test_sampling_goes_by_its_seed(http: httpx2.Client, lm: NativeLM) -> None:
    texts = [complete(http, "Hello", temperature=1.0, seed=seed)["choices"][0]["text"] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] == native(lm, "Hello", temperature=1.0, seed=1)
    assert texts[2] != texts[0]
    assert len({complete(http, "Hello", temperature=1.0)["choices"][0]["text"] for _ in range(4)}) > 1


def test_eos_ends_an_answer_unless_it_is_to_be_ignored(http: httpx2.Client, lm: NativeLM) -> None:
    assert isinstance(lm.backend, CpuBackend)
    packed = lm.backend.head.matrix
    head = packed.weights[0, 256 // PANEL, :, 256 % PANEL]
    row = head.clone()
    try:
        with torch.inference_mode():
            head[:] = 50 * packed.rows(torch.tensor(lm.tokenizer.encode(native(lm, "Hello", tokens=1))))[0]  # end of text wins at once
        choice = complete(http, "Hello")["choices"][0]
        assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", None)
        assert complete(http, "Hello", ignore_eos=True)["usage"]["completion_tokens"] == 8
        choice = complete(http, "Hello", ignore_eos=True, stop="<|endoftext|>")["choices"][0]  # special tokens can be stop strings
        assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", "<|endoftext|>")
    finally:
        with torch.inference_mode():
            head[:] = row


def test_logprobs_of_a_prompt(http: httpx2.Client, lm: NativeLM) -> None:
    """Against a forward pass of its own, and the same whatever comes with it."""
    prompt = "The quick brown fox jumps over the lazy dog, and again over it."
    choice = complete(http, prompt, echo=True, logprobs=3, max_tokens=0)["choices"][0]
    found = choice["logprobs"]
    assert choice["text"] == prompt
    assert found["tokens"] == list(prompt)
    assert found["text_offset"] == list(range(len(prompt)))
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    from moe_lm.engine.batch import forward
    from moe_lm.engine.pages import pool_for

    ids = lm.tokenizer.encode(prompt)
    with torch.inference_mode():
        logits = lm.backend.logits(forward(lm.backend, [(ids, pool_for(lm.backend).fork(None, len(ids)))], range(len(ids)))).log_softmax(-1)
    for at, (logprob, top) in enumerate(zip(found["token_logprobs"][1:], found["top_logprobs"][1:], strict=True)):
        assert logprob == pytest.approx(float(logits[at, ids[at + 1]]), abs=1e-5)
        assert top[prompt[at + 1]] >= logprob
        assert max(top.values()) == pytest.approx(float(logits[at].max()), abs=1e-5)
        assert 1 <= len(top) <= 4
    together = complete(http, [prompt[:40], prompt, prompt + "!"], echo=True, logprobs=3, max_tokens=0)["choices"]
    assert together[1]["logprobs"] == found
    assert together[0]["logprobs"]["token_logprobs"] == found["token_logprobs"][:40]
    assert together[2]["logprobs"]["token_logprobs"][:-1] == found["token_logprobs"]


def test_logprobs_of_what_was_written(http: httpx2.Client) -> None:
    answer = complete(http, "Hello", logprobs=1)["choices"][0]["logprobs"]
    assert len(answer["tokens"]) == 8
    for logprob, top in zip(answer["token_logprobs"], answer["top_logprobs"], strict=True):
        assert logprob == pytest.approx(max(top.values()), abs=1e-5)  # greedy
    both = complete(http, "Hello", logprobs=1, echo=True)["choices"][0]
    assert both["text"].startswith("Hello")
    assert both["logprobs"]["tokens"][5:] == answer["tokens"]


def test_chat(http: httpx2.Client, lm: NativeLM) -> None:
    messages = [{"role": "system", "content": "brief"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 0, "user": "me"}
    answer = http.post("/v1/chat/completions", json=body).json()
    assert (answer["object"], answer["system_fingerprint"]) == ("chat.completion", lm.fingerprint)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": native(lm, "s:brief\nu:Hi\na:")}
    assert answer["usage"]["prompt_tokens"] == len("s:brief\nu:Hi\na:")
    limited = http.post("/v1/chat/completions", json=body | {"max_tokens": None, "max_completion_tokens": 3}).json()
    assert limited["usage"]["completion_tokens"] == 3


def streamed(http: httpx2.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with http.stream("POST", path, json={"model": "tiny", "temperature": 0, "stream": True} | body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_streams(http: httpx2.Client, lm: NativeLM) -> None:
    whole = native(lm, "u:Hi\na:", tokens=60)
    stop = whole[40:43]
    expected = whole[: whole.find(stop)]
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60, "stop": [stop], "stream_options": {"include_usage": True}}
    chunks = streamed(http, "/v1/chat/completions", chat)
    assert {(c["object"], c["system_fingerprint"]) for c in chunks} == {("chat.completion.chunk", lm.fingerprint)}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]]
    assert "".join(pieces) == expected
    assert sum(map(bool, pieces)) > 5  # as it is written, not at once
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] >= len(expected.encode("utf-8", "replace")) // 3
    chunks = streamed(http, "/v1/completions", {"prompt": "u:Hi\na:", "max_tokens": 60})
    assert "".join(c["choices"][0]["text"] for c in chunks) == whole
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_a_client_that_leaves_ends_its_answer(http: httpx2.Client, lm: NativeLM) -> None:
    before = lm.tokens().computed
    body = {"model": "tiny", "prompt": "Hello", "max_tokens": 8000, "temperature": 0, "stream": True, "ignore_eos": True}
    with http.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    complete(http, "Hello")  # waits for the batch before it
    assert lm.tokens().computed - before < 4000


def test_settled_text_holds_back_what_may_change() -> None:
    assert settled("abc", ()) == "abc"
    assert settled("abc\ufffd\ufffd", ()) == "abc"
    assert settled("abcST", ("STOP",)) == "abc"
    assert settled("abcSTx", ("STOP",)) == "abcSTx"
    assert settled("a\n", ("\n\n", "Question:")) == "a"


def test_what_arrives_together_is_run_together(http: httpx2.Client, lm: NativeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = lm.generator.step

    def counted() -> Any:
        sizes.append(len(lm.generator.in_flight))
        return original()

    monkeypatch.setattr(lm.generator, "step", counted)
    prompts = [f"prompt number {i}" for i in range(24)]
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda prompt: complete(http, prompt)["choices"][0]["text"], prompts))
    assert max(sizes) > 2
    monkeypatch.undo()
    assert answers == [native(lm, prompt) for prompt in prompts]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("completions", {"prompt": "x" * 9000}, 400, "maximum context length is 8192 tokens; the prompt has 9000"),
        ("completions", {"prompt": ""}, 400, "the prompt is empty"),
        ("completions", {"prompt": []}, 400, "the prompt is empty"),
        ("completions", {"prompt": [5, 999]}, 400, "token 999; ids run from 0 to 256"),
        ("completions", {"prompt": [-1]}, 400, "token -1"),
        ("completions", {}, 400, "prompt: Field required"),
        ("completions", {"prompt": "a", "max_tokens": 0}, 400, "only useful with echo"),
        ("completions", {"prompt": "a", "max_tokens": "many"}, 400, "max_tokens: "),
        ("completions", {"prompt": "a", "temperature": -1}, 400, "temperature: "),
        ("completions", {"prompt": "a", "presence_penalty": 0.5}, 400, "presence_penalty = 0.5 is not supported"),
        ("completions", {"prompt": "a", "logit_bias": {"5": 1}}, 400, "logit_bias = {'5': 1} is not supported"),
        ("completions", {"prompt": "a", "n": 65}, 400, "n: "),
        ("completions", {"prompt": "a", "n": 2, "best_of": 3}, 400, "best_of is 3 and n 2"),
        ("completions", {"prompt": "a", "top_p": 0}, 400, "top_p: "),
        ("completions", {"prompt": "a", "min_p": 2}, 400, "min_p: "),
        ("completions", {"prompt": "a\ud800"}, 400, "prompt holds a lone surrogate"),
        ("completions", {"prompt": "a", "stop": ["b", "\udfff"]}, 400, "stop.1 holds a lone surrogate"),
        ("completions", {"prompt": "a", "max_token": 5}, 400, "unknown parameter 'max_token'"),
        ("completions", {"prompt": "a", "stop": [""]}, 400, "a stop string is empty"),
        ("completions", {"prompt": "a", "stream": True, "echo": True}, 400, "a stream takes no echo"),
        ("completions", {"prompt": "a", "model": "gpt-4"}, 404, "the model 'gpt-4' does not exist; this server has 'tiny'"),
        ("chat/completions", {"messages": []}, 400, "messages: "),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, 400, "takes no tools"),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}], "tool_choice": "required"}, 400, "tool_choice = required"),
        ("chat/completions", {"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2}, 400, "top_logprobs needs logprobs"),
        ("chat/completions", {"messages": [{"role": "user", "content": "a", "name": "b"}]}, 400, "does not read a message's 'name'"),
        ("chat/completions", {"messages": [{"role": "user"}]}, 400, "messages.0.content is null"),
        ("chat/completions", {"messages": ["hello"]}, 400, "messages.0 is no message"),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "'image_url'"),
        ("nothing", {}, 404, "POST /v1/nothing: Not Found"),
    ],
)
def test_refusals(http: httpx2.Client, path: str, body: dict[str, Any], status: int, message: str) -> None:
    sent = json.dumps({"model": "tiny"} | body)  # writes a lone surrogate as \\ud800
    response = http.post(f"/v1/{path}", content=sent, headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (status, "invalid_request_error")
    assert message in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert http.get("/v1/completions").status_code == 405
    assert http.post("/v1/completions", content=b"{broken").json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (
            b'{"model": "tiny", "prompt": "a", "max_tokens": 1, "max_tokens": 50}',
            "max_tokens",
            'the key "max_tokens" is there twice; send it',
        ),
        (b'{"model": "tiny", "prompt": "a", "stream_options": {"a": 1, "a": 1}}', "a", 'the key "a" is there twice'),
        (
            b"{broken",
            None,
            "the body is no JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); send an object",
        ),
        (b'{"model": "tiny", "prompt": "\xff"}', None, "can't decode byte 0xff"),
        (b"[" * 100_000, None, "nested too deep"),
        (b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 5000 + b"}", None, "4300 digits"),
        (b"[1, 2]", None, "the body is no JSON object (Input should be"),
        (b"", None, "send one with the header 'Content-Type: application/json'"),
    ],
)
def test_a_body_that_is_no_object_is_refused_with_the_way_out(http: httpx2.Client, body: bytes, param: str | None, message: str) -> None:
    response = http.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert message in error["message"]
    assert "; send" in error["message"]
    assert http.post("/v1/completions", content=body.decode("latin-1").encode("utf-16")).status_code == 400


def test_a_body_in_another_unicode_encoding(http: httpx2.Client) -> None:
    body = json.dumps({"model": "tiny", "prompt": "Hello", "max_tokens": 2, "temperature": 0})
    texts = [
        http.post("/v1/completions", content=body.encode(name), headers={"Content-Type": "application/json"}).json()["choices"][0]["text"]
        for name in ("utf-8", "utf-8-sig", "utf-16", "utf-32")
    ]
    assert len(set(texts)) == 1


def test_a_fault_of_the_engine_is_told_and_survived(http: httpx2.Client, lm: NativeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("out of memory\nin line 2")

    monkeypatch.setattr(lm.generator, "step", broken)
    response = http.post("/v1/completions", json={"model": "tiny", "prompt": "a"})
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "RuntimeError: out of memory"
    with http.stream("POST", "/v1/completions", json={"model": "tiny", "prompt": "a", "stream": True}) as stream:
        assert '"RuntimeError: out of memory"' in stream.read().decode()
    monkeypatch.undo()
    assert complete(http, "Hello")["choices"][0]["text"]


def test_the_command_serves_and_says_where(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:

    import uvicorn

    asked: dict[str, Any] = {}

    def stand_in(self: uvicorn.Server, sockets: Any) -> None:
        asked["port"] = sockets[0].getsockname()[1]
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", stand_in)
    parser = _Parser()
    add(parser.add_subparsers())
    arguments = parser.parse_args(["serve", "--model", str(tiny_model), "--port", "0"])
    arguments.command(arguments)
    assert f"serving tiny at http://127.0.0.1:{asked['port']}/v1" in capsys.readouterr().err


def test_a_taken_port_and_other_refusals() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EvalkitError, match=f"cannot listen on 127.0.0.1 port {port}"):
            serve(ServeConfig(port=port), Reporter(quiet=True))
    with pytest.raises(EvalkitError, match="--port is 70000"):
        ServeConfig(port=70000)
    with pytest.raises(EvalkitError, match="no such file"):
        serve(ServeConfig(ModelSpec("./gone.gguf"), port=0), Reporter(quiet=True))
    assert ServeConfig(ModelSpec("./models/tiny.Q4_1.gguf")).served_name == "tiny.Q4_1"
    assert ServeConfig(ModelSpec("Qwen/Qwen1.5-MoE-A2.7B")).served_name == "Qwen/Qwen1.5-MoE-A2.7B"
    assert threading.active_count() < 50
