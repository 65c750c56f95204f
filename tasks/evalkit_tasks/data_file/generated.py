"""Generated answers: what is read of a text, and whether it is right."""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from evalkit_tasks.code_blocks import after_thinking
from evalkit_tasks.extraction import INVALID
from evalkit_tasks.numbers import numbers

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def read(text: str, extraction: str, pattern: re.Pattern[str] | None) -> str:
    """What a model's text answers, after what it marked as its thinking; INVALID for nothing.

    "exact" is the whole text, "first_line" its first line that is not empty, "number" its last number, "regex" the pattern's first match,
    or its group where it has one.
    """
    said = after_thinking(text)
    if extraction == "number":
        return (numbers(said) or [INVALID])[-1]
    if pattern is not None:
        match = pattern.search(said)
        return (match[pattern.groups] if match else None) or INVALID
    lines = [said] if extraction == "exact" else said.splitlines()
    return next((line.strip() for line in lines if line.strip()), INVALID)


def scores(given: str, accepted: Sequence[str], metrics: Sequence[str], as_number: bool) -> dict[str, float]:
    """Each metric of an answer: the best over the accepted ones. Numbers are compared by value."""
    if given == INVALID:
        return dict.fromkeys(metrics, 0.0)
    if as_number:
        return {metric: float(any(Decimal(given) == Decimal(numbers(each)[0]) for each in accepted)) for metric in metrics}
    return {metric: max(METRICS[metric](given, each) for each in accepted) for metric in metrics}


def _exact_match(given: str, answer: str) -> float:
    return float(given.strip() == answer.strip())


def _quasi_exact_match(given: str, answer: str) -> float:
    return float(_plain(given) == _plain(answer))


def _contains(given: str, answer: str) -> float:
    return float(f" {_plain(answer)} " in f" {_plain(given)} ")


def _f1(given: str, answer: str) -> float:
    """Of words, as SQuAD's script computes it (Rajpurkar et al. 2016)."""
    ours, theirs = _plain(given).split(), _plain(answer).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))


def _plain(text: str) -> str:
    """In small letters, without ASCII punctuation, articles and extra blanks, as SQuAD's script has it."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", bare).split())


METRICS: Mapping[str, Callable[[str, str], float]] = {
    "exact_match": _exact_match,
    "quasi_exact_match": _quasi_exact_match,
    "contains": _contains,
    "f1": _f1,
}
