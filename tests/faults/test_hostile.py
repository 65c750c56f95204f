"""Hostile programs as answers to a small problem: none passes, none gets out, none slows the next one, nothing is left behind.

Each file in hostile/ says in its first lines what it `tries` and the `verdict` that is right; where it matters also the `error`
(type) of the verdict and what it `prints` once it has tried (so that a program which never got to its trick does not count),
the `machine` that it is for, and a `test` of its own. A program that gets through prints ESCAPED. It sees the canaries in a
module of that name.
"""

import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from evalkit.errors import EvalkitError
from evalkit.sandbox import Job, Limits, Pool, Result, probe
from evalkit.sandbox.usage import descendants

PROGRAMS = sorted((Path(__file__).parent / "hostile").glob("*.py"))
LIMITS = Limits(cpu_seconds=1, wall_seconds=2, memory_bytes=256 << 20, disk_bytes=16 << 20, processes=16)
SECRET = ("canary-of-the-", "test")
PROMPT = 'def twice(x):\n    return x * 2\n\n\ndef double(x):\n    """Twice x."""\n'
TEST = f"""
def check(candidate):
    assert candidate(21) == 42, {"".join(SECRET)!r}
    assert candidate([1]) == [1, 1]
    assert candidate("ab") == "abab"
"""
GOOD = "import os\n\n\ndef double(x):\n    assert os.listdir('/tmp') == []\n    return x * 2\n"


def headers(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, text in re.findall(r"^# (\w+): (.+)$", path.read_text(), re.MULTILINE):
        found[name] = f"{found[name]}\n{text}" if name in found else text
    return found


@dataclass(frozen=True)
class Canaries:
    """What a program must not reach: a file, a process, a listening port, sockets, the environment."""

    file: Path
    process: subprocess.Popen[bytes]
    sockets: tuple[socket.socket, ...]

    def preamble(self) -> str:
        tcp, unix, abstract = (listener.getsockname() for listener in self.sockets)
        values = {"FILE": str(self.file), "PID": self.process.pid, "PORT": tcp[1], "SOCKET": unix, "ABSTRACT": abstract}
        values |= {"NAME": "EVALKIT_CANARY", "SECRET_HALVES": tuple(half.encode() for half in SECRET)}
        return f"import sys, types; sys.modules['canary'] = types.SimpleNamespace(**{values!r}); del sys, types\n"

    def untouched(self) -> bool:
        return self.file.read_text() == "canary" and self.process.poll() is None and not any(map(_called, self.sockets))


def _called(listener: socket.socket) -> bool:
    listener.setblocking(False)
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canaries]:
    folder = tmp_path_factory.mktemp("canaries")
    (folder / "file").write_text("canary")
    os.chmod(folder / "file", 0o666)  # nothing but the sandbox keeps a program from it
    listeners = []
    unix = (f"{folder}/s", f"\0canary-{os.getpid()}")
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), *((socket.AF_UNIX, name) for name in unix)):
        listener = socket.socket(family)
        listener.bind(address)
        listener.listen()
        listeners.append(listener)
    os.environ["EVALKIT_CANARY"] = "secret"
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    yield Canaries(folder / "file", process, tuple(listeners))
    del os.environ["EVALKIT_CANARY"]
    process.kill()
    process.wait()
    for listener in listeners:
        listener.close()


@pytest.fixture(scope="module")
def pool(canaries: Canaries) -> Iterator[Pool]:
    try:
        level = probe()
    except EvalkitError as error:
        pytest.skip(str(error))
    if not level.safe:
        pytest.skip(f"{level}; {level.fix}")
    with Pool(1) as pool:
        run(pool, GOOD)  # starts the worker
        yield pool


def run(pool: Pool, program: str, test: str = TEST, limits: Limits = LIMITS) -> Result:
    return pool.run(Job(program, "double", PROMPT, test, limits))


def limits(expected: dict[str, str]) -> Limits:
    """More CPU time, in seconds, for what is honest work on a slow machine; the clock counts only where it is what ends the program."""
    cpu = float(expected.get("cpu", LIMITS.cpu_seconds))
    return replace(LIMITS, cpu_seconds=cpu, wall_seconds=(2 if expected["verdict"] == "timeout" else 20) * cpu)


def state(canaries: Canaries) -> tuple[object, ...]:
    """What a program must leave as it was: processes, mounts, files."""
    processes = {process.pid for process in descendants(os.getpid())}
    return processes, Path("/proc/self/mounts").read_text(), sorted(canaries.file.parent.iterdir())


@pytest.fixture(scope="module")
def clean(pool: Pool, canaries: Canaries) -> tuple[object, ...]:
    """The state with nothing but an idle worker."""
    time.sleep(0.5)  # the first job's supervisor answers, then ends
    return state(canaries)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_hostile(path: Path, pool: Pool, canaries: Canaries, clean: tuple[object, ...]) -> None:
    expected = headers(path)
    if expected.get("machine", platform.machine()) != platform.machine():
        pytest.skip(f"for {expected['machine']}")
    allowed = limits(expected)
    result = run(pool, canaries.preamble() + path.read_text(), expected.get("test", TEST), allowed)
    assert result.verdict == expected["verdict"], result
    assert result.detail.startswith("assert ") or result.verdict != "failed"
    assert result.error == expected.get("error", result.error), result
    assert expected.get("prints", "") in result.output, result
    assert "ESCAPED" not in result.output, result
    assert len(result.output) <= LIMITS.output_bytes
    assert result.wall_seconds < allowed.wall_seconds + 2
    assert canaries.untouched()
    after = run(pool, GOOD)
    assert after.passed, after
    assert after.cpu_seconds < 0.5
    deadline = time.monotonic() + 5
    while state(canaries) != clean and time.monotonic() < deadline:
        time.sleep(0.005)
    assert state(canaries) == clean


def test_each_says_what_it_tries() -> None:
    assert len(PROGRAMS) >= 150
    assert len([path for path in PROGRAMS if path.stem.startswith("memory_")]) >= 40
    for path in PROGRAMS:
        first, second = path.read_text().splitlines()[:2]
        assert first.startswith("# tries: ")
        assert second.startswith("# verdict: ")
        assert second != "# verdict: passed"


def test_a_flood_is_counted_and_cut(pool: Pool) -> None:
    path = Path(__file__).parent / "hostile" / "stdout_flood.py"
    result = run(pool, path.read_text(), limits=limits(headers(path)))
    assert result.output_bytes == 10**9
    assert len(result.output) == LIMITS.output_bytes
