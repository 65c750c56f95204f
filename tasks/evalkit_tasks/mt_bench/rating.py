"""A judge's text -> its rating or verdict: as FastChat reads it, and strictly.

The published reader misses "[[7/10]]", "[[ 7 ]]" and "Rating: 8", and takes the first bracketed number that it finds: "see [1] ..
Rating 6" gives 1. The strict one reads what a person would, the last rating given, and nothing outside 1 to 10.
"""

import math
import re

SCALE = (1.0, 10.0)

_NUMBER = r"(\d+(?:\.\d+)?)"
_OF_TEN = r"(?:\s*(?:/|out of)\s*10(?:\.0+)?)?"
# FastChat's \d+\.?\d* matches the same, but takes quadratic time on long runs of digits
_PUBLISHED = (re.compile(r"\[\[(\d+(?:\.\d*)?)\]\]"), re.compile(r"\[(\d+(?:\.\d*)?)\]"))
_STRICT = (
    re.compile(rf"\[\[\s*(?:rating:?\s*)?{_NUMBER}{_OF_TEN}\s*\]\]", re.IGNORECASE),
    # "Rating: 8", "**Rating:** [8]", "a rating of 8/10", but not "Rating: 8/20" or "Rating: 80%"
    re.compile(rf"\brating\b(?:\s+(?:of|is|would be))?[\s:*_=\[]*{_NUMBER}{_OF_TEN}(?!\.?\d|\s*[/%])", re.IGNORECASE),
)
_VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]")


def published(text: str) -> float | None:
    """The first match of FastChat's two patterns, whatever its size (JudgedTask.rating keeps to the scale); None where FastChat writes -1.

    "[[07]]" is 7 here; upstream it raised an error (FastChat fastchat/llm_judge/common.py).
    """
    for pattern in _PUBLISHED:
        if match := pattern.search(text):
            rating = float(match[1])
            return rating if math.isfinite(rating) else None
    return None


def strict(text: str) -> float | None:
    """The last rating from 1 to 10, in double brackets or else after the word "rating"; None where there is none."""
    for pattern in _STRICT:
        if matches := pattern.findall(text):
            value = float(matches[-1])
            return value if SCALE[0] <= value <= SCALE[1] else None
    return None


def published_verdict(text: str) -> str | None:
    """A, B or tie as FastChat reads it: "[[A]]" anywhere wins over "[[B]]", that over "[[C]]"; None where it writes "error"."""
    return next((verdict for mark, verdict in (("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie")) if mark in text), None)


def strict_verdict(text: str) -> str | None:
    """The last verdict given, blanks inside the brackets allowed."""
    verdicts = _VERDICT.findall(text)
    return verdicts[-1].replace("C", "tie") if verdicts else None
