"""`evalkit score TASK FILE`: published answers in any usual layout are scored, or refused in one line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from evalkit import cli
from evalkit.data.sources import FolderSource, SampleSource
from evalkit.errors import DataError
from evalkit.files import decoded
from evalkit.runner.given_answers import read_texts
from evalkit.tasks import ScoresTexts
from evalkit.tasks.registry import resolve
from evalkit_tasks.choices import chosen
from evalkit_tasks.humaneval.task import HumanEval

GSM8K = resolve("gsm8k").load(SampleSource())


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def score(task: str, text: str, tmp_path: Path, data: str = "sample", name: str = "answers.jsonl") -> tuple[int, dict[str, Any]]:
    """(exit code, the task's entry in run.json)"""
    (tmp_path / name).write_text(text, "utf-8")
    code = cli.main(["score", task, str(tmp_path / name), "--data", data, "--out", str(tmp_path / "out"), "--quiet"])
    found = sorted((tmp_path / "out").glob("*/run.json"))
    return code, next(iter(json.loads(found[0].read_text("utf-8"))["tasks"].values())) if found else {}


OPTIONS = ("12 kg", "15 kg", "None of these", "20 kg")


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("B", 1), ("b.", None), ("B.", 1), ("(B)", 1), ("**B**", 1), ("B. 15 kg", 1), ("15 kg", 1), ("15 KG.", 1),
        ("The answer is B.", 1), ("The correct answer is (B) 15 kg.", 1), ("Answer: B", 1), ("answer: **B**", 1), (r"So \boxed{B}.", 1),
        (r"\boxed{\text{B}}", 1), ("A looks right, but the answer is B", 1), ("The answer is A. No: the answer is B.", 1),
        ("Answer: none of these", 2), ("B) since 3 x 5 = 15", 1), ("<think>The answer is A</think>B", 1), ("None of these", 2),
        ("AB", None), ("BC.", None),
        ("The answer is B. Option C is wrong, and option D too.", 1), ("B\n\nExplanation: option A is incorrect.", 1),
        ("**Answer**: B", 1), ("The answer is 15 kg.", 1), ("The answer is option B.", 1), ("Option B is correct.", 1),
        ("B\n\nQuestion: And this?\nAnswer: C", 1), ("Option B is right, option C is not.", None), ("The answer is B or C.", None),
        ("Answer: **A** and **D**", None), ("Answer: A, D", None), ("The answer is B/C.", None),
        ("", None), ("I do not know", None), ("A or B", None), ("A man", None), ("The answer is Big", None), ("<think>B", None),
    ],
)  # fmt: skip
def test_the_option_that_words_choose(answer: str, index: int | None) -> None:
    assert chosen(answer, "ABCD", OPTIONS) == index


@pytest.mark.parametrize("spec", ["mmlu", "m3exam:it", "belebele:es", "pawsx:de"])
def test_letters_for_multiple_choice(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = resolve(spec)
    docs = task.load(SampleSource())
    letters = {"mmlu": "ABCD", "m3exam:it": "ABCD", "belebele:es": "ABCD", "pawsx:de": "01"}[spec]
    key = {"belebele:es": "correct_answer_num", "pawsx:de": "label"}.get(spec, "answer")
    right = [letters[int(doc.fields[key]) - 1] if spec == "belebele:es" else str(doc.fields[key]) for doc in docs]
    code, entry = score(spec, lines(*({"id": doc.id, "answer": f"Answer: {r}"} for doc, r in zip(docs, right, strict=True))), tmp_path)
    assert (code, entry["metrics"]["acc"]["value"], entry["n"], entry["counts"]["extraction_failed"]) == (0, 1.0, len(docs), 0)


def test_answers_by_question_and_in_words(tmp_path: Path) -> None:
    docs = resolve("mmlu").load(SampleSource())
    rows = [{"question": doc.fields["question"], "response": doc.fields[doc.fields["answer"]]} for doc in docs[:5]]
    code, entry = score(
        "mmlu", json.dumps([*rows, {"question": docs[5].fields["question"], "response": "no idea"}]), tmp_path, name="a.json"
    )
    assert (code, entry["n"], entry["n_total"]) == (0, 6, 140)
    assert entry["metrics"]["acc"]["value"] == pytest.approx(5 / 6)
    assert entry["counts"]["extraction_failed"] == 1


def test_an_id_beside_the_prompt_that_was_given(tmp_path: Path) -> None:
    rows = [{"id": doc.id, "prompt": f"Answer this: {doc.fields['question']}", "answer": "5"} for doc in GSM8K[:3]]
    code, entry = score("gsm8k", lines(*rows, {"id": "3", "question": GSM8K[3].fields["question"], "answer": "5"}), tmp_path)
    assert (code, entry["n"]) == (0, 4)


def test_a_gzip_file_of_any_name(tmp_path: Path) -> None:
    assert decoded(gzip.compress(b"text"), "answers.jsonl") == decoded(gzip.compress(b"text"), "answers.jsonl.GZ") == "text"
    with pytest.raises(DataError, match="not a readable gzip file"):
        decoded(b"text", "answers.jsonl.gz")


def test_published_gsm8k_solutions_by_the_command(data_dir: Path, tmp_path: Path) -> None:
    """OpenAI's 1,319 solutions of its largest model: every flag is its authors'."""
    with gzip.open(data_dir / "published/gsm8k/openai_example_model_solutions.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    text = lines(*({"question": row["question"], "answer": row["175b_verification"]["solution"]} for row in rows))
    code, entry = score("gsm8k", text, tmp_path, str(data_dir))
    assert (code, entry["protocol"], entry["n"]) == (0, "qwen-fixed", 1_319)
    assert round(entry["metrics"]["acc"]["value"], 4) == 0.5625
    (samples,) = (tmp_path / "out").glob("*/samples/gsm8k.jsonl")
    found = {row["doc"]["question"]: row["metrics"]["acc"] for row in map(json.loads, samples.read_text("utf-8").splitlines())}
    assert all(found[row["question"]] == row["175b_verification"]["is_correct"] for row in rows)


@pytest.mark.parametrize(
    ("spec", "text", "message"),
    [
        ("gsm8k", lines({"id": "7777", "answer": "5"}), "id '7777' is none of the 60 documents, such as '0'"),
        ("gsm8k", lines({"id": "0", "answer": 5}), "line 1: answer is 5, expected a text"),
        (
            "gsm8k",
            lines({"id": "0", "answer": "#### 5", "prediction": "6"}),
            "line 1: answer and prediction may each be the model's answer",
        ),
        ("humaneval", lines({"task_id": "Sample/0", "completion": "", "solution": ""}), "line 1 has a completion and a whole solution"),
        ("gsm8k", lines({"id": "0"}), 'no answer; expected {"id"'),
        ("gsm8k", lines({"answer": "5"}), "no id and no question"),
        ("gsm8k", lines({"id": "0", "answer": "5"}, {"id": "0", "answer": "6"}), "line 2: a second answer to '0'"),
        ("gsm8k", lines({"question": "Why?", "answer": "5"}), "question 'Why?' is asked by none of the 60 documents"),
        (
            "gsm8k",  # ids that count from 1
            lines(*({"id": i + 1, "question": doc.fields["question"], "answer": "5"} for i, doc in enumerate(GSM8K[:2]))),
            "line 1: id is 1, and its question is that of '0'; drop the one that is wrong",
        ),
        ("gsm8k", lines(*({"id": str(i), "answer": None} for i in range(4))), "4 of 4 documents have an empty answer, more than 50%"),
        ("gsm8k", "", "holds no answers"),
        ("humaneval", '[{"task_id": 7}]', 'item 1: expected {"task_id": .., "completion": ..}'),
        ("humaneval", lines({"task_id": "Sample/0", "completion": 5}), "line 1: completion is 5, expected a text"),
        ("humaneval", "[" * 100_000, "not valid JSON"),
        (
            "humaneval",
            '{"task_id": "Sample/0", "completion": "right", "completion": "wrong"}',
            'line 1: not valid JSON (the key "completion" is there twice)',
        ),
        ("humaneval", '{\n"task_id": "Sample/0",\n"task_id": "Sample/1",\n"completion": ""\n}', 'line 1: the key "task_id" is there twice'),
        ("gsm8k", '[{"id": "0", "answer": "5", "id": "1"}]', 'not valid JSON (the key "id" is there twice)'),
        ("mt_bench", '{"question_id": 1, "question_id": 2}', 'the key "question_id" is there twice'),
        ("gsm8k", '{"0": "5", "1": "6"}', "line 1: no id and no question"),
        ("gsm8k", '"5"\n"6"', "line 1: '5' is no object; expected an object"),
        ("gsm8k", '{\n"id": "0", "answer": "5"', "line 1: not valid JSON"),
        ("flores:en-de", "Eins\nZwei\n", "holds 2 lines, and there are 6 sentences; give a line each, empty for none"),
        ("flores:en-de", "\n" * 7, "holds 7 lines"),
        ("nothing", "", "unknown task 'nothing'"),
    ],
)
def test_what_does_not_fit_is_refused(spec: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, entry = score(spec, text, tmp_path)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert (code, entry) == (2, {})
    assert message in line


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_values_over_several_lines_and_other_encodings(encoding: str, tmp_path: Path) -> None:
    """As editors, jq and PowerShell write them: the same answers."""
    rows = [{"id": "0", "answer": "#### 5 \u20ac"}, {"id": "1", "answer": "#### 6"}]
    task = resolve("gsm8k@qwen-fixed")
    assert isinstance(task, ScoresTexts)
    docs = task.load(SampleSource())
    expected = {"0": "#### 5 \u20ac", "1": "#### 6"}
    for text in (lines(*rows), json.dumps(rows), json.dumps(rows, indent=1), "\n\n".join(json.dumps(row, indent=4) for row in rows)):
        raw = text.encode(encoding)
        assert read_texts(task, decoded(raw, "FILE"), "FILE", docs) == expected
    one = json.dumps({"task_id": "Sample/0", "completion": "x"}, indent=2)
    assert HumanEval(HumanEval.protocols["given"]).read_answers(one, "FILE", []).texts == {"Sample/0": ["x"]}
    with pytest.raises(DataError, match="begins with a NUL character, as UTF-16 does without a byte order mark; save it as UTF-8"):
        decoded(lines(*rows).encode("utf-16-be"), "FILE")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text(lines({"id": "0", "answer": "5"}), "utf-8")
    assert cli.main(["score", "gsm8k", str(tmp_path / "a.jsonl"), "--data", "sample", "--out", str(tmp_path), "--name", "a.jsonl"]) == 2
    assert "it is a file, not a folder; give --out a path" in capsys.readouterr().err


def test_humanevals_layouts() -> None:
    task = HumanEval(HumanEval.protocols["given"])
    docs = task.load(SampleSource())
    row, whole = {"task_id": docs[0].id, "completion": "    pass"}, {"task_id": docs[0].id, "solution": "def f(): pass"}
    for text in (lines(row), json.dumps([row]), "\n" + lines(row)):
        assert task.read_answers(text, "FILE", docs).texts == {docs[0].id: ["    pass"]}
    found = task.read_answers(lines(whole, whole | {"solution": None}), "FILE", docs)
    assert (found.texts, found.protocol) == ({docs[0].id: ["def f(): pass", ""]}, "program")
    found = task.read_answers(json.dumps([["a", "b"], [], ["c"]]), "FILE", docs)  # bigcode's generations.json
    assert (found.texts, found.protocol) == ({docs[0].id: ["a", "b"], docs[2].id: ["c"]}, "program")


def test_end_markers_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text(lines({"id": "0", "answer": "The answer is 5<|im_end|>"}, {"id": "1", "answer": "6"}), "utf-8")
    assert cli.main(["score", "gsm8k", str(tmp_path / "a.jsonl"), "--data", "sample", "--out", str(tmp_path / "out")]) == 0
    assert '1 of 2 answers end in "<|im_end|>", which is scored as part of them' in capsys.readouterr().err


def judgment(model: str, question: str, turn: int, rating: float = 7) -> dict[str, Any]:
    return {
        **{"question_id": int(question), "model": model, "judge": ["gpt-4", "single-v1"], "user_prompt": "", "turn": turn},
        **{"judgment": f"Rating: [[{rating}]]", "score": rating},
    }


def test_one_models_judgments_do_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [doc.id for doc in resolve("mt_bench").load(SampleSource())]
    rows = [judgment(model, i, turn) for model in ("org/m", "b", "org-m") for i in ids for turn in (1, 2) if (model, turn) != ("b", 2)]
    code, _ = score("mt_bench", lines(*rows), tmp_path)
    assert code == 2
    assert "8 of 16 judgments failed or hold no rating (of b)" in capsys.readouterr().err
    runs = [json.loads(file.read_text("utf-8")) for file in (tmp_path / "out").glob("*/run.json")]
    assert {run["model"]["spec"] for run in runs} == {"org/m", "org-m"}  # whose names are one file name


def test_a_rating_outside_the_scale_is_none(data_dir: Path, tmp_path: Path) -> None:
    """Of 160 published judgments one second turn without a rating is enough to score, and to have no mean of its document's turn."""
    ids = [doc.id for doc in resolve("mt_bench").load(FolderSource(data_dir))]
    rows = [judgment("m", i, turn, 100 if (i, turn) == (ids[3], 2) else 7) for i in ids for turn in (1, 2)]
    code, entry = score("mt_bench", lines(*rows), tmp_path, str(data_dir))
    assert (code, entry["metrics"]["score"]["value"], entry["metrics"]["score"]["n"]) == (0, 7.0, 159)
    assert entry["judge"]["counts"]["outside_scale"] == 1


def test_judged_runs_that_lack_a_rating_are_not_compared(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """run.json pools all ratings, 1273 / 159, where the mean of the questions' means is 8.0125; the whole turn's figure is both."""
    ids = [doc.id for doc in resolve("mt_bench").load(FolderSource(data_dir))]
    ratings = [(model, i, turn, (9, 7)[turn - 1]) for model in ("a", "b") for i in ids for turn in (1, 2)]
    rows = [judgment(model, i, turn, -1 if (model, i, turn) == ("b", ids[3], 2) else score) for model, i, turn, score in ratings]
    assert score("mt_bench", lines(*rows), tmp_path, str(data_dir))[0] == 0
    base, cand = sorted(map(str, (tmp_path / "out").iterdir()))
    stated = json.loads(Path(cand, "run.json").read_text("utf-8"))["tasks"]["mt_bench"]["metrics"]["score"]["value"]
    assert stated == pytest.approx((9 * 80 + 7 * 79) / 159)
    capsys.readouterr()
    assert cli.main(["compare", base, cand]) == cli.main(["gate", base, cand]) == 2
    error = capsys.readouterr().err
    assert "score of mt_bench is 8.0125 over the 80 samples" in error
    assert f"the figure stated is {stated!r}; it pools all ratings, and the documents have unequal numbers of them" in error
    assert cli.main(["compare", base, cand, "--metric", "turn_1"]) == 0


def test_a_file_in_which_nothing_is_found_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fenced = lines(*({"id": doc.id, "answer": "I think so.\nYes."} for doc in GSM8K[:3]))
    (tmp_path / "answers.jsonl").write_text(fenced)
    assert cli.main(["score", "gsm8k@qwen", str(tmp_path / "answers.jsonl"), "--data", "sample", "--out", str(tmp_path / "out")]) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert "gsm8k@qwen finds nothing to score in any answer; the first one begins 'I think so." in said
