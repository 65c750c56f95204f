"""Reading answers: each protocol's quirks, and OpenAI's published solutions as the judge of the scorer."""

import gzip
import json
from pathlib import Path

import pytest

from evalkit_tasks.extraction import INVALID, last_decimal, last_digits, last_number, lm_eval_filters


def acc(extraction) -> bool:
    return extraction.correct["acc"]


@pytest.mark.parametrize(
    ("completion", "reference", "answer", "right"),
    [
        ("The answer is 20", "#### 20", "20", True),
        ("so 20,800 in all. The answer is 20,800", "#### 20,800", "800", False),  # as published: commas end a run
        ("The answer is 18.00", "#### 18", "0", False),
        ("The answer is 05", "#### 5", INVALID, False),
        ("The answer is 0", "#### 0", "0", True),
        ("The answer is -5", "#### -5", "5", False),
        ("no number at all", "#### 5", INVALID, False),
        ("5 apples", "#### 5", "5", True),
    ],
)
def test_qwens_extractor_with_its_quirks(completion: str, reference: str, answer: str, right: bool) -> None:
    found = last_digits(completion, reference)
    assert (found.answer, acc(found)) == (answer, right)


@pytest.mark.parametrize(
    ("completion", "reference", "answer", "right"),
    [
        ("The answer is 20,800", "#### 20,800", "20800", True),
        ("The answer is $1,234,567.50.", "#### 1234567.5", "1234567.50", True),
        ("The answer is 18.00", "#### 18", "18.00", True),
        ("The answer is -5", "#### -5", "-5", True),
        ("The answer is 10-5", "#### 5", "5", True),
        ("(7)-5", "#### 5", "5", True),
        ("it fell to $-21", "#### -21", "-21", True),
        ("pages 1,2", "#### 2", "2", True),
        ("The answer is 05", "#### 5", "05", True),
        (r"The answer is $9{,}500$.", "#### 9500", "9500", True),
        ("The answer is \u22124.", "#### -4", "-4", True),
        ("The answer is -$5.", "#### -5", "-5", True),
        ("The answer is 1 234.", "#### 1234", "1234", True),
        ("in 2019 300 came", "#### 300", "300", True),
        ("The answer is $.50.", "#### 0.5", "0.50", True),
        ("The answer is 1.234.567,89.", "#### 1234567.89", "1234567.89", True),
        ("12,34,567 rupees", "#### 1234567", "1234567", True),
        ("1.5e3", "#### 1500", "1.5e3", True),
        ("version 1.2.3", "#### 3", "3", True),
        ("10\u22125", "#### 5", "5", True),
        ("none", "#### 5", INVALID, False),
    ],
)
def test_our_extractor(completion: str, reference: str, answer: str, right: bool) -> None:
    found = last_number(completion, reference)
    assert (found.answer, acc(found), found.failed) == (answer, right, answer == INVALID)


def test_opencompass_extractor() -> None:
    assert acc(last_decimal("The answer is 4.0000001 Question: what is 9", "#### 4"))
    assert not acc(last_decimal("The answer is 4.1", "#### 4"))
    assert last_decimal("The answer is 20,800", "#### 20800").answer == "800"
    assert acc(last_decimal("The answer is -5", "#### -5"))
    assert last_decimal("Question: 5", "#### 5").failed


def test_lm_eval_filters() -> None:
    found = lm_eval_filters("He pays 3.\n#### 1,250", "so 1250\n#### 1250")
    assert found.correct == {"exact_match_strict": True, "exact_match_flexible": True}
    found = lm_eval_filters("He pays $1,250.", "so 1250\n#### 1250")
    assert found.correct == {"exact_match_strict": False, "exact_match_flexible": True}
    assert found.failed


def test_published_solutions_get_their_published_scores(data_dir: Path) -> None:
    """OpenAI's 4 x 1,319 solutions with their stated correctness: every flag equal, so every accuracy."""
    with gzip.open(data_dir / "published/gsm8k/openai_example_model_solutions.jsonl.gz", "rt") as f:
        rows = [json.loads(line) for line in f]
    stated = {"6b_finetuning": 0.2168, "6b_verification": 0.3904, "175b_finetuning": 0.3472, "175b_verification": 0.5625}
    assert len(rows) == 1_319
    for model, accuracy in stated.items():
        flags = [acc(last_number(row[model]["solution"], row["ground_truth"].replace("\nA: ", "\n#### "))) for row in rows]
        assert flags == [row[model]["is_correct"] for row in rows]
        assert round(sum(flags) / len(rows), 4) == accuracy
