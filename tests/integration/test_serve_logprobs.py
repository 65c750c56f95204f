"""Log-probabilities over a connection: each token its own entry, in both of OpenAI's layouts, streamed or not, with a run's values."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from served import listening
from tiny_models import tiny_config, tiny_decoder

pytest.importorskip("fastapi", reason="pip install 'evalkit-lm[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'evalkit-lm[serve]'")

from evalkit.config import ModelSpec
from evalkit.lm.native import NativeLM
from evalkit.serve.app import make_app
from evalkit.tasks import Loglikelihood
from moe_lm.checkpoint.write import save
from moe_lm.tokenizer.tokenizer import Tokenizer

PIECES = ["▁", *"abcdefghijklmnopqrstuvwxyz.,", "▁t", "th", "▁th", "he", "▁the", "the", "tr", "ue", "▁tr", "true", "▁true", "▁a", "▁is"]
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"


def sentencepiece() -> Tokenizer:
    """ "▁true" and "true" are two tokens, and there is one for each byte."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *PIECES]
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(PIECES))],
            "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(PIECES),
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.chat_template": TEMPLATE,
        }
    )


@pytest.fixture(scope="module", params=["sentencepiece", "bytes"])
def lm(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> NativeLM:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("scored") / "model"
    if request.param == "bytes":
        shutil.copytree(tiny_model, folder)
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    else:
        save(tiny_decoder(tiny_config(vocab_size=259 + len(PIECES))), sentencepiece(), folder)
    return NativeLM.load(ModelSpec(str(folder)))


@pytest.fixture(scope="module")
def http(lm: NativeLM) -> Iterator[httpx2.Client]:
    with listening(make_app(lm, "tiny")) as address, httpx2.Client(base_url=address, timeout=60) as client:
        yield client


def ask(http: httpx2.Client, path: str, **body: Any) -> dict[str, Any]:
    response = http.post(f"/v1/{path}", json={"model": "tiny", "temperature": 0} | body)
    assert response.status_code == 200, response.text
    return response.json()


def streamed(http: httpx2.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    with http.stream("POST", f"/v1/{path}", json={"model": "tiny", "temperature": 0, "stream": True} | body) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.mark.parametrize("prompt", ["the true", "true the a", "is ünlike\nthe 🙂"])
@pytest.mark.parametrize("as_ids", [False, True])
def test_each_token_of_a_prompt_has_its_entry(http: httpx2.Client, lm: NativeLM, prompt: str, as_ids: bool) -> None:
    ids = lm.tokenizer.encode(prompt)
    choice = ask(http, "completions", prompt=ids if as_ids else prompt, max_tokens=0, echo=True, logprobs=20)["choices"][0]
    found = choice["logprobs"]
    assert choice["text"] == prompt
    assert len(found["tokens"]) == len(found["text_offset"]) == len(ids)
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    for token, logprob, top, offset in list(zip(*(found[key] for key in KEYS), strict=True))[1:]:
        assert 20 <= len(top) <= 21
        assert top[token] == logprob
        if not token.startswith(("bytes:", "token_id:")):
            assert prompt[offset : offset + len(token)] == token
    assert found["text_offset"] == sorted(found["text_offset"])
    assert found["text_offset"][-1] < len(prompt)


KEYS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def test_the_values_are_those_of_a_run(http: httpx2.Client, lm: NativeLM) -> None:
    ((_, expected),) = lm.loglikelihood([Loglikelihood("the true", (" the", " is a"))])
    context = len(lm.tokenizer.encode("the true"))
    for continuation, logprob, is_greedy in zip((" the", " is a"), expected.logprobs, expected.is_greedy, strict=True):
        found = ask(http, "completions", prompt="the true" + continuation, max_tokens=1, echo=True, logprobs=1)["choices"][0]["logprobs"]
        # as lm-eval reads them
        assert sum(found["token_logprobs"][context:-1]) == pytest.approx(logprob, abs=1e-5)
        own, tops = found["token_logprobs"][context:-1], found["top_logprobs"][context:-1]
        assert (own == [max(top.values()) for top in tops]) == is_greedy


def test_written_tokens_are_scored_the_same_in_every_layout(http: httpx2.Client, lm: NativeLM) -> None:
    prompt = "the true is"
    with_prompt = ask(http, "completions", prompt=prompt, max_tokens=12, logprobs=3, echo=True)["choices"][0]
    alone = ask(http, "completions", prompt=prompt, max_tokens=12, logprobs=3)["choices"][0]
    written = len(alone["logprobs"]["tokens"])
    assert with_prompt["text"].startswith(prompt)
    assert with_prompt["text"].endswith(alone["text"])
    assert with_prompt["logprobs"]["token_logprobs"][-written:] == pytest.approx(alone["logprobs"]["token_logprobs"], abs=1e-5)
    pieces = streamed(http, "completions", prompt=prompt, max_tokens=12, logprobs=3)
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == alone["text"]
    logprobs = [piece["choices"][0]["logprobs"] for piece in pieces if piece["choices"][0]["logprobs"]]
    for key in KEYS:
        assert [entry for each in logprobs for entry in each[key]] == alone["logprobs"][key]
    messages = [{"role": "user", "content": prompt}]
    chat = {"messages": messages, "max_tokens": 12, "logprobs": True, "top_logprobs": 3}
    answer = ask(http, "chat/completions", **chat)["choices"][0]
    entries = answer["logprobs"]["content"]
    assert all(len(entry["top_logprobs"]) == 3 for entry in entries)
    assert all(entry["logprob"] == entry["top_logprobs"][0]["logprob"] for entry in entries)  # greedy
    content = b"".join(bytes(entry["bytes"]) for entry in entries).decode("utf-8", "replace")
    assert content.lstrip(" ") == answer["message"]["content"].lstrip(" ") or "\ufffd" in content
    pieces = streamed(http, "chat/completions", **chat)
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces) == answer["message"]["content"]
    assert [e for piece in pieces if (found := piece["choices"][0]["logprobs"]) for e in found["content"]] == entries
    ids = ask(http, "completions", prompt=prompt, max_tokens=3, logprobs=1, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]
    assert all(token.startswith("token_id:") for token in ids["tokens"])
    assert ask(http, "chat/completions", messages=messages, max_tokens=2)["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("begin", range(1, 10, 2))
@pytest.mark.parametrize("length", [2, 5])
def test_a_stop_string_of_several_tokens_leaves_no_place_beyond_the_text(http: httpx2.Client, begin: int, length: int) -> None:
    """Streamed or not: the tokens of the stop string are where the text ends."""
    body = {"prompt": "the true is", "max_tokens": 20, "logprobs": 1}
    stop = ask(http, "completions", **body)["choices"][0]["text"][begin : begin + length]
    whole = ask(http, "completions", **body, stop=[stop])["choices"][0]
    pieces = [piece["choices"][0] for piece in streamed(http, "completions", **body, stop=[stop])]
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    offsets = [offset for piece in pieces if piece["logprobs"] for offset in piece["logprobs"]["text_offset"]]
    assert offsets == whole["logprobs"]["text_offset"]
    assert max(offsets) <= len(whole["text"])


def test_texts_become_tokens_and_back(http: httpx2.Client, lm: NativeLM) -> None:
    """What lm-eval's remote tokenizer asks for."""
    info = http.get("/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"]) == (lm.tokenizer.bos_token or None, lm.tokenizer.eos_token or None)
    for text in ("the true", "is ünlike\nthe 🙂"):
        ids = http.post("/tokenize", json={"prompt": text}).json()["tokens"]
        assert ids == lm.tokenizer.encode(text)
        bare = http.post("/tokenize", json={"prompt": text, "add_special_tokens": False, "return_token_strs": True}).json()
        assert bare["tokens"] == lm.tokenizer.fast.encode(text, add_special_tokens=False).ids
        assert bare["count"] == len(bare["tokens"]) == len(bare["token_strs"])
        for tokens in (ids, bare["tokens"]):
            assert http.post("/detokenize", json={"tokens": tokens}).json()["prompt"] == text
    assert http.post("/tokenize", json={"prompt": info["eos_token"], "add_special_tokens": False}).json()["count"] == 1
    chat = http.post("/tokenize", json={"messages": [{"role": "user", "content": "the"}]}).json()
    assert chat["tokens"] == lm.tokenizer.encode("the ")
    assert http.post("/tokenize", json={}).status_code == http.post("/detokenize", json={"tokens": [9999]}).status_code == 400
