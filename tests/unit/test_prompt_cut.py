"""Which tokens of a prompt are kept where it does not fit: the last ones, as many as there is room for."""

import pytest

from evalkit.errors import EvalkitError
from evalkit.lm.prompt_cut import Cut, answer_length, context_cut, prompt_cut
from evalkit.tasks import Generate, Loglikelihood

PLAIN = Loglikelihood("a", ("b",))
TRUNCATED = Loglikelihood("a", ("b",), truncate_above=200, truncate_to=150)


@pytest.mark.parametrize(
    ("request_", "context", "capacity", "by_protocol", "truncated"),
    [
        (PLAIN, 90, 100, 0, 0),  # 90 and 10 fit to the token
        (PLAIN, 91, 100, 0, 1),
        (PLAIN, 10_000, None, 0, 0),
        (TRUNCATED, 200, None, 0, 0),  # not above the protocol's limit
        (TRUNCATED, 201, None, 51, 0),
        (TRUNCATED, 201, 1_000, 51, 0),
        (TRUNCATED, 201, 160, 51, 0),  # the 150 that the protocol keeps fit to the token
        (TRUNCATED, 201, 110, 51, 50),  # of them the engine has room for 100
        (TRUNCATED, 180, 110, 0, 80),
    ],
)
def test_a_context_loses_its_first_tokens(
    request_: Loglikelihood, context: int, capacity: int | None, by_protocol: int, truncated: int
) -> None:
    cut = context_cut(request_, context, [3, 10], capacity)
    assert cut == Cut(by_protocol, truncated)
    assert cut.dropped == by_protocol + truncated


def test_a_continuation_that_fills_the_window_is_refused() -> None:
    with pytest.raises(EvalkitError, match="a continuation of 100 tokens leaves no room"):
        context_cut(PLAIN, 5, [100], 100)


def test_a_long_prompt_has_a_shorter_answer() -> None:
    limited = Generate("a", (), 40, max_total_tokens=100)
    assert [answer_length(limited, n) for n in (10, 60, 61, 99, 1_000)] == [40, 40, 39, 1, 1]
    assert answer_length(Generate("a", (), 40), 1_000) == 40


def test_a_prompt_leaves_room_for_its_answer() -> None:
    assert [prompt_cut(n, 40, 100) for n in (60, 61, 1_000)] == [0, 1, 940]
    with pytest.raises(EvalkitError, match="max_new_tokens 100 leaves no room"):
        prompt_cut(1, 100, 100)
