"""Benchmark rows, published answers and judgments that were damaged: each is refused in one line, or read and scored.

A hundred mutations of each file, always the same ones; `make test-slow` runs two thousand.
"""

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mutations import mutated_bytes, mutated_json

from evalkit import cli
from evalkit.data.sources import FolderSource, SampleSource, documents
from evalkit.errors import EvalkitError
from evalkit.files import decoded
from evalkit.judge.given import score_judgments
from evalkit.runner.given_answers import read_texts
from evalkit.tasks import Generated, ScoresTexts
from evalkit.tasks.registry import resolve, task_classes
from evalkit_tasks.humaneval.task import HumanEval
from evalkit_tasks.multilingual.cells import BY_NAME
from evalkit_tasks.multilingual.suite import ADAPTERS

COUNTS = [100, pytest.param(2000, marks=pytest.mark.slow)]
SAMPLE = SampleSource().folder


def mutated_text(raw: bytes, rng: random.Random) -> bytes:
    """A file of JSON lines or one JSON value with odd values in it, or any file with odd bytes."""
    if rng.random() < 0.4:
        return mutated_bytes(raw, rng)
    try:
        return mutated_json(json.loads(raw), rng, {"id": 1})
    except ValueError:
        lines = raw.split(b"\n")
    at = rng.randrange(len(lines))
    try:
        lines[at] = mutated_json(json.loads(lines[at]), rng, {"id": 1})
    except (ValueError, TypeError, AttributeError):
        return mutated_bytes(raw, rng)
    return b"\n".join(lines)


def refusal(read: Callable[[bytes], Any], raw: bytes) -> EvalkitError | None:
    """Why the file is refused; None where it is read."""
    try:
        read(raw)
    except EvalkitError as error:
        return error
    return None


def fuzz(raw: bytes, count: int, read: Callable[[bytes], Any]) -> Counter[str]:
    """How many were refused and how many were read; an exception that is no EvalkitError fails the test."""
    seen: Counter[str] = Counter()
    for i in range(count):
        error = refusal(read, mutated_text(raw, random.Random(i)))
        seen["refused" if error else "read"] += 1
        if error:
            assert error.exit_code == 2, f"mutation {i}: {error}"
            assert len(str(error).splitlines()) == 1, f"mutation {i}: {error}"
    return seen


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(
    ("spec", "file"),
    [
        ("gsm8k", "gsm8k/test.jsonl"),
        ("gsm8k", "gsm8k/qwen_8shot_prompt.txt"),
        ("humaneval", "humaneval/HumanEval.jsonl"),
        ("humaneval@qwen-coder", "humaneval/HumanEvalPlus-v0.1.10.jsonl"),
        ("m3exam:it", "m3exam/text-question/italian-questions-test.json"),
        ("flores:en-de", "flores101/flores101_dataset/devtest/deu.devtest"),
        ("mt_bench", "mt_bench/question.jsonl"),
        ("mt_bench", "mt_bench/reference_answer/gpt-4.jsonl"),
    ],
)
def test_rows(spec: str, file: str, count: int, tmp_path: Path) -> None:
    shutil.copytree(SAMPLE / file.partition("/")[0], tmp_path / file.partition("/")[0])
    task = resolve(spec)

    def read(raw: bytes) -> None:
        (tmp_path / file).write_bytes(raw)
        for doc in documents(task, FolderSource(tmp_path)):
            assert task.requests(doc)
            json.dumps(dict(doc.fields), ensure_ascii=False).encode()

    seen = fuzz((SAMPLE / file).read_bytes(), count, read)
    assert seen["refused"] or file.endswith(".txt"), seen


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["belebele:es", "pawsx:de", "mgsm:es"])
def test_rows_of_lm_evals_sets(name: str, count: int, tmp_path: Path) -> None:
    """As far as lm-eval's definitions, which are another program's."""
    cell = BY_NAME[name]
    source = SampleSource()
    table = ADAPTERS[cell.set].tables(cell, source)[-1]
    (tmp_path / table.path).parent.mkdir(parents=True)

    def read(raw: bytes) -> None:
        (tmp_path / table.path).write_bytes(raw)
        rows = ADAPTERS[cell.set].rows(cell, FolderSource(tmp_path), cell.split)  # type: ignore[attr-defined]
        assert all(ADAPTERS[cell.set].key(row, i) for i, row in enumerate(rows))  # type: ignore[attr-defined]

    assert fuzz((SAMPLE / table.path).read_bytes(), count, read)["refused"]


@pytest.mark.parametrize("count", COUNTS)
def test_rows_of_mmlu(count: int, tmp_path: Path) -> None:
    table = task_classes()["mmlu"].tables(SampleSource())[1]
    (tmp_path / table.path).parent.mkdir(parents=True)

    def read(raw: bytes) -> None:
        (tmp_path / table.path).write_bytes(raw)
        assert all(row["answer"] in ("A", "B", "C", "D") for row in FolderSource(tmp_path).rows(table))

    assert fuzz((SAMPLE / table.path).read_bytes(), count, read)["refused"]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("spec", "answer"), [("gsm8k", "So it is $1,234.50."), ("mmlu", "The answer is (B).")])
def test_published_answers(spec: str, answer: str, count: int) -> None:
    task = resolve(spec)
    assert isinstance(task, ScoresTexts)
    docs = task.load(SampleSource())
    by_id = {doc.id: doc for doc in docs}
    rows = [{"id": doc.id, "answer": answer} for doc in docs[:6]] + [{"question": task.question(docs[7]), "response": answer}]

    def read(raw: bytes) -> None:
        for doc_id, said in read_texts(task, decoded(raw, "FILE"), "FILE", docs).items():
            assert task.score_text(by_id[doc_id], said).metrics["acc"] in (0.0, 1.0)

    for text in (json.dumps(rows), "".join(json.dumps(row) + "\n" for row in rows)):
        assert set(fuzz(text.encode(), count, read)) == {"read", "refused"}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("protocol", ["given", "codex", "chat", "opencompass", "qwen-coder", "multipl-e"])
def test_completions(protocol: str, count: int) -> None:
    """Read, and each made the program that would be run."""
    task = HumanEval(HumanEval.protocols[protocol])
    docs = task.load(SampleSource())
    by_id = {doc.id: doc for doc in docs}
    said = "Sure:\n```python\n    return 1\n```\n"
    rows = [{"task_id": doc.id, "completion": said} for doc in docs[:4]]

    def read(raw: bytes) -> None:
        found = task.read_answers(decoded(raw, "FILE"), "FILE", docs)
        for doc_id, texts in found.texts.items():
            if doc_id in by_id:
                assert len(task.programs(by_id[doc_id], [Generated(text, "given", 0) for text in texts])) == len(texts)

    for text in ("".join(json.dumps(row) + "\n" for row in rows), json.dumps(rows), json.dumps([[said], [said, said]])):
        assert set(fuzz(text.encode(), count, read)) == {"read", "refused"}


@pytest.mark.parametrize("count", COUNTS)
def test_judgments(count: int, tmp_path: Path) -> None:
    docs = resolve("mt_bench").load(SampleSource())
    rows = [
        {
            **{"question_id": int(doc.id), "model": model, "judge": ["gpt-4", "single-v1"], "user_prompt": "", "turn": turn, "tstamp": 1.0},
            **{"judgment": "Rating: [[7]]", "score": 7},
        }
        for model in ("a", "b")
        for doc in docs
        for turn in (1, 2)
    ]
    file = tmp_path / "judgments.jsonl"
    tries = iter(range(count))

    def read(raw: bytes) -> None:
        file.write_bytes(raw)
        runs, refused = score_judgments("mt_bench", file, "sample", tmp_path / f"out{next(tries)}", None)
        assert runs or refused
        assert all(1 <= run.run.tasks["mt_bench"].metrics["score"].value <= 10 for run in runs)

    assert set(fuzz("".join(json.dumps(row) + "\n" for row in rows).encode(), count, read)) == {"read", "refused"}


@pytest.mark.parametrize("count", [20, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
@pytest.mark.parametrize("spec", ["gsm8k", "mmlu", "mt_bench"])
def test_the_command(spec: str, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`evalkit score` ends with 0 and figures, or with 2, one line and no run."""
    docs = resolve(spec).load(SampleSource())
    rows: list[dict[str, Any]] = [{"id": doc.id, "answer": "The answer is (B)."} for doc in docs[:6]]
    if spec == "mt_bench":
        given = {"model": "m", "judge": ["gpt-4", "single-v1"], "user_prompt": "", "judgment": "Rating: [[7]]", "score": 7}
        rows = [{"question_id": int(doc.id), "turn": turn, **given} for doc in docs for turn in (1, 2)]
    raw, seen = "".join(json.dumps(row) + "\n" for row in rows).encode(), Counter[int]()
    for i in range(count):
        file, out = tmp_path / "answers.jsonl", tmp_path / str(i)
        file.write_bytes(mutated_text(raw, random.Random(f"{spec} {i}")))
        code = cli.main(["score", spec, str(file), "--data", "sample", "--out", str(out), "--quiet"])
        complaints = [line for line in capsys.readouterr().err.splitlines() if line.startswith("evalkit: ")]
        assert (code, len(complaints)) in ((0, 0), (2, 1)), f"mutation {i}: {code} {complaints}"
        assert [*out.glob("*/run.json")] if code == 0 else not out.exists() or spec == "mt_bench", f"mutation {i}"
        shutil.rmtree(out, ignore_errors=True)
        seen[code] += 1
    assert set(seen) == {0, 2}
