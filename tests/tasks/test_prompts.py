"""The prompts, to the byte, and what follows from a response."""

import hashlib
import random
from pathlib import Path

import pytest

from evalkit.data.sources import FolderSource, SampleSource
from evalkit.tasks import DataError, Doc, Generate, Generated, Loglikelihood, Loglikelihoods
from evalkit.tasks.registry import resolve
from evalkit_tasks.gsm8k import WORKED_EXAMPLES, _lighteval_draw, _opencompass_shots
from evalkit_tasks.mmlu import CATEGORIES, SUBJECTS

ROW = {"question": " Why? ", "A": "None", "B": "b", "C": "c c", "D": "{d}", "answer": "B"}


def prompt(protocol: str) -> Loglikelihood:
    task = resolve(f"mmlu@{protocol}")
    doc = Doc("x/0", "x", ROW, task._opening("us_foreign_policy", [ROW] * 5)[0])
    (request,) = task.requests(doc)
    assert isinstance(request, Loglikelihood)
    return request


def test_qwen_prompt() -> None:
    item = "Question:  Why? \nA. None\nB. b\nC. c c\nD. {d}\nAnswer:"
    header = "The following are multiple choice questions (with answers) about us foreign policy.\n\n"
    assert prompt("qwen") == Loglikelihood(header + (item + " B\n\n") * 5 + item, (" A", " B", " C", " D"), 2048, 2047)


def test_opencompass_prompt() -> None:
    item = " Why? \nA. None\nB. b\nC. c c\nD. {d}\nAnswer:"
    header = "The following are multiple choice questions (with answers) about  us foreign policy.\n\n"
    assert prompt("opencompass") == Loglikelihood(header + (item + " B\n\n") * 5 + item, (" A", " B", " C", " D"))


def test_lm_eval_prompt() -> None:
    item = "Why?\nA. None\nB. b\nC. c c\nD. {d}\nAnswer:"
    header = "The following are multiple choice questions (with answers) about us foreign policy.\n\n"
    assert prompt("lm-eval") == Loglikelihood(header + (item + " B\n\n") * 5 + item, (" A", " B", " C", " D"))


def test_cloze_prompt() -> None:
    header = "The following are questions (with answers) about us foreign policy.\n\n"
    expected = header + "Question: Why?\nAnswer: b\n\n" * 5 + "Question: Why?\nAnswer:"
    assert prompt("cloze") == Loglikelihood(expected, (" None", " b", " c c", " {d}"))


def test_lighteval_cloze_prompts() -> None:
    """Of smollm's mmlu_cloze_prompt; the chat form puts the same text in a user turn."""
    text = "The following are questions about us foreign policy.\nQuestion:  Why? \nAnswer:"
    options = (" None", " b", " c c", " {d}")
    assert prompt("lighteval-cloze") == Loglikelihood(text, options)
    assert prompt("lighteval-cloze-chat") == Loglikelihood("", options, messages=(("user", text),))


def test_mmlu_choice() -> None:
    task, doc = resolve("mmlu"), Doc("x/0", "x", ROW)
    assert task.score(doc, [Loglikelihoods((-3.0, -1.0, -2.0, -1.0), (False,) * 4)]).metrics == {"acc": 1.0}
    tie = task.score(doc, [Loglikelihoods((-1.0, -1.0, -2.0, -1.0), (False,) * 4)])
    assert (tie.extracted, tie.target, tie.metrics["acc"]) == ("A", "B", 0.0)


@pytest.mark.parametrize("protocol", ["cloze", "lighteval-cloze", "lighteval-cloze-chat"])
def test_cloze_is_normalised_by_length(protocol: str) -> None:
    task, doc = resolve(f"mmlu@{protocol}"), Doc("x/0", "x", ROW)
    scored = task.score(doc, [Loglikelihoods((-3.0, -2.0, -4.0, -9.0), (False,) * 4)])
    assert scored.metrics == {"acc": 1.0, "acc_norm": 0.0}
    assert scored.extracted == "A"  # -3 / 4 characters
    tie = task.score(doc, [Loglikelihoods((-4.0, -1.0, -3.0, -9.0), (False,) * 4)])
    assert (tie.extracted, tie.metrics["acc_norm"]) == ("A", 0.0)  # -1 a character in A, B and C: the first


def test_subjects_and_categories() -> None:
    assert len(SUBJECTS) == 57
    assert {name: len(subjects) for name, subjects in CATEGORIES.items()} == {
        "stem": 19,
        "humanities": 13,
        "social_sciences": 12,
        "other": 13,
    }


@pytest.mark.parametrize(
    ("protocol", "shots", "tail", "max_new_tokens"),
    [
        ("qwen", 8, "\n\nQuestion: {q}\nLet's think step by step\n", 512),
        ("qwen-fixed", 8, "\n\nQuestion: {q}\nLet's think step by step\n", 512),
        ("opencompass", 4, "\n\nQuestion: {q}\nLet's think step by step\nAnswer:", 512),
        ("lm-eval", 5, "\n\nQuestion: {q}\nAnswer:", 256),
        ("smollm", 5, "\n\nQuestion: {q}\nAnswer:", 256),
    ],
)
def test_gsm8k_prompts(protocol: str, shots: int, tail: str, max_new_tokens: int) -> None:
    task = resolve(f"gsm8k@{protocol}")
    doc = task.load(SampleSource())[7]
    (request,) = task.requests(doc)
    assert isinstance(request, Generate)
    assert request.context.endswith(tail.format(q=doc.fields["question"]))
    assert request.context.count("Question: ") == shots + 1
    assert request.context.startswith("Question: ")
    assert (request.max_new_tokens, request.temperature) == (max_new_tokens, 0.0)


def test_qwens_worked_examples_are_the_published_file(data_dir: Path) -> None:
    file = WORKED_EXAMPLES["qwen_8shot"]
    assert hashlib.sha256((data_dir / file.path).read_bytes()).hexdigest() == file.sha256


def test_opencompass_configuration_is_parsed_not_run() -> None:
    source = b"""
boom = undefined_name / 0
cfg = dict(template=dict(round=[
    dict(role='HUMAN', prompt="Question: a?\\nLet's think step by step\\nAnswer:"),
    dict(role='BOT', prompt='Because.\\nThe answer is 4\\n'),
    dict(role='HUMAN', prompt="Question: {question}\\nLet's think step by step\\nAnswer:"),
]))
"""
    assert _opencompass_shots(source) == "Question: a?\nLet's think step by step\nAnswer:\nBecause.\nThe answer is 4\n\n"


@pytest.mark.parametrize("protocol", ["lm-eval", "smollm"])
def test_shots_are_drawn_for_each_document(protocol: str) -> None:
    task = resolve(f"gsm8k@{protocol}")
    docs = task.load(SampleSource())
    assert len({doc.prefix for doc in docs}) > 50
    assert [d.prefix for d in task.load(SampleSource())] == [d.prefix for d in docs]


def test_smollm_draws_as_lighteval_does() -> None:
    """One generator shuffles the documents, then draws for them in the new order: here for 3 of 4 documents out of 7 rows."""
    train = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(7)]
    drawn = [[row["question"] for row in rows] for rows in _lighteval_draw(train, 4, 5)]
    rng = random.Random()
    rng.seed(42)
    documents = ["d0", "d1", "d2", "d3"]
    rng.shuffle(documents)
    assert documents == ["d2", "d1", "d3", "d0"]  # the shuffle of Python's own generator, which lighteval's draw depends on
    expected = {name: [row["question"] for row in rng.sample(train, 5)] for name in documents}
    assert drawn == [expected[name] for name in sorted(expected)]
    with pytest.raises(DataError, match="holds 4 rows, the protocol needs 5"):
        _lighteval_draw(train[:4], 4, 5)


def test_smollm_shots_are_text_or_turns() -> None:
    text, chat = (resolve(f"gsm8k@{name}").load(SampleSource())[7] for name in ("smollm", "smollm-chat"))
    (asked,), (turns,) = resolve("gsm8k@smollm").requests(text), resolve("gsm8k@smollm-chat").requests(chat)
    assert isinstance(turns, Generate)
    assert turns.context == ""
    assert [role for role, _ in turns.messages] == ["user", "assistant"] * 5 + ["user"]
    users, assistants = [content for _, content in turns.messages[::2]], [content for _, content in turns.messages[1::2]]
    assert all(each.startswith("Question: ") and each.endswith("\nAnswer:") for each in users)
    assert all(each.startswith(" ") and "\n#### " in each for each in assistants)  # with lighteval's blank
    pairs = "".join(f"{user}{answer}\n\n" for user, answer in zip(users, assistants, strict=False))
    assert asked == Generate(pairs + users[-1], ("Question:", "Question"), 256)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("gsm8k@smollm", "4c8d545913b4c563aa7d699b132126bbb66ab1bf62e91bf5b52ea2de2235ba89"),
        ("mmlu@lighteval-cloze", "fdb4a2880053965250165986aef15de03fb946f6de5c5b16081719c9c68ed7de"),
    ],
)
def test_prompts_are_lightevals(name: str, digest: str, data_dir: Path) -> None:
    """The digest of lighteval's own requests over these rows: lighteval at ea46419, run with smollm's tasks.py at a041759."""
    task = resolve(name)
    requests = [request for doc in task.load(FolderSource(data_dir)) for request in task.requests(doc)]
    texts = [r.context + each for r in requests for each in (r.continuations if isinstance(r, Loglikelihood) else ("",))]
    assert hashlib.sha256("\0".join(sorted(texts)).encode()).hexdigest() == digest


def test_gsm8k_score() -> None:
    task = resolve("gsm8k")
    doc = Doc("0", "all", {"question": "q", "answer": "so\n#### 1,250"})
    scored = task.score(doc, [Generated("The answer is 1250", "stop", 5)])
    assert (scored.metrics, scored.extracted, scored.target, scored.extraction_failed) == ({"acc": 1.0}, "1250", "1250", False)
    assert task.score(doc, [Generated("none", "length", 5)]).extraction_failed


def test_real_data_loads(data_dir: Path) -> None:
    for name, n in (("mmlu", 14_042), ("gsm8k", 1_319)):
        docs = resolve(name).load(FolderSource(data_dir))
        assert len(docs) == n
        assert len({d.id for d in docs}) == n
    # cells that pandas would have read as missing
    anatomy = [d.fields[x] for d in resolve("mmlu").load(FolderSource(data_dir)) for x in "ABCD"]
    assert "None" in anatomy
