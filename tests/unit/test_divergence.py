"""KL divergence over a vocabulary, against scipy's and llama.cpp's figures; padding, intervals, what is refused."""

import math

import numpy as np
import pytest
from llama_cpp_kl import llama_cpp_kl
from scipy import special, stats

from evalkit.errors import EvalkitError
from evalkit.fidelity.divergence import Positions, log_softmax
from evalkit.lm.distributions import NextToken, TokenRequest

VOCAB = 5_000


def logits(seed, spread=3.0, size=VOCAB):
    return (spread * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def near(values, seed, noise):
    return (values + noise * np.random.default_rng(seed).standard_normal(len(values))).astype(np.float32)


def token(values):
    return NextToken(values, special.logsumexp(values.astype(float)))


def positions(pairs, docs=None, clusters=None, scored=(0,)):
    docs = docs or [0] * len(pairs)
    found = Positions(clusters or [f"d{i}" for i in range(max(docs) + 1)])
    for doc, (p, q) in zip(docs, pairs, strict=True):
        found.add(doc, token(p), token(q), list(scored))
    return found


def test_the_divergence_is_that_of_the_whole_distributions():
    p, q = logits(0), near(logits(0), 1, 0.3)
    exact = special.rel_entr(special.softmax(p.astype(float)), special.softmax(q.astype(float))).sum()
    found = positions([(p, q)]).kl[0]
    assert found == pytest.approx(exact, rel=1e-12)
    assert found != pytest.approx(positions([(q, p)]).kl[0], rel=1e-3)  # it has a direction


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.5])  # from a Q8_0 copy's divergence to a 2-bit one's
def test_it_agrees_with_llama_cpp(noise):
    pairs = [(p := logits(seed), near(p, 100 + seed, noise)) for seed in range(40)]
    theirs = [llama_cpp_kl(p, q) for p, q in pairs]
    assert positions(pairs).divergence(["d0"]).mean.value == pytest.approx(np.mean(theirs), rel=0.02)


def test_llama_cpps_figure_is_not_the_same_arithmetic():
    """The test above can fail: a reference in 16 bits does not give 0 for identical distributions, ours does."""
    p = logits(3)
    assert llama_cpp_kl(p, p) != 0
    assert positions([(p, p.copy())]).kl == [0.0]


def test_identical_logits_have_no_divergence_at_all():
    found = positions([(p := logits(seed), p.copy()) for seed in range(5)])
    divergence, perplexity = found.divergence(["d0"]), found.perplexity()
    assert (divergence.mean.value, divergence.max, divergence.same_top.value) == (0.0, 0.0, 1.0)
    assert perplexity.ratio.value == 1.0
    assert divergence.worst == ()


def test_a_shift_of_all_logits_is_no_divergence_and_never_a_negative_one():
    found = positions([(p := logits(seed), p + np.float32(0.37)) for seed in range(50)])
    assert min(found.kl) >= 0
    assert max(found.kl) < 1e-12  # what float32 rounds of the shift


def test_quantiles_mean_and_top():
    pairs = [(p := logits(seed), near(p, 50 + seed, 0.01 * seed)) for seed in range(21)]
    found = positions(pairs)
    divergence = found.divergence(["d0"])
    assert divergence.positions == 21
    assert divergence.mean.value == pytest.approx(np.mean(found.kl))
    assert (divergence.median, divergence.max) == (sorted(found.kl)[10], max(found.kl))
    assert divergence.p90 == pytest.approx(sorted(found.kl)[18])
    assert divergence.same_top.value == pytest.approx(np.mean([p.argmax() == q.argmax() for p, q in pairs]))


def test_the_interval_is_clustered_by_document():
    docs = [doc for doc in range(8) for _ in range(1 + doc)]
    pairs = [(p := logits(i), near(p, 500 + i, 0.05 + 0.2 * (doc % 3))) for i, doc in enumerate(docs)]
    found = positions(pairs, docs)
    divergence = found.divergence([f"d{i}" for i in range(8)])
    kl, mean = np.array(found.kl), np.mean(found.kl)
    sums = np.array([(kl[np.array(docs) == doc] - mean).sum() / len(kl) for doc in range(8)])
    half = stats.t.ppf(0.975, 7) * math.sqrt(8 / 7 * (sums**2).sum())
    assert divergence.mean.ci95 == pytest.approx((max(0, mean - half), mean + half))
    assert divergence.clusters == 8
    # a passage that documents share is one cluster
    shared = positions(pairs, docs, clusters=["a", "a", "b", "b", "c", "c", "d", "d"])
    assert shared.divergence([f"d{i}" for i in range(8)]).clusters == 4
    assert positions(pairs).divergence(["d0"]).mean.ci95 is None  # one document tells no spread


def test_a_share_that_never_varies_still_has_an_interval():
    found = positions([(p := logits(i), p) for i in range(10)], docs=list(range(10)))
    low, high = found.divergence([f"d{i}" for i in range(10)]).same_top.ci95
    assert (low, high) == pytest.approx((0.7225, 1.0), abs=1e-4)  # Wilson's, of ten documents


def test_perplexity_of_the_scored_tokens():
    pairs = [(p := logits(i), near(p, 9 + i, 0.2)) for i in range(6)]
    found = positions(pairs, docs=[0, 0, 1, 1, 2, 2], scored=(3, 17)).perplexity()
    log_p = np.array([[log_softmax(p.astype(float))[t] for t in (3, 17)] for p, _ in pairs])
    log_q = np.array([[log_softmax(q.astype(float))[t] for t in (3, 17)] for _, q in pairs])
    assert found.tokens == 12
    assert found.reference == pytest.approx(math.exp(-log_p.mean()))
    assert found.ratio.value == pytest.approx(math.exp(log_p.mean() - log_q.mean()))
    assert found.ratio.value == pytest.approx(found.copy / found.reference)
    assert found.ratio.ci95[0] < found.ratio.value < found.ratio.ci95[1]


def test_rows_of_padding_are_left_out_and_told():
    p, q = logits(0), near(logits(0), 1, 0.1)
    wide = np.concatenate([q, np.full(7, q.min() - 20, np.float32)])
    found = positions([(p, wide)])
    assert found.kl[0] == pytest.approx(positions([(p, q)]).kl[0], rel=1e-9)
    assert (found.padding.reference_rows, found.padding.copy_rows) == (VOCAB, VOCAB + 7)
    assert 0 < found.padding.largest_mass < 1e-8
    assert positions([(wide, p)]).padding.reference_rows == VOCAB + 7


def test_rows_that_have_probability_are_no_padding():
    p = logits(0)
    with pytest.raises(EvalkitError, match=r"5000 and 5001 rows.*they are no padding; compare copies of one model"):
        positions([(p, np.append(p, p.max()))])
    with pytest.raises(EvalkitError, match="token 4999 of the answers has no row in a vocabulary of 4998"):
        positions([(p, p[:-2] + np.float32(30))], scored=(4999,))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["reference", "copy"])
def test_a_logit_that_is_not_finite_is_refused(wrong, which):
    p, q = logits(0), logits(0)
    (p if which == "reference" else q)[7] = wrong
    with pytest.raises(EvalkitError, match=f"the {which} gives logits that are not finite; use float32"):
        positions([(p, q)])


def test_each_position_is_scored_once():
    request = TokenRequest((1, 2), ((5, 6, 7), (5, 8), (9,)))
    assert request.scored == {(): [(0, 5), (1, 5), (2, 9)], (5,): [(0, 6), (1, 8)], (5, 6): [(0, 7)]}
    assert request.num_tokens == 8
