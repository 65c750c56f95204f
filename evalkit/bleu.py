"""Corpus BLEU as a statistic over sentences: each sentence is counted once, a resample only adds counts (sacrebleu's arithmetic)."""

from collections.abc import Sequence

import numpy as np

from evalkit.errors import EvalkitError
from evalkit.paired import Array

ORDERS = 4


def sentence_counts(pairs: Sequence[tuple[Sequence[str], str]]) -> Array:
    """(references, hypothesis) pairs -> a row each: matched and total n-grams of orders 1 to 4, hypothesis and reference length."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise EvalkitError("BLEU needs sacrebleu; pip install sacrebleu") from None
    bleu = BLEU(effective_order=True)  # counts don't depend on it; without it sacrebleu warns at every sentence
    scores = (bleu.sentence_score(hypothesis, list(references)) for references, hypothesis in pairs)
    return np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], float)


def corpus_bleu(counts: Array) -> float:
    """BLEU in 0..1 (1 point is 0.01) of these sentences together, smoothed as sacrebleu's corpus_bleu."""
    from sacrebleu.metrics import BLEU

    total = counts.sum(0).astype(int).tolist()
    matched, totals, (sys_len, ref_len) = total[:ORDERS], total[ORDERS : 2 * ORDERS], total[2 * ORDERS :]
    return float(BLEU.compute_bleu(matched, totals, sys_len, ref_len, smooth_method="exp").score) / 100
