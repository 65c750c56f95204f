"""Trackio's local SQLite (PROJECT.db): a run's figures as metrics, and run.json without samples in the run's configuration.

Written through trackio's public functions, offline; read with sqlite3, so that reading needs no trackio. Layout: trackio 0.43.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from evalkit.codec import decode, encode, parse_json
from evalkit.errors import EvalkitError, first_line, pip_install
from evalkit.exchange.recorded import CHANGED, OURS, Recorded, Written
from evalkit.files import require_folder
from evalkit.progress import Advance, Reporter
from evalkit.record.figure import agrees
from evalkit.record.schema import Run, TaskEntry

EXTRA = f"logging to trackio needs it; run {pip_install('trackio')}"
PROJECT = "evalkit"
EVERY = 2.0  # seconds between what is logged of a run as it goes
LOSES = "trackio holds metrics"


def library(folder: Path | None = None) -> Any:
    """trackio, which keeps its files in `folder` (None: where it does by itself). Raises EvalkitError where it is missing."""
    if folder is not None:
        require_folder(folder)
        os.environ["TRACKIO_DIR"] = str(folder.resolve())  # read once, when trackio is imported
    try:
        import trackio
        from trackio.utils import TRACKIO_DIR
    except ImportError as error:
        raise EvalkitError(f"{EXTRA} ({first_line(error)})") from None
    if folder is not None and Path(TRACKIO_DIR) != folder.resolve():
        raise EvalkitError(f"trackio keeps its files in {TRACKIO_DIR} in this process; export to {folder} in another one")
    return trackio


@contextmanager
def _logging(trackio: Any, project: str, name: str, config: Mapping[str, Any]) -> Iterator[None]:
    """A run of trackio's, a new one or one that goes on, without what it prints. Raises EvalkitError for a name that is none."""
    if not project or project.startswith(".") or "/" in project:
        raise EvalkitError(f"project {project!r} can be no project's name in trackio; give a plain one")
    with _silent():
        trackio.init(project=project, name=name, config=config, resume="allow", embed=False, auto_log_gpu=False, auto_log_cpu=False)
    try:
        yield
    finally:
        with _silent():
            trackio.finish()


@contextmanager
def _silent() -> Iterator[None]:
    with open(os.devnull, "w") as null, redirect_stdout(null):
        yield


def write(recorded: Recorded, out: Path, options: Mapping[str, str]) -> Written:
    """PROJECT.db with the run. Raises EvalkitError where trackio is missing or the project's name is none."""
    project, trackio = options.get("project", PROJECT), library(out)
    with _logging(trackio, project, recorded.run.name, {OURS: encode(recorded.run)}):
        trackio.log(_all_figures(recorded.run))
    return Written([out / f"{project}.db"])


class Live(Reporter):
    """Logs a run as it goes: how many requests are answered, the running score, and the figures at its end."""

    def __init__(self, project: str, quiet: bool = False):
        super().__init__(quiet)
        self.project, self.trackio, self.logged = project, library(), 0.0

    @contextmanager
    def run(self, name: str, config: Mapping[str, Any]) -> Iterator[Callable[[Run], None]]:
        """Around a run: what it yields takes the run's record. Raises EvalkitError for a project's name that is none."""
        with _logging(self.trackio, self.project, name, config):
            yield lambda record: self.trackio.log(_all_figures(record))

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0, counted: bool = True, status: object | None = None) -> Iterator[Advance]:
        """The bar; what it is told is logged too, but for phases that are not counted."""
        with super().bar(label, total, done, counted, status) as advance:

            def logged(now: int, note: str = "") -> None:
                advance(now, note)
                if counted and (now >= total or time.monotonic() - self.logged >= EVERY):
                    self.logged = time.monotonic()
                    name, _, percent = note.rpartition(" ")  # the running score, as RunningScore says it
                    self.trackio.log({f"{label}/answered": now, **({f"{label}/running {name}": float(percent) / 100} if name else {})})

            yield logged


def _all_figures(run: Run) -> dict[str, float]:
    return {name: value for task, entry in run.tasks.items() for name, value in figures(task, entry).items()}


def figures(task: str, entry: TaskEntry) -> dict[str, float]:
    """A task's figures as trackio's metrics: mmlu/acc, mmlu/acc_stderr, mmlu/n, mmlu/stem/acc."""
    parts = {"": entry.metrics, **{f"{name}/": metrics for name, metrics in entry.groups.items()}}
    found: dict[str, float] = {f"{task}/n": entry.n}
    for part, metrics in parts.items():
        for name, estimate in metrics.items():
            found |= {f"{task}/{part}{name}": estimate.value, f"{task}/{part}{name}_stderr": estimate.stderr}
    return found


def read(place: Path) -> Recorded:
    """The one run of evalkit in a project's file. Raises EvalkitError where it holds none, several, or other figures than its record."""
    files = [place] if place.is_file() else sorted(place.glob("*.db"))
    if len(files) > 1:
        raise EvalkitError(f"{place} holds {len(files)} projects; give one, such as {files[0]}")
    file = files[0]
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            configs = {str(run_id): parse_json(_text(raw)) for run_id, raw in database.execute("SELECT run_id, config FROM configs")}
            logged = database.execute("SELECT run_id, metrics FROM metrics ORDER BY id").fetchall()
    except (sqlite3.Error, ValueError) as error:
        raise EvalkitError(f"{file} is no project of trackio ({first_line(error):.80}); give PROJECT.db of trackio's folder") from None
    kept = {run_id: config[OURS] for run_id, config in configs.items() if isinstance(config, dict) and OURS in config}
    if len(kept) != 1:
        names = ", ".join(str(raw.get("name"))[:40] for raw in kept.values())
        what = f"holds {len(kept)} runs of evalkit ({names})" if kept else "holds no run of evalkit"
        raise EvalkitError(f"{file} {what}; give a project with one, or export a run to a project of its own (--project)")
    ((run_id, raw),) = kept.items()
    run = decode(Run, raw, f"{file}: {OURS}", CHANGED)
    metrics: dict[str, Any] = {}
    for of, line in logged:
        metrics |= parse_json(_text(line)) if str(of) == run_id else {}
    for name, value in _all_figures(run).items():
        if not agrees(metrics.get(name), value):
            raise EvalkitError(f"{file}: {name} is {metrics.get(name)!r:.40}, and evalkit wrote {value}; {CHANGED}")
    return Recorded(place, "trackio", run, {}, LOSES)


def _text(raw: Any) -> str:
    return raw.decode() if isinstance(raw, bytes) else str(raw)
