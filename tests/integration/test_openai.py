"""The openai:URL engine: against `evalkit serve` it gives the native engine's answers; against servers that lie or fail, one line."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from served import listening

pytest.importorskip("fastapi", reason="pip install 'evalkit-lm[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'evalkit-lm[serve]'")

from evalkit import cli
from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError, RunIncomplete
from evalkit.lm import open_lm
from evalkit.lm.http import JsonClient, RetryPolicy
from evalkit.lm.models import MODELS, local_path
from evalkit.lm.native import NativeLM
from evalkit.lm.openai import OpenAILM
from evalkit.serve.app import make_app
from evalkit.tasks import Generate, Loglikelihood, is_refused

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"


@pytest.fixture(scope="module")
def native(tiny_model: Path) -> NativeLM:
    torch.set_num_threads(1)
    lm = NativeLM.load(ModelSpec(str(tiny_model)))
    lm.tokenizer.chat_template = TEMPLATE
    return lm


@pytest.fixture(scope="module")
def address(native: NativeLM) -> Iterator[str]:
    with listening(make_app(native, "org/tiny")) as url:
        yield url


@pytest.fixture(scope="module")
def remote(address: str) -> OpenAILM:
    lm = open_lm(ModelSpec("org/tiny", engine=f"openai:{address}/v1"))
    assert isinstance(lm, OpenAILM)
    return lm


def same(remote: OpenAILM, native: NativeLM, requests: list[Any]) -> None:
    ask = "loglikelihood" if isinstance(requests[0], Loglikelihood) else "generate"
    assert dict(getattr(remote, ask)(requests)) == dict(getattr(native, ask)(requests))


def test_loglikelihoods_equal_the_native_ones(remote: OpenAILM, native: NativeLM) -> None:
    shared = "Question: which of these is it, and why would anybody ask?\n"
    requests = [Loglikelihood(f"{shared}{i}: the answer is ", (" A", " B", "both of them", "none")) for i in range(20)]
    same(remote, native, [*requests, Loglikelihood("é", ("è", "ab")), Loglikelihood("one", (" two",))])


def test_a_greedy_continuation_is_called_so(remote: OpenAILM, native: NativeLM) -> None:
    ((_, answer),) = native.generate([Generate("The cat", (), 1)])
    request = Loglikelihood("The cat", (answer.text, "é", answer.text + "#~"))
    same(remote, native, [request])
    ((_, found),) = remote.loglikelihood([request])
    assert found.is_greedy[0]


def test_generated_answers_equal_the_native_ones(remote: OpenAILM, native: NativeLM) -> None:
    ((_, whole),) = native.generate([Generate("Once upon a time", (), 40)])
    stop = whole.text[20:22]
    plain = [Generate(f"Once upon a time{' there' * n}", (), 12) for n in range(20)]
    sampled = [Generate("Once", (), 12, temperature=1.0, seed=seed) for seed in (1, 2, 3)]
    chat = Generate("", (), 12, messages=(("system", "Be brief."), ("user", "Hi")))
    same(remote, native, [*plain, *sampled, chat])
    stopped = Generate("Once upon a time", ("never", stop), 40)
    ((_, there), (_, here)) = *remote.generate([stopped]), *native.generate([stopped])
    assert there == here
    assert there.finish_reason == "stop"


def test_prompts_are_cut_as_the_native_engine_cuts_them(tiny_model: Path) -> None:
    native = NativeLM.load(ModelSpec(str(tiny_model)))
    native.config = native.backend.config = replace(native.config, max_seq_len=400)
    words = " ".join(map(str, range(200)))
    with listening(make_app(native, "tiny")) as url:
        remote = OpenAILM(url, "tiny")
        same(remote, native, [Generate(words, (), 5)])
        ((_, found),) = remote.generate([Generate(words, (), 5)])
        assert found.truncated == len(words) + 5 - 400
        within = Loglikelihood(words[:300], ("a", "bc"), truncate_above=200, truncate_to=150)
        same(remote, native, [within])
        ((_, cut),) = remote.loglikelihood([within])
        assert (cut.truncated, cut.cut_by_protocol) == (0, 150)
        same(remote, native, [Loglikelihood(words[:200], ("a", "bc"), truncate_above=200, truncate_to=150)])
        ((_, cut),) = remote.loglikelihood([Loglikelihood(words, ("a", "bc"))])
        ((_, same_cut),) = native.loglikelihood([Loglikelihood(words, ("a", "bc"))])
        assert (cut.truncated, same_cut.truncated) == (len(words) - 397, len(words) - 399)
        with pytest.raises(EvalkitError, match="max_new_tokens 400 leaves no room"):
            list(remote.generate([Generate(words, (), 400)]))


def test_a_limit_on_prompt_and_answer_together_counts_the_same_tokens(address: str, native: NativeLM) -> None:
    remote = OpenAILM(address, "org/tiny")
    limited = Generate("Once upon a time", (), 40, max_total_tokens=22)
    same(remote, native, [limited])
    ((_, found),) = native.generate([limited])
    assert found.num_tokens == 22 - len(native.encode(limited.context))
    for asked in (Generate("Hel", (), 5, messages=(("user", "Hi"),)), Generate("", (), 5, messages=(("user", "Hi"),), max_total_tokens=9)):
        with pytest.raises(EvalkitError, match="a server takes no conversation whose answer is begun or limited"):
            list(remote.generate([asked]))


def test_a_begun_answer_follows_the_conversation(native: NativeLM) -> None:
    written = native.chat_prompt([{"role": "user", "content": "Hi"}])
    asked = [
        Generate("Hel", (), 6, messages=(("user", "Hi"),)),
        Generate(written + "Hel", (), 6),
        Generate("", (), 6, messages=(("user", "Hi"),)),
    ]
    answers = dict(native.generate(asked))
    assert answers[0] == answers[1] != answers[2]


def test_options_after_a_conversation_begin_the_answer(remote: OpenAILM, native: NativeLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The template's last newline goes to the continuation, as in lighteval; a server shows no such prompt, and is not asked."""
    turn, options = (("user", "One?"),), (" yes", " no")
    monkeypatch.setattr(native.tokenizer, "chat_template", "{{ messages[0]['content'] + '!\\n' }}")
    monkeypatch.setattr(native, "stand_in", None)
    ((_, asked),) = native.loglikelihood([Loglikelihood("", options, messages=turn)])
    ((_, written),) = native.loglikelihood([Loglikelihood("One?!", tuple("\n" + option for option in options))])
    assert asked == written
    with pytest.raises(EvalkitError, match="run it natively"):
        list(remote.loglikelihood([Loglikelihood("", options, messages=turn)]))
    monkeypatch.setattr(native.tokenizer, "chat_template", None)
    with pytest.raises(EvalkitError, match="chat template"):
        list(native.loglikelihood([Loglikelihood("", options, messages=turn)]))


def test_a_whole_run_gives_the_same_samples(address: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    command = ["run", "--tasks", "mmlu,gsm8k@lm-eval", "--data", "sample", "--limit", "4", "--out", str(tmp_path)]
    assert cli.main([*command, "--name", "native", "--model", str(tiny_model)]) == 0
    assert cli.main([*command, "--name", "remote", "--model", "org/tiny", "--engine", f"openai:{address}"]) == 0
    for task in ("mmlu", "gsm8k"):
        files = [tmp_path / run / "samples" / f"{task}.jsonl" for run in ("native", "remote")]
        here, there = [[json.loads(line)["responses"] for line in file.read_text().splitlines()] for file in files]
        assert here == there
    record = json.loads((tmp_path / "remote" / "run.json").read_text())
    assert record["model"]["server"] == f"{address}/v1"
    assert "weights were not seen" in record["model"]["identity"]
    assert record["model"]["family"] == "llama"
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"sk-very-secret" in file.read_bytes()]


def test_the_fingerprint_is_over_what_the_server_says(address: str, native: NativeLM, tiny_model: Path) -> None:
    fingerprint = OpenAILM(address, "org/tiny").fingerprint
    assert fingerprint.startswith("sha256:")
    assert fingerprint != native.fingerprint
    with listening(make_app(native, "org/tiny")) as elsewhere:
        assert OpenAILM(elsewhere, "org/tiny").fingerprint == fingerprint  # the same weights, by their own fingerprint
    other = NativeLM.load(ModelSpec(str(tiny_model), dtype="bfloat16"))
    with listening(make_app(other, "org/tiny")) as elsewhere:
        assert OpenAILM(elsewhere, "org/tiny").fingerprint != fingerprint


class Fake:
    """A server of another make. `answers`: path -> body, status and body, or what makes them of the request's body."""

    def __init__(self, **answers: Any):
        self.answers = {"/v1/models": {"data": [{"id": "m", "created": 1}]}} | {
            f"/v1/{k}".replace("__", "/"): v for k, v in answers.items()
        }
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else {}
        self.asked.append(body | {"authorization": request.headers.get("authorization")})
        answer = self.answers.get(request.url.path, (404, {"error": {"message": "no such route"}}))
        answer = answer(body) if callable(answer) else answer
        status, content = answer if isinstance(answer, tuple) else (200, answer)
        return httpx2.Response(status, json=content)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Any:
    """(Fake) -> the engine that asks it, without waits."""

    original = JsonClient.__init__

    def open_fake(fake: Fake, model: str = "m") -> OpenAILM:
        def to_fake(self: JsonClient, base: str, secret: str | None = None, policy: RetryPolicy | None = None) -> None:
            original(self, base, secret, replace(policy or RetryPolicy(), base=0.0), httpx2.MockTransport(fake))

        monkeypatch.setattr(JsonClient, "__init__", to_fake)
        return OpenAILM("http://host:1", model)

    return open_fake


def text(content: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": content, **more}], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}


@pytest.mark.parametrize(
    "answer",
    [
        text("", finish_reason="length"),  # no logprobs at all
        text("x", logprobs={"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [{"x": -1.0}]}),  # of what it wrote: no echo
        (400, {"error": {"message": "echo is not supported"}}),
        (404, {"error": {"message": "no such route"}}),
    ],
    ids=["none", "not-echoed", "refused", "no-route"],
)
def test_a_server_without_echo_is_told_in_one_line(opened: Any, answer: Any) -> None:
    def many(body: dict[str, Any]) -> Any:
        return answer if isinstance(answer, tuple) else answer | {"choices": answer["choices"] * len(body["prompt"])}

    with pytest.raises(EvalkitError, match="gives no log-probabilities of prompts") as caught:
        list(opened(Fake(completions=many)).loglikelihood([Loglikelihood("a", ("b",))]))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_stop_string_left_in_the_text_is_cut_off(opened: Any) -> None:
    lm = opened(Fake(completions=text("one. two\n\nQuestion: three", finish_reason="length")))
    ((_, found),) = lm.generate([Generate("p", ("Question:", "\n\n"), 9)])
    assert (found.text, found.finish_reason, found.num_tokens) == ("one. two", "stop", 2)


@pytest.mark.parametrize(
    ("choice", "reason"),
    [({"finish_reason": "stop", "stop_reason": None}, "eos"), ({"finish_reason": "stop", "stop_reason": "x"}, "stop"),
     ({"finish_reason": "stop"}, "stop"), ({"finish_reason": "length"}, "length"), ({"finish_reason": None}, "stop")],
)  # fmt: skip
def test_finish_reasons(opened: Any, choice: dict[str, Any], reason: str) -> None:
    ((_, found),) = opened(Fake(completions=text("a", **choice))).generate([Generate("p", ("x",), 9)])
    assert found.finish_reason == reason


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_an_answer_that_was_broken_off_is_asked_for_again(opened: Any, reason: str) -> None:
    answers = iter([text("The ans", finish_reason=reason), text("The answer is 5.", finish_reason="stop")])
    ((_, found),) = opened(Fake(completions=lambda body: next(answers))).generate([Generate("p", (), 9)])
    assert found.text == "The answer is 5."
    with pytest.raises(RunIncomplete, match=f"broken off, finish_reason {reason}"):
        list(opened(Fake(completions=text("The ans", finish_reason=reason))).generate([Generate("p", (), 9)]))


def test_models_that_want_another_name_for_the_limit(opened: Any) -> None:
    def chat(body: dict[str, Any]) -> Any:
        if "max_tokens" in body:
            return 400, {"error": {"message": "Unsupported parameter: use 'max_completion_tokens' instead"}}
        return {"choices": [{"message": {"content": None}, "finish_reason": "stop"}], "usage": {"completion_tokens": 0}}

    fake = Fake(chat__completions=chat)
    lm = opened(fake)
    asked = Generate("", (), 9, messages=(("user", "Hi"),))
    assert [answer.text for _, answer in lm.generate([asked])] == [""]
    list(lm.generate([asked]))
    assert [("max_tokens" in body) for body in fake.asked if "messages" in body] == [True, False, False]


def refusal(message: str, **fields: Any) -> tuple[int, Any]:
    return 400, {"error": {"message": message, **fields}}


STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


@pytest.mark.parametrize(
    ("refuses", "message", "notice"),
    [
        (lambda body: len(body.get("stop", ())) > 4, "Invalid 'stop': array too long, at most 4", "takes 4 stop strings"),
        (lambda body: "stop" in body, "Unsupported parameter: 'stop'", "takes no stop strings"),
        (lambda body: "seed" in body, "Unrecognized request argument supplied: seed", "takes no seed"),
        (lambda body: body.get("temperature") == 0, "temperature must be strictly positive", "takes no temperature of 0"),
        (lambda body: "seed" in body or "stop" in body, "extra inputs: seed, stop are not permitted", "takes no seed"),
    ],
)
def test_what_a_server_does_not_take_is_left_out_and_said(opened: Any, refuses: Any, message: str, notice: str) -> None:
    fake = Fake(
        completions=lambda body: refusal(message) if refuses(body) else text("    return 1\n\nclass X:\nprint", finish_reason="length")
    )
    lm = opened(fake)
    assert "notices" not in lm.describe()
    for _ in range(2):
        ((_, found),) = lm.generate([Generate("p", STOPS, 9)])
        assert (found.text, found.finish_reason) == ("    return 1\n", "stop")  # cut here at what the server was not told
    assert not refuses(fake.asked[-1])
    assert any(notice in line for line in lm.describe()["notices"])
    tries = len([body for body in fake.asked if "prompt" in body])
    list(lm.generate([Generate("p", STOPS, 9)]))
    assert len([body for body in fake.asked if "prompt" in body]) == tries + 1  # remembered


def test_a_refusal_of_something_else_is_passed_on(opened: Any) -> None:
    fake = Fake(completions=refusal("the seed of all evil: your prompt is too long"))
    lm = opened(fake)
    with pytest.raises(EvalkitError, match="prompt is too long"):
        list(lm.generate([Generate("p", STOPS, 9)]))
    assert "notices" not in lm.describe()


@pytest.mark.parametrize(
    "answer",
    [
        refusal("The prompt triggered the content filter.", code="content_filter"),
        refusal("The response was filtered due to Azure's content management policy."),
        (200, text("half an", finish_reason="content_filter")),
    ],
)
def test_a_content_filter_leaves_one_prompt_unanswered(opened: Any, answer: Any) -> None:
    lm = opened(Fake(completions=lambda body: answer if "bomb" in body["prompt"] else text("18", finish_reason="stop")))
    found = dict(lm.generate([Generate("a bomb", (), 9), Generate("b", (), 9)]))
    assert (is_refused(found[0]), is_refused(found[1]), found[1].text) == (True, False, "18")


@pytest.mark.parametrize(
    ("content", "said"), [(None, ""), ("a", "a"), ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab")]
)
def test_a_message_may_be_null_or_in_parts(opened: Any, content: Any, said: str) -> None:
    chat = {"choices": [{"message": {"content": content, "reasoning_content": "hm"}, "finish_reason": "stop"}]}
    lm = opened(Fake(chat__completions=chat, completions=text(None, finish_reason="stop")))
    ((_, found),) = lm.generate([Generate("", (), 9, messages=(("user", "Hi"),))])
    assert found.text == said
    ((_, found),) = lm.generate([Generate("p", (), 9)])
    assert found.text == ""


@pytest.mark.parametrize("count", [-5, 1e300, float("inf"), "many", True, None, 10**30])
def test_counts_of_tokens_that_cannot_be_are_none(opened: Any, count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count, "total_tokens": count}
    fake = Fake()

    def raw(request: httpx2.Request) -> httpx2.Response:  # httpx refuses to write what a server may well send
        answer = fake(request) if request.method == "GET" else None
        body = json.dumps(text("a", finish_reason="stop") | {"usage": usage})
        return answer or httpx2.Response(200, content=body)

    lm = opened(raw)
    ((_, found),) = lm.generate([Generate("p", (), 9)])
    assert (found.num_tokens, lm.tokens().computed) == (0, 0)


def echoed(body: dict[str, Any], usage: Any = None, **changes: Any) -> dict[str, Any]:
    """Each prompt's words with log-probabilities; `changes` are to a choice or to its lists."""
    choices = []
    for index, prompt in enumerate(body["prompt"]):
        tokens = prompt.split(" ")
        rest = len(tokens) - 1
        row = {"tokens": tokens, "token_logprobs": [None] + [-1.0] * rest, "top_logprobs": [None] + [{"a": -1.0}] * rest}
        row |= {name: value(row[name]) for name, value in changes.items() if name in row}
        choices.append({"index": index, "text": "", "logprobs": row} | {k: v for k, v in changes.items() if k not in row})
    return {"choices": choices, "usage": usage}


@pytest.mark.parametrize(
    "changes",
    [
        {"token_logprobs": lambda own: own[:-1]}, {"token_logprobs": lambda own: [*own, -1.0]}, {"token_logprobs": lambda own: {"a": 1}},
        {"token_logprobs": lambda own: [str(each) for each in own]}, {"top_logprobs": lambda top: [None] * len(top)},
        {"top_logprobs": lambda top: top[:-1]}, {"top_logprobs": lambda top: [{} for _ in top]}, {"tokens": lambda tokens: None},
        {"top_logprobs": lambda top: [{"a": None} for _ in top]}, {"top_logprobs": lambda top: [[1] for _ in top]},
        {"logprobs": [1]}, {"logprobs": "x"}, {"usage": {"prompt_tokens": 10**30}}, {"usage": {"prompt_tokens": 3}},
    ],
)  # fmt: skip
def test_log_probabilities_that_are_not_all_there_are_refused(opened: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(EvalkitError, match="gives no log-probabilities of prompts") as caught:
        list(opened(Fake(completions=lambda body: echoed(body, **changes))).loglikelihood([Loglikelihood("a b", (" c", " d e"))]))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("changes", [{}, {"index": None}, {"usage": [1]}, {"usage": {"prompt_tokens": None}}])
def test_log_probabilities_beside_odd_fields(opened: Any, changes: dict[str, Any]) -> None:
    fake = Fake(completions=lambda body: echoed(body, **changes))
    ((_, found),) = opened(fake).loglikelihood([Loglikelihood("a b", (" c", " d e"))])
    assert found.logprobs == (-1.0, -2.0)


@pytest.mark.parametrize("answer", [(500, {"error": {"message": "echo"}}), (200, {"choices": []}), (200, {"object": "error"})])
def test_a_server_without_echo_is_found_out_by_one_request(opened: Any, answer: Any) -> None:
    fake = Fake(completions=answer)
    with pytest.raises(EvalkitError, match="gives no log-probabilities of prompts") as caught:
        list(opened(fake).loglikelihood([Loglikelihood(f"question {i}", (" a", " b")) for i in range(50)]))
    assert caught.value.exit_code == 2
    assert len([body for body in fake.asked if "prompt" in body]) == 1


def test_the_key_goes_into_the_header_and_nowhere_else(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    fake = Fake(completions=text("a", finish_reason="stop"))
    lm = opened(fake)
    list(lm.generate([Generate("p", (), 9)]))
    assert {body.pop("authorization") for body in fake.asked} == {"Bearer sk-very-secret"}
    assert "sk-very-secret" not in json.dumps([fake.asked, lm.describe(), lm.fingerprint])
    refusing = Fake(completions=(401, {"error": {"message": "bad key sk-very-secret"}}))
    with pytest.raises(EvalkitError, match=r"bad key \*\*\*"):
        list(opened(refusing).generate([Generate("p", (), 9)]))


def test_a_server_that_never_recovers_leaves_the_run_incomplete(opened: Any) -> None:
    fake = Fake(completions=(503, {"error": {"message": "overloaded"}}))
    with pytest.raises(RunIncomplete, match=r"overloaded \(tried 8 times\).*run the same command again") as caught:
        list(opened(fake).generate([Generate("p", (), 9)]))
    assert caught.value.exit_code == 4


def test_refusals(address: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, opened: Any) -> None:
    run = ["run", "--tasks", "gsm8k", "--data", "sample", "--limit", "1", "--out", str(tmp_path)]
    for arguments, message in (
        (["--engine", f"openai:{address}"], "needs --model"),
        (["--engine", f"openai:{address}", "--model", "tiny"], "has no model 'tiny'; it has: org/tiny"),
        (["--engine", "openai:host:80", "--model", "m"], "is not an http(s) address"),
        (["--engine", "openai", "--model", "m"], "unknown engine 'openai'"),
    ):
        assert cli.main([*run, *arguments]) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(EvalkitError, match="an empty context can't be scored"):
        list(opened(Fake()).loglikelihood([Loglikelihood(" ", ("a",))]))


def test_rolling(remote: OpenAILM, opened: Any) -> None:
    with pytest.raises(EvalkitError, match="puts no BOS in front"):
        list(remote.loglikelihood_rolling(["a text"]))
    row = {"tokens": ["<s>", "a", " b"], "token_logprobs": [None, -1.0, -2.5], "top_logprobs": [None, {"a": -1.0}, {"c": -1.0}]}
    answer = {"choices": [{"index": 0, "text": "a b", "logprobs": row}], "usage": {"prompt_tokens": 3}}
    assert list(opened(Fake(completions=answer)).loglikelihood_rolling(["a b"])) == [(0, -3.5)]


@pytest.mark.slow
def test_the_demo_model_through_a_server() -> None:
    if local_path(MODELS["demo"]) is None:
        pytest.skip("the demo model is not installed")
    native = NativeLM.load(ModelSpec("demo"))
    shared = "The following are questions with answers.\n\nQuestion: What is the capital of France?\nAnswer: Paris\n\n"
    with listening(make_app(native, "demo")) as url:
        remote = OpenAILM(url, "demo")
        questions = ("What is 2 + 2?", "Which planet is red?", "Who wrote Faust?")
        same(remote, native, [Generate(f"{shared}Question: {q}\nAnswer:", ("\n\n",), 16) for q in questions])
        same(remote, native, [Generate("", (), 16, messages=(("user", q),)) for q in questions])
        same(remote, native, [Loglikelihood(f"{shared}Question: {q}\nAnswer:", (" 4", " Mars", " Goethe")) for q in questions])
