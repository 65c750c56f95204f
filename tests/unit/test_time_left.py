"""The time that a run still takes: nothing before it can be known, then what the rest of the work takes at the pace so far."""

import random
import re
import time
from collections.abc import Iterator, Sequence

import pytest

from evalkit.lm.base import LM, Tokens
from evalkit.runner.time_left import TimeLeft
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods

ANSWER = Loglikelihoods((-1.0,), (True,))
AT_ONCE, STEP, LIMIT = 64, 0.1, 512  # answers in the making, seconds a step, tokens


class Engine(LM):
    """Says what it is told to have computed."""

    computed, lengths = 0, ()

    def tokens(self) -> Tokens:
        return Tokens(self.computed, 0)

    def unfinished(self) -> Sequence[int]:
        return self.lengths

    loglikelihood = loglikelihood_rolling = generate = describe = None  # type: ignore[assignment]


Engine.__abstractmethods__ = frozenset()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def questions(count: int, name: str = "q") -> list[Loglikelihood]:
    return [Loglikelihood(f"{name}{i:04} " * 20, (" A",)) for i in range(count)]


def test_scoring_is_timed_from_the_end_of_the_first_pass(clock: list[float]) -> None:
    asked, engine = questions(100), Engine()
    left = TimeLeft(engine, {})
    left.begin("mmlu@qwen", asked)
    assert str(left).startswith("no answer yet")
    clock[0] += 50  # of encoding
    engine.computed = 2048
    assert str(left) == "2,048 tokens computed"
    for i in range(10):
        left.add(asked[i], ANSWER)
    assert str(left) == "2,048 tokens computed"  # one pass is no pace
    clock[0] += 10
    for i in range(10, 20):
        left.add(asked[i], ANSWER)
    assert str(left) == "80 s left"  # 10 s for 10; from the start it would be 240
    clock[0] += 5
    assert str(left) == "75 s left"


def test_long_prompts_weigh_more(clock: list[float]) -> None:
    asked = [*questions(20), *(Loglikelihood(f"{i:04} " * 200, (" A",)) for i in range(10))]  # 120 and 1,000 characters
    left = TimeLeft(Engine(), {})
    left.begin("mmlu@qwen", asked)
    for i in range(20):
        left.add(asked[i], ANSWER)
        clock[0] += 1.2
    assert re.fullmatch(r"(9\d|10\d) s left", str(left))  # 1.2 s for 142 characters; ten answers at their rate would be 12 s


def test_tasks_to_come_are_counted(clock: list[float]) -> None:
    now, later = questions(100), questions(200, "r")
    left = TimeLeft(Engine(), {"mmlu@lm-eval": later, "mmlu@cloze": later[:100]})
    left.begin("mmlu@qwen", now)
    for i in range(20):
        clock[0] += 1
        left.add(now[i], ANSWER)
    assert str(left) == "80 s left, 6 min with the tasks to come"
    left.begin("mmlu@lm-eval", later)
    for i in range(20):
        clock[0] += 1
        left.add(later[i], ANSWER)
    assert str(left) == "3 min left, 5 min with the tasks to come"


def test_tasks_of_another_kind_are_counted_not_timed(clock: list[float]) -> None:
    """The pace of scoring says little of the pace of generating; once both are known, both are told."""
    now, engine = questions(100), Engine()
    asked = [Generate(f"{i:04} " * 20, (), LIMIT) for i in range(64)]
    left = TimeLeft(engine, {"gsm8k@qwen": asked, "mmlu@cloze": questions(100, "r"), "gsm8k@lm-eval": asked})
    left.begin("mmlu@qwen", now)
    for i in range(50):
        clock[0] += 1
        left.add(now[i], ANSWER)
    assert str(left) == "50 s left, then 3 more tasks"
    left.begin("gsm8k@qwen", asked)
    for i in range(32):
        clock[0] += 1
        left.add(asked[i], Generated("", "eos", 100))
    assert re.fullmatch(r"\d+ s left, \d+ min with the tasks to come", str(left))


def test_a_moment_does_not_tell_hours(clock: list[float]) -> None:
    """89 minutes were once told for 96 seconds: what is told is at most 50 times what it was measured on."""
    asked = questions(10_000)
    left = TimeLeft(Engine(), {})
    left.begin("mmlu@qwen", asked)
    told = []
    for i in range(250):
        clock[0] += 1
        left.add(asked[i], ANSWER)
        told.append(seconds(str(left)) if "left" in str(left) else 0)
    assert not any(told[:190])
    assert all(told[200:])


def generated(
    lengths: Sequence[int], engine: Engine, clock: list[float], left: TimeLeft, prompt: int = 25
) -> Iterator[tuple[int, float, str]]:
    """Answers of these lengths as an engine of 64 at a time gives them: (answers, time of the step, what is said) after each step."""
    asked = [Generate(f"{i:04} " * 20, (), LIMIT) for i in range(len(lengths))]
    left.begin("gsm8k@qwen", asked)
    waiting, running, answered = list(range(len(lengths))), dict[int, int](), 0
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            running[waiting.pop(0)] = 0
            engine.computed += prompt
            clock[0] += prompt * STEP / AT_ONCE / 2  # half of what a new token takes
        clock[0] += STEP * len(running) / AT_ONCE
        engine.computed += len(running)
        for i in list(running):
            running[i] += 1
            if running[i] == lengths[i]:
                del running[i]
                engine.lengths = list(running.values())
                left.add(asked[i], Generated("", "eos", lengths[i]))
                answered += 1
        engine.lengths = list(running.values())
        yield answered, clock[0], str(left)


def seconds(text: str) -> float:
    """Of "3 h 20 min left"."""
    units = {"s": 1, "min": 60, "h": 3600}
    return sum(units[unit] * float(number) for number, unit in re.findall(r"(\d+) (s|min|h)\b", text))


@pytest.mark.parametrize("tells", [True, False], ids=["engine tells lengths", "engine tells nothing"])
def test_answers_in_the_making_count(tells: bool, clock: list[float]) -> None:
    rng = random.Random(0)
    lengths = [rng.randint(30, 300) for _ in range(500)]
    engine = Engine()
    if not tells:
        engine.tokens = lambda: Tokens()  # type: ignore[method-assign]
        engine.unfinished = lambda: ()  # type: ignore[method-assign]
    found = list(generated(lengths, engine, clock, TimeLeft(engine, {})))
    end = found[-1][1]
    early = [(text, end - at) for answered, at, text in found if text.endswith("left") and answered < 8]
    assert bool(early) == tells  # without the lengths of those in the making, nothing is known
    assert all(text.startswith("at most ") and 0.95 * true < seconds(text) < 4 * true for text, true in early)
    later = [(seconds(text), end - at) for answered, at, text in found if text.endswith("left") and 100 <= answered < 450]
    assert later
    assert all(abs(said - true) < 0.3 * true + 10 for said, true in later)


@pytest.mark.parametrize("prompt", [15, 100, 400])
def test_prompts_of_more_or_fewer_tokens_than_their_length_suggests(prompt: int, clock: list[float]) -> None:
    rng = random.Random(0)
    engine = Engine()
    found = list(generated([rng.randint(30, 300) for _ in range(500)], engine, clock, TimeLeft(engine, {}), prompt))
    end = found[-1][1]
    later = [(seconds(text), end - at) for answered, at, text in found if text.endswith("left") and 100 <= answered < 450]
    assert all(abs(said - true) < 0.3 * true + 10 for said, true in later)


def test_a_pass_that_takes_long_is_no_slower_pace(clock: list[float]) -> None:
    asked, engine = [Generate(f"{i:04} " * 20, (), 100) for i in range(10)], Engine()
    left = TimeLeft(engine, {})
    left.begin("gsm8k@qwen", asked)
    clock[0] += 10
    engine.computed, engine.lengths = 250 + 100, [10] * 10
    said = seconds(str(left))
    assert str(left).startswith("at most ")
    clock[0] += 4
    assert seconds(str(left)) == said - 4


def test_nothing_to_do(clock: list[float]) -> None:
    left = TimeLeft(Engine(), {})
    left.begin("mmlu@qwen", [])
    clock[0] += 60
    assert "left" not in str(left)
