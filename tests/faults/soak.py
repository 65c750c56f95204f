"""A server under load for minutes: python tests/faults/soak.py --minutes 5 --clients 32

One request in ten is hostile, of twelve kinds (soak_clients.py). Exit code 0 where every honest request got the text that it gets alone,
no hostile one got a 500 or no answer, every short request's first token came within 5 decode steps of its arrival, and the server's
resident memory at the end is within 10% of what it was after the warm-up (a fifth of the time). Prints the figures, then one JSON line.
"""

import argparse
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from soak_clients import HOSTILE, Honest, ask, honest_requests, provoke

HERE = Path(__file__).parent
STEPS, GROWTH = 5, 0.10  # the bars


class Server:
    """`evalkit serve` in a process of its own, which counts decode steps (soak_server.py)."""

    def __init__(self, model: str, kv_memory: str, folder: Path):
        self.counts = folder / "counts.json"
        self.log = folder / "server.log"
        command = [sys.executable, str(HERE / "soak_server.py"), model, kv_memory, str(self.counts)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 300
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", self.log.read_text())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)
        self.port = int(found[1])

    def memory(self) -> int:
        """Resident bytes."""
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[0]) * 1024

    def end(self) -> dict:
        """Ctrl-C; the counts that it has written."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        return json.loads(self.counts.read_text())


class Soak:
    """Clients that ask until the time is over."""

    def __init__(self, server: Server, requests: list[Honest], seed: int):
        self.server, self.requests, self.seed = server, requests, seed
        self.ends = 0.0
        self.lock = threading.Lock()
        self.right, self.wrong = 0, list[str]()
        self.hostile: Counter[str] = Counter()
        self.memory: list[tuple[float, int]] = []

    def run(self, seconds: float, clients: int) -> None:
        start = time.monotonic()
        self.ends = start + seconds
        threads = [threading.Thread(target=self._client, args=(i,)) for i in range(clients)]
        for thread in threads:
            thread.start()
        while time.monotonic() < self.ends:
            self.memory.append((time.monotonic() - start, self.server.memory()))
            time.sleep(min(1.0, seconds / 20))
        for thread in threads:
            thread.join()

    def _client(self, number: int) -> None:
        draw = random.Random(f"{self.seed}/{number}")
        while time.monotonic() < self.ends:
            if draw.random() < 0.1:
                self._provoke(draw.choice(sorted(HOSTILE)), draw)
            else:
                self._ask(draw.choice(self.requests))

    def _ask(self, request: Honest) -> None:
        try:
            found = ask(self.server.port, request)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        with self.lock:
            if found == request.expected:
                self.right += 1
            else:
                self.wrong.append(f"{request.body}: {found!r} and not {request.expected!r}")

    def _provoke(self, kind: str, draw: random.Random) -> None:
        try:
            status = provoke(self.server.port, kind, draw)
        except Exception as error:
            status = type(error).__name__
        with self.lock:
            self.hostile[f"{kind}: {status}"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--model", default="smollm2-135m", help="as for evalkit serve")
    parser.add_argument("--kv-memory", default="1GB", help="as for evalkit serve")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    with tempfile.TemporaryDirectory(prefix="evalkit-soak-") as folder:
        server = Server(arguments.model, arguments.kv_memory, Path(folder))
        try:
            requests = honest_requests()
            for request in requests:
                request.expected = ask(server.port, request)
            soak = Soak(server, requests, arguments.seed)
            soak.run(seconds, arguments.clients)
            counts = server.end()
        finally:
            server.process.kill()
            server.process.wait()
    return report(soak, counts, seconds)


def report(soak: Soak, counts: dict, seconds: float) -> int:
    warm = statistics.median(m for at, m in soak.memory if 0.2 * seconds <= at <= 0.3 * seconds)
    end = statistics.median(m for at, m in soak.memory if at >= 0.9 * seconds)
    first = sorted(counts["first"])
    faults = sum(n for kind, n in soak.hostile.items() if not re.search(r": (200|4\d\d|left)$", kind))
    figures = {
        "seconds": seconds,
        "honest": soak.right + len(soak.wrong),
        "wrong": len(soak.wrong),
        "hostile": sum(soak.hostile.values()),
        "hostile_kinds": len({kind.partition(":")[0] for kind in soak.hostile}),
        "hostile_faults": faults,
        "decode_steps": counts["steps"],
        "short_streams": len(first),
        "first_token_steps_median": statistics.median(first) if first else None,
        "first_token_steps_most": max(first, default=None),
        "memory_warm_mb": round(warm / 1e6),
        "memory_end_mb": round(end / 1e6),
        "memory_most_mb": round(max(m for _, m in soak.memory) / 1e6),
        "growth": round(end / warm - 1, 4),
    }
    for name, value in figures.items():
        print(f"{name:26} {value}")
    for kind, count in sorted(soak.hostile.items()):
        print(f"  {count:6} {kind}")
    for wrong in soak.wrong[:5]:
        print(f"  wrong: {wrong[:600]}")
    print(json.dumps(figures))
    good = not soak.wrong and not faults and first and first[-1] <= STEPS and figures["growth"] <= GROWTH
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
