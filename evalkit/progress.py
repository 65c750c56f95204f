"""Screens and progress: on a terminal a bar with rate, time left and running score; in a pipe or log a line now and then.

Colours go where the terminal shows them and NO_COLOR does not forbid them (rich sees to both).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from evalkit.errors import printable

LINE_EVERY = 30.0  # seconds between lines in a log
PIPE_WIDTH = 160  # characters: no figure is cut in a pipe


class _Console(Console):
    """Shows every text as it is: names of models, files and tasks hold brackets, colons and control characters."""

    def __init__(self, **settings: Any):
        super().__init__(markup=False, highlight=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Every string comes through here, cells and titles of tables too."""
        return super().render_str(printable(text), **settings)


class _Output(_Console):
    def on_broken_pipe(self) -> None:
        """Leave the error to the command line: rich would end the process with 1."""
        raise


class _Errors(_Console):
    def on_broken_pipe(self) -> None:
        """Standard error is closed: continue without output."""
        self.quiet = True


def console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for every table in a pipe."""
    found = _Output()
    return found if found.is_terminal else _Output(width=PIPE_WIDTH)


class Advance(Protocol):
    """Called with the steps done so far, and what may be said of them (the running score)."""

    def __call__(self, now: int, note: str = "") -> None: ...


def rate_text(per_second: float) -> str:
    """Steps per second, or per minute where they take longer than 10 s each."""
    return f"{per_second:.1f}/s" if per_second >= 0.1 else f"{60 * per_second:.1f}/min"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(rate_text(task.speed) if task.speed else "-", style="progress.data.speed")


class Reporter:
    """Where a run tells how far it is. `console` writes to stderr: standard output stays for the result."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.console = _Errors(stderr=True, quiet=quiet)

    def say(self, text: str) -> None:
        """One plain line."""
        self.console.print(text, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0, counted: bool = True) -> Iterator[Advance]:
        """A bar for `total` steps of which `done` were done before; the rate counts only the new ones."""
        if self.console.is_interactive and not self.console.is_dumb_terminal and not self.quiet:
            with self._live(label, total, done, counted) as advance:
                yield advance
            return
        started = last = time.monotonic()

        def line(now: int, note: str = "") -> None:
            nonlocal last
            clock = time.monotonic()
            if clock - last >= LINE_EVERY:
                last = clock
                rate = (now - done) / (clock - started)
                left = f", {duration((total - now) / rate)} left" if rate else ""
                self.say(f"{label}: {now:,} of {total:,}, {rate_text(rate)}{left}" + (f", {note}" if note else ""))

        yield line

    @contextmanager
    def _live(self, label: str, total: int, done: int, counted: bool) -> Iterator[Advance]:
        columns = [
            TextColumn("{task.description:<18}", markup=False),
            BarColumn(bar_width=24),
            *([MofNCompleteColumn(), _Rate()] if counted else []),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        ]
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(label, total=total, completed=done, note="")
            yield lambda now, note="": progress.update(task, completed=now, note=note)


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
