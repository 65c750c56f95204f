"""Figures as lm-eval computes them: any aggregation of a task's metrics, and the means of groups, each with an interval of ours.

A mean has its closed standard error. Any other aggregation has that of a bootstrap over documents, drawn as lm-eval draws it (its
`bootstrap_iters` of RESAMPLES), which lm-eval itself has for some aggregations only. Source: lm-eval 0.4.13, api/metrics.py, api/group.py.
"""

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evalkit.errors import in_words
from evalkit.stats.estimate import Estimate, average, mean, normal, wilson

RESAMPLES, OF_A_CORPUS = 1000, 100
_CORPUS = ("bleu", "chrf", "chrf++", "ter")  # metrics: each resample scores all texts again

Aggregation = Callable[[Sequence[Any]], Any]


class NoFigure(Exception):
    """Why a metric has none."""


def is_mean(aggregation: Aggregation | None) -> bool:
    """Is this lm-eval's mean over documents, which is what it takes where a task says nothing?"""
    from lm_eval.api import metrics

    return aggregation is None or aggregation is metrics.mean


def figure(metric: str, aggregation: Aggregation | None, values: Sequence[Any]) -> Estimate:
    """The aggregation over the documents' values. Raises NoFigure."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of resamples that lack a class
            found = mean(list(map(float, values))) if is_mean(aggregation) else _bootstrapped(metric, aggregation, values)
    except NoFigure:
        raise
    except Exception as error:  # an aggregation may be the task's own code
        raise NoFigure(f"its aggregation fails ({in_words(error)})") from None
    if not all(map(math.isfinite, (found.value, found.stderr, *found.ci95))):
        raise NoFigure(f"its aggregation gives {found.value}, with the standard error {found.stderr}")
    return found


def _bootstrapped(metric: str, aggregation: Aggregation | None, values: Sequence[Any]) -> Estimate:
    assert aggregation is not None
    value = float(aggregation(values))
    n = len(values)
    if n < 2:
        raise NoFigure(f"it is {value:.6g} over one document, which tells nothing of its error")
    rng = random.Random(0)
    drawn = [float(aggregation(rng.choices(values, k=n))) for _ in range(OF_A_CORPUS if metric in _CORPUS else RESAMPLES)]
    centre = sum(drawn) / len(drawn)
    stderr = math.sqrt(sum((x - centre) ** 2 for x in drawn) / (len(drawn) - 1))
    return Estimate(value, stderr, normal(value, stderr), n)


def group_figure(leaves: Mapping[str, tuple[Estimate, Sequence[Any]]], by_documents: bool) -> Estimate:
    """A group's mean over its tasks, each with its figure and its documents' values; standard errors as lm-eval pools them."""
    figures = [found for found, _ in leaves.values()]
    sizes = [len(values) for _, values in leaves.values()]
    n = sum(sizes)
    if min(sizes) < 2:  # a task of one document has no variance of its own
        return average(
            {name: [float(value) for value in values] for name, (_, values) in leaves.items()}, "micro" if by_documents else "macro"
        )
    if by_documents:
        value = sum(found.value * size for found, size in zip(figures, sizes, strict=True)) / n
        within = sum((size - 1) * found.stderr**2 * size for found, size in zip(figures, sizes, strict=True)) / (n - len(sizes))
        stderr = math.sqrt(within / n)
        if all(value in (0, 1) for _, values in leaves.values() for value in values):
            return Estimate(value, stderr, wilson(value, n), n)
        return Estimate(value, stderr, normal(value, stderr), n)
    value = sum(found.value for found in figures) / len(figures)
    stderr = math.sqrt(sum(found.stderr**2 for found in figures)) / len(figures)
    return Estimate(value, stderr, normal(value, stderr), n)
