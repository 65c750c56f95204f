"""Figures of a suite: the published means, the readings, what is missing, and standard errors over what documents share."""

import math
import random

import numpy as np
import pytest

from evalkit.errors import EvalkitError
from evalkit.record.sample import Sample
from evalkit.record.schema import Coverage
from evalkit.report.published import read_table
from evalkit.stats import bleu, suite
from evalkit.stats.estimate import mean
from evalkit.tasks import Doc, Scored, SuiteCell

CATEGORIES = ("exams", "understanding", "math", "translation")
SIX = ("Mistral-7B", "Qwen1.5-7B", "Qwen1.5-MoE-A2.7B", "Mixtral-8x7B", "Qwen1.5-72B", "Qwen1.5-32B")


def cell(name: str, category: str = "exams", metric: str = "acc", tokenize: str = "") -> SuiteCell:
    set_, _, language = name.partition(":")
    return SuiteCell(name, set_, language, category, metric, tokenize)


def samples(of: SuiteCell, values: list, clusters: list[str] | None = None) -> list[Sample]:
    names = clusters or [f"{of.name}/{i}" for i in range(len(values))]
    return [
        Sample(Doc(f"{of.name}/{i}", of.name, {}, "", cluster), [], [], Scored({of.metric: value}, "", ""))
        for i, (value, cluster) in enumerate(zip(values, names, strict=True))
    ]


def test_the_six_published_rows_to_the_printed_digit() -> None:
    table = read_table("qwen1.5-multilingual")
    rows = {row.model: row.cells for row in table.rows}
    assert set(SIX) <= rows.keys()
    for model in SIX:
        scores = {category: rows[model][f"multilingual:{category}"].value for category in CATEGORIES}
        printed = rows[model]["multilingual"]
        digits = len(printed.printed.partition(".")[2])
        assert f"{suite.mean_of_categories(scores, CATEGORIES):.{digits}f}" == printed.printed, model


def test_a_missing_category_is_loud() -> None:
    with pytest.raises(EvalkitError, match="no score for math, translation: the figure is the mean of exams, understanding, math"):
        suite.mean_of_categories({"exams": 1.0, "understanding": 1.0}, CATEGORIES)
    cells = [cell("a:x"), cell("b:x", "math")]
    with pytest.raises(EvalkitError, match="no score for math"):
        suite.figures(cells, {"b:x": "is missing"}, samples(cells[0], [1.0, 0.0]))


def test_three_readings() -> None:
    cells = [cell("a:x"), cell("a:y"), cell("b:x"), cell("c:x", "math")]
    values = {"a:x": [1.0, 1.0, 1.0, 1.0], "a:y": [0.0, 1.0], "b:x": [0.0, 0.0], "c:x": [1.0, 0.0]}
    found = suite.figures(cells, {}, [s for c in cells for s in samples(c, values[c.name])])
    exams = found.groups["exams"]
    assert exams["mean"].value == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert exams["mean_over_sets"].value == pytest.approx((0.75 + 0.0) / 2)
    assert exams["mean_pooled"].value == pytest.approx(5 / 8)
    assert found.headline == "mean"
    assert found.metrics["mean"].value == pytest.approx(((1.0 + 0.5 + 0.0) / 3 + 0.5) / 2)
    assert found.metrics["mean"].n == 10
    assert found.subjects["a:y"]["acc"] == found.subjects["a:y"]["mean"]
    assert found.coverage == Coverage(cells=4, measured=4, complete=4, incomplete={})


def test_without_some_data_every_mean_is_called_partial() -> None:
    cells = [cell("a:x"), cell("a:y")]
    found = suite.figures(cells, {"a:y": "a.csv is missing"}, samples(cells[0], [1.0, 0.0, 1.0]))
    assert found.headline == "partial_mean"
    assert set(found.metrics) == {"partial_mean", "partial_mean_over_sets", "partial_mean_pooled"}
    assert set(found.groups["exams"]) == set(found.metrics)
    assert found.coverage == Coverage(cells=2, measured=1, complete=1, incomplete={"a:y": "a.csv is missing"})


def test_one_cell_has_its_own_metric_and_the_usual_error() -> None:
    rng = random.Random(0)
    values = [float(rng.random() < 0.6) for _ in range(200)]
    found = suite.figures([cell("a:x")], {}, samples(cell("a:x"), values))
    assert found.headline == "acc"
    usual = mean(values)
    assert found.metrics["acc"].stderr == pytest.approx(usual.stderr)
    assert found.metrics["acc"].ci95 == pytest.approx(usual.ci95, abs=0.003)


def test_what_languages_share_is_not_counted_as_new() -> None:
    """One question asked in six languages with one outcome says no more than once; six questions say more."""
    rng = random.Random(1)
    outcome = [float(rng.random() < 0.4) for _ in range(250)]
    cells = [cell(f"m:{language}", "math") for language in "abcdef"]
    shared = suite.figures(cells, {}, [s for c in cells for s in samples(c, outcome, [f"m/{i}" for i in range(250)])])
    assert shared.metrics["mean"].stderr == pytest.approx(mean(outcome).stderr)
    apart = suite.figures(cells, {}, [s for c in cells for s in samples(c, outcome)])
    assert apart.metrics["mean"].stderr == pytest.approx(mean(outcome).stderr / math.sqrt(6), rel=0.01)


def test_passages_are_clusters() -> None:
    """Against the cluster-robust formula written out, with the factor C / (C - 1)."""
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 4, 80)
    level = rng.random(80)
    values = [float(rng.random() < level[c]) for c, size in enumerate(sizes) for _ in range(size)]
    names = [f"p{c}" for c, size in enumerate(sizes) for _ in range(size)]
    centred = np.array(values) - np.mean(values)
    sums = [sum(d for d, name in zip(centred, names, strict=True) if name == f"p{c}") for c in range(80)]
    expected = math.sqrt(80 / 79 * sum(s * s for s in sums)) / len(values)
    found = suite.figures([cell("a:x")], {}, samples(cell("a:x"), values, names))
    assert found.metrics["acc"].stderr == pytest.approx(expected)


def test_all_right_is_not_certain() -> None:
    found = suite.figures([cell("a:x")], {}, samples(cell("a:x"), [1.0] * 8))
    low, high = found.metrics["acc"].ci95
    assert high == 1.0
    assert 0.6 < low < 0.7  # Wilson's for 8 of 8


WORDS = "the cat sat on a mat while dogs ran over green hills and rivers in rain".split()


def translations(n: int, seed: int) -> list[tuple[tuple[str], str]]:
    rng = random.Random(seed)
    pairs = []
    for _ in range(n):
        reference = [rng.choice(WORDS) for _ in range(rng.randint(6, 20))]
        hypothesis = [word if rng.random() < 0.8 else rng.choice(WORDS) for word in reference]
        pairs.append(((" ".join(reference),), " ".join(hypothesis)))
    return pairs


def test_bleu_and_chrf_are_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    pairs = translations(60, 3)
    direction = cell("flores:en-de", "translation", "bleu", "13a")
    found = suite.figures([direction], {}, samples(direction, pairs))
    hypotheses, references = [h for _, h in pairs], [[r[0] for r, _ in pairs]]
    assert found.metrics["bleu"].value == pytest.approx(sacrebleu.corpus_bleu(hypotheses, references).score / 100, abs=1e-12)
    assert found.metrics["chrf"].value == pytest.approx(sacrebleu.corpus_chrf(hypotheses, references).score / 100, abs=1e-12)
    assert "tok:13a" in found.signatures["13a"]
    assert "nc:6" in found.signatures["chrf"]


def test_bleus_error_is_the_bootstraps() -> None:
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    counts = bleu.sentence_counts(translations(300, 4))
    parts = bleu.influences(counts, bleu.corpus_bleu)
    rng = np.random.default_rng(0)
    draws = [bleu.corpus_bleu(counts[rng.integers(300, size=300)]) for _ in range(1000)]
    assert math.sqrt(300 / 299 * float(parts @ parts)) == pytest.approx(np.std(draws), rel=0.1)


def test_a_missing_tokenizer_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("MeCab", "mecab_ko") else real(name))
    with pytest.raises(EvalkitError, match=r"ja-mecab needs MeCab; run `pip install 'sacrebleu\[ja\]'`"):
        suite.require([cell("flores:en-ja", "translation", "bleu", "ja-mecab")])
    with pytest.raises(EvalkitError, match=r"ko-mecab needs mecab_ko; run `pip install 'sacrebleu\[ko\]'`"):
        suite.require([cell("flores:en-ko", "translation", "bleu", "ko-mecab")])
    suite.require([cell("belebele:ja")])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EvalkitError, match=r"BLEU needs sacrebleu; run `pip install 'evalkit-lm\[multilingual\]'`"):
        suite.require([cell("flores:en-de", "translation", "bleu", "13a")])


def test_bleu_of_several_directions_is_their_mean_each_by_its_tokenizer() -> None:
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")
    pairs = translations(40, 5)
    groups = ["flores:en-de"] * 25 + ["flores:en-th"] * 15
    rows = bleu.grouped_counts(pairs, groups, {"flores:en-th": "char"})
    apart = [bleu.corpus_bleu(bleu.sentence_counts(pairs[:25])), bleu.corpus_bleu(bleu.sentence_counts(pairs[25:], "char"))]
    assert bleu.mean_bleu(rows) == pytest.approx(sum(apart) / 2)
    assert apart[0] != pytest.approx(bleu.corpus_bleu(bleu.sentence_counts(pairs[:25], "char")))
    assert bleu.mean_bleu(rows[:25]) == pytest.approx(apart[0])
