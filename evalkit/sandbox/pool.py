"""A pool of workers, and running jobs on them."""

import json
import os
import queue
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.sandbox import wire
from evalkit.sandbox.job import MAX_SOURCE, Job
from evalkit.sandbox.level import Level
from evalkit.sandbox.limits import Limits
from evalkit.sandbox.result import Result, Verdict

_FOLDER = Path(__file__).parent
# Without the package's __init__, which loads the host's side (threads, subprocess): a smaller process forks faster.
_START = f"""
import sys, types
sys.path.insert(0, {str(_FOLDER.parents[1])!r})
package = sys.modules["evalkit.sandbox"] = types.ModuleType("evalkit.sandbox")
package.__path__ = [{str(_FOLDER)!r}]
from evalkit.sandbox.server import main
main(int(sys.argv[1]))
"""
# the whole environment of a worker; the hash seed makes the order of a set the same in every worker
_ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
_OF_PYTHON = ("LD_LIBRARY_PATH",)  # without it, the interpreter may load the library of another version
_DETAIL = 500  # characters
_GRACE = 30.0  # seconds past a job's wall clock, or for a worker's start, before a worker counts as lost


class Worker:
    """A server process (server.py) and the socket to it. Raises EvalkitError if it does not start."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair()
        with other:
            # -S: no site-packages: their start-up files would run, and the jail does not have their packages
            python = getattr(sys, "_base_executable", sys.executable)
            command = [python, "-S", "-s", "-P", "-c", _START, str(other.fileno())]
            self._process = subprocess.Popen(
                command,
                pass_fds=[other.fileno()],
                env=_ENVIRONMENT | {name: os.environ[name] for name in _OF_PYTHON if name in os.environ},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            self.level = Level(self._receive(_GRACE))
        except (wire.Ended, TimeoutError):
            self.close()
            raise EvalkitError(f"the sandbox's server does not start ({' '.join(command[:4])}); its message is above") from None

    def run(self, job: Job) -> Result:
        """Raises wire.Ended or TimeoutError if the worker is lost, EvalkitError if a jail cannot be set up."""
        file = os.memfd_create("job")
        try:
            try:
                for frame in job.frames():
                    wire.send(file, frame)
            except wire.Malformed as error:
                raise EvalkitError(f"the test of {job.entry_point!r} is too large: {error}") from None
            os.lseek(file, 0, os.SEEK_SET)
            socket.send_fds(self._socket, [json.dumps(asdict(job.limits)).encode()], [file])
        finally:
            os.close(file)
        fields = self._receive(job.limits.wall_seconds + _GRACE)
        if "broken" in fields:
            raise EvalkitError(f"the sandbox broke ({fields['broken']}); is the machine out of memory or of processes?")
        line = fields.pop("line", 0)
        detail = ": ".join(filter(None, [*job.test.splitlines()[line - 1 : line], fields.pop("detail", "")])).strip()
        return Result(**{**fields, "verdict": Verdict(fields["verdict"]), "detail": detail[:_DETAIL]})

    def _receive(self, seconds: float) -> dict[str, Any]:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise TimeoutError
        frame: dict[str, Any] = wire.receive(self._socket.fileno())
        return frame

    def close(self) -> None:
        """End the worker and everything it runs."""
        self._socket.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@cache
def probe() -> Level:
    """The sandbox level of this machine, found by trying. Raises EvalkitError if not even a plain worker runs."""
    if sys.platform != "linux":
        raise EvalkitError(f"the sandbox needs Linux, this is {sys.platform}; run evalkit in a Linux virtual machine")
    worker = Worker()
    try:
        result = worker.run(Job("pass"))
        if not result.passed:
            raise EvalkitError(f"the sandbox does not run `pass` ({result.verdict}: {result.detail}); {worker.level}")
        return worker.level
    finally:
        worker.close()


def require(allow_unsafe: bool = False) -> Level:
    """The level. Raises EvalkitError if it is too low for untrusted code and `allow_unsafe` is not set."""
    level = probe()
    if not level.safe and not allow_unsafe:
        raise EvalkitError(f"untrusted code needs a better sandbox than this machine gives: {level}; enable it ({level.fix}), "
                           "or run it unprotected with --allow-unsafe-code")  # fmt: skip
    return level


class Pool:
    """Warm workers. Raises EvalkitError if the sandbox is too weak and `allow_unsafe` is not set.

    with Pool(2) as pool:
        results = pool.map(Job(program) for program in programs)
    """

    def __init__(self, workers: int | None = None, allow_unsafe: bool = False):
        self.level = require(allow_unsafe)
        self.workers = workers or len(os.sched_getaffinity(0))
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        for _ in range(self.workers):
            self._idle.put(None)  # started when first used

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def run(self, job: Job) -> Result:
        """Run one job; waits for a worker. Threads may call it."""
        if len(job.program) > MAX_SOURCE:
            return Result(Verdict.REFUSED, f"a program of {len(job.program):,} characters; {MAX_SOURCE:,} are taken")
        worker = self._idle.get()
        try:
            for _ in range(2):  # once, a worker may be lost for another reason; twice, the program caused it
                worker = worker or Worker()
                try:
                    return worker.run(job)
                except (wire.Ended, OSError):  # TimeoutError is one
                    worker.close()
                    worker = None
            return Result(Verdict.KILLED, "the worker was lost, twice")
        finally:
            self._idle.put(worker)

    def map(self, jobs: Iterable[Job], advance: Callable[[int], None] = lambda done: None) -> list[Result]:
        """The results in the jobs' order; `advance` is called with the number of finished jobs.

        A job that timed out while others ran, or on a busy machine, is run again alone at the end; that result counts.
        """
        jobs = list(jobs)
        results: list[Result] = []
        with ThreadPoolExecutor(self.workers) as threads:
            for result in threads.map(self.run, jobs):
                results.append(result)
                advance(len(results))
        beside_others = min(self.workers, len(jobs)) > 1
        for index, result in enumerate(results):
            if result.verdict is Verdict.TIMEOUT and (beside_others or _busy()):
                results[index] = replace(self.run(jobs[index]), retried=True)
        return results

    def close(self) -> None:
        """End the workers, and what they run."""
        for _ in range(self.workers):
            if worker := self._idle.get():
                worker.close()


def _busy() -> bool:
    return os.getloadavg()[0] >= len(os.sched_getaffinity(0))


def run_python(program: str, limits: Limits | None = None, allow_unsafe: bool = False) -> Result:
    """Run a program; it passes if it ends without an exception. stdin is empty.

    The program checks itself here, so one that knows this file can fake a success. For a verdict out of the program's reach, use
    check_function.
    """
    with Pool(1, allow_unsafe) as pool:
        return pool.map([Job(program, limits=limits or Limits())])[0]


def check_function(
    prompt: str, completion: str, test: str, entry_point: str, limits: Limits | None = None, allow_unsafe: bool = False
) -> Result:
    """Run a HumanEval problem's test on prompt + completion. Values are compared out of the program's reach."""
    with Pool(1, allow_unsafe) as pool:
        return pool.map([Job(prompt + completion, entry_point, prompt, test, limits or Limits())])[0]
