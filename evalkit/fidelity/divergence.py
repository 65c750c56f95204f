"""KL divergence over the whole vocabulary, and what else two models' distributions at the same positions tell.

All sums are in float64, over float32 logits as the engines give them. Positions with a probability of any size count: llama.cpp's
figures (llama-perplexity --kl-divergence) leave tokens below e^-16 out and hold the reference in 16 bits, and agree within a percent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import EvalkitError
from evalkit.fidelity.record import Divergence, Mean, Padding, Perplexity, WorstDoc
from evalkit.lm.distributions import NextToken
from evalkit.stats.clustered import clustered_stderr, t_interval
from evalkit.stats.estimate import wilson

Array = NDArray[np.float64]
MOST_PADDING = 1e-3  # probability of rows that only one model has: with more they are no padding
WORST = 5  # documents named


@dataclass(slots=True)
class Positions:
    """One task's scored positions. `clusters`: the name of what each document shares with others, by its number."""

    clusters: Sequence[str]
    kl: list[float] = field(default_factory=list)
    same_top: list[bool] = field(default_factory=list)
    docs: list[int] = field(default_factory=list)
    token_docs: list[int] = field(default_factory=list)
    logprobs: list[tuple[float, float]] = field(default_factory=list)  # of the scored tokens: reference's, copy's
    padding: Padding | None = None

    def add(self, doc: int, reference: NextToken, copy: NextToken, tokens: Sequence[int]) -> None:
        """A position of a document, with the tokens that are scored there. Raises EvalkitError where a logit is not finite."""
        p, q = (_finite(each.logits, which) for each, which in ((reference, "reference"), (copy, "copy")))
        common = min(len(p), len(q))
        if len(p) != len(q):
            self._add_padding(p, q, common)
        if max(tokens) >= common:
            raise EvalkitError(f"token {max(tokens)} of the answers has no row in a vocabulary of {common}; the copy is another model's")
        log_p, log_q = log_softmax(p[:common]), log_softmax(q[:common])
        # never negative but by rounding
        self.kl.append(max(0.0, float(np.exp(log_p) @ (log_p - log_q))))
        self.same_top.append(int(p.argmax()) == int(q.argmax()))
        self.docs.append(doc)
        self.logprobs += [(float(log_p[token]), float(log_q[token])) for token in tokens]
        self.token_docs += [doc] * len(tokens)

    def _add_padding(self, p: Array, q: Array, common: int) -> None:
        longer = p if len(p) > common else q
        mass = float(np.exp(log_softmax(longer))[common:].sum())
        if mass > MOST_PADDING:
            raise EvalkitError(
                f"the vocabularies have {len(p)} and {len(q)} rows, and those that only one model has reach a probability of {mass:.3g}: "
                "they are no padding; compare copies of one model"
            )
        before = self.padding.largest_mass if self.padding else 0.0
        self.padding = Padding(reference_rows=len(p), copy_rows=len(q), largest_mass=max(before, mass))

    def divergence(self, ids: Sequence[str]) -> Divergence:
        """Of all positions; `ids` are the documents'."""
        kl, top = np.array(self.kl), np.array(self.same_top, float)
        median, p90, p99 = np.quantile(kl, (0.5, 0.9, 0.99)).tolist()
        clusters = [self.clusters[doc] for doc in self.docs]
        return Divergence(
            positions=len(kl),
            clusters=len(set(clusters)),
            mean=mean(kl, clusters, (0.0, math.inf)),
            median=median,
            p90=p90,
            p99=p99,
            max=float(kl.max()),
            same_top=mean(top, clusters, (0.0, 1.0)),
            worst=self._worst(ids, kl),
        )

    def _worst(self, ids: Sequence[str], kl: Array) -> tuple[WorstDoc, ...]:
        totals, counts = np.bincount(self.docs, kl, len(ids)), np.bincount(self.docs, minlength=len(ids))
        means = totals / np.maximum(counts, 1)
        order = sorted(np.flatnonzero(means).tolist(), key=lambda doc: (-means[doc], doc))
        return tuple(WorstDoc(id=ids[doc], mean=float(means[doc]), positions=int(counts[doc])) for doc in order[:WORST])

    def perplexity(self) -> Perplexity:
        """Of the scored tokens; the interval of the ratio is that of the mean difference of log-probabilities."""
        p, q = np.array(self.logprobs).T
        log_ratio = mean(p - q, [self.clusters[doc] for doc in self.token_docs], (-math.inf, math.inf))
        ratio = Mean(value=math.exp(log_ratio.value), ci95=log_ratio.ci95 and (math.exp(log_ratio.ci95[0]), math.exp(log_ratio.ci95[1])))
        return Perplexity(tokens=len(p), reference=math.exp(-_mean(p)), copy=math.exp(-_mean(q)), ratio=ratio)


def log_softmax(logits: Array) -> Array:
    """Log-probabilities [V]."""
    shifted = logits - logits.max()
    return shifted - math.log(np.exp(shifted).sum())


def mean(values: Array, clusters: Sequence[str], scale: tuple[float, float]) -> Mean:
    """The mean with its interval: t over the clusters; Wilson's for a share that is the same in all of them."""
    value = _mean(values)
    stderr, count = clustered_stderr(((values - value) / len(values)).tolist(), clusters)
    if count < 2:
        return Mean(value=value, ci95=None)
    if scale == (0.0, 1.0) and not stderr:
        return Mean(value=value, ci95=wilson(value, count))
    return Mean(value=value, ci95=t_interval(value, stderr, count, scale))


def _mean(values: Array) -> float:
    return math.fsum(values) / len(values)


def _finite(logits: "NDArray[np.float32]", which: str) -> Array:
    if not np.isfinite(logits).all():
        raise EvalkitError(f"the {which} gives logits that are not finite; use float32 (SPEC,dtype=float32), or check the checkpoint")
    return logits.astype(np.float64)
