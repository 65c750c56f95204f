"""Kill -9 of workers and of their driver, many times over: python tests/faults/kill_workers.py --kills 50

The runs are real (command line, tasks, journal, processes, sockets); only the model is a fast one that writes down what it computes. A
run goes on with another number of workers after each kill of its driver, and all runs must leave the samples of an undisturbed one.
Exit code 0 where nothing was lost, changed or asked again that was in the journal.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fast_lm import BATCH
from fast_worker import LOG, SECONDS

HERE = Path(__file__).parent
TASKS = {
    "greedy": ["--tasks", "mmlu,gsm8k", "--limit", "60"],
    "sampled": ["--tasks", "humaneval", "--temperature", "0.8", "--repeats", "5", "--limit", "10"],
}
PER_ANSWER = 0.03  # seconds of a worker's work
MOST = 3  # workers


@dataclass(slots=True)
class Tally:
    """What all runs came to."""

    kills: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    again: int = 0  # answers that were computed more than once
    problems: list[str] = field(default_factory=list)


def drive(arguments: list[str]) -> int:
    """The command line, with the fast model in the place of every worker's engine."""
    from evalkit import cli
    from evalkit.workers.processes import Processes

    Processes.command = (sys.executable, str(HERE / "fast_worker.py"))
    return cli.main(arguments)


def start(name: str, out: Path, workers: int, log: Path) -> subprocess.Popen[bytes]:
    arguments = ["run", *TASKS[name], "--data", "sample", "--out", str(out), "--name", name, "--quiet", "--workers", str(workers)]
    environment = os.environ | {LOG: str(log), SECONDS: str(PER_ANSWER), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--drive", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def computed(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def recorded(folder: Path) -> dict[str, str]:
    try:
        with sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True) as db:
            return dict(db.execute("SELECT key, response FROM responses"))
    except sqlite3.OperationalError:  # not there yet
        return {}


def samples(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "samples").iterdir())}


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def one_run(name: str, out: Path, kills: int, rng: random.Random, tally: Tally) -> None:
    """A run that is killed at random until so many kills are done, or it ends."""
    folder, log = out / name, out / f"{name}.log"
    again_allowed = 0
    for _ in range(100):
        before, seen = recorded(folder), len(computed(log))
        workers = rng.randint(2, MOST)
        process = start(name, out, workers, log)
        while process.poll() is None and kills:
            target = len(computed(log)) + rng.randint(1, 25)
            while process.poll() is None and len(computed(log)) < target:
                time.sleep(0.002)
            is_driver = rng.random() < 0.3
            victims = [process.pid] if is_driver else children(process.pid)
            if process.poll() is None and victims:
                os.kill(rng.choice(victims), signal.SIGKILL)
                tally.kills["driver" if is_driver else "worker"] += 1
                # a worker's batch; with the driver go the workers, and what is on its way from them
                again_allowed += 2 * BATCH * workers if is_driver else BATCH
                kills -= 1
        _, error = process.communicate()
        if not before.items() <= recorded(folder).items():
            tally.problems.append(f"{name}: recorded answers were lost or changed")
        if asked := before.keys() & set(computed(log)[seen:]):
            tally.problems.append(f"{name}: {len(asked)} recorded answers were computed again")
        if process.returncode == 0:
            break
        if process.returncode not in (-signal.SIGKILL, 4):
            tally.problems.append(f"{name}: exit code {process.returncode}: {error.decode()[-500:]}")
    counts = Counter(computed(log))
    again = sum(counts.values()) - len(counts)
    tally.answered += len(counts)
    tally.again += again
    if again > again_allowed:
        tally.problems.append(f"{name}: {again} answers were computed again, {again_allowed} at most were in flight")


def main() -> int:
    if sys.argv[1:2] == ["--drive"]:
        return drive(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=None, help="of the times and victims (default: another one each time)")
    parser.add_argument("--runs", default=",".join(TASKS), help="of what (default: %(default)s)")
    arguments = parser.parse_args()
    names = arguments.runs.split(",")
    rng, tally = random.Random(arguments.seed), Tally()
    with tempfile.TemporaryDirectory(prefix="evalkit-kills-") as scratch:
        undisturbed = Path(scratch) / "undisturbed"
        for name in names:
            undisturbed.mkdir(exist_ok=True)
            process = start(name, undisturbed, 2, undisturbed / f"{name}.log")
            _, error = process.communicate()
            if process.returncode:
                print(error.decode())
                return 1
        number = told = 0
        while sum(tally.kills.values()) < arguments.kills:
            number += 1
            for name in names:
                out = Path(scratch) / f"run{number}"
                out.mkdir(exist_ok=True)
                one_run(name, out, min(6, arguments.kills - sum(tally.kills.values())), rng, tally)
                if samples(out / name) != samples(undisturbed / name):
                    tally.problems.append(f"{name}: other samples than an undisturbed run")
            print(*tally.problems[told:], sep="\n", end="\n" if tally.problems[told:] else "")
            told = len(tally.problems)
            print(f"{sum(tally.kills.values())} kills, {tally.again} answers computed again, {len(tally.problems)} problems", flush=True)
    figures = {"kills": sum(tally.kills.values()), **tally.kills, "answered": tally.answered, "again": tally.again}
    print(json.dumps(figures | {"problems": len(tally.problems)}))
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
