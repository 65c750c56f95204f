"""What a driver can take: synthetic workers that answer at once, through to the journal. python tests/faults/driver_rate.py

Messages, sockets, leases and journal are the real ones; only the engines are missing, and one process holds the other ends of all
connections, since 200 Python processes would measure the machine's memory. Prints a table, then one JSON line.
"""

import argparse
import json
import os
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evalkit.config import ModelSpec
from evalkit.runner.journal import Journal, request_key
from evalkit.tasks import Loglikelihood, Loglikelihoods
from evalkit.workers.channel import Channel
from evalkit.workers.messages import Answer, Finished, Hello, Lease, Loaded, Opened, Prepare, ToWorker
from evalkit.workers.pool import WorkersLM
from evalkit.workers.processes import Process, Processes

SAMPLES = 10  # of the driver's memory


class Simulated(Processes):
    """Workers whose ends are all held by one process."""

    def __init__(self, count: int):
        super().__init__(ModelSpec("none", "replay:none"), count, Path("."))
        self.control, theirs = socket.socketpair()
        self.simulator = subprocess.Popen([sys.executable, __file__, "--simulate", str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()

    def start(self, number: int) -> Process:
        ours, theirs = socket.socketpair()
        socket.send_fds(self.control, [b"w"], [theirs.fileno()])
        theirs.close()
        process = Process.__new__(Process)
        process.place, process.channel, process.is_killed, process.process = "", Channel(ours), False, self.simulator
        self._selector.register(ours, selectors.EVENT_READ, process)
        return process


def simulate(fd: int) -> None:
    """All workers."""
    control = socket.socket(fileno=fd)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is control:
                raw, fds, _, _ = socket.recv_fds(control, 1, 1)
                if not raw:
                    return
                end = socket.socket(fileno=fds[0])
                selector.register(end, selectors.EVENT_READ, Channel(end))
                continue
            channel: Channel = key.data
            messages, is_open = channel.receive()
            try:
                for message in messages:
                    _answer(channel, message)
                channel.flush()
            except OSError:
                is_open = False
            if not is_open:
                selector.unregister(key.fileobj)
                continue
            wanted = selectors.EVENT_READ if channel.is_flushed else selectors.EVENT_READ | selectors.EVENT_WRITE
            if key.events != wanted:
                selector.modify(key.fileobj, wanted, channel)


def _answer(channel: Channel, message: ToWorker) -> None:
    match message:
        case Hello():
            channel.send(Opened("sha256:none", {}, ()))
        case Prepare():
            channel.send(Loaded())
        case Lease():
            for i in range(len(message.requests)):
                channel.send(Answer(message.id, i, Loglikelihoods((-1.0, -2.0, -3.0, -4.0), (True, False, False, False)), i, 0))
            channel.send(Finished(message.id, {}))


def _memory() -> int:
    """Bytes that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--answers", type=int, default=50_000)
    parser.add_argument("--simulate", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.simulate is not None:
        simulate(arguments.simulate)
        return 0
    subjects = 500
    shots = [f"Questions about subject {s}. " + "An example of it. " * 40 for s in range(subjects)]
    requests = [
        Loglikelihood(f"{shots[i % subjects]}Question {i}: what is it? Answer:", (" A", " B", " C", " D")) for i in range(arguments.answers)
    ]
    memory, done = [], 0
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.sqlite")
        lm = WorkersLM(Simulated(arguments.workers), ModelSpec(), arguments.workers, print)
        keys = [request_key(lm.fingerprint, request) for request in requests]
        lm.prepare()
        busy, begin = time.process_time(), time.monotonic()
        first = None
        for i, response in lm.loglikelihood(requests):
            first = first or time.monotonic()
            journal.put(keys[i], response, "none", 0.0, 0, 0)
            done += 1
            if done % (arguments.answers // SAMPLES) == 0:
                memory.append(_memory())
        seconds, busy = time.monotonic() - begin, time.process_time() - busy
        rows = len(journal)
        journal.close()
        lm.close()
    assert rows == len(requests), f"{rows} answers of {len(requests)}"
    growth = (memory[-1] - memory[1]) / memory[1]
    print(f"{arguments.workers} workers, {done:,} answers in {seconds:.1f} s, of which {first - begin:.1f} s before the first one")
    print(f"{done / seconds:,.0f} answers/s; {done / busy:,.0f} a second of the driver's processor time")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"memory after each tenth: {', '.join(f'{each / 2**20:.0f}' for each in memory)} MiB")
    found = {"answers_per_second": done / seconds, "per_processor_second": done / busy, "memory_growth": growth}
    print(json.dumps(found | {"workers": arguments.workers, "answers": done}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
