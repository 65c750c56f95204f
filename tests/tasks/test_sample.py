"""The bundled sample is what its README says: correct, varied, and in the benchmarks' formats."""

import re
from collections import Counter
from fractions import Fraction

import pytest

from evalkit.data.sources import SampleSource
from evalkit.tasks.registry import resolve
from evalkit_tasks.extraction import gold
from evalkit_tasks.gsm8k import table as gsm8k_table
from evalkit_tasks.mmlu import SAMPLE_SUBJECTS, table

SOURCE = SampleSource()


@pytest.mark.parametrize("subject", SAMPLE_SUBJECTS)
def test_mmlu_sample(subject: str) -> None:
    dev, test = SOURCE.rows(table(subject, "dev")), SOURCE.rows(table(subject, "test"))
    assert (len(dev), len(test)) == (5, 10)
    for row in dev + test:
        assert all(row[c].strip() for c in row)
        assert len({row[x] for x in "ABCD"}) == 4
    assert max(Counter(row["answer"] for row in test).values()) <= 3


def test_no_question_twice() -> None:
    questions = [row["question"] for s in SAMPLE_SUBJECTS for split in ("dev", "test") for row in SOURCE.rows(table(s, split))]
    questions += [row["question"] for split in ("train", "test") for row in SOURCE.rows(gsm8k_table(split))]
    assert len(set(questions)) == len(questions) == 14 * 15 + 68


@pytest.mark.parametrize(("split", "n"), [("train", 8), ("test", 60)])
def test_gsm8k_sample_adds_up(split: str, n: int) -> None:
    rows = SOURCE.rows(gsm8k_table(split))
    assert len(rows) == n
    for row in rows:
        steps = re.findall(r"<<([^=<>]+)=([^<>]+)>>", row["answer"])
        assert steps, row["question"]
        for expression, value in steps:
            assert re.fullmatch(r"[-+*/().\d ]+", expression), expression
            exact = eval(re.sub(r"\d*\.?\d+", lambda m: f"Fraction('{m.group()}')", expression), {"Fraction": Fraction})
            assert exact == Fraction(value), (expression, value)
        assert Fraction(steps[-1][1]) == Fraction(gold(row["answer"]))


def test_worked_examples_end_in_their_answers() -> None:
    prefix = resolve("gsm8k").load(SOURCE)[0].prefix
    answers = re.findall(r"^The answer is (-?\d+)$", prefix, re.MULTILINE)
    assert answers == [gold(row["answer"]) for row in SOURCE.rows(gsm8k_table("train"))]
