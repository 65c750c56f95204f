"""Progress on a terminal (rich, with rate and time left), a line now and then where there is none, nothing when quiet."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

LINE_EVERY = 30.0  # seconds between lines in a log
Advance = Callable[[int], None]  # (steps done so far)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-", style="progress.data.speed")


class Reporter:
    """Where a run tells how far it is. `console` writes to stderr: standard output stays for the result."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet)

    def say(self, text: str) -> None:
        """One plain line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0, counted: bool = True) -> Iterator[Advance]:
        """A bar for `total` steps of which `done` were done before; the rate counts only the new ones."""
        if self.console.is_terminal and not self.quiet:
            count = [MofNCompleteColumn(), _Rate()] if counted else []
            columns = [
                TextColumn("{task.description:<18}"),
                BarColumn(),
                *count,
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            ]
            with Progress(*columns, console=self.console) as progress:
                task = progress.add_task(label, total=total, completed=done)
                yield lambda now: progress.update(task, completed=now)
            return
        started = last = time.monotonic()

        def line(now: int) -> None:
            nonlocal last
            clock = time.monotonic()
            if clock - last >= LINE_EVERY:
                last = clock
                rate = (now - done) / (clock - started)
                left = f", {(total - now) / rate:.0f} s left" if rate else ""
                self.say(f"{label}: {now} of {total}, {rate:.1f}/s{left}")

        yield line
