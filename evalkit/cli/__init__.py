"""The command line. Names and exit codes are a contract: 0 fine, 1 a gate failed, 2 wrong use, bad input or not comparable,
3 an inconclusive gate, 4 the run ended incomplete.

A file here holds related commands: `add` puts them into the parser, a function each runs one. Heavy imports happen inside
those functions: `evalkit --help` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from evalkit import __version__
from evalkit.cli import bench, compare, data, gate, generate, judge, ls, params, report, run, score, serve, upcycle, verify, view
from evalkit.errors import EvalkitError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for all other bad input."""
        print(f"evalkit: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.command(arguments) or 0)
    except EvalkitError as error:
        print(f"evalkit: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("evalkit: interrupted before the run began; nothing was lost", file=sys.stderr)
        return 4
    except BrokenPipeError:  # `evalkit ls tasks | head`
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="evalkit", description="Does this model really score what its table says?")
    parser.add_argument("--version", action="version", version=f"evalkit {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for command in (run, score, judge, ls, data, report, params, compare, gate, view, verify, bench, generate, upcycle, serve):
        command.add(commands)
    return parser
