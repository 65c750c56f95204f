"""How the llama_cpp engine uses its sequences, without llama.cpp: a stand-in for its context holds tokens, and computes logits from them.

It refuses whatever llama.cpp would: a token that does not follow on what its sequence holds, a copy onto a sequence that is in use, more
tokens than there is room for.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import EvalkitError
from evalkit.lm.llama_cpp import generator as generating
from evalkit.lm.llama_cpp import library as bindings
from evalkit.lm.llama_cpp import scorer as scoring
from evalkit.lm.llama_cpp.context import OUTPUTS, PASS, Part, Settings, _passes, _Thread
from evalkit.lm.llama_cpp.generator import Generator
from evalkit.lm.llama_cpp.scorer import Scorer, groups, waves
from moe_lm.engine.in_flight import Vocabulary
from moe_lm.engine.request import GenerateRequest
from moe_lm.engine.scorer import ScoreRequest
from moe_lm.errors import ModelError, NotFinite

VOCAB = 11
END = 0
SETTINGS = Settings("float16", 1)


def logits_after(tokens: Sequence[int]) -> np.ndarray:
    """What the stand-in computes after these tokens, [VOCAB]: any other history gives other numbers."""
    return np.random.default_rng([len(tokens), *tokens]).normal(size=VOCAB).astype(np.float32) * 3


class FakeContext:
    """As `Context`; `goes_back` false: a recurrent model, whose state can't be cut."""

    goes_back = True
    made: list["FakeContext"]
    logits = staticmethod(logits_after)

    def __init__(self, model: Any, settings: Settings, length: int, sequences: int, unified: bool):
        self.held: dict[int, list[int]] = {i: [] for i in range(sequences)}
        self.length, self.unified, self.ran = length, unified, 0
        type(self).made.append(self)

    def copy(self, source: int, target: int) -> None:
        assert source != target
        assert not self.held[target]
        self.held[target] = [*self.held[source]]

    def cut(self, sequence: int, length: int) -> int:
        assert length <= len(self.held[sequence])
        kept = length if self.goes_back or length == len(self.held[sequence]) else 0
        self.held[sequence] = self.held[sequence][:kept]
        return kept

    def run(self, parts: Sequence[Part]) -> Iterator[tuple[Part, int, np.ndarray]]:
        for part in parts:
            for i, token in enumerate(part.tokens):
                held = self.held[part.sequence]
                assert part.begin + i == len(held)
                held.append(token)
                self.ran += 1
                if i in part.wanted:
                    yield part, i, self.logits(held)
        if self.unified:  # at the most, if nothing were shared
            assert max(map(len, self.held.values())) <= self.length
        else:
            assert all(len(held) <= self.length for held in self.held.values())


class Recurrent(FakeContext):
    goes_back = False


@pytest.fixture(params=[FakeContext, Recurrent])
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[FakeContext]:
    kind: type[FakeContext] = request.param
    kind.made = []
    monkeypatch.setattr(scoring, "Context", kind)
    monkeypatch.setattr(generating, "Context", kind)
    return kind


def expected_scores(request: ScoreRequest) -> list[tuple[float, bool]]:
    """By definition: each token after all before it."""
    found = []
    for continuation in request.continuations:
        logprob, greedy = 0.0, True
        for i, token in enumerate(continuation):
            logits = logits_after([*request.context, *continuation[:i]]).astype(np.float64)
            logprob += logits[token] - np.log(np.exp(logits).sum())
            greedy &= token == int(logits.argmax())
        found.append((logprob, greedy))
    return found


def check_scores(requests: Sequence[ScoreRequest], budget: int) -> Scorer:
    scorer = Scorer(None, SETTINGS, 10_000, budget)  # type: ignore[arg-type]
    found = dict(scorer.score(requests))
    assert found.keys() == set(range(len(requests)))
    for i, request in enumerate(requests):
        expected = expected_scores(request)
        assert [score.logprob for score in found[i]] == pytest.approx([logprob for logprob, _ in expected], abs=1e-4)
        assert [score.is_greedy for score in found[i]] == [greedy for _, greedy in expected]
    return scorer


def questions(count: int, prefix: int, own: int, options: int, length: int, seed: int = 0) -> list[ScoreRequest]:
    draw = random.Random(seed)
    shots = draw.choices(range(1, VOCAB), k=prefix)
    return [
        ScoreRequest(
            [*shots, *draw.choices(range(1, VOCAB), k=own)],
            [draw.choices(range(1, VOCAB), k=draw.randint(1, length)) for _ in range(options)],
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("budget", [1, 40, 300, 5000])
@pytest.mark.parametrize(("options", "length"), [(4, 1), (4, 5), (70, 3)])
def test_scores_are_those_of_each_request_alone(fake: type[FakeContext], budget: int, options: int, length: int) -> None:
    draw = random.Random(1)
    requests = questions(7, 60, 12, options, length) + questions(3, 30, 9, options, length, seed=5)
    requests += [requests[2], ScoreRequest(requests[0].context[:20], [[3], [4, 5]]), ScoreRequest([7], [[1, 2, 3, 4]])]
    draw.shuffle(requests)
    check_scores(requests, budget)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 2), min_size=1, max_size=9),
            st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 30),
    st.booleans(),
)
def test_any_requests(pairs: list[tuple[list[int], list[list[int]]]], budget: int, goes_back: bool) -> None:
    kind = FakeContext if goes_back else Recurrent
    kind.made = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scoring, "Context", kind)
        check_scores([ScoreRequest(context, continuations) for context, continuations in pairs], budget)


@pytest.mark.parametrize("fake", [FakeContext], indirect=True)
def test_a_shared_prefix_is_run_once(fake: type[FakeContext]) -> None:
    scorer = check_scores(questions(12, 500, 20, 4, 1), 100)
    (context,) = fake.made
    assert context.ran == scorer.usage.computed == 500 + 12 * 20
    assert scorer.usage.shared == 12 * 520 - 740


def test_groups_hold_every_request_and_no_more_than_they_may() -> None:
    requests = questions(40, 50, 30, 2, 3) + questions(40, 0, 30, 2, 3, seed=9)
    found = list(groups(requests, 200))
    assert sorted(i for group in found for members in group.contexts.values() for i in members) == list(range(80))
    assert all(group.behind_trunk <= 200 for group in found if len(group.contexts) > 1)
    assert max(len(group.contexts) for group in found) > 3
    for group in found:
        assert len({context[: group.trunk] for context in group.contexts}) == 1
        at_once = list(waves(requests, group))
        assert all(len(wave) <= scoring.BRANCHES for wave in at_once)


def test_distributions_stand_in_the_order_of_their_prefixes(fake: type[FakeContext]) -> None:
    requests = [*questions(3, 30, 5, 3, 4), ScoreRequest([1], [[2, 3, 4], [2, 3, 5], [2], [6, 7]])]
    found = [(logits.copy(), logsumexp) for logits, logsumexp in Scorer(None, SETTINGS, 100).distributions(requests)]  # type: ignore[arg-type]
    histories = [[*request.context, *prefix] for request in requests for prefix in request.prefixes]
    assert len(found) == len(histories)
    for (logits, logsumexp), history in zip(found, histories, strict=True):
        np.testing.assert_array_equal(logits, logits_after(history))
        assert logsumexp == pytest.approx(np.log(np.exp(logits.astype(np.float64)).sum()), abs=1e-5)


def test_requests_that_do_not_fit_are_refused(fake: type[FakeContext]) -> None:
    scorer = Scorer(None, SETTINGS, 8)  # type: ignore[arg-type]
    assert list(scorer.score([])) == []
    for request, what in (
        (ScoreRequest([], [[1]]), "needs a context"),
        (ScoreRequest([1], [[]]), "at least one token each"),
        (ScoreRequest([1] * 8, [[1, 2]]), "a request of 9 tokens exceeds the model's max_seq_len of 8"),
    ):
        with pytest.raises(ModelError, match=what):
            list(scorer.score([request]))
    assert not fake.made


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_not_scored(fake: type[FakeContext], monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
    def broken(tokens: Sequence[int]) -> np.ndarray:
        logits = logits_after(tokens)
        logits[3] = bad
        return logits

    monkeypatch.setattr(fake, "logits", staticmethod(broken))
    with pytest.raises(NotFinite, match="NaN or infinite, so nothing can be scored"):
        list(Scorer(None, SETTINGS, 100).score([ScoreRequest([1], [[2]])]))  # type: ignore[arg-type]
    with pytest.raises(NotFinite, match="NaN or infinite, so no token can be chosen"):
        list(generator().generate([GenerateRequest([1])]))


VOCABULARY = Vocabulary(lambda ids: "".join("_abcdefghij"[i] for i in ids if i), frozenset([END]), {END: "<end>"})


def generator(slots: int = 4, keep_prefixes: bool = True, memory: int | None = None) -> Generator:
    return Generator(None, SETTINGS, VOCABULARY, 10_000, slots, keep_prefixes, memory)  # type: ignore[arg-type]


def expected_answer(request: GenerateRequest) -> tuple[str, str, list[int]]:
    """Greedy, by definition."""
    tokens: list[int] = []
    while len(tokens) < request.max_new_tokens:
        token = int(logits_after([*request.prompt, *tokens]).argmax())
        if token == END:
            return VOCABULARY.decode(tokens), "eos", tokens
        tokens.append(token)
        text = VOCABULARY.decode(tokens)
        if found := [text.find(stop) for stop in request.until if stop in text]:
            return text[: min(found)], "stop", tokens
    return VOCABULARY.decode(tokens), "length", tokens


def prompts(count: int, prefix: int, seed: int = 0) -> list[GenerateRequest]:
    draw = random.Random(seed)
    shots = draw.choices(range(1, VOCAB), k=prefix)
    return [
        GenerateRequest([*shots, *draw.choices(range(1, VOCAB), k=draw.randint(1, 40))], ("ab", "c"), max_new_tokens=draw.randint(1, 30))
        for _ in range(count)
    ]


@pytest.mark.parametrize("slots", [1, 4, 16])
@pytest.mark.parametrize("keep_prefixes", [True, False])
def test_answers_are_those_of_each_request_alone(fake: type[FakeContext], slots: int, keep_prefixes: bool) -> None:
    requests = prompts(9, 90) + prompts(4, 700, seed=3) + prompts(3, 0, seed=4)
    found = dict(generator(slots, keep_prefixes).generate(requests))
    assert {i: (g.text, g.finish_reason, g.tokens) for i, g in found.items()} == {i: expected_answer(r) for i, r in enumerate(requests)}
    assert {g.finish_reason for g in found.values()} >= {"stop", "eos"}


@pytest.mark.parametrize("fake", [FakeContext], indirect=True)
def test_prompts_begin_with_what_another_has_computed(fake: type[FakeContext]) -> None:
    """16 answers after one prefix of 600 tokens, in 4 slots: it is computed once."""
    asked = prompts(16, 600)
    engine = generator(4)
    answers = dict(engine.generate(asked))
    (context,) = fake.made
    own = sum(len(request.prompt) - 600 + len(answers[i].tokens) for i, request in enumerate(asked))
    assert 600 < context.ran <= 600 + own
    assert engine.usage.computed == context.ran
    assert not engine.unfinished


@pytest.mark.parametrize("fake", [FakeContext], indirect=True)
def test_no_more_slots_than_there_is_memory_for(fake: type[FakeContext]) -> None:
    asked = [GenerateRequest([1] * 90, max_new_tokens=10) for _ in range(8)]
    for memory, slots in ((10_000, 4), (250, 2), (20, 1)):
        list(generator(4, memory=memory).generate(asked))
        assert len(fake.made[-1].held) == slots


def test_samples_come_from_the_requests_own_seed(fake: type[FakeContext]) -> None:
    asked = [GenerateRequest([1, 2, 3], max_new_tokens=20, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    one, same, other = (answer.tokens for _, answer in sorted(generator(2).generate(asked), key=lambda pair: pair[0]))
    assert one == same != other


def test_an_answer_that_leaves_no_room_is_refused(fake: type[FakeContext]) -> None:
    with pytest.raises(ModelError, match="10001 tokens, answer included"):
        list(generator().generate([GenerateRequest([1], max_new_tokens=10_000)]))
    assert not fake.made


def test_passes_hold_what_llama_cpp_takes() -> None:
    wanted = np.zeros(2000, np.int8)
    wanted[700:1100] = 1
    found = list(_passes(wanted))
    assert [begin for begin, _ in found] == [0, *(end for _, end in found)][:-1]
    assert found[-1][1] == 2000
    assert all(end - begin <= PASS and wanted[begin:end].sum() <= OUTPUTS for begin, end in found)
    assert list(_passes(wanted[:0])) == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what runs in its background with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_stops_what_llama_cpp_computes(interruptible: None) -> None:
    """Its abort callback reads `stop` between two operations: a C function, of which strlen is one."""
    thread, seen = _Thread(), []

    def computes() -> None:
        while not thread.stop.value:
            time.sleep(0.01)
        seen.append("stopped")

    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        thread.call(computes)
    assert seen == ["stopped"]
    assert thread.stop.value == b""
    assert thread.call(lambda: 3) == 3


def test_a_missing_wheel_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "PACKAGE", "xllamacpp_that_is_not_there")
    with pytest.raises(EvalkitError, match=r"needs llama.cpp; run `pip install 'evalkit-lm\[llama-cpp\]'`"):
        bindings.require_installed()


def test_another_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library has none of the functions."""
    monkeypatch.setattr(bindings, "_installed", lambda: "1.2")
    with pytest.raises(EvalkitError, match=r"xllamacpp 1.2 is not usable here .*; run `pip install xllamacpp=="):
        bindings.Library("libc.so.6")
