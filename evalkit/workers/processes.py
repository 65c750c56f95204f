"""Workers that are processes of this machine: each with its engine, its share of the threads, and on GPUs a device of its own."""

import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.files import unwritable
from evalkit.workers.channel import Channel
from evalkit.workers.messages import FromWorker, ToWorker
from evalkit.workers.transport import Link, Transport

WAIT = 10.0  # seconds for the system to end a process that was killed
ON_GPUS = ("native", "lm_eval")  # engines that compute in this process, on a GPU if there is one


class Process(Link):
    """A worker's process, whose log is a file."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path, inherited: Sequence[int] = ()):
        """Raises EvalkitError where its log can't be written."""
        ours, theirs = socket.socketpair()
        self.place, self.channel, self.is_killed = f"log: {log}", Channel(ours), False
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "ab") as output:
                # a group of its own: Ctrl-C is the driver's to act upon
                self.process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    pass_fds=[theirs.fileno(), *inherited],
                    process_group=0,
                )
        except OSError as error:
            ours.close()
            raise unwritable(log, error) from None
        finally:
            theirs.close()

    def send(self, message: ToWorker) -> None:
        with suppress(OSError):  # it is gone, which `receive` finds out too
            self.channel.send(message)

    def kill(self) -> None:
        self.is_killed = True
        self.process.kill()
        self.process.wait(WAIT)

    def why(self) -> str:
        try:
            code = self.process.wait(WAIT)
        except subprocess.TimeoutExpired:
            return "it has closed its connection"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"it has ended with exit code {code}"


class Processes(Transport):
    """`count` processes. Raises EvalkitError for more workers than GPUs, where the model runs on GPUs."""

    command: Sequence[str] = (sys.executable, "-P", "-m", "evalkit.workers.process")  # -P: no module of the current folder is one of ours

    def __init__(self, model: ModelSpec, count: int, logs: Path):
        self.count, self.logs = count, logs
        self.gpus = _gpus(model, count)
        self._selector = selectors.DefaultSelector()
        if model.engine == "native" and count > 1 and not self.gpus and hasattr(os, "memfd_create"):
            self.weights = os.memfd_create("evalkit-weights")

    def sharing(self, number: int) -> int:
        return 1 if self.gpus else self.count

    def start(self, number: int) -> Process:
        inherited = [] if self.weights is None else [self.weights]
        process = Process(self.command, self._environment(number), self.logs / f"{number + 1}.log", inherited)
        self._selector.register(process.channel.socket, selectors.EVENT_READ, process)
        return process

    def _environment(self, number: int) -> dict[str, str]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[number]
        environment["OMP_NUM_THREADS"] = str(max(1, threads() // self.count))
        return environment

    def receive(self, timeout: float) -> Iterable[tuple[Process, FromWorker | None]]:
        for process in self._connected():
            wanted = selectors.EVENT_READ if process.channel.is_flushed else selectors.EVENT_READ | selectors.EVENT_WRITE
            if self._selector.get_key(process.channel.socket).events != wanted:
                self._selector.modify(process.channel.socket, wanted, process)
        found: list[tuple[Process, FromWorker | None]] = []
        for key, events in self._selector.select(timeout):
            process = key.data
            if events & selectors.EVENT_WRITE:
                with suppress(OSError):  # it is gone; what it said before is still to be read
                    process.channel.flush()
            if events & selectors.EVENT_READ:
                messages, is_open = process.channel.receive()
                found += [(process, message) for message in messages]
                if not is_open:
                    self._disconnect(process)
                    found.append((process, None))
        return found

    def _connected(self) -> list[Process]:
        """The workers that are heard; those that were killed are no longer."""
        every: list[Process] = [key.data for key in self._selector.get_map().values()]
        for process in every:
            if process.is_killed:
                self._disconnect(process)
        return [process for process in every if not process.is_killed]

    def _disconnect(self, process: Process) -> None:
        self._selector.unregister(process.channel.socket)
        process.channel.socket.close()

    def close(self) -> None:
        for process in self._connected():
            process.kill()
            self._disconnect(process)
        self._selector.close()
        if self.weights is not None:
            os.close(self.weights)
            self.weights = None


def threads() -> int:
    """Threads that the engine of a run would take without workers: one a core, or as many as OMP_NUM_THREADS says."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(asked) if asked.isdigit() and int(asked) else cores


def _gpus(model: ModelSpec, count: int) -> list[str]:
    """A GPU for each worker; none where the engine computes on CPUs, or elsewhere. Raises EvalkitError where there are too few."""
    if model.engine.partition(":")[0] not in ON_GPUS:
        return []
    from evalkit.lm.native import device_of

    if device_of(model) != "cuda":
        return []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if count > len(found):
        raise EvalkitError(f"--workers {count}, and {len(found)} GPUs are visible: one worker a GPU; give --workers {len(found)}")
    return found
