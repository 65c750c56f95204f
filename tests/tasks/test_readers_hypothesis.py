"""Readers of free text, by properties: whatever a model or a judge writes is read without an error, and a printed number is read back."""

import math
import string
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evalkit_tasks.extraction import EXTRACTIONS, INVALID, Extraction, gold, last_decimal, last_digits, last_number, lm_eval_filters
from evalkit_tasks.mt_bench.rating import published, published_verdict, strict, strict_verdict

# the pieces that ratings and answers are made of, in any order, between any texts
PIECES = ["#### ", " of ", " ", "\n", *"[ ] [[ ]] A B C rating Rating: / 10 /10 out of % * - $ , . 0 7 05 ٣ ² 1e9 Question:".split(" ")]
ANY_TEXT = st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=12).map("".join))
WORDS = st.text(string.ascii_lowercase + " ,\n", max_size=40)
RATINGS = st.integers(4, 40).map(lambda quarters: quarters / 4)  # 1 to 10
NUMBERS = st.decimals(-(10**12), 10**12, places=2) | st.integers(-(10**12), 10**12).map(Decimal)


@given(ANY_TEXT)
@example(f"[[{'9' * 400}]]")  # more than a float holds
def test_any_text_has_a_rating_or_none(text: str) -> None:
    rating, strictly = published(text), strict(text)
    assert rating is None or (math.isfinite(rating) and rating >= 0)
    assert strictly is None or 1 <= strictly <= 10
    assert {published_verdict(text), strict_verdict(text)} <= {"A", "B", "tie", None}


@given(WORDS, RATINGS)
def test_a_printed_rating_is_read_back(words: str, rating: float) -> None:
    assert published(f"{words} Rating: [[{rating:g}]]") == strict(f"{words} Rating: [[{rating:g}]]") == rating
    for form in ("Rating: {:g}", "**Rating:** {:g}/10", "[[{:g}/10]]", "a rating of {:g} out of 10."):
        assert strict(f"{words}\n{form.format(rating)}") == rating


@given(WORDS, st.sampled_from("ABC"))
def test_a_printed_verdict_is_read_back(words: str, letter: str) -> None:
    verdict = "tie" if letter == "C" else letter
    assert published_verdict(f"{words} [[{letter}]]") == strict_verdict(f"{words} [[ {letter} ]]") == verdict


@pytest.mark.parametrize("read", EXTRACTIONS.values(), ids=EXTRACTIONS.keys())
@given(completion=ANY_TEXT, answer=NUMBERS)
@example(completion="9" * 5000, answer=Decimal(5))  # more digits than Python reads as an integer
@example(completion="0" * 5000, answer=Decimal(5))
def test_any_completion_has_an_answer_or_none(read: Callable[[str, str], Extraction], completion: str, answer: Decimal) -> None:
    found = read(completion, f"so it is\n#### {answer:,}")
    assert found.failed == (found.answer == INVALID)
    assert set(found.correct.values()) <= {True, False}
    if not any(character.isdecimal() for character in completion):
        assert not any(found.correct.values())


@given(ANY_TEXT)
@example("#### .")
@example("#### 1.2.3")
def test_a_reference_answer_is_a_number_or_refused(text: str) -> None:
    try:
        number = gold(text)
    except ValueError:
        return
    assert Decimal(number).is_finite()


@given(WORDS, NUMBERS)
def test_a_printed_number_is_read_back(words: str, number: Decimal) -> None:
    reference = f"so\n#### {number:,}"
    assert Decimal(gold(reference)) == number
    assert last_number(f"{words} The answer is {number:,}.", reference).correct == {"acc": True}
    assert last_decimal(f"{words} The answer is {number}. Question: 7?", reference).correct == {"acc": True}
    assert lm_eval_filters(f"{words}\n#### {number:,}", reference).correct["exact_match_strict"]
    whole = abs(int(number))
    assert last_digits(f"{words} The answer is {whole}", f"#### {whole}").correct == {"acc": True}


@pytest.mark.parametrize("piece", ["1", "[", "[[", "[1", "rating ", "rating: ", " ", "[[ ", "-", "1,", "1.", "#### ", "#"])
def test_long_texts_take_no_longer_than_their_length(piece: str) -> None:
    """A reader that is quadratic in the length would take many minutes here."""
    text = "[[" + piece * 100_000
    for read in (published, strict, published_verdict, strict_verdict):
        read(text)
    for extract in EXTRACTIONS.values():
        extract(text, "#### 5")
