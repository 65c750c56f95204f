"""Readers of texts and files, by properties: no text of a model or judge raises, printed numbers are read back, bad files are refused."""

import json
import math
import string
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evalkit.errors import DataError
from evalkit.judge.fastchat import read_single
from evalkit.tasks import Answers
from evalkit_tasks.extraction import EXTRACTIONS, INVALID, Extraction, gold, last_decimal, last_digits, last_number, lm_eval_filters
from evalkit_tasks.humaneval.extraction import EXTRACTIONS as CODE
from evalkit_tasks.humaneval.extraction import CodeReader
from evalkit_tasks.humaneval.task import HumanEval
from evalkit_tasks.mt_bench.prompts import read_prompts
from evalkit_tasks.mt_bench.rating import published, published_verdict, strict, strict_verdict
from evalkit_tasks.numbers import numbers

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


GROUPS = (",", "{,}", "\\,", "'", "\u2019", " ", "\u00a0", "\u2009", "\u202f", "")
MINUSES = ("-", "\u2212", "\ufe63", "\uff0d")
CURRENCIES = ("", "$", "\\$", "\u20ac", "\u00a3", "\u20b9")
DIGITS = ("0123456789", "\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "๐๑๒๓๔๕๖๗๘๙")
AROUND = (("The answer is ", "."), ("= ", ""), ("\\boxed{", "}"), ("**", "**"), ("$", "$"), ("(", ")"), ("so ", " apples"), ("", "%"))


@given(
    number=NUMBERS,
    group=st.sampled_from(GROUPS),
    minus=st.sampled_from(MINUSES),
    currency=st.sampled_from(CURRENCIES),
    minus_first=st.booleans(),
    digits=st.sampled_from(DIGITS),
    around=st.sampled_from(AROUND),
    bare=st.booleans(),
)
def test_every_usual_spelling_reads_as_itself(
    number: Decimal, group: str, minus: str, currency: str, minus_first: bool, digits: str, around: tuple[str, str], bare: bool
) -> None:
    """Integers and decimals, with any sign, currency, separator of thousands and script; ".5" for "0.5" too."""
    spelled = f"{abs(number):,f}".replace(",", group).translate(str.maketrans("0123456789", digits))
    if bare and spelled.startswith(f"{digits[0]}."):
        spelled = spelled[1:]
    if number < 0:
        spelled = minus + currency + spelled if minus_first else currency + minus + spelled
    else:
        spelled = currency + spelled
    assert Decimal(numbers(f"First 7, then {around[0]}{spelled}{around[1]}")[-1]) == number


@pytest.mark.parametrize(
    "piece", ["1", "[", "[[", "[1", "rating ", "rating: ", " ", "[[ ", "-", "1,", "1.", "12,", "123.", "123,", "12 ", "1e1", "#### ", "#"]
)
def test_long_texts_take_no_longer_than_their_length(piece: str) -> None:
    """A reader that is quadratic in the length would take many minutes here."""
    text = "[[" + piece * 100_000
    for read in (published, strict, published_verdict, strict_verdict):
        read(text)
    for extract in EXTRACTIONS.values():
        extract(text, "#### 5")


CODE_TEXT = st.lists(st.sampled_from(["```", "python\n", "\n\n", "def f():", "    ", "import re", "x"]), max_size=9).map("".join)


@pytest.mark.parametrize("extract", CODE.values(), ids=CODE.keys())
@given(text=ANY_TEXT | CODE_TEXT)
def test_of_any_answer_something_is_run(extract: CodeReader, text: str) -> None:
    row = {"prompt": "def f():\n", "entry_point": "f", "test": "def check(candidate):\n    assert candidate() == 1\n"}
    assert isinstance(extract.read(text, ("\ndef", "\n#"), row).text, str)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from((-1, 1, 2, 10**400)) | st.text(max_size=9)
JSON = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3))
GOOD = {
    "task_id": "HumanEval/0",
    "completion": "pass",
    **{"question_id": 81, "model": "m", "judge": ["gpt-4", "single-v1"], "user_prompt": "", "judgment": "[[7]]", "score": 7, "turn": 1},
    **{"name": "single-v1", "system_prompt": "s", "prompt_template": "{question}"},
}
LINES = JSON.map(json.dumps) | st.dictionaries(st.sampled_from(sorted(GOOD)), JSON, max_size=2).map(lambda odd: json.dumps(GOOD | odd))
FILES = st.lists(LINES | st.text(max_size=9), max_size=3).map("\n".join) | st.just("[" * 100_000) | st.just("9" * 5_000)


def message_on(read: Callable[[str, str], object], text: str) -> str:
    """Why the file is refused; "" where it is read."""
    try:
        read(text, "FILE")
    except DataError as error:
        return str(error)
    return ""


def read_completions(text: str, name: str) -> Answers:
    return HumanEval(HumanEval.protocols["given"]).read_answers(text, name, [])


@given(FILES)
def test_a_file_is_read_or_refused_in_one_line(text: str) -> None:
    for read in (read_single, read_completions, read_prompts):
        message = message_on(read, text)
        assert not message or (message.startswith("FILE") and len(message.splitlines()) == 1)


def test_the_files_that_are_right_are_read() -> None:
    (row,) = read_single(json.dumps(GOOD), "FILE")
    assert (row.question_id, row.model, row.judge, row.score, row.turn) == ("81", "m", "gpt-4", 7, 1)
    assert read_completions(json.dumps(GOOD), "FILE").texts == {"HumanEval/0": ["pass"]}
    assert read_prompts(json.dumps(GOOD), "FILE")["single-v1"].text == "{question}"
