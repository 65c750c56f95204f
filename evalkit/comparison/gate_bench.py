"""Throughput and memory under a policy: two records of `evalkit bench BASE CAND --repeats N`, repeat by repeat.

One timing says little on a shared machine, so each repeat times both models one after the other, and what is decided on is the median over
the repeats of the candidate's loss beside the base. The words are the gate's: fail, where the median loss is at least the bound and a
loss is real (sign test, Holm-adjusted over the bounds of a tier); pass, where a loss of the bound is excluded; else inconclusive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from evalkit.bench.record import BenchRecord, bench_file, read_bench
from evalkit.comparison.gate_config import GateConfig
from evalkit.comparison.gate_outcome import Check
from evalkit.comparison.policy import TIERS, Limit, Policy
from evalkit.config import DEMO_MODEL
from evalkit.errors import EvalkitError
from evalkit.record.read import is_ours, read_run
from evalkit.record.schema import ModelInfo
from evalkit.stats.median import p_positive, repeats_needed, upper_of_median
from evalkit.stats.paired import ALPHA, holm

ALIKE = ("engine", "device", "prompt_tokens", "output_tokens", "num_requests", "seed")
ROUNDING = 1e-9  # of a share
AGAIN = "time both in one command: evalkit bench BASE CAND --repeats {}"


@dataclass(frozen=True, slots=True)
class _Losses:
    """By how much the candidate is worse, as a share of the base, repeat by repeat; and both medians in words."""

    name: str
    limit: Limit
    values: Sequence[float]
    words: str


def bench_checks(config: GateConfig, policy: Policy) -> tuple[list[Check], list[str]]:
    """What the policy's [throughput] and [memory] say of the records of --bench, and notes on what was left out.

    Raises EvalkitError for records that are not comparable.
    """
    limits = {name: limit for name, limit in (("throughput", policy.throughput), ("memory", policy.memory)) if limit}
    if not limits:
        if config.bench:
            raise EvalkitError(f"--bench has no effect: {policy.path} has neither [throughput] nor [memory]; add one, or leave it out")
        return [], []
    if not config.bench:
        return _missing(limits, policy)
    base, cand = (read_bench(bench_file(path)) for path in config.bench)
    _require_alike(config, base, cand)
    losses = [_throughput(base, cand, limit) if name == "throughput" else _memory(base, cand, limit) for name, limit in limits.items()]
    return [check for tier in TIERS for check in _decided([each for each in losses if each.limit.tier == tier])], []


def _decided(family: Sequence[_Losses]) -> list[Check]:
    alphas = [each.limit.alpha or ALPHA for each in family]
    adjusted = holm([p_positive(each.values) for each in family], alphas)
    checks = []
    for each, p, alpha in zip(family, adjusted, alphas, strict=True):
        middle, upper, n = median(each.values), upper_of_median(each.values, alpha), len(each.values)
        needed = repeats_needed(alpha, len(family))
        found = f"{each.words}: {middle:+.1%} (median of {n}, at most {upper:+.1%}), where {each.limit.bound:.1%} are allowed"
        if n < needed:
            word, found = "cannot detect", f"{n} repeats cannot show a loss at {alpha:g}, it takes {needed}; {AGAIN.format(needed)}"
        elif p < alpha and middle >= each.limit.bound - ROUNDING:
            word = "fail"
        else:
            word = "pass" if upper < each.limit.bound - ROUNDING else "inconclusive"
        checks.append(Check(each.name, word, found, each.limit.tier))
    return checks


def _missing(limits: Mapping[str, Limit], policy: Policy) -> tuple[list[Check], list[str]]:
    checks, notes = [], []
    for name, limit in limits.items():
        reason = f"the policy has [{name}], and no records are given; give --bench BASE CAND, of evalkit bench"
        if limit.missing == "error":
            raise EvalkitError(f"{policy.path}: {reason}")
        if limit.missing == "ignore":
            notes.append(f'{reason}: not gated, as missing = "ignore" says')
        else:
            checks.append(Check(name, "fail", reason, limit.tier))
    return checks, notes


def _require_alike(config: GateConfig, base: BenchRecord, cand: BenchRecord) -> None:
    """Raises EvalkitError where the two records say nothing of each other, or are not of the models that are gated."""
    for name in ALIKE:
        one, other = getattr(base, name), getattr(cand, name)
        if one != other:
            raise EvalkitError(f"not comparable: {name} of --bench differs (BASE {one}, CAND {other}); {AGAIN.format('N')}")
    if base.short_answers != cand.short_answers:
        counts = f"{base.short_answers:,} of BASE's and {cand.short_answers:,} of CAND's"
        raise EvalkitError(f"not comparable: {counts} answers in --bench ended early, which is less work; time engines with ignore_eos")
    if len(base.timings) != len(cand.timings) or not base.timings:
        counts = f"{len(base.timings)} and {len(cand.timings)}"
        raise EvalkitError(f"not comparable: --bench has {counts} timings, and each repeat needs one of either; {AGAIN.format('N')}")
    turns = [(*one.span, *other.span) for one, other in zip(base.timings, cand.timings, strict=True)]
    if any(max(turn) > min(after) for turn, after in pairwise(turns)):
        raise EvalkitError(f"not comparable: the timings of --bench did not take turns; {AGAIN.format('N')}")
    for run, record, path in zip(config.runs, (base, cand), config.bench, strict=False):
        if is_ours(run):
            _require_same_model(record, path, read_run(run).model, run)
    if config.sequential and config.sequential.run is not None:
        _require_asked(cand, config.bench[1], config.sequential.run)


def _require_asked(record: BenchRecord, path: str, candidate: Mapping[str, Any]) -> None:
    """Raises EvalkitError where the record timed another model than the candidate that is still to run, by what is asked of that one."""
    timed = {"model": record.model.spec, "engine": record.engine, "dtype": record.dtype}
    asked = {"model": DEMO_MODEL, "engine": "native", "dtype": "auto"} | {name: candidate[name] for name in timed if name in candidate}
    for name, wanted in asked.items():
        if wanted not in (timed[name], "auto"):
            raise EvalkitError(
                f"not comparable: {path} was timed with --{name} {timed[name]}, and the candidate has {wanted}; time that one"
            )


def _require_same_model(record: BenchRecord, path: str, model: ModelInfo, run: str) -> None:
    """Raises EvalkitError where the record timed other weights than the run's, or had them computed in another way."""
    timed = record.model
    is_same = timed.weights is not None and model.weights is not None and timed.weights.sha256 == model.weights.sha256
    if timed.fingerprint != model.fingerprint and not is_same:
        raise EvalkitError(f"not comparable: {path} timed {timed.spec}, and {run} has other weights ({model.fingerprint:.20}..)")
    # without their arguments: a server's address is not the model's. A replayed run does not say what first computed it
    engine, computed = (each.engine.partition(":")[0] for each in (record, model))
    for name, one, other in (("engine", engine, computed), ("dtype", record.dtype, model.dtype)):
        if one != other and not (name == "engine" and other == "replay"):
            raise EvalkitError(f"not comparable: {path} was timed with {name} {one}, and {run} has {other}; time it as the run was made")


def _throughput(base: BenchRecord, cand: BenchRecord, limit: Limit) -> _Losses:
    """The same requests take base / cand of the time, so that share of the requests is answered in it."""
    values = [1 - one.seconds / other.seconds for one, other in zip(base.timings, cand.timings, strict=True)]
    words = f"{cand.requests_per_second:.3g} requests/s, {base.requests_per_second:.3g} in the base; lost"
    return _Losses("throughput", limit, values, words)


def _memory(base: BenchRecord, cand: BenchRecord, limit: Limit) -> _Losses:
    before, after = ([timing.peak_memory for timing in record.timings if timing.peak_memory] for record in (base, cand))
    if len(before) < len(base.timings) or len(after) < len(cand.timings):
        raise EvalkitError("not comparable: --bench has no peak memory (of a server, or of a system that does not count it); drop [memory]")
    values = [other / one - 1 for one, other in zip(before, after, strict=True)]
    return _Losses("memory", limit, values, f"{median(after) / 1e9:.3g} GB at most, {median(before) / 1e9:.3g} in the base; more")
