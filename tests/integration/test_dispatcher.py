"""The server's one thread: requests from many threads, of which none stops another, and cancelled ones leave at once."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="pip install 'evalkit-lm[serve]'")

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.lm.native import NativeLM
from evalkit.lm.native_tokens import GenerateRequest, TokenModel
from evalkit.serve import ServeConfig, dispatcher, serve
from evalkit.serve.dispatcher import Dispatcher
from evalkit.serve.encoder import Encoder
from evalkit.serve.sizes import bytes_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def serving(tiny_model: Path) -> Iterator[Dispatcher]:
    found = Dispatcher(TokenModel(NativeLM.load(ModelSpec(str(tiny_model)))))
    yield found
    found.close()
    found._thread.join(30)
    assert not found._thread.is_alive()
    assert found.generator.pool.in_use == 0


def request(serving: Dispatcher, text: str, new: int = 8, **settings: Any) -> GenerateRequest:
    return GenerateRequest(serving.model.encode(text), max_new_tokens=new, **settings)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_short_request_overtakes_long_ones(serving: Dispatcher) -> None:
    long = [serving.generate(request(serving, f"Once upon a time {i}", 6000, ignore_eos=True)) for i in range(4)]
    until(lambda: len(serving.generator.in_flight) == 4)
    assert len(serving.generate(request(serving, "Hello", 2)).result(60).tokens) <= 2
    assert len(serving.score(serving.model.encode("Good morning"), 2).result(60)) == len("Good morning")
    assert not any(future.done() for future in long)
    for future in long:
        assert future.cancel()
    until(lambda: not serving.generator.in_flight)
    assert serving.generator.pool.in_use == 0


def test_one_that_fails_leaves_the_others_alone(serving: Dispatcher, tiny_model: Path) -> None:
    """At random moments, from several threads."""
    good = {text: serving.generate(request(serving, text, 40)).result(60).text for text in ("Hello", "The sky is", "def f(x):", "1, 2, 3")}
    bad: list[dict[str, Any]] = [
        {"temperature": float("nan")},
        {"seed": 1 << 64, "temperature": 1.0},
        {"until": ("\ud800",)},
        {"new": 10**9},
        {"on_progress": lambda answer: 1 / 0},
    ]
    found: list[tuple[str, Future[Any]]] = []

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(12):
            if draw.random() < 0.4:
                settings = dict(draw.choice(bad))
                found.append(("", serving.generate(request(serving, "bad", settings.pop("new", 8), **settings))))
            else:
                text = draw.choice(list(good))
                settings = {"temperature": 5e-324} if draw.random() < 0.2 else {}  # as greedy
                found.append((text, serving.generate(request(serving, text, 40, **settings))))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for text, future in found:
        if text:
            assert future.result(60).text == good[text]
        else:
            assert isinstance(future.exception(60), EvalkitError | ZeroDivisionError)


def test_a_fault_of_the_scheduler_ends_what_is_in_flight_alone(serving: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def broken() -> Any:
        raise Panic("index out of range")

    monkeypatch.setattr(serving.generator, "step", broken)
    with pytest.raises(RuntimeError, match="Panic: index out of range"):
        serving.generate(request(serving, "Hello")).result(60)
    monkeypatch.undo()
    assert serving.generate(request(serving, "Hello")).result(60).text


def test_a_panic_of_the_tokenizer_is_an_answer_like_others(serving: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def broken(text: str, bos: bool = True) -> list[int]:
        raise Panic("no such byte")

    monkeypatch.setattr(serving.model, "encode", broken)
    encode = Encoder(serving.model)
    for length in (10, 30_000):
        with pytest.raises(RuntimeError, match="Panic: no such byte"):
            asyncio.run(encode("a" * length))
    encode.close()


def test_free_memory_goes_back_when_nobody_asks(serving: Dispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "IDLE_SECONDS", 0.05)
    before = serving.generate(request(serving, "Hello", 150, ignore_eos=True)).result(60)
    pool = serving.generator.pool
    until(lambda: pool.num_pages - len(pool._blank) <= 1)  # the prompt's page is kept
    assert serving.generate(request(serving, "Hello", 150, ignore_eos=True)).result(60) == before


def test_memory_limits_the_context(tiny_model: Path) -> None:
    lm = NativeLM.load(ModelSpec(str(tiny_model)))
    lm.kv_memory = 3 * lm.backend.page_bytes  # one page absorbs padded writes
    model = TokenModel(lm)
    assert model.max_seq_len == 2 * 128
    serving = Dispatcher(model)
    answer = serving.generate(request(serving, "Hello", 251, ignore_eos=True)).result(60)
    assert (len(answer.tokens), answer.finish_reason) == (251, "length")
    with pytest.raises(EvalkitError, match="exceeds the 256 tokens whose keys and values fit into"):
        serving.generate(request(serving, "Hello", 252)).result(60)
    serving.close()


def test_a_stop_string_without_the_names_of_special_tokens(serving: Dispatcher) -> None:
    """A stream holds back what may become one: "ab" of "ab<|endoftext|>c"."""
    model = serving.model
    assert [model.visible(stop) for stop in ("ab<|endoftext|>c", "<|endoftext|>", "\n\n")] == ["abc", "", "\n\n"]


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("800MB", 800_000_000), ("1.5g", 1_500_000_000), ("2GiB", 2 << 30), ("64 kib", 65536), ("3T", 3 * 10**12)]
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_of(text, "--kv-memory") == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1e9", "2 gigabytes", "0", "0.1B", "nan", "1iB", "٣GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(EvalkitError, match="--kv-memory is"):
        ServeConfig(kv_memory=text)


@pytest.mark.parametrize(
    ("size", "message"), [("900TB", "do not fit: .* of memory are free; give less"), ("1kB", "hold no page of 128 tokens")]
)
def test_memory_that_does_not_fit(tiny_model: Path, size: str, message: str) -> None:
    from evalkit.progress import Reporter

    with pytest.raises(EvalkitError, match=f"--kv-memory {size}: .*{message}"):
        serve(ServeConfig(ModelSpec(str(tiny_model)), port=0, kv_memory=size), Reporter(quiet=True))
