"""The work of a task before it is run: counted in requests and characters, and in tokens by a sample."""

from collections.abc import Sequence

import pytest

from evalkit.data.sources import SampleSource
from evalkit.runner.workload import SAMPLE, Size, Workload, beginnings, num_shared, sizes, workload
from evalkit.tasks import Generate, Loglikelihood
from evalkit.tasks.registry import resolve

SHOTS = "a worked example. " * 20  # 360 characters


def characters(texts: Sequence[str]) -> int:
    assert len(texts) <= SAMPLE
    return sum(map(len, texts))


def test_characters_are_exact_where_a_token_is_one() -> None:
    asked = [Loglikelihood(SHOTS + question, (" A", " BC")) for question in ("one", "two", "one")]
    asked += [Generate(SHOTS + "t", ("\n",), 7), Generate("short", (), 5)]
    # 'one' is asked once; SHOTS is computed once, and 't' of "two" is that of the answer before it
    assert workload(asked, characters) == Workload(
        requests=4, prompt_tokens=len(SHOTS) + 3 + 1 + 2 + 5 + (5 - 2) * 2, shared_tokens=2 * len(SHOTS) + 1, scored_tokens=10, answers=2,
        max_new_tokens=12,
    )  # fmt: skip


def test_a_short_beginning_is_not_shared_and_a_template_is_counted() -> None:
    plain, other = Loglikelihood("The same. One?", (" a",)), Loglikelihood("The same. Two?", (" b",))
    assert sizes([plain, other]) == [Size(14, 0, 2, 0)] * 2
    turns = (("user", "abc"), ("assistant", "de"), ("user", "f"))
    found = workload([Generate("", (), 9, messages=turns)], characters)
    assert found.prompt_tokens == len("abc\nde\nf\n") + 25 + 3 * 5


def test_a_short_question_is_computed_with_each_of_its_options() -> None:
    """A long one once for all of them, as every question is whose options are letters."""
    options = (" a longer one", " another one", " x")
    short, long = Loglikelihood(SHOTS + "short?", options), Loglikelihood(SHOTS + "?" * 200, options)
    letters = Loglikelihood(SHOTS + "letters?", (" A", " B", " C"))
    scored = [sum(map(len, each.continuations)) - 3 for each in (short, long, letters)]
    assert workload([long, short, letters], characters).prompt_tokens == len(SHOTS) + 200 + 2 * 6 + 8 + sum(scored)


def test_nothing_is_asked() -> None:
    assert workload([], characters) == Workload(0, 0, 0, 0, 0, 0)


def test_a_sample_tells_the_tokens() -> None:
    """Within a few percent of encoding everything, on prompts that share their worked examples."""
    task = resolve("gsm8k@qwen")
    asked = [request for doc in task.load(SampleSource()) for request in task.requests(doc)]
    found = workload(asked, lambda texts: sum(len(text.split()) for text in texts))
    prompts = sorted(request.context for request in asked)
    own = [after[num_shared(before, after) :] for before, after in zip(["", *prompts], prompts, strict=False)]
    assert found.prompt_tokens == pytest.approx(sum(len(text.split()) for text in own), rel=0.05)
    assert found.shared_tokens > 5 * found.prompt_tokens
    assert (found.requests, found.answers, found.max_new_tokens) == (60, 60, 60 * 512)


def test_what_two_texts_share() -> None:
    for a, b, shared in (("", "x", 0), ("abc", "abd", 2), ("abc", "abc", 3), ("abc", "abcdef", 3), ("xbc", "abc", 0)):
        assert num_shared(a, b) == num_shared(b, a) == shared


def test_beginnings_in_requests() -> None:
    """Three subjects' shots of 400 characters, ten questions of about 60 each: the shots take as much as 20 questions."""
    asked = [Loglikelihood(f"{subject}{'shot. ' * 66}{chr(97 + i) * 58}", (" A",)) for subject in "xyz" for i in range(10)]
    assert beginnings(asked) == 20
    assert beginnings([*asked, *asked]) == 20
    assert beginnings([Loglikelihood(chr(97 + i) * 200, (" A",)) for i in range(10)]) == 0
    # an answer's new tokens are work too
    assert beginnings([Generate(f"{'shot. ' * 66}{chr(97 + i) * 58}", (), 400) for i in range(10)]) == 1
    assert beginnings([]) == 0
