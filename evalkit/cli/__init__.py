"""The command line. Names and exit codes are a contract.

0  fine
1  a gate failed (gate), or an answer depends on its batch (verify): no exception ends with 1
2  wrong use, bad input or not comparable
3  an inconclusive gate
4  the run ended incomplete; what is done is kept
5  a fault of evalkit's own; one line names the file that holds the traceback

A file here is a command: `add` puts it into the parser, a function runs it. Heavy imports happen inside that function:
`evalkit --help` answers at once.
"""

import argparse
import errno
import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, NoReturn, TextIO

from evalkit import __version__
from evalkit.errors import EvalkitError, keeping_traceback, printable

EXAMPLES = "examples:"


class _Help(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Examples stay a line each."""
        return text if text.startswith(EXAMPLES) else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    def __init__(self, examples: Sequence[str] = (), **settings: Any):
        """No option may be abbreviated: a script with --task would mean another option once there is one."""
        epilog = "\n  ".join([EXAMPLES, *examples]) if examples else None
        super().__init__(allow_abbrev=False, epilog=epilog, formatter_class=_Help, **settings)

    def error(self, message: str) -> NoReturn:
        """One line, as for all other bad input."""
        _say(f"{message}; see {self.prog} --help")
        raise SystemExit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Raises OSError, on a full disk for one, where argparse says nothing and ends with 0."""
        stream = file or sys.stderr
        stream.write(message)
        stream.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Without one, print the help."""
    argv = sys.argv[1:] if argv is None else argv
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a letter that the terminal's encoding lacks is printed as "?"
            stream.reconfigure(errors="replace")
    try:
        with keeping_traceback():
            return _run(argv or ["help"])
    except EvalkitError as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted; what was written before is unchanged")
        return 4
    finally:
        for stream in (sys.stdout, sys.stderr):
            _release(stream)


def _run(argv: Sequence[str]) -> int:
    try:
        code = _command(_parser().parse_args(argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `evalkit ls tasks | head`
        if _is_read(sys.stdout):  # another pipe has broken
            raise
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        raise EvalkitError("the disk that the output is written to is full; free some space and run the same command again") from None


def _command(arguments: argparse.Namespace) -> int:
    from evalkit.cli.output import standard_output

    try:
        with standard_output(arguments):
            return int(arguments.command(arguments) or 0)
    except SystemExit as error:  # argparse is done by now, so this comes from a library
        raise RuntimeError(f"a library called sys.exit({error.code!r})") from error


def _open_closed_streams() -> None:
    """Python gives None for a stream that was closed when it started (`evalkit .. >&-`, some cron daemons): what it prints is discarded."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _say(message: str) -> None:
    with suppress(OSError):  # the other end of its pipe is closed
        print(f"evalkit: {printable(' '.join(message.split()))}", file=sys.stderr)


def _is_read(stream: TextIO) -> bool:
    """Is the other end of the pipe still open?"""
    poll = select.poll()
    poll.register(stream, 0)  # errors are always reported
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _release(stream: TextIO) -> None:
    """Flush the stream. If that fails, discard its buffer: the interpreter would try again at exit and change the exit code."""
    try:
        stream.flush()
    except ValueError:  # code of the user's own has closed it
        return
    except OSError:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    from evalkit.cli import (
        audit,
        bench,
        compare,
        completion,
        correct,
        data,
        export,
        fidelity,
        gate,
        generate,
        help,
        judge,
        ls,
        merge,
        params,
        quantize,
        report,
        reproduce,
        run,
        score,
        serve,
        upcycle,
        verify,
        view,
    )

    parser = _Parser(prog="evalkit", description="Check whether a language model scores what its published table says.")
    parser.add_argument("--version", action="version", version=f"evalkit {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    results = (run, merge, reproduce, score, judge, correct, ls, data, report, params, compare, gate, audit, view, export)
    models = (verify, fidelity, bench, generate, upcycle, quantize, serve)
    for command in (*results, *models, completion):
        command.add(commands)
    help.add(commands, parser)
    return parser
