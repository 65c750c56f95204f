"""The sandbox with programs that mean no harm: verdicts, limits, what crosses the wire, refusal. tests/faults/hostile has the others."""

import gzip
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evalkit.errors import EvalkitError
from evalkit.sandbox import Job, Level, Limits, Pool, Result, Verdict, check_function, pool, probe, require, run_python, wire
from evalkit.sandbox.usage import descendants

QUICK = Limits(cpu_seconds=0.5, wall_seconds=3, memory_bytes=256 << 20)
PROMPT = 'from typing import List\n\n\ndef twice(x):\n    return 2 * x\n\n\ndef double(x: List[int]):\n    """Twice x."""\n'


@pytest.fixture(scope="module")
def one() -> Iterator[Pool]:
    """A pool of one worker, where the machine gives a sandbox."""
    level = probe()
    if not level.safe:
        pytest.skip(f"{level}; {level.fix}")
    with Pool(1) as workers:
        yield workers


def run(one: Pool, program: str, limits: Limits = QUICK) -> Result:
    return one.run(Job(program, limits=limits))


def check(one: Pool, body: str, test: str) -> Result:
    lines = "".join(f"    {line}\n" for line in f"def check(candidate):\n{test}".splitlines()[1:])
    return one.run(Job(f"{PROMPT}    {body}\n", "double", PROMPT, f"def check(candidate):\n{lines}", QUICK))


@pytest.mark.parametrize(
    ("program", "verdict", "error"),
    [
        ("x = 1", "passed", ""),
        ("assert 1 == 2, 'no'", "failed", "AssertionError"),
        ("1 / 0", "error", "ZeroDivisionError"),
        ("def f(:", "error", "SyntaxError"),
        ("import sys; sys.exit(0)", "error", "SystemExit"),
        ("import os; os._exit(0)", "error", "Exit"),
        ("while True: pass", "timeout", ""),
        ("bytearray(10**12)", "memory", "MemoryError"),
        ("import os; os.abort()", "killed", ""),
        ("#" * (5 << 20), "refused", ""),
    ],
)
def test_verdicts_of_bare_programs(one: Pool, program: str, verdict: str, error: str) -> None:
    result = run(one, program)
    assert (result.verdict, result.error) == (verdict, error), result
    assert result.passed == (verdict == "passed")


def test_output_is_both_streams_in_order_and_stdin_is_empty(one: Pool) -> None:
    result = run(one, "import sys\nprint('a', flush=True)\nprint('b', file=sys.stderr)\nprint(repr(sys.stdin.read()), 'ü')")
    assert result.output == "a\nb\n'' ü\n"
    assert result.output_bytes == len(result.output.encode())


def test_output_is_cut(one: Pool) -> None:
    result = run(one, "print('x' * 100_000)", Limits(output_bytes=10))
    assert (result.output, result.output_bytes, result.verdict) == ("x" * 10, 100_001, "passed")


def test_a_program_has_a_home_of_its_own_and_nothing_of_the_host(one: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALKIT_SECRET", "s")
    program = """
import os, pathlib
home = pathlib.Path.home()
assert home == pathlib.Path.cwd() and list(home.iterdir()) == []
(home / "file").write_text("x")
assert set(os.environ) == {"HOME", "TMPDIR", "LANG", "PATH"}, os.environ
assert os.getuid() == 65534
assert sorted(filter(str.isdecimal, os.listdir("/proc"))) == ["1", str(os.getpid())]
assert pathlib.Path("/proc/net/dev").read_text().count(":") <= 1  # lo
"""
    for _ in range(2):
        assert run(one, program).passed, run(one, program)


ORDINARY = {
    "multiprocessing": "from multiprocessing import Pool\nwith Pool(2) as pool: print(pool.map(abs, [-1, 2]))",
    "locks and queues": """
from multiprocessing import Lock, Process, Queue, Value
queue, lock, value = Queue(), Lock(), Value("i", 0)
process = Process(target=lambda: queue.put(2))
process.start()
with lock:
    print([1, queue.get()])
process.join()
""",
    "process pool": "import concurrent.futures as c\nwith c.ProcessPoolExecutor(2) as pool: print(list(pool.map(abs, [-1, 2])))",
    "thread pool": "import concurrent.futures as c\nwith c.ThreadPoolExecutor(8) as pool: print(list(pool.map(abs, [-1, 2])))",
    "asyncio": """
import asyncio
async def main():
    reader, writer = await asyncio.open_connection(sock=left)
    writer.write(b"2")
    return await asyncio.gather(asyncio.to_thread(abs, -1), asyncio.sleep(0.01, 2))
import socket
left, right = socket.socketpair()
print(asyncio.run(main()))
""",
    "shared memory": """
import mmap
from multiprocessing import shared_memory
block = mmap.mmap(-1, 1 << 16)
segment = shared_memory.SharedMemory(create=True, size=100)
segment.buf[0] = block[0] = 1
print([block[0], segment.buf[0] + 1])
segment.close()
segment.unlink()
""",
    "sqlite3": """
import sqlite3
with sqlite3.connect("file.db") as db:
    db.execute("CREATE TABLE t (n)")
    db.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
print([n for n, in sqlite3.connect("file.db").execute("SELECT n FROM t")])
""",
    "files": """
import os, shutil, tempfile
with tempfile.NamedTemporaryFile() as file:
    file.write(bytes(100_000))
    file.flush()
    shutil.copy2(file.name, "copy")
shutil.copytree(".", "../tmp/all", ignore=lambda folder, names: [n for n in names if n != "copy"])
print([os.path.getsize("all/copy") // 100_000, len(os.listdir())])
""",
    "select and pipes": """
import os, select, selectors
read, write = os.pipe()
os.write(write, b"x")
with selectors.DefaultSelector() as selector:
    selector.register(read, selectors.EVENT_READ)
    print([len(selector.select(1)), len(select.select([read], [write], [], 1)[0] + [write])])
""",
}


@pytest.mark.parametrize("program", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_programs_work(one: Pool, program: str) -> None:
    result = run(one, program, replace(QUICK, cpu_seconds=3, wall_seconds=60))
    assert (result.verdict, result.output) == ("passed", "[1, 2]\n"), result


def test_memory_that_processes_share_counts_once(one: Pool) -> None:
    program = """
import os, time
block, (up, told) = b"x" * (100 << 20), os.pipe()
for _ in range(6):
    if os.fork() == 0:
        os.write(told, b"x")
        time.sleep(1000)
for _ in range(6):
    os.read(up, 1)
time.sleep(0.2)
"""
    result = run(one, program, replace(QUICK, cpu_seconds=3, wall_seconds=60))
    assert result.passed, result
    assert 100 << 20 < result.memory_bytes < 250 << 20


def test_programs_find_the_standard_library(one: Pool) -> None:
    program = "import ctypes, dataclasses, decimal, hashlib, json, sqlite3, statistics, unittest, zlib; hashlib.md5(b'').hexdigest()"
    assert run(one, program).passed


def test_only_cpu_time_counts(one: Pool) -> None:
    result = run(one, "import time; time.sleep(0.8)", Limits(cpu_seconds=0.4))
    assert result.passed
    assert result.cpu_seconds < 0.2
    assert result.wall_seconds > 0.8


def test_a_busy_machine_changes_no_verdict(one: Pool) -> None:
    load = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(2 * len(os.sched_getaffinity(0)))]
    try:
        slow = "import time\nwhile time.process_time() < 0.4: pass"
        result = run(one, slow, Limits(cpu_seconds=0.8, wall_seconds=20))
    finally:
        for process in load:
            process.kill()
            process.wait()
    assert result.passed, result


def test_the_wall_clock_is_the_backstop(one: Pool) -> None:
    result = run(one, "import time; time.sleep(60)", Limits(wall_seconds=0.5))
    assert result.verdict is Verdict.TIMEOUT
    assert "on the clock" in result.detail


def test_used_time_and_memory_are_reported(one: Pool) -> None:
    result = run(one, "import time\nx = b'x' * (80 << 20)\nwhile time.process_time() < 0.3: pass")
    assert 0.25 < result.cpu_seconds < 0.5
    assert 80 << 20 < result.memory_bytes < 200 << 20


def test_limits_are_checked() -> None:
    with pytest.raises(EvalkitError, match="cpu_seconds is 0"):
        Limits(cpu_seconds=0)
    with pytest.raises(EvalkitError, match="output_bytes is 10000000"):
        Limits(output_bytes=10**7)


@pytest.mark.parametrize(
    ("body", "test", "verdict", "error", "detail"),
    [
        ("return x * 2", "assert candidate(2) == 4", "passed", "", ""),
        ("return x * 2", "assert candidate(x=2) == 4", "passed", "", ""),
        ("return x", "assert candidate(2) == 4", "failed", "AssertionError", "assert candidate(2) == 4"),
        ("return None", "assert candidate(2) < 4", "error", "TypeError", "assert candidate(2) < 4: '<' not supported"),
        ("return [][1]", "assert candidate(2) == 4", "error", "IndexError", "list index out of range"),
        ("raise AssertionError('mine')", "assert candidate(2) == 4", "error", "AssertionError", "mine"),
        ("return lambda: 4", "assert candidate(2) == 4", "error", "TypeError", "a function is not plain data"),
        ("return x * 2\nraise KeyError('k')", "assert candidate(2) == 4", "error", "KeyError", "k"),
        # a test may expect one of Python's own exceptions, and use the prompt's helper
        ("raise ValueError(x)", "try:\n    candidate(2)\nexcept ValueError:\n    return\nassert False", "passed", "", ""),
        ("return x * 2", "assert candidate(2) == twice(2)", "passed", "", ""),
        # truth is truth, and an argument is passed by value
        ("return x == 2", "assert candidate(2) is True", "passed", "", ""),
        ("x.clear()", "given = [1]\ncandidate(given)\nassert given == [1]", "passed", "", ""),
    ],
)
def test_verdicts_of_functions(one: Pool, body: str, test: str, verdict: str, error: str, detail: str) -> None:
    result = check(one, body, test)
    assert (result.verdict, result.error) == (verdict, error), result
    assert detail in result.detail


def test_a_function_that_is_not_there(one: Pool) -> None:
    result = one.run(Job("x = 1", "double", PROMPT, "def check(candidate): pass", QUICK))
    assert (result.verdict, result.error) == ("error", "NameError")


def test_dataclasses_recursion_and_defaults_of_one_program(one: Pool) -> None:
    program = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Point:
    x: int

def double(n: int) -> int:
    print(__name__, n)
    return Point(n).x * 2 if n < 5 else double(n - 1) + 2
"""
    result = one.run(Job(program, "double", "", "def check(candidate):\n    assert candidate(7) == 14\n", QUICK))
    assert result.passed, result
    assert result.output.splitlines()[0] == "candidate 7"


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -7, 2**63, -(3**900), 1.5, -0.0, math.inf, 1e-320, 2 + 3j, "ü\ud800\x00", b"\xff", [], [[1], (2, [3])],
     (), {}, {1: "a", (2, 3): {4}}, {"t": 1}, set(), {1, "a"}, frozenset({1})],
)  # fmt: skip
def test_plain_data_crosses_the_wire(value: object) -> None:
    back = wire.unpack(wire.pack(value))
    assert repr(back) == repr(value)
    assert type(back) is type(value)


def test_nan_and_subclasses_cross_as_their_base() -> None:
    assert math.isnan(wire.unpack(wire.pack(math.nan)))
    text = type("Text", (str,), {"__str__": lambda self: "lie", "__iter__": lambda self: iter("lie")})("true")
    items = type("Items", (list,), {"__iter__": lambda self: iter(["lie"]), "__len__": lambda self: 0})(["true"])
    assert wire.unpack(wire.pack({text: items})) == {"true": ["true"]}


@pytest.mark.parametrize(
    "value", [{}, {"x": 1}, {"i": "0x"}, {"i": 1.5}, {"s": [[]]}, {"d": [[1]]}, {"c": 1}, {"t": [], "i": "1"}, {"b": "?"}]
)
def test_other_json_is_malformed(value: object) -> None:
    with pytest.raises(wire.Malformed):
        wire.unpack(json.dumps(value).encode())


def test_a_million_numbers_are_an_answer(one: Pool) -> None:
    test = "def check(candidate):\n    assert candidate(1_000_000)[-1] == 999_999\n"
    roomy = Limits(cpu_seconds=10, wall_seconds=200)
    result = one.run(Job("def numbers(n):\n    return list(range(n))\n", "numbers", "", test, roomy))
    assert result.passed, result


def test_objects_are_not_plain_data() -> None:
    with pytest.raises(TypeError, match="a range is not plain data"):
        wire.pack([range(3)])


def test_workers_agree_on_sets_and_random_numbers(one: Pool) -> None:
    job = Job("import random; print(list({'a', 'b', 'c', 'd'}), random.random())", limits=QUICK)
    with Pool(2) as workers:
        assert len({result.output for result in [*workers.map([job] * 6), one.run(job)]}) == 1


def test_results_keep_their_order_and_a_timeout_is_retried_alone() -> None:
    require_safe()
    loop = Job("import time\nwhile True: pass", limits=Limits(cpu_seconds=0.2))
    heard: list[int] = []
    with Pool(2) as workers:
        results = workers.map([Job(f"print({n})", limits=QUICK) if n != 1 else loop for n in range(5)], heard.append)
    assert [result.output for result in results] == ["0\n", "", "2\n", "3\n", "4\n"]
    assert [result.retried for result in results] == [False, True, False, False, False]
    assert heard == [1, 2, 3, 4, 5]


def test_a_lost_worker_is_replaced(one: Pool) -> None:
    assert run(one, "pass").passed
    children = [process.pid for process in descendants(os.getpid()) if process.parent == os.getpid()]
    (keeper,) = [child for child in children if descendants(child)]
    for process in descendants(keeper):
        os.kill(process.pid, signal.SIGKILL)
    assert run(one, "pass").passed


def test_nothing_outlives_a_killed_host() -> None:
    require_safe()
    program = "import os\nos.fork()\nos.setsid() if os.getpid() > 2 else 0\nprint('up', flush=True)\nwhile True: pass"
    host = f"from evalkit.sandbox import run_python, Limits; run_python({program!r}, Limits(cpu_seconds=100, wall_seconds=100))"
    process = subprocess.Popen([sys.executable, "-c", host])
    deadline = time.monotonic() + 20
    below = descendants(process.pid)
    while len(below) < 6 and time.monotonic() < deadline:  # keeper, server, checker, init, the program and its child
        time.sleep(0.02)
        below = descendants(process.pid)
    process.kill()
    process.wait()
    assert len(below) == 6
    while any(Path(f"/proc/{gone.pid}").exists() for gone in below) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [gone for gone in below if Path(f"/proc/{gone.pid}").exists()]


def test_the_level_has_a_name_and_says_what_it_gives() -> None:
    assert Level({}).name == "full"
    assert list(Level({}).layers) == ["namespaces", "seccomp", "landlock", "rlimits"]
    low = Level({"namespaces": "mount: Operation not permitted", "landlock": "none"})
    assert (low.name, low.safe) == ("no-namespaces-landlock", False)
    reasons = "namespaces missing: mount: Operation not permitted; landlock missing: none"
    assert str(low) == f"sandbox level no-namespaces-landlock (seccomp, rlimits; {reasons})"
    assert Level({"landlock": "none"}).safe
    assert not Level({"seccomp": "none"}).safe


def test_below_the_level_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "probe", lambda: Level({"namespaces": "clone: Operation not permitted"}))
    for start in (lambda: run_python("pass"), lambda: check_function("", "", "", "f"), Pool, require):
        with pytest.raises(EvalkitError, match=r"no-namespaces .*enable .*--allow-unsafe-code") as refusal:
            start()
        assert "\n" not in str(refusal.value)
    assert require(allow_unsafe=True).name == "no-namespaces"


# root in a user namespace of one user, as in some containers
NAMESPACE_ROOT = """
import ctypes, os, sys
ids = os.getuid(), os.getgid()
if ctypes.CDLL(None).unshare(0x1000_0000):
    sys.exit("no user namespaces")
for file, text in (("setgroups", "deny"), ("uid_map", f"0 {ids[0]} 1"), ("gid_map", f"0 {ids[1]} 1")):
    open(f"/proc/self/{file}", "w").write(text)
"""
# and no further namespace can be made in it: what a hardened machine looks like from inside
HARDENED = f"""{NAMESPACE_ROOT}
open("/proc/sys/user/max_user_namespaces", "w").write("0")
from evalkit.errors import EvalkitError
from evalkit.sandbox import Limits, probe, run_python
from evalkit.sandbox.usage import descendants
print(probe().name, probe().fix)
try:
    run_python("pass")
except EvalkitError as error:
    print(error)
for program in sys.argv[1:]:
    result = run_python(program, Limits(cpu_seconds=0.3, wall_seconds=5), allow_unsafe=True)
    print(result.verdict, result.error, result.output.strip())
print(len(descendants(os.getpid())))
"""
DAEMONS = """
import os, time
if os.fork() == 0:
    os.setsid()
    while os.fork() == 0:
        time.sleep(100)
    os._exit(0)
"""


def test_a_namespaces_root_is_a_user_like_others() -> None:
    require_safe()
    script = NAMESPACE_ROOT + "from evalkit.sandbox import run_python\nprint(run_python('import os; print(os.getuid())'))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60)
    assert "output='65534\\n'" in done.stdout, done


def test_without_namespaces_the_other_walls_stand() -> None:
    require_safe()
    programs = ("print(6 * 7)", "while True: pass", "import os; os.mkdir('here')", "open('/etc/passwd')", "import socket; socket.socket()")
    programs = (*programs, DAEMONS)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", HARDENED, *programs], capture_output=True, text=True, timeout=60)
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert lines[0] == "no-namespaces sysctl user.max_user_namespaces=10000"
    assert lines[1].startswith("untrusted code needs a better sandbox")
    assert lines[2:5] == ["passed  42", "timeout", "passed"]
    if "landlock" not in probe().missing:
        assert lines[5] == "error PermissionError"
    assert lines[6:] == ["error PermissionError", "passed", "0"]


def require_safe() -> None:
    level = probe()
    if not level.safe:
        pytest.skip(f"{level}; {level.fix}")


CODEX_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


def cut(completion: str) -> str:
    return completion[: min([at for stop in CODEX_STOPS if (at := completion.find(stop)) >= 0], default=len(completion))]


def problems(data_dir: Path) -> dict[str, dict[str, str]]:
    with gzip.open(data_dir / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        return {row["task_id"]: row for row in map(json.loads, file)}


def job(problem: dict[str, str], completion: str) -> Job:
    return Job(problem["prompt"] + completion, problem["entry_point"], problem["prompt"], problem["test"])


def test_every_canonical_solution_passes(data_dir: Path) -> None:
    require_safe()
    rows = problems(data_dir)
    with Pool() as workers:
        results = workers.map(job(row, cut(row["canonical_solution"])) for row in rows.values())
    assert len(results) == 164
    assert not [(name, result) for name, result in zip(rows, results, strict=True) if not result.passed]


def test_published_samples_get_their_published_verdicts(data_dir: Path) -> None:
    require_safe()
    path = data_dir / "published" / "humaneval" / "wizardcoder" / "T0.0_N1_reproduce.results.59.8.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not at hand")
    rows = problems(data_dir)
    with gzip.open(path, "rt") as file:
        samples = [json.loads(line) for line in file]
    with Pool() as workers:
        results = workers.map(job(rows[sample["task_id"]], sample["completion"]) for sample in samples)
    assert [result.passed for result in results] == [sample["passed"] for sample in samples]
    assert sum(result.passed for result in results) == 98
