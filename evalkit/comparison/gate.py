"""`evalkit gate BASE CAND`: may the candidate replace the base? A non-inferiority test with a margin, and an exit code for each outcome.

gate_rule.py decides each task. Runs that are not comparable: EvalkitError, 2, before anything is decided.
"""

import json
from pathlib import Path

from evalkit.comparison import bundle, gate_comment, gate_output
from evalkit.comparison.ci import CI, annotate, junit, problem_junit
from evalkit.comparison.compare import compare, one_line
from evalkit.comparison.gate_config import GateConfig
from evalkit.comparison.gate_outcome import EXIT, Case, Check, Gate
from evalkit.comparison.gate_policy import decide_by_policy
from evalkit.comparison.gate_published import published_cases
from evalkit.comparison.gate_rule import decide_all
from evalkit.comparison.gate_sequential import decide_in_turn
from evalkit.comparison.rules import rules_of
from evalkit.errors import EvalkitError, RunIncomplete, Undecided
from evalkit.files import require_file, write_output
from evalkit.report.render.markdown import md
from evalkit.table import Present, on_screen

UNDECIDED = {EvalkitError.exit_code: "not comparable", Undecided.exit_code: "inconclusive", RunIncomplete.exit_code: "incomplete"}


def gate_runs(config: GateConfig, present: Present = on_screen) -> int:
    """Decide, present the table and write the files. Returns 0, 1 or 3.

    Raises EvalkitError (2) where the runs are not comparable and, after the table, where a margin cannot be detected.
    """
    ci = CI.from_environment(config.summary)
    files = {"junit": config.junit, "json": config.json, "summary": ci.summary, "comment": config.comment, "bundle": config.bundle}
    for name, file in files.items():
        if file:
            require_file(Path(file), f"--{name}")
    try:
        asked = bundle.policy_of(config) if config.bundle else None
        gate = decide(config)
    except EvalkitError as error:
        problem, word = " ".join(str(error).split()), UNDECIDED.get(error.exit_code, "not comparable")
        if config.junit:
            write_output(Path(config.junit), problem_junit(problem))
        refused = gate_output.refused_json(word, problem, error.exit_code)
        present(lambda: refused, lambda: None)
        if config.json:
            write_output(Path(config.json), json.dumps(refused, indent=2) + "\n")
        if config.comment:
            write_output(Path(config.comment), gate_comment.refused_comment(word, problem))
        if ci.summary:
            write_output(Path(ci.summary), f"## evalkit gate: {word}\n\n{md(one_line(problem, 1_000))}\n", append=True)
        annotate(ci, "error", f"evalkit gate: {word}", problem)
        raise
    document = gate_output.as_json(gate)
    present(lambda: document, lambda: gate_output.show(gate))
    if config.junit:
        write_output(Path(config.junit), junit([gate_output.test_case(each) for each in gate.all]))
    if config.json:
        write_output(Path(config.json), json.dumps(document, indent=2) + "\n")
    if config.comment:
        write_output(Path(config.comment), gate_comment.comment(config, gate))
    if config.bundle and asked:
        write_output(Path(config.bundle), bundle.packed(asked, document, gate.policy))
    if ci.summary:
        write_output(Path(ci.summary), gate_output.to_markdown(gate), append=True)
    for each in gate.all:
        if each.word != "pass":
            level = "warning" if each.word == "inconclusive" or each.tier == "warning" else "error"
            annotate(ci, level, f"evalkit gate: {each.name}: {each.word}", gate_output.text(each))
    require_detectable(gate)
    return EXIT[gate.word]


def require_detectable(gate: Gate) -> None:
    """Raises EvalkitError for a gate whose outcome is that its documents can't detect a margin: it was asked for too much."""
    if gate.word == "cannot detect":
        first = next(each for each in gate.all if (each.tier, each.word) == ("blocking", gate.word))
        raise EvalkitError(f"{first.name}: {first.reason}" if isinstance(first, Check) else first.reason)


def decide(config: GateConfig) -> Gate:
    """Read, pair, test and decide. Raises EvalkitError where the runs are not comparable."""
    if config.sequential:
        return decide_in_turn(config)
    if config.policy:
        return decide_by_policy(config)
    notes: tuple[str, ...] = ()
    if config.against is not None:
        base, cand, cases, notes = published_cases(config)
    else:
        found = compare(config.runs[0], config.runs[1], config.tasks, config.metric, config.cluster)
        base, cand = (f"{run.model} ({run.path})" for run in (found.base, found.cand))
        notes = found.notes
        cases = [Case((t.pairs.task, t.pairs.protocol), t.difference, t.pairs.identical) for t in found.tasks]
    config.margins.require_known(tuple(dict.fromkeys(name for case in cases for name in case.names)))
    rules = rules_of(config)
    return Gate(base, cand, config.margins, decide_all([(case, rules.of(case.names)) for case in cases]), notes)
