"""Damaged results: every reader refuses in one line (exit 2) or gives the figures of the undamaged file; nothing ends with 1 or 5.

A hundred mutations of each file, always the same ones; `make test-slow` runs two thousand.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from fake_runs import fake_run
from lm_eval_folders import mean, row, rows, write
from mutations import mutated_bytes, mutated_json

from evalkit import cli
from evalkit.comparison.compare import compare
from evalkit.config import RunConfig, read_toml
from evalkit.errors import EvalkitError
from evalkit.report.published import PublishedTable, read_table

COUNTS = [100, pytest.param(2_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
SCORES = [1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
Mutate = Callable[[random.Random], bytes]


def outcome(capsys: pytest.CaptureFixture[str], where: str, *command: object) -> int:
    """The exit code of a command, which must be 0 with no complaint, or 2 with one line."""
    code = cli.main([str(part) for part in command])
    out, err = capsys.readouterr()
    assert code in (0, 2), f"{where}: exit {code}: {err}"
    complaints = [line for line in err.splitlines() if line.startswith("evalkit: ")]
    assert len(complaints) == (code == 2), f"{where}: {err}"
    assert "Traceback" not in out + err, where
    assert all(len(line) < 1_500 and line.isprintable() for line in complaints), where
    return code


def fuzz(capsys: pytest.CaptureFixture[str], base: Path, cand: Path, file: Path, mutate: Mutate, count: int, report: bool = True) -> None:
    """The candidate is a copy of the base, of which one file is damaged."""
    seen: Counter[int] = Counter()
    whole = file.read_bytes()
    for i in range(count):
        raw = mutate(random.Random(f"{file.name} {i}"))
        file.write_bytes(raw)
        where = f"mutation {i} of {file.name}: {raw[:3_000]!r}"
        code = outcome(capsys, where, "gate", base, cand, "--margin", "0.5", "--allow-small-margin")
        seen[code] += 1
        if code == 0:
            for task in compare(str(base), str(cand)).tasks:
                assert task.difference.cand == pytest.approx(task.difference.base, abs=1e-9), where
        if i % 4 == 0:
            outcome(capsys, where, "view", cand, "--out", cand.parent / "page.html")
            if report:
                outcome(capsys, where, "report", cand)
                outcome(capsys, where, "ls", "runs", "--out", cand.parent)
    file.write_bytes(whole)
    assert seen[2] > count / 5
    assert seen[0] > count / 100


def lines_mutated(raw: bytes, more: dict[str, Any]) -> Mutate:
    """One row of a .jsonl file damaged, or lost, or there twice, or a byte anywhere."""
    whole = [line.encode() for line in raw.decode().splitlines()]

    def mutate(rng: random.Random) -> bytes:
        lines, at = list(whole), rng.randrange(len(whole))
        match rng.randrange(8):
            case 0:
                return mutated_bytes(raw, rng)
            case 1:
                del lines[at]
            case 2:
                lines.insert(at, rng.choice(whole))
            case _:
                lines[at] = mutated_json(json.loads(lines[at]), rng, more)
        return b"".join(line + b"\n" for line in lines)

    return mutate


@pytest.fixture
def ours(tmp_path: Path) -> tuple[Path, Path]:
    base = fake_run(tmp_path / "runs" / "base", "m", mmlu=SCORES, gsm8k=[0.5, 0.25, 1.0])
    return base, Path(shutil.copytree(base, tmp_path / "runs" / "cand"))


@pytest.fixture
def lm_evals(tmp_path: Path) -> tuple[Path, Path]:
    gen = [row(i, "gen", chosen, exact_match=score) for chosen in ("strict", "flexible") for i, score in enumerate(SCORES)]
    for each in gen:
        each["bleu"] = [each["target"], each["filtered_resps"][0]]
        each["metrics"].append("bleu")
    tasks = {"x": rows("x", SCORES), "y": rows("y", [1.0, 0.0, 0.0]), "gen": gen}
    group = {"xy": {"acc,none": (mean(SCORES) + 1 / 3) / 2}}
    base = write(tmp_path / "runs" / "base", tasks, group, {"xy": ["x", "y"]}, model_name="m")
    return base, Path(shutil.copytree(base, tmp_path / "runs" / "cand"))


@pytest.mark.parametrize("count", COUNTS)
def test_run_json(count: int, ours: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    file = ours[1] / "run.json"
    record = json.loads(file.read_bytes())
    fuzz(capsys, *ours, file, lambda rng: mutated_json(record, rng, {"schema": 2, "tasks": {}}), count)


@pytest.mark.parametrize("count", COUNTS)
def test_samples(count: int, ours: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    file = ours[1] / "samples" / "mmlu.jsonl"
    fuzz(capsys, *ours, file, lines_mutated(file.read_bytes(), {"metrics": {"acc": 1.0}, "cluster": "c"}), count)


@pytest.mark.parametrize("count", COUNTS)
def test_lm_evals_results(count: int, lm_evals: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = lm_evals[1].glob("results_*")
    record = json.loads(file.read_bytes())
    more = {"groups": {"xy": {}}, "git_hash": "x", "task_hashes": {"x": "1"}, "lm_eval_version": "0.4.13", "n-samples": {}}
    fuzz(capsys, *lm_evals, file, lambda rng: mutated_json(record, rng, more), count)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("task", ["x", "gen"])
def test_lm_evals_samples(task: str, count: int, lm_evals: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = lm_evals[1].glob(f"samples_{task}_*")
    fuzz(capsys, *lm_evals, file, lines_mutated(file.read_bytes(), {"acc": 1.0, "filter": "none"}), count)


def toml_mutated(raw: bytes) -> Mutate:
    """Bytes damaged, or the value of one line replaced by one of another kind."""
    strange = [b"1", b"-1", b"1e400", b"nan", b"inf", b'""', b'"\\u0000"', b"[]", b"{}", b"true", b"1979-05-27", b"9" * 400, b"[" * 3_000]

    def mutate(rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return mutated_bytes(raw, rng)
        lines = raw.splitlines()
        at = rng.choice([i for i, line in enumerate(lines) if b"=" in line])
        lines[at] = lines[at].partition(b"=")[0] + b"= " + rng.choice(strange)
        return b"\n".join(lines)

    return mutate


def read_or_refused(read: Callable[[], Any], where: str) -> Any:
    """What was read, or None with one line. Any other exception fails the test."""
    try:
        return read()
    except EvalkitError as error:
        refusal = error
    assert refusal.exit_code == 2, where
    assert len(str(refusal).splitlines()) == 1, where
    assert len(str(refusal)) < 1_500, where
    return None


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["qwen1.5-moe", "smollm2"])
def test_published_tables(name: str, count: int, tmp_path: Path) -> None:
    raw = (Path(__file__).parents[2] / "results" / "published" / f"{name}.toml").read_bytes()
    file, seen = tmp_path / "table.toml", Counter[bool]()
    for i in range(count):
        file.write_bytes(toml_mutated(raw)(random.Random(i)))
        found = read_or_refused(lambda: read_table(str(file)), f"mutation {i}")
        assert found is None or isinstance(found, PublishedTable)
        seen[found is None] += 1
    assert min(seen[True], seen[False]) > count / 20


@pytest.mark.parametrize("count", COUNTS)
def test_run_toml(count: int, tmp_path: Path) -> None:
    lines = (
        'tasks = ["mmlu", "gsm8k"]',
        'model = "demo"',
        'data = "sample"',
        "limit = 3",
        "temperature = 0.8",
        "repeats = 2",
        'name = "n"',
    )
    raw = "\n".join(lines).encode()
    file, seen = tmp_path / "run.toml", Counter[bool]()
    names = {field.name for field in fields(RunConfig)}
    for i in range(count):
        file.write_bytes(toml_mutated(raw)(random.Random(i)))
        found = read_or_refused(lambda: RunConfig(**{"tasks": ()} | read_toml(str(file))), f"mutation {i}: {file.read_bytes()!r}")
        if found is not None:
            assert names == {name for name in names if hasattr(found, name)}
            assert found.folder.parent == Path(found.out)
        seen[found is None] += 1
    assert min(seen[True], seen[False]) > count / 20
