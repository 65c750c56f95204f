"""Screens and progress: on a terminal a bar with rate, time left and running score; in a pipe or log a line now and then.

Colours go where the terminal shows them and NO_COLOR does not forbid them (rich sees to both).
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from evalkit.errors import printable

LINE_EVERY = 30.0  # seconds between lines in a log
FIRST_LINE = 5.0  # seconds of silence after which something new is named
TICK = 0.5  # seconds
ENOUGH = 8  # steps, for a time left
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


@dataclass(slots=True)
class _Steps:
    """How far a bar is; `status` knows better than the rate how long it still takes."""

    label: str
    total: int
    done_before: int
    counted: bool
    status: object | None
    now: int
    note: str = ""
    started: float = field(default_factory=lambda: time.monotonic())

    @property
    def rate(self) -> str:
        """Of the new steps; "" before there are any."""
        seconds, new = time.monotonic() - self.started, self.now - self.done_before
        return rate_text(new / seconds) if new and seconds else ""

    @property
    def left(self) -> str:
        if self.status is not None:
            return str(self.status)
        seconds, new = time.monotonic() - self.started, self.now - self.done_before
        return f"{duration((self.total - self.now) / new * seconds)} left" if new >= ENOUGH else ""

    def __str__(self) -> str:
        if self.counted:
            parts = [f"{self.label}: {self.now:,} of {self.total:,}", self.rate, self.left, self.note]
            return ", ".join(filter(None, parts))
        share = f", {self.now / self.total:.0%}" if self.now else ""
        return f"{self.label}{share}, {duration(time.monotonic() - self.started)}"


class _Rate(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        return Text(task.fields["steps"].rate or "-", style="progress.data.speed")


class _Left(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        return Text(task.fields["steps"].left, style="progress.remaining")


class Reporter:
    """Where a run tells how far it is. `console` writes to stderr: standard output stays for the result."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.console = _Errors(stderr=True, quiet=quiet)
        self.said = time.monotonic()  # the time of the last line

    def say(self, text: str) -> None:
        """One plain line."""
        self.said = time.monotonic()
        self.console.print(text, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0, counted: bool = True, status: object | None = None) -> Iterator[Advance]:
        """A bar for `total` steps of which `done` were done before; the rate counts only the new ones.

        `str(status)` says how long it still takes, or what it is about, whenever it is asked, in another thread too.
        """
        steps = _Steps(label, total, done, counted, status, done)
        if self.quiet:
            yield lambda now, note="": None
        elif self.console.is_interactive and not self.console.is_dumb_terminal:
            with self._live(steps) as advance:
                yield advance
        else:
            with _Lines(self, steps) as advance:
                yield advance

    @contextmanager
    def _live(self, steps: _Steps) -> Iterator[Advance]:
        columns = [
            TextColumn("{task.description:<18}", markup=False),
            BarColumn(bar_width=24),
            *([MofNCompleteColumn(), _Rate()] if steps.counted else []),
            TimeElapsedColumn(),
            *([_Left()] if steps.counted else []),
            TextColumn("{task.fields[note]}", markup=False),
        ]
        with Progress(*columns, console=self.console, transient=not steps.counted) as progress:
            task = progress.add_task(steps.label, total=steps.total, completed=steps.now, note="", steps=steps)

            def advance(now: int, note: str = "") -> None:
                steps.now, steps.note = now, note
                progress.update(task, completed=now, note=note)

            yield advance


class _Lines:
    """A line now and then, also while no step is made: the first after FIRST_LINE seconds of silence, then every LINE_EVERY."""

    def __init__(self, reporter: Reporter, steps: _Steps):
        self.reporter, self.steps, self.silence = reporter, steps, FIRST_LINE
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Advance:
        self._thread.start()
        return self.advance

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def advance(self, now: int, note: str = "") -> None:
        """Called by the one who makes the steps."""
        self.steps.now, self.steps.note = now, note
        self.say_if_due()

    def say_if_due(self) -> None:
        """Called by both threads."""
        with self._lock:
            if time.monotonic() - self.reporter.said >= self.silence:
                self.silence = LINE_EVERY
                self.reporter.say(str(self.steps))

    def _tick(self) -> None:
        while not self._ended.wait(TICK):
            self.say_if_due()


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
