"""The settings of a request to evalkit serve: each does what it says, or is without effect, or is refused by name."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from served import listening, with_template

pytest.importorskip("fastapi", reason="pip install 'evalkit-lm[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'evalkit-lm[serve]'")

from evalkit.errors import EvalkitError
from evalkit.lm.native import NativeLM
from evalkit.serve.app import make_app
from evalkit.tasks import Generate
from moe_lm.tokenizer.chat import render

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool.function.name }};{% endfor %}{% for m in messages %}{{ m.role[0] }}{{ '/' ~ m.name if m.name }}:"
    "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content or '' }}{% for call in m.tool_calls or [] %}"
    "{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}{{ m.tool_call_id }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:{{ '<think>' if enable_thinking }}{% endif %}"
)
USER = {"role": "user", "content": "Hi"}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


@pytest.fixture(scope="module")
def lm(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> NativeLM:
    return with_template(tiny_model, tmp_path_factory.mktemp("settings") / "model", TEMPLATE)


@pytest.fixture(scope="module")
def http(lm: NativeLM) -> Iterator[httpx2.Client]:
    with listening(make_app(lm, "org/tiny", 500)) as address, httpx2.Client(base_url=address, timeout=60) as client:
        yield client


def ask(http: httpx2.Client, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    defaults = {"model": "org/tiny", "max_tokens": 8, "temperature": 0}
    response = http.post(f"/v1/{path}", json=defaults | body)
    assert response.status_code == status, response.text
    return response.json()


def texts(http: httpx2.Client, **body: Any) -> list[str]:
    return [choice["text"] for choice in ask(http, "completions", prompt="Hello", **body)["choices"]]


def test_one_model_by_its_name(http: httpx2.Client) -> None:
    (listed,) = http.get("/v1/models").json()["data"]
    assert http.get("/v1/models/org/tiny").json() == listed
    assert http.get("/v1/models/gpt-4").status_code == 404
    assert http.get("/v1/models/gpt-4").json()["error"]["code"] == "model_not_found"


def test_the_longest_sequence_can_be_shorter_than_the_models(http: httpx2.Client, lm: NativeLM) -> None:
    assert http.get("/v1/models").json()["data"][0]["max_model_len"] == 500
    message = ask(http, "completions", 400, prompt="x" * 400, max_tokens=101)["error"]["message"]
    assert message.startswith("This model's maximum context length is 500 tokens; the prompt has 400, and 101 were asked for")
    assert ask(http, "chat/completions", messages=[USER], max_tokens=None, ignore_eos=True)["usage"]["total_tokens"] == 500
    for wrong in (0, 8193):
        with pytest.raises(EvalkitError, match=f"--max-model-len is {wrong}; the model takes 1 to 8192 tokens"):
            make_app(lm, "tiny", wrong)


def test_settings_without_effect_are_accepted(http: httpx2.Client) -> None:
    (expected,) = texts(http)
    nulls = dict.fromkeys(("top_p", "top_k", "n", "stop", "seed", "stream", "logprobs", "echo", "user", "logit_bias", "response_format"))
    harmless = {"user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "prompt_cache_key": "k", "store": False, "priority": 3}
    neutral = {"presence_penalty": 0.0, "frequency_penalty": 0, "repetition_penalty": 1.0, "best_of": 1, "skip_special_tokens": True}
    greedy = {"top_p": 0.5, "top_k": 3, "min_p": 0.1, "seed": 5}
    for settings in (nulls, harmless, neutral, greedy, {"something_new": None}, {"stream_options": None, "n": 1}):
        assert texts(http, **settings) == [expected]
    assert ask(http, "completions", 400, prompt="a", something_new=1)["error"]["param"] == "something_new"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("completions", {"prompt": "a", "temperature": "hot"}, "temperature"),
        ("completions", {"prompt": "a", "temperature": True}, "temperature"),
        ("completions", {"prompt": "a", "max_tokens": True}, "max_tokens"),
        ("completions", {"prompt": "a", "max_tokens": "3"}, "max_tokens"),
        ("completions", {"prompt": "a", "logprobs": True}, "logprobs"),
        ("completions", {"prompt": "a", "echo": 1}, "echo"),
        ("completions", {"prompt": {"a": 1}}, "prompt"),
        ("completions", {"prompt": ["1", 2]}, "prompt"),
        ("completions", {"prompt": [["1"]]}, "prompt"),
        ("completions", {"prompt": [True, False]}, "prompt"),
        ("completions", {"prompt": "a", "stream_options": {"continuous_usage_stats": True}}, "stream_options"),
        ("completions", {"prompt": "a", "stop": [1]}, "stop"),
        ("completions", {"prompt": "a", "stream_options": 5}, "stream_options"),
        ("completions", {"prompt": ["a"] * 100, "n": 64}, "prompt"),
        ("chat/completions", {"messages": "Hi"}, "messages"),
        ("chat/completions", {"messages": [{"content": "Hi"}]}, "messages.0"),
        ("chat/completions", {"messages": [USER, {"role": "user", "content": 5}]}, "messages.1.content"),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0"),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ("chat/completions", {"messages": [USER | {"mood": "good"}]}, "messages.0.mood"),
        ("chat/completions", {"messages": [USER | {"name": "\ud800"}]}, "messages.0.name"),
        ("chat/completions", {"messages": [USER | {"name": json.loads("[" * 500 + "]" * 500)}]}, "messages"),
        ("chat/completions", {"messages": [USER], "chat_template_kwargs": {"thinking": True}}, "chat_template_kwargs.thinking"),
        ("chat/completions", {"messages": [USER], "documents": [{"text": "a"}]}, "documents"),
        ("chat/completions", {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages.0.tool_calls.0"),
        (
            "chat/completions",
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "messages.0.tool_calls.0.function.arguments",
        ),
    ],
)
def test_a_refusal_names_the_field(http: httpx2.Client, path: str, body: dict[str, Any], param: str) -> None:
    content = json.dumps({"model": "org/tiny"} | body)
    response = http.post(f"/v1/{path}", content=content, headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert param.rpartition(".")[2] in error["message"] or "nested" in error["message"]


def test_tokens_of_a_chat_are_those_of_its_completion_or_refused(http: httpx2.Client) -> None:
    plain = http.post("/tokenize", json={"messages": [USER], "model": "org/tiny", "continue_final_message": False}).json()
    assert plain["count"] == ask(http, "chat/completions", messages=[USER])["usage"]["prompt_tokens"]
    for setting in ({"continue_final_message": True}, {"chat_template": "a"}, {"add_special_tokens": True}):
        response = http.post("/tokenize", json={"messages": [USER]} | setting)
        assert (response.status_code, [response.json()["error"]["param"]]) == (400, [*setting])
    assert http.post("/tokenize", json={"prompt": ""}).json()["tokens"] == []
    assert http.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}
    assert http.post("/detokenize", json={"tokens": ["72"]}).status_code == 400


def test_each_choice_has_a_seed_of_its_own(http: httpx2.Client) -> None:
    alone = [texts(http, temperature=1.0, seed=seed)[0] for seed in (7, 8, 9)]
    assert texts(http, temperature=1.0, seed=7, n=3) == alone
    assert len(set(alone)) == 3
    several = ask(http, "completions", prompt=["Hello", "Good bye"], temperature=1.0, seed=7, n=2)
    assert [choice["text"] for choice in several["choices"]][:2] == alone[:2]
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]
    assert (several["usage"]["prompt_tokens"], several["usage"]["completion_tokens"]) == (13, 32)
    assert len({*texts(http, temperature=1.0, n=4)}) > 1
    chat = ask(http, "chat/completions", messages=[USER], temperature=1.0, seed=7, n=2)
    assert len({choice["message"]["content"] for choice in chat["choices"]}) == 2


def test_choices_are_streamed_side_by_side(http: httpx2.Client) -> None:
    body = {"model": "org/tiny", "prompt": ["Hello", "Bye"], "max_tokens": 8, "temperature": 1.0, "seed": 7, "n": 2, "stream": True}
    with http.stream("POST", "/v1/completions", json=body | {"stream_options": {"include_usage": True}}) as response:
        chunks = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line and not line.endswith("[DONE]")]
    whole = ask(http, "completions", **{key: body[key] for key in ("prompt", "temperature", "seed", "n")})
    found = ["", "", "", ""]
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        found[choice["index"]] += choice["text"]
    assert found == [choice["text"] for choice in whole["choices"]]
    assert chunks[-1]["usage"] == whole["usage"]


def test_fewer_tokens_to_sample_from(http: httpx2.Client) -> None:
    (greedy,) = texts(http)
    assert texts(http, temperature=5.0, top_k=1) == texts(http, temperature=5.0, top_p=1e-6) == texts(http, temperature=5.0, min_p=1.0)
    assert texts(http, temperature=5.0, top_k=1) == [greedy]
    assert texts(http, temperature=5.0, seed=1, top_k=-1) == texts(http, temperature=5.0, seed=1) != [greedy]


def test_every_field_of_a_message_reaches_the_template(http: httpx2.Client, lm: NativeLM) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        USER | {"name": "bob"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm", "refusal": None},
        {"role": "tool", "content": [{"type": "text", "text": "sunny"}, {"type": "text", "text": "warm"}], "tool_call_id": "c1"},
    ]
    thinking = {"enable_thinking": True}
    answer = ask(http, "chat/completions", messages=messages, tools=TOOLS, chat_template_kwargs=thinking, tool_choice="auto")
    prompt = 'weather;u/bob:Hi\na:(hm)weather{"city": "Rome"}\nt:sunny\nwarmc1\na:<think>'
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    ((_, expected),) = lm.generate([Generate(prompt, (), 8)])
    assert answer["choices"][0]["message"]["content"] == expected.text
    call["function"] |= {"arguments": {"city": "Rome"}}
    del messages[1]["refusal"]
    assert render(messages, TEMPLATE, tools=TOOLS, arguments=thinking) == prompt
    assert ask(http, "chat/completions", messages=[USER], add_generation_prompt=False)["usage"]["prompt_tokens"] == len("u:Hi\n")


def test_a_client_that_gives_up_frees_its_work(http: httpx2.Client, lm: NativeLM) -> None:
    """Also where it waits for one answer that is not streamed."""
    begun = threading.Event()
    body = {"model": "org/tiny", "prompt": "Hello", "max_tokens": 490, "temperature": 0, "ignore_eos": True, "n": 64}

    def give_up() -> None:
        begun.set()
        with pytest.raises(httpx2.TimeoutException):
            http.post("/v1/completions", json=body, timeout=0.3)

    before = lm.generator.usage.computed
    thread = threading.Thread(target=give_up)
    thread.start()
    begun.wait()
    thread.join()
    computed = -1
    while computed != lm.generator.usage.computed:  # until nothing is run any more
        computed = lm.generator.usage.computed
        time.sleep(0.5)
    assert computed - before < 64 * 490
