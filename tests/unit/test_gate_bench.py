"""Throughput and memory under a policy: bounds, noise, how many repeats it takes, and records that say nothing of each other."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import rewritten
from fake_runs import fake_run
from report_runs import bench

from evalkit import cli
from evalkit.bench.record import BenchRecord, Timing, of_repeats, read_bench
from evalkit.codec import encode
from evalkit.comparison import gate
from evalkit.comparison.gate_config import GateConfig, Sequential
from evalkit.errors import EvalkitError
from evalkit.record.read import read_run
from evalkit.record.schema import StoredWeights
from evalkit.record.write import write_record
from evalkit.stats.median import p_positive, repeats_needed, upper_of_median

RULE = '[[rule]]\ntask = "mmlu"\nmargin = 0.1\n'
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [str(fake_run(tmp_path / name, name, mmlu=[1.0, 0.0] * 200)) for name in "ab"]


def record(model: str, seconds: Sequence[float], memory: Sequence[int | None] = (), **changes: Any) -> BenchRecord:
    """Timings of 10 requests that begin every two minutes, those of "b" a minute later."""
    benches = []
    for i, each in enumerate(seconds):
        started = NOON + timedelta(minutes=2 * i + (model == "b"))
        timing = Timing(started=started.isoformat(), seconds=each, peak_memory=memory[i] if memory else 1_000_000)
        timed = bench(model, 10 / each, seconds=each, num_requests=10, timings=(timing,), **changes)
        benches.append(replace(timed, model=replace(timed.model, fingerprint=f"sha256:{model}")))
    return of_repeats(benches)


def written(folder: Path, *records: BenchRecord) -> tuple[str, ...]:
    paths = []
    for name, each in zip("ab", records, strict=True):
        path = folder / f"bench-{name}" / "bench.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(encode(each)))
        paths.append(str(path if name == "a" else path.parent))  # a file, or its folder
    return tuple(paths)


def word(runs: list[str], folder: Path, limits: str, *records: BenchRecord) -> dict[str, str]:
    (folder / "gate.toml").write_text(limits + RULE)
    found = gate.decide(GateConfig(tuple(runs), policy=str(folder / "gate.toml"), bench=written(folder, *records) if records else ()))
    return {check.name: check.word for check in found.checks}


@pytest.mark.parametrize(
    ("slower", "drop", "expected"),
    [
        # the candidate takes so many times as long; a drop of 20% is 1.25 times
        ([1.25] * 5, 0.2, "fail"),
        ([1.24] * 5, 0.2, "pass"),
        ([1.26] * 5, 0.2, "fail"),
        ([1.0] * 5, 0.05, "pass"),
        ([0.5] * 5, 0.05, "pass"),
        ([1.01, 1.3, 1.02, 0.99, 1.4], 0.2, "inconclusive"),  # small in the middle, but a large loss is not excluded
        ([1.3, 1.4, 1.3, 0.9, 1.5], 0.2, "inconclusive"),  # large in the middle, but one repeat of five is faster
        ([1.3] * 4, 0.2, "cannot detect"),
        ([1.01, 3.0, 1.02, 0.99, 1.01, 1.0, 0.98, 1.02], 0.05, "pass"),  # one outlier of eight
    ],
)
def test_throughput_at_its_bound(slower: list[float], drop: float, expected: str, runs: list[str], tmp_path: Path) -> None:
    base = [4.0] * len(slower)
    records = record("a", base), record("b", [4.0 * each for each in slower])
    assert word(runs, tmp_path, f"[throughput]\ndrop = {drop}\n", *records) == {"throughput": expected}


def test_a_machine_that_slows_down_is_no_loss(runs: list[str], tmp_path: Path) -> None:
    """Each repeat is held against its own base: the whole run of the candidate would look slower."""
    base = [4.0 * 1.3**i for i in range(6)]
    assert word(runs, tmp_path, "[throughput]\ndrop = 0.05\n", record("a", base), record("b", base)) == {"throughput": "pass"}


@pytest.mark.parametrize(("rise", "expected"), [(0.0999, "fail"), (0.1, "fail"), (0.1001, "pass")])
def test_memory_at_its_bound(rise: float, expected: str, runs: list[str], tmp_path: Path) -> None:
    records = record("a", [4.0] * 5, [1_000] * 5), record("b", [4.0] * 5, [1_100] * 5)
    assert word(runs, tmp_path, f"[memory]\nrise = {rise}\n", *records) == {"memory": expected}


def test_two_limits_of_a_tier_share_its_level(runs: list[str], tmp_path: Path) -> None:
    both = "[throughput]\ndrop = 0.1\n[memory]\nrise = 0.1\n"
    for repeats, expected in ((5, "cannot detect"), (6, "fail")):
        records = record("a", [4.0] * repeats), record("b", [8.0] * repeats, [2_000_000] * repeats)
        assert word(runs, tmp_path, both, *records) == {"throughput": expected, "memory": expected}
    records = record("a", [4.0] * 5), record("b", [8.0] * 5, [2_000_000] * 5)
    assert set(word(runs, tmp_path, both + 'tier = "warning"\n', *records).values()) == {"fail"}


def test_records_that_are_missing(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit = "[throughput]\ndrop = 0.1\n"
    assert word(runs, tmp_path, limit) == {"throughput": "fail"}
    assert word(runs, tmp_path, limit + 'missing = "ignore"\n') == {}
    with pytest.raises(EvalkitError, match=r"gate\.toml: the policy has \[throughput\], and no records are given; give --bench"):
        word(runs, tmp_path, limit + 'missing = "error"\n')
    records = record("a", [4.0] * 5), record("b", [4.0] * 5)
    with pytest.raises(EvalkitError, match=r"--bench has no effect: .* has neither \[throughput\] nor \[memory\]"):
        word(runs, tmp_path, "", *records)
    assert cli.main(["gate", *runs, "--bench", *written(tmp_path, *records)]) == 2
    assert "--bench has no effect without --policy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("base", "cand", "complaint"),
    [
        (record("a", [4.0] * 5), record("b", [4.0] * 5, device="another GPU"), "device of --bench differs"),
        (record("a", [4.0] * 5), record("b", [4.0] * 5, prompt_tokens=7), r"prompt_tokens of --bench differs \(BASE 1000, CAND 7\)"),
        (record("a", [4.0] * 5), record("b", [4.0] * 6), "--bench has 5 and 6 timings"),
        (record("a", [4.0] * 5), replace(record("b", [4.0] * 5), timings=()), "--bench has 5 and 0 timings"),
        (record("a", [4.0] * 5), record("b", [70.0] * 5), "did not take turns"),
        (record("a", [4.0] * 5), record("c", [4.0] * 5), "bench-b timed c, and .* has other weights"),
        (record("a", [4.0] * 5, [None] * 5), record("b", [4.0] * 5), "--bench has no peak memory"),
        (record("a", [4.0] * 5), record("b", [4.0] * 5, dtype="int8"), r"bench-b was timed with dtype int8, and .* has bfloat16; time it"),
        (
            record("a", [4.0] * 5, engine="openai:http://x"),
            record("b", [4.0] * 5, engine="openai:http://x"),
            r"bench\.json was timed with engine openai, and .* has native; time it",
        ),
        (record("a", [4.0] * 5), record("b", [4.0] * 5, short_answers=7), "0 of BASE's and 7 of CAND's answers in --bench ended early"),
    ],
)
def test_records_that_say_nothing_of_each_other(
    base: BenchRecord, cand: BenchRecord, complaint: str, runs: list[str], tmp_path: Path
) -> None:
    with pytest.raises(EvalkitError, match=f"not comparable: .*{complaint}") as caught:
        word(runs, tmp_path, "[throughput]\ndrop = 0.1\n[memory]\nrise = 0.1\n", base, cand)
    assert caught.value.exit_code == 2


def test_the_same_weights_in_another_dtype_are_another_model(runs: list[str], tmp_path: Path) -> None:
    """Of weights that are converted as they are loaded, the digest alone says nothing of what was timed."""
    stored = StoredWeights(precision="bfloat16", bits=16.0, sha256="ab" * 32)
    for run in runs:
        found = read_run(run)
        write_record(Path(run), replace(found, model=replace(found.model, weights=stored)))
    base, cand = (
        replace(each, model=replace(each.model, fingerprint="sha256:other", weights=stored))
        for each in (record("a", [4.0] * 5), record("b", [4.0] * 5))
    )
    limit = "[throughput]\ndrop = 0.1\n"
    assert word(runs, tmp_path, limit, base, cand) == {"throughput": "pass"}
    with pytest.raises(EvalkitError, match=r"bench-b was timed with dtype int8, and .* has bfloat16"):
        word(runs, tmp_path, limit, base, replace(cand, dtype="int8"))


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [
        ("[throughput]\n", r":1: throughput\.drop is missing"),
        ("[throughput]\ndrop = 1\n", r":2: throughput\.drop is 1, expected a share of the base's, above 0 and below 1"),
        ("[throughput]\nrise = 0.1\n", r":2: throughput\.rise is no key"),
        ("[memory]\nrise = 0\n", r":2: memory\.rise is 0, expected a share"),
        ("[memory]\nrise = 0.1\nalpha = 1\n", r":3: memory\.alpha is 1, expected from 0\.001 to 0\.2"),
        ('[memory]\nrise = "10%"\n', r':2: memory\.rise is "10%", expected a number;'),
    ],
)
def test_limits_that_are_refused(limit: str, complaint: str, runs: list[str], tmp_path: Path) -> None:
    with pytest.raises(EvalkitError, match=rf"gate\.toml{complaint}"):
        word(runs, tmp_path, limit)


def test_the_bundle_holds_the_records(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gate.toml").write_text("[throughput]\ndrop = 0.1\n" + RULE)
    paths = written(tmp_path, record("a", [4.0] * 5), record("b", [8.0] * 5))
    file = tmp_path / "gate.bundle"
    options = ["--policy", str(tmp_path / "gate.toml"), "--bench", *paths, "--bundle", str(file)]
    assert cli.main(["gate", *runs, *options]) == 1
    out = capsys.readouterr().out
    assert (
        "- throughput: fail: 1.25 requests/s, 2.5 in the base; lost: +50.0% (median of 5, at most +50.0%), where 10.0% are allowed" in out
    )
    (tmp_path / "bench-a" / "bench.json").unlink()
    assert cli.main(["audit", str(file)]) == 0
    faster = json.dumps(encode(record("b", [4.0] * 5))).encode()
    assert cli.main(["audit", str(rewritten(file, **{"cand/bench.json": faster}))]) == 2
    assert "states another decision than its samples give: outcome is 'fail', not 'pass'" in capsys.readouterr().err


def test_a_slower_candidate_is_not_even_run(runs: list[str], tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text("[throughput]\ndrop = 0.1\n" + RULE)
    paths = written(tmp_path, record("a", [4.0] * 5), record("b", [8.0] * 5))
    found = gate.decide(GateConfig(tuple(runs), policy=str(tmp_path / "gate.toml"), bench=paths, sequential=Sequential(None)))
    assert (found.word, found.outcomes) == ("fail", ())


@pytest.mark.parametrize(
    ("candidate", "complaint"),
    [
        ({"model": "b"}, ""),
        ({"model": "b", "dtype": "auto", "engine": "native"}, ""),
        ({"model": "c"}, "was timed with --model b, and the candidate has c; time that one"),
        ({}, "was timed with --model b, and the candidate has demo"),
        ({"model": "b", "engine": "llama_cpp"}, "was timed with --engine native, and the candidate has llama_cpp"),
        ({"model": "b", "dtype": "int8"}, "was timed with --dtype bfloat16, and the candidate has int8"),
    ],
)
def test_the_record_of_a_candidate_that_is_still_to_run(candidate: dict[str, str], complaint: str, runs: list[str], tmp_path: Path) -> None:
    """What is asked of it has to be what was timed. It is slower, so that none is run here."""
    (tmp_path / "gate.toml").write_text("[throughput]\ndrop = 0.1\n" + RULE)
    paths = written(tmp_path, record("a", [4.0] * 5), record("b", [8.0] * 5))
    config = GateConfig((runs[0],), policy=str(tmp_path / "gate.toml"), bench=paths, sequential=Sequential(candidate))
    if complaint:
        with pytest.raises(EvalkitError, match=complaint):
            gate.decide(config)
    else:
        assert gate.decide(config).word == "fail"


def test_medians_of_repeats(tmp_path: Path) -> None:
    found = record("a", [4.0, 5.0, 40.0], [1, 2, 3])
    assert (found.seconds, found.requests_per_second, len(found.timings)) == (5.0, 2.0, 3)
    assert found.roofline is not None
    assert found.roofline.share == pytest.approx(found.roofline.floor_seconds / 5.0)
    (path, _) = written(tmp_path, found, found)
    assert read_bench(Path(path)) == found


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"seconds": 0.0}, "timings.1.seconds is 0.0, expected more than 0"),
        ({"seconds": -1.0}, "timings.1.seconds is -1.0, expected more than 0"),
        ({"seconds": 1e-300}, "timings.1.seconds is 1e-300, expected at least a microsecond"),
        ({"seconds": 1e300}, "timings.1.seconds is 1e+300, which from 2026-01-01T12:02:00+00:00 on is not within"),
        (
            {"started": "9999-12-31T23:59:59+00:00"},
            "timings.1.seconds is 4.0, which from 9999-12-31T23:59:59+00:00 on is not within the years 1 to 9999",
        ),
        ({"started": "yesterday"}, 'timings.1.started is "yesterday", expected a time with its zone'),
        ({"started": "2026-01-01T12:00:00"}, 'timings.1.started is "2026-01-01T12:00:00", expected a time with its zone'),
        ({"peak_memory": -5}, "timings.1.peak_memory is -5, expected more than 0"),
    ],
)
def test_timings_that_no_bench_measures(
    changes: dict[str, Any], complaint: str, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gate.toml").write_text("[throughput]\ndrop = 0.1\n" + RULE)
    paths = written(tmp_path, record("a", [4.0] * 5), record("b", [4.0] * 5))
    damaged = json.loads(Path(paths[0]).read_text())
    damaged["timings"][1] |= changes
    Path(paths[0]).write_text(json.dumps(damaged))
    assert cli.main(["gate", *runs, "--policy", str(tmp_path / "gate.toml"), "--bench", *paths]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"{paths[0]}: {complaint}" in error
    assert "measure again with evalkit bench" in error


@pytest.mark.parametrize("name", ["seconds", "requests_per_second"])
def test_figures_that_no_bench_measures(name: str, tmp_path: Path) -> None:
    (path, _) = written(tmp_path, replace(record("a", [4.0]), **{name: 0.0}), record("b", [4.0]))
    with pytest.raises(EvalkitError, match=rf"bench\.json: {name} is 0\.0, expected more than 0"):
        read_bench(Path(path))


def test_the_sign_test_and_its_bound() -> None:
    assert p_positive([1, 1, 1, 1, 1]) == pytest.approx(1 / 32)
    assert p_positive([1, 1, 1, 1, -1]) == pytest.approx(6 / 32)
    assert p_positive([0, 0, 0]) == 1.0
    assert upper_of_median([3, 1, 2, 5, 4], 0.05) == 5
    assert upper_of_median([3, 1, 2, 4], 0.05) == math.inf
    assert upper_of_median(range(8), 0.05) == 6  # 9 of 256 draws have at most one above the median
    assert (repeats_needed(0.05), repeats_needed(0.05, 2), repeats_needed(0.01)) == (5, 6, 7)
    # at a power of two the chance of all repeats is the level, and not below it
    assert (repeats_needed(0.125), repeats_needed(0.125, 2)) == (4, 5)
    assert p_positive([1, 1, 1]) == 0.125


@pytest.mark.slow
def test_how_often_the_bound_of_the_median_errs() -> None:
    """Timings with a long tail: the true median is above the bound in at most alpha of draws, and not much less."""
    rng, draws = np.random.default_rng(0), 4_000
    for n, alpha, least in ((5, 0.05, 0.02), (9, 0.05, 0.01), (20, 0.1, 0.04)):
        wrong = sum(upper_of_median(rng.lognormal(0, 2, n).tolist(), alpha) < 1.0 for _ in range(draws)) / draws
        assert least < wrong < alpha + 3 * math.sqrt(alpha / draws)
