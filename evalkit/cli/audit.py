"""`evalkit audit`."""

import argparse
from pathlib import Path

from evalkit.cli.output import add_json, present


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    audit = commands.add_parser(
        "audit",
        help="check a gate's bundle: no byte has changed, and its samples give its decision; no model is needed",
        description="Check a bundle of evalkit gate --bundle. Exit code 0: it is as it was written, and its samples give the decision "
        "that it states, whatever that is; else 2.",
        examples=("evalkit audit gate.bundle",),
    )
    audit.add_argument("file", metavar="FILE", type=Path, help="a file that evalkit gate --bundle wrote")
    add_json(audit, "the gate, decided again,")
    audit.set_defaults(command=_audit)


def _audit(arguments: argparse.Namespace) -> None:
    from evalkit.comparison import gate_output
    from evalkit.comparison.audit import audit
    from evalkit.comparison.compare import one_line

    gate, lines = audit(arguments.file)
    lines += [f"{arguments.file}: as it was written, and its samples give this decision"]

    def show() -> None:
        gate_output.show(gate)
        for line in lines:
            print(one_line(line, 300))

    present(arguments, lambda: {**gate_output.as_json(gate), "audit": lines}, show)
