"""Figures of a suite: cells (one set in one language), categories, and their mean, the suite's figure.

A category is the mean over its cells. The means over its sets and over all its documents are given too, since published figures do not
say which one they are. Standard errors are linear in the documents: each adds its influence on its cell, times the cell's weight, to its
cluster (a passage, a question in six languages, a sentence in 48 directions), and clusters are independent.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.errors import EvalkitError
from evalkit.record.schema import Coverage, Metrics
from evalkit.stats import bleu
from evalkit.stats.clustered import clustered_stderr, t_interval
from evalkit.stats.estimate import Estimate, wilson
from evalkit.tasks import SuiteCell

if TYPE_CHECKING:
    from evalkit.record.sample import Sample

READINGS = ("", "_over_sets", "_pooled")  # of a category's mean, and of the column; the first is the figure


@dataclass(frozen=True, slots=True)
class Scores:
    """One metric of one cell: its value (0..1), each document's influence on it, and each document's cluster."""

    value: float
    influences: Sequence[float]
    clusters: Sequence[str]

    @property
    def n(self) -> int:
        return len(self.influences)


@dataclass(frozen=True, slots=True)
class CellScores:
    """One cell with data, its metrics by name."""

    cell: SuiteCell
    metrics: Mapping[str, Scores]

    @property
    def headline(self) -> Scores:
        return self.metrics[self.cell.metric]


@dataclass(frozen=True, slots=True)
class SuiteFigures:
    """The parts of a suite's entry in run.json; `groups` are its categories, `subjects` its cells."""

    headline: str
    metrics: Metrics
    groups: Mapping[str, Metrics]
    subjects: Mapping[str, Metrics]
    coverage: Coverage
    signatures: Mapping[str, str]


Terms = Sequence[tuple[float, Scores]]  # a weighted sum of cells


def mean_of_categories(scores: Mapping[str, float], categories: Sequence[str]) -> float:
    """The suite's figure. Raises EvalkitError if a category has no score: the mean of three is not the mean of four."""
    if missing := [category for category in categories if category not in scores]:
        raise EvalkitError(f"no score for {', '.join(missing)}: the figure is the mean of {', '.join(categories)}")
    return math.fsum(scores[category] for category in categories) / len(categories)


def require(cells: Iterable[SuiteCell]) -> None:
    """Raises EvalkitError if a package for scoring these cells is not installed. Called before anything is generated."""
    for tokenize in sorted({cell.tokenize for cell in cells if cell.metric == "bleu"}):
        bleu.require(tokenize)


def figures(cells: Sequence[SuiteCell], incomplete: Mapping[str, str], samples: Sequence["Sample"]) -> SuiteFigures:
    """A suite's figures. If a cell has no data, or only part of it, every mean is called partial.

    Raises EvalkitError if a category has none at all.
    """
    members: dict[str, list[Sample]] = {}
    for sample in samples:
        members.setdefault(sample.doc.group, []).append(sample)
    found = [_score(cell, members[cell.name]) for cell in cells if cell.name in members]
    signatures = {s: bleu.signature(s) for s in _tokenizers(found)}
    coverage = Coverage(cells=len(cells), measured=len(found), complete=len(cells) - len(incomplete), incomplete=dict(incomplete))
    if len(cells) == 1:
        (only,) = found
        return SuiteFigures(only.cell.metric, _estimates(only.metrics), {}, {}, coverage, signatures)
    headline = "partial_mean" if incomplete else "mean"
    categories = list(dict.fromkeys(cell.category for cell in cells))
    groups: dict[str, dict[str, Terms]] = {
        c: {headline + reading: _category(found, c, reading) for reading in READINGS} for c in categories if _of(found, c)
    }
    metrics = {headline + reading: _estimate(_column(groups, categories, headline + reading)) for reading in READINGS}
    by_category = {c: {name: _estimate(terms) for name, terms in terms_by.items()} for c, terms_by in groups.items()}
    subjects = {each.cell.name: _estimates({headline: each.headline, **each.metrics}) for each in found}
    return SuiteFigures(headline, metrics, by_category, subjects, coverage, signatures)


def _estimates(metrics: Mapping[str, Scores]) -> Metrics:
    return {name: _estimate([(1.0, scores)]) for name, scores in metrics.items()}


def _of(found: Sequence[CellScores], category: str) -> list[CellScores]:
    return [each for each in found if each.cell.category == category]


def _category(found: Sequence[CellScores], category: str, reading: str) -> Terms:
    """The category's cells with their weights in one of the averages; the weights sum to 1."""
    members = _of(found, category)
    if reading == "_pooled":
        total = sum(each.headline.n for each in members)
        return [(each.headline.n / total, each.headline) for each in members]
    if reading == "_over_sets":
        sets = [each.cell.set for each in members]
        return [(1 / (len(set(sets)) * sets.count(each.cell.set)), each.headline) for each in members]
    return [(1 / len(members), each.headline) for each in members]


def _column(groups: Mapping[str, Mapping[str, Terms]], categories: Sequence[str], name: str) -> Terms:
    mean_of_categories(dict.fromkeys(groups, 0.0), categories)  # none may be missing
    return [(weight / len(categories), scores) for category in categories for weight, scores in groups[category][name]]


def _estimate(terms: Terms) -> Estimate:
    """A weighted sum of cells, with its clustered standard error and t interval."""
    value = math.fsum(weight * scores.value for weight, scores in terms)
    n = sum(scores.n for _, scores in terms)
    parts = (weight * influence for weight, scores in terms for influence in scores.influences)
    stderr, clusters = clustered_stderr(parts, (cluster for _, scores in terms for cluster in scores.clusters))
    if clusters > 1 and not stderr:  # all right or all wrong: no spread was observed, which does not mean that there is none
        return Estimate(value, stderr, wilson(value, clusters), n)
    return Estimate(value, stderr, t_interval(value, stderr, clusters, (0.0, 1.0)), n)


def _score(cell: SuiteCell, samples: Sequence["Sample"]) -> CellScores:
    clusters = [sample.doc.cluster or sample.doc.id for sample in samples]
    if cell.metric != "bleu":
        names = samples[0].scored.metrics
        return CellScores(cell, {name: _mean([s.scored.metrics[name] for s in samples], clusters) for name in names})
    pairs = [sample.scored.metrics["bleu"] for sample in samples]
    default = bleu.default_tokenizer(cell.language.rpartition("-")[2])
    metrics = {"bleu": _corpus(bleu.sentence_counts(pairs, cell.tokenize), bleu.corpus_bleu, clusters)}
    if default != cell.tokenize:
        metrics[f"bleu_{default}"] = _corpus(bleu.sentence_counts(pairs, default), bleu.corpus_bleu, clusters)
    metrics["chrf"] = _corpus(bleu.chrf_counts(pairs), bleu.corpus_chrf, clusters)
    return CellScores(cell, metrics)


def _mean(values: Sequence[float], clusters: Sequence[str]) -> Scores:
    mean = math.fsum(values) / len(values)
    return Scores(mean, [(value - mean) / len(values) for value in values], clusters)


def _corpus(counts: Any, statistic: Callable[[Any], float], clusters: Sequence[str]) -> Scores:
    return Scores(statistic(counts), bleu.influences(counts, statistic).tolist(), clusters)


def _tokenizers(found: Sequence[CellScores]) -> list[str]:
    """The names with a signature: each tokenizer of BLEU, and chrF."""
    translated = [each for each in found if each.cell.metric == "bleu"]
    defaults = {name.removeprefix("bleu_") for each in translated for name in each.metrics if name.startswith("bleu_")}
    return sorted({each.cell.tokenize for each in translated} | defaults | ({"chrf"} if translated else set()))
