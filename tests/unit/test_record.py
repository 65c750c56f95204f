"""run.json, samples and bench.json as typed records: what is written is read back, and what does not fit is named by its key path."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import bench, entry, figure, judge, run

from evalkit.bench.record import read_bench
from evalkit.codec import decode, encode
from evalkit.errors import EvalkitError
from evalkit.record.read import read_run, read_samples
from evalkit.record.sample import RatedTurn, Sample, SampleRow
from evalkit.record.schema import (
    Coverage,
    Judge,
    JudgeSpent,
    ModelInfo,
    Opponent,
    PairOutcome,
    Pairwise,
    Parameters,
    Run,
    Spread,
)
from evalkit.record.write import write_record, write_samples
from evalkit.tasks import Doc, Generate, Generated, Loglikelihood, Loglikelihoods, Scored, SuiteCell

BASELINES = Path(__file__).parents[2] / "results" / "baselines"

SPENT = JudgeSpent(requests=3, prompt_tokens=300, completion_tokens=30, cost=0.5)
OUTCOME = PairOutcome(games=2, win=1, loss=0, tie=1, no_verdict=0, win_rate_adjusted=figure(0.75, 0.1, 2), inconsistent=0.5)
PAIRWISE = Pairwise(
    against=Opponent(run="runs/b", spec="b", fingerprint="sha256:b"),
    judge=Judge(model="gpt-4", rating="strict", repeats=1, spent=SPENT),
    overall=OUTCOME,
    groups={"math": OUTCOME},
)
JUDGED = replace(
    judge("gpt-4"),
    answered_as={"gpt-4-0613": 2},
    temperature=0.0,
    max_tokens=2048,
    spent=SPENT,
    spread=Spread(scores=(7.0, 7.5), stdev=0.35, range=0.5),
    score_without_repeats=figure(7.0, 0.1),
)
WHOLE = replace(
    run(
        "m",
        mmlu=entry(0.6, groups={"stem": {"acc": figure(0.5, 0.1)}}, subjects={"anatomy": {"acc": figure(0.5, 0.1)}}),
        suite=entry(
            0.6,
            cells=(SuiteCell("belebele:th", "belebele", "th", "understanding", "acc"),),
            coverage=Coverage(cells=2, measured=1, complete=1, incomplete={"belebele:ja": "no data"}),
            signatures={"13a": "nrefs:1"},
        ),
        mt_bench=entry(0.6, judge=JUDGED, pairwise=(PAIRWISE,)),
    ),
    model=ModelInfo(
        spec="m",
        fingerprint="sha256:m",
        engine="openai:http://x",
        family="llama",
        parameters=Parameters(total=2, activated=1),
        dtype="float32",
        device="cpu",
        kernel="cpu",
        layout_invariant=True,
        max_seq_len=512,
        server="http://x",
        served={"id": "m", "anything": [1, None]},
    ),
)
ROW = replace(
    Sample(
        Doc("d", "g", {"question": "?", "options": ["a", 1, None]}, cluster="passage"),
        [Loglikelihood("?", (" A", " B")), Generate("?", ("\n",), 5, messages=(("user", "?"),))],
        [Loglikelihoods((-1.0, -2.5), (True, False)), Generated("A", "stop", 1)],
        Scored({"acc": 1.0, "bleu": (("reference",), "said")}, "A", "A"),
    ).row(),
    judgments=(RatedTurn(turn=1, repeat=0, published=7.0, strict=None, judgment="[[7]]"),),
)


@pytest.mark.parametrize("folder", sorted(filter(Path.is_dir, BASELINES.iterdir())), ids=lambda folder: folder.name)
def test_every_baseline_is_read_and_written_back_to_the_byte(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        record = read_bench(file) if file.name == "bench.json" else read_run(file)
        assert json.dumps(encode(record), indent=2, ensure_ascii=False) + "\n" == file.read_text("utf-8")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_record(tmp_path, WHOLE)
    assert read_run(tmp_path) == WHOLE
    write_samples(tmp_path, "t", [ROW, replace(ROW, cluster="", judgments=())])
    assert list(read_samples(tmp_path, "t")) == [ROW, replace(ROW, cluster="", judgments=())]
    (tmp_path / "bench.json").write_text(json.dumps(encode(bench("m", 2.0))))
    assert read_bench(tmp_path / "bench.json") == bench("m", 2.0)


def test_parts_that_are_no_number_are_null_at_any_depth(tmp_path: Path) -> None:
    parts = {"words": (float("nan"), 3), "bytes": float("inf"), "both": {"low": [-float("inf"), 1.5]}}
    asked, said = (Loglikelihood("", ("a",)),), (Loglikelihoods((-1.0,), (False,)),)
    write_samples(tmp_path, "t", [Sample(Doc("1", "all", {}), asked, said, Scored({}, "", "", False, parts)).row()])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (line,) = (tmp_path / "samples" / "t.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line, parse_constant=refuse)["parts"] == {"words": [None, 3], "bytes": None, "both": {"low": [None, 1.5]}}


def test_what_does_not_apply_is_left_out() -> None:
    plain = encode(run("m", mmlu=entry(0.6)))
    assert not {"subjects", "cells", "coverage", "signatures", "judge", "pairwise"} & plain["tasks"]["mmlu"].keys()
    assert "kernel" not in plain["model"]
    assert plain["limit"] is None  # it applies: all documents
    assert not {"cluster", "judgments"} & encode(replace(ROW, cluster="", judgments=())).keys()


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key path of a JSON value that a schema looks into."""
    yield path
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if key not in ("served", "doc"):  # anything may stand there
            yield from places(item, (*path, str(key)))


def changed(value: Any, path: tuple[str, ...], new: Any) -> Any:
    """The value with another one at the path."""
    if not path:
        return new
    if isinstance(value, dict):
        return {key: changed(item, path[1:], new) if key == path[0] else item for key, item in value.items()}
    return [changed(item, path[1:], new) if str(i) == path[0] else item for i, item in enumerate(value)]


def test_a_wrong_type_is_named_by_its_key_path_at_every_level(tmp_path: Path) -> None:
    whole = encode(WHOLE)
    paths = [path for path in places(whole) if path]
    assert len(paths) > 150
    for path in paths:
        # no key of a record takes a list of objects with a strange key
        (tmp_path / "run.json").write_text(json.dumps(changed(whole, path, [{"strange": 1}])))
        with pytest.raises(EvalkitError) as caught:
            read_run(tmp_path)
        message = str(caught.value)
        if path == ("schema",):
            assert "not a run.json of schema 1" in message
        else:
            assert message.startswith(f"{tmp_path / 'run.json'}: {'.'.join(path)}"), message
            assert message.endswith("; run it again, or read it with the evalkit that wrote it")
            assert "\n" not in message


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("tasks.mmlu.metrics.acc.value", "high", 'is "high", expected a number'),
        ("tasks.mmlu.metrics.acc.ci95", [0.1], "is [0.1], expected a list of 2: a number, a number"),
        ("tasks.mmlu.n", 3.5, "is 3.5, expected a whole number"),
        ("tasks.mmlu.n", True, "is true, expected a whole number"),
        ("tasks.mmlu.n", 10**400, "expected a whole number that is finite and fits into 64 bits"),
        ("tasks.mmlu.metrics.acc.value", float("nan"), "is NaN, expected a number that is finite"),
        ("tasks.mmlu.metrics.acc.value", float("inf"), "is Infinity, expected a number that is finite"),
        ("seconds", 10**400, "expected a number that is finite and fits into 64 bits"),
        ("tasks.mmlu.averaging", "mean", 'is "mean", expected "micro" or "macro"'),
        ("tasks.mmlu.counts", {"truncated": 1}, "is missing"),
        ("tasks.mmlu.counts.trunkated", 1, "is no key that this evalkit knows (did you mean truncated?)"),
        ("model.zzz", 1, "is no key that this evalkit knows (was it written by a newer one?)"),
        ("limit", "all", 'is "all", expected a whole number or null'),
        ("status", "done", 'is "done", expected "complete" or "incomplete"'),
    ],
)
def test_what_was_found_and_what_was_expected(path: str, value: Any, complaint: str) -> None:
    raw, keys = encode(WHOLE), path.split(".")
    at = raw
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    with pytest.raises(EvalkitError) as caught:
        decode(Run, raw, "run.json")
    assert str(caught.value).startswith(f"run.json: {path}")
    assert complaint in str(caught.value)


@pytest.mark.parametrize("name", ["", "../../secret", "a\0b"])
def test_a_task_that_is_no_files_name_is_refused(name: str, tmp_path: Path) -> None:
    raw = encode(WHOLE)
    (tmp_path / "run.json").write_text(json.dumps(raw | {"tasks": {name: raw["tasks"]["mmlu"]}}))
    with pytest.raises(EvalkitError, match=r"tasks has the key \".*\", which cannot name a task; run it again"):
        read_run(tmp_path)


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(encode(WHOLE))[:-1] + ', "name": "another"}')
    with pytest.raises(EvalkitError, match=r'cannot read .*run.json \(the key "name" is there twice\)'):
        read_run(tmp_path)


def test_a_key_that_is_missing_is_named() -> None:
    for key in ("name", "model", "tasks", "environment"):
        raw = {name: value for name, value in encode(WHOLE).items() if name != key}
        with pytest.raises(EvalkitError, match=rf"^run.json: {key} is missing; run it again$"):
            decode(Run, raw, "run.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def read(tmp_path: Path, text: bytes) -> list[SampleRow]:
    """The rows, or none where they are refused, which must be in one line that names file and line."""
    (tmp_path / "samples").mkdir(exist_ok=True)
    file = tmp_path / "samples" / "t.jsonl"
    file.write_bytes(text)
    message = ""
    try:
        return list(read_samples(tmp_path, "t"))
    except EvalkitError as error:
        message = str(error)
    assert message.startswith(str(file))
    assert len(message.splitlines()) == 1
    return []


@given(path=st.sampled_from(sorted(places(encode(ROW)))), value=JSON)
def test_a_row_with_anything_anywhere_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[str, ...], value: Any
) -> None:
    odd = changed(encode(ROW), path, value)
    for row in read(tmp_path_factory.getbasetemp(), json.dumps(odd).encode()):
        assert decode(SampleRow, encode(row), "again") == row


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, damaged: bytes) -> None:
    line = json.dumps(encode(ROW)).encode() + b"\n"
    assert read(tmp_path_factory.getbasetemp(), line + damaged) in ([], [ROW])


def test_rows_cut_anywhere_and_nested_deeply_are_refused(tmp_path: Path) -> None:
    line = json.dumps(encode(ROW)).encode()
    assert read(tmp_path, line) == [ROW]
    for end in range(1, len(line), 7):
        assert read(tmp_path, line[:end]) == []
    assert read(tmp_path, b'{"doc": ' * 100_000) == []


def test_requests_and_responses_are_the_tasks_own_types() -> None:
    loglikelihood, generate = ROW.requests
    assert (type(loglikelihood), type(generate)) == (Loglikelihood, Generate)
    assert decode(SampleRow, encode(ROW), "x").requests == ROW.requests
    limited = replace(generate, max_total_tokens=9)
    assert encode(limited) == json.loads(json.dumps(asdict(limited)))
    assert "max_total_tokens" not in encode(generate)  # samples from before the field was there stay as they are
    chat = replace(loglikelihood, context="", messages=(("user", "?"),))
    assert encode(chat)["messages"] == [["user", "?"]]
    assert "messages" not in encode(loglikelihood)
    assert decode(SampleRow, encode(replace(ROW, requests=(chat, limited))), "x").requests == (chat, limited)
    with pytest.raises(EvalkitError, match=r"x: requests.0 lacks context, continuations and lacks context, max_new_tokens, until; run it"):
        decode(SampleRow, encode(ROW) | {"requests": [{}]}, "x")
