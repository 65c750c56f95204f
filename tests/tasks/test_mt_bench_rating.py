"""Ratings and verdicts out of a judge's text: FastChat's reader to the letter, and the strict one."""

import pytest

from evalkit_tasks.mt_bench.rating import published, published_verdict, strict, strict_verdict


@pytest.mark.parametrize(
    ("text", "as_published", "strictly"),
    [
        ("Good. Rating: [[8]]", 8, 8),
        ("Rating: [[7.5]]", 7.5, 7.5),
        ("Rating: [[10]]", 10, 10),
        ("Rating: [[07]]", 7, 7),  # upstream's literal_eval raised here
        ("Rating: [[7.]]", 7, 7),
        ("Rating: [[7/10]]", None, 7),
        ("Rating: [[ 7 ]]", None, 7),
        ("Rating: [[7 out of 10]]", None, 7),
        ("Rating: [[rating: 6]]", None, 6),
        ("Rating: 8", None, 8),
        ("Rating: 8.", None, 8),
        ("**Rating:** 8/10", None, 8),
        ("**Rating: 6.5**", None, 6.5),
        ("Rating: [9]", 9, 9),
        ("I give it a rating of 4.", None, 4),
        ("see [1] for why. Rating 6", 1, 6),
        ("[[3]] would be harsh, so: [[5]]", 3, 5),
        ("As in [2], though: [[9]]", 9, 9),
        ("Rating: [[100]]", 100, None),
        ("Rating: [[0]]", 0, None),
        ("Rating: 80%", None, None),
        ("Rating: 8/20", None, None),
        ("Rating: 8/100", None, None),
        ("Rating: -3", None, None),
        ("I can't rate this.", None, None),
        ("", None, None),
        ("[[seven]]", None, None),
        ("Berating 5 people", None, None),
    ],
)
def test_ratings(text: str, as_published: float | None, strictly: float | None) -> None:
    assert (published(text), strict(text)) == (as_published, strictly)


@pytest.mark.parametrize(
    ("text", "as_published", "strictly"),
    [
        ("so [[A]]", "A", "A"),
        ("[[B]]", "B", "B"),
        ("[[C]]", "tie", "tie"),
        ("[[ B ]]", None, "B"),
        ('Not "[[A]]" but [[B]]', "A", "B"),
        ("[A]", None, None),
        ("", None, None),
    ],
)
def test_verdicts(text: str, as_published: str | None, strictly: str | None) -> None:
    assert (published_verdict(text), strict_verdict(text)) == (as_published, strictly)
