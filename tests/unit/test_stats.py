"""Estimates against scipy and by hand."""

import math

import numpy as np
import pytest
import scipy.stats

from evalkit.stats.clustered import clustered_stderr, t_interval
from evalkit.stats.estimate import average, combined, macro, mean


def test_mean_of_a_proportion_has_wilsons_interval() -> None:
    for right, n in ((0, 14), (7, 14), (140, 140), (8_777, 14_042)):
        estimate = mean([1.0] * right + [0.0] * (n - right))
        low, high = scipy.stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert estimate.value == right / n
        assert estimate.ci95 == pytest.approx((low, high), abs=1e-12)
        assert estimate.n == n


def test_stderr_is_the_sample_means() -> None:
    values = [0.1, 0.7, 0.3, 0.9, 0.25]
    estimate = mean(values)
    assert estimate.stderr == pytest.approx(scipy.stats.sem(values), abs=1e-15)
    half = scipy.stats.norm.ppf(0.975) * estimate.stderr
    assert estimate.ci95 == pytest.approx((np.mean(values) - half, np.mean(values) + half))


def test_full_mmlu_has_the_standard_error_that_everybody_quotes() -> None:
    estimate = mean([1.0] * 8_776 + [0.0] * 5_266)
    assert 100 * estimate.stderr == pytest.approx(0.41, abs=0.005)


def test_macro_counts_every_group_the_same() -> None:
    groups = {"a": [1.0] * 9 + [0.0], "b": [0.0, 1.0]}
    estimate = average(groups, "macro")
    assert estimate.value == pytest.approx((0.9 + 0.5) / 2)
    expected = math.sqrt(scipy.stats.sem(groups["a"]) ** 2 + scipy.stats.sem(groups["b"]) ** 2) / 2
    assert estimate.stderr == pytest.approx(expected)
    assert average(groups, "micro").value == pytest.approx(10 / 12)


def test_means_of_groups_give_the_mean_of_all() -> None:
    groups = {"a": [1.0] * 2 + [0.0] * 8, "b": [1.0] * 9 + [0.0], "c": [0.0, 0.0, 1.0]}
    of_groups = [mean(values) for values in groups.values()]
    whole, found = macro(groups.values()), combined(of_groups, "macro")
    assert (found.value, found.stderr, found.n) == (pytest.approx(whole.value), pytest.approx(whole.stderr), whole.n)
    assert found.ci95 == pytest.approx(whole.ci95)
    micro = combined(of_groups, "micro")
    assert (micro.value, micro.n) == (pytest.approx(12 / 23), 23)
    # within the groups alone, which are fixed: less than over all documents
    assert 0 < micro.stderr < mean([x for values in groups.values() for x in values]).stderr


def test_groups_of_one_document_are_not_certain() -> None:
    estimate = macro([[1.0], [0.0], [1.0]])
    assert estimate.stderr > 0.2
    assert mean([1.0]).ci95[0] < 0.3


def test_a_clusters_documents_are_not_counted_as_new() -> None:
    rng = np.random.default_rng(3)
    values = rng.random(40)
    parts = (values - values.mean()) / 40
    alone, count = clustered_stderr(parts, range(40))
    assert count == 40
    assert alone == pytest.approx(scipy.stats.sem(values))
    # each document twice says what it says once
    twice, count = clustered_stderr(np.repeat(parts / 2, 2), np.repeat(range(40), 2))
    assert count == 40
    assert twice == pytest.approx(alone)
    assert clustered_stderr(parts, ["one"] * 40) == (0.0, 1)


def test_intervals_over_clusters_are_students_and_stay_on_the_scale() -> None:
    low, high = t_interval(5.0, 0.3, 8, (1.0, 10.0))
    assert (low, high) == pytest.approx(scipy.stats.t.interval(0.95, 7, loc=5.0, scale=0.3))
    assert t_interval(9.9, 0.3, 8, (1.0, 10.0))[1] == 10.0
    assert t_interval(5.0, 0.0, 1, (1.0, 10.0)) == (1.0, 10.0)


def test_no_documents_have_no_mean() -> None:
    with pytest.raises(ValueError, match="no documents"):
        mean([])


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    covered = sum((lambda e: e.ci95[0] <= 0.3 <= e.ci95[1])(mean([float(x) for x in rng.random(60) < 0.3])) for _ in range(2_000))
    assert 0.93 < covered / 2_000 < 0.975
