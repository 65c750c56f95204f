"""`evalkit gate BASE CAND`: may the candidate replace the base? A non-inferiority test with a margin, and an exit code for each outcome.

Decided in this order, for each task:

FAIL 1: the drop is at least the margin and real (one-sided p below 5%, Holm-adjusted over the tasks: no more than 5% of gates fail by
chance, for any number of tasks). PASS 0 if all answers are the same. CANNOT DETECT 2: the margin is below the detectable effect, which
depends on the base alone (docs/statistics.md). PASS 0: the one-sided 95% lower bound is above -margin (all tasks must pass, so none is
adjusted). INCONCLUSIVE 3: none of these. Runs that are not comparable: EvalkitError, 2, before anything is decided.
"""

import json
import math
from pathlib import Path

from scipy import stats

from evalkit.comparison import gate_output
from evalkit.comparison.ci import CI, annotate, junit, problem_junit
from evalkit.comparison.compare import compare, one_line
from evalkit.comparison.gate_config import GateConfig
from evalkit.comparison.gate_outcome import EXIT, Case, Gate, GateOutcome
from evalkit.comparison.gate_published import published_cases
from evalkit.errors import EvalkitError
from evalkit.files import require_file, write_output
from evalkit.report.render.markdown import md
from evalkit.stats.paired import ALPHA, POWER, Difference, holm


def gate_runs(config: GateConfig) -> int:
    """Decide, print the table and write the files. Returns 0, 1 or 3.

    Raises EvalkitError (2) where the runs are not comparable and, after the table, where a margin cannot be detected.
    """
    ci = CI.from_environment(config.summary)
    for option, file in (("--junit", config.junit), ("--json", config.json), ("--summary", ci.summary)):
        if file:
            require_file(Path(file), option)
    try:
        gate = decide(config)
    except EvalkitError as error:
        problem = " ".join(str(error).split())
        if config.junit:
            write_output(Path(config.junit), problem_junit(problem))
        if config.json:
            write_output(Path(config.json), json.dumps(gate_output.refused_json(problem, error.exit_code), indent=2) + "\n")
        if ci.summary:
            write_output(Path(ci.summary), f"## evalkit gate: not comparable\n\n{md(one_line(problem, 1_000))}\n", append=True)
        annotate(ci, "error", "evalkit gate: not comparable", problem)
        raise
    gate_output.show(gate)
    if config.junit:
        write_output(Path(config.junit), junit([(o.task, o.word, gate_output.text(o)) for o in gate.outcomes]))
    if config.json:
        write_output(Path(config.json), json.dumps(gate_output.as_json(gate), indent=2) + "\n")
    if ci.summary:
        write_output(Path(ci.summary), gate_output.to_markdown(gate), append=True)
    for outcome in gate.outcomes:
        if outcome.word != "pass":
            level = "warning" if outcome.word == "inconclusive" else "error"
            annotate(ci, level, f"evalkit gate: {outcome.task}: {outcome.word}", gate_output.text(outcome))
    if gate.word == "cannot detect":
        raise EvalkitError(next(o.reason for o in gate.outcomes if o.word == gate.word))
    return EXIT[gate.word]


def decide(config: GateConfig) -> Gate:
    """Read, pair, test and decide. Raises EvalkitError where the runs are not comparable."""
    notes: tuple[str, ...] = ()
    if config.against is not None:
        base, cand, cases, notes = published_cases(config)
    else:
        found = compare(config.runs[0], config.runs[1], config.tasks, config.metric, config.cluster)
        base, cand = (f"{run.model} ({run.path})" for run in (found.base, found.cand))
        notes = found.notes
        cases = [Case((t.pairs.task, t.pairs.protocol), t.difference, t.pairs.identical) for t in found.tasks]
    config.margins.require_known(tuple(dict.fromkeys(name for case in cases for name in case.names)))
    adjusted = holm([case.difference.p_drop for case in cases])
    outcomes = (
        decide_case(case, p, config.margins.of(case.names), config.allow_small_margin) for case, p in zip(cases, adjusted, strict=True)
    )
    return Gate(base, cand, config.margins, tuple(outcomes), notes)


def decide_case(case: Case, p_drop: float, margin: float, allow_small_margin: bool = False) -> GateOutcome:
    """One task's outcome; `p_drop` is already adjusted for the number of tasks."""
    d, task = case.difference, case.names[-1]

    def outcome(word: str, reason: str, needed: int | None = None) -> GateOutcome:
        return GateOutcome(task, word, reason, margin, d, p_drop, needed)

    if p_drop < ALPHA and d.gain <= -margin:
        return outcome("fail", "a real drop, at least the margin")
    if case.identical:
        return outcome("pass", f"all {d.n:,} answers are the same")
    if margin < d.mde and not allow_small_margin:
        needed = documents_needed(d.n, d.expected_stderr, margin, margin)
        enough = math.ceil(1000 * d.mde) / 1000
        reason = (
            f"margin {margin:g} is below what {one_line(task)}'s {d.n:,} documents can detect, {d.mde:.4f}: "
            f"it takes about {needed:,} documents; run more, give --margin {enough:g}, or pass --allow-small-margin"
        )
        return outcome("cannot detect", reason, needed)
    if d.least_gain > -margin:
        return outcome("pass", "a drop of the margin is excluded")
    needed = documents_to_decide(d, margin)
    if p_drop < ALPHA:
        reason = "a real drop, which may be smaller or larger than the margin"
    else:
        reason = "neither a drop nor its absence is shown"
    return outcome("inconclusive", f"{reason}; about {needed:,} documents would decide", needed)


def documents_to_decide(d: Difference, margin: float) -> int:
    """How many documents would distinguish this difference from the margin, or detect the margin where these do not yet."""
    distance = margin
    if d.mde <= margin:
        distance = max(d.gain + margin if d.gain > -margin else -d.gain, margin / 10)
    return documents_needed(d.n, d.stderr, distance, margin)


def documents_needed(n: int, stderr: float, distance: float, margin: float) -> int:
    """How many documents detect a drop of `distance`, if n of them have this standard error; more than n in any case."""
    z, power = (float(stats.norm.ppf(q)) for q in (1 - ALPHA, POWER))
    unseen = math.ceil(z * z * (1 - margin) / margin)  # needed even without any flip
    return max(math.ceil(n * ((z + power) * stderr / distance) ** 2), unseen, n + 1)
