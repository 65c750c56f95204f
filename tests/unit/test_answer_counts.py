"""Answers that are empty or refused, and documents that their own shots give away: counted, named, and above a share no score."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from evalkit.data.sources import FolderSource, SampleSource
from evalkit.record.sample import Sample
from evalkit.record.schema import Counts, DataInfo
from evalkit.record.shots import in_shots
from evalkit.record.write import task_entry
from evalkit.tasks import REFUSED, UNSCORED, Doc, Generate, Generated, Loglikelihood, Loglikelihoods
from evalkit.tasks.registry import resolve

SAMPLE = SampleSource().folder
ASKED = Generate("2 + 2 =", (), 9)
AGAIN = Generate("", (), 9, messages=(("user", "And doubled?"),))


def answered(*texts: str, requests: tuple[Generate, ...] = (), reason: str = "stop") -> Sample:
    doc = Doc("0", "all", {"question": "2 + 2 =", "answer": "#### 4"})
    return Sample(doc, requests or [ASKED] * len(texts), [Generated(text, reason, 1) for text in texts], UNSCORED)


def test_what_is_empty() -> None:
    assert "empty" not in answered("4").problems
    assert "empty" in answered(" \n").problems
    assert "empty" not in answered("", "4", "").problems  # three samples of one prompt
    assert "empty" in answered("4", "", requests=(ASKED, AGAIN)).problems  # two turns of one conversation
    assert "unanswered" in answered("", reason=REFUSED).problems


def test_a_cut_by_the_protocol_is_not_counted_as_truncated() -> None:
    doc, asked = Doc("0", "all", {"question": "2 + 2 =", "answer": "4"}), Loglikelihood("long", (" A",), truncate_above=5, truncate_to=4)
    for counts, problems in (({"cut_by_protocol": 3}, {"cut_by_protocol"}), ({"truncated": 1}, {"truncated"}), ({}, set())):
        sample = Sample(doc, [asked], [Loglikelihoods((-1.0,), (True,), **counts)], replace(UNSCORED, metrics={"acc": 1.0}))
        assert sample.problems == problems


@pytest.mark.parametrize(
    ("empty", "unanswered", "reason"),
    [
        (50, 0, ""),
        (51, 0, "51 of 100 documents have an empty answer, more than 50%"),
        (0, 1, ""),
        (0, 2, "the server refused to answer 2 of 100 documents, more than 1%"),
    ],
)
def test_above_a_share_there_is_no_score(empty: int, unanswered: int, reason: str) -> None:
    none = {"extraction_failed": 0, "truncated": 0, "boundary_merged": 0, "stopped_by_length": 0, "unscored": 0}
    assert Counts(**none, empty=empty, unanswered=unanswered).why_no_score(100) == reason


def test_the_entry_has_the_counts_and_no_metrics() -> None:
    task = resolve("gsm8k")
    docs = task.load(SampleSource())[:4]
    for texts, empty, metrics in ((("1", "", "2", "3"), 1, {"acc"}), (("", "", "", "3"), 3, set())):
        responses = [[Generated(text, "stop", 1)] for text in texts]
        samples = [Sample(d, task.requests(d), given, task.score(d, given)) for d, given in zip(docs, responses, strict=True)]
        entry = task_entry(task, samples, 4, DataInfo(source="sample", sha256="0"))
        assert (entry.counts.empty, set(entry.metrics)) == (empty, metrics)


def test_a_turn_that_gives_the_question_away_is_found() -> None:
    doc = Doc("7", "all", {}, messages=(("user", "Question: 2 + 2?\nAnswer:"), ("assistant", " 4")))

    def asked(text: str) -> Sample:
        return Sample(doc, [Generate("", (), 9, messages=(*doc.messages, ("user", text)))], [Generated("4", "stop", 1)], UNSCORED)

    assert in_shots([asked("Question: 2 +  2?\nAnswer:"), asked("Question: 3 + 3?\nAnswer:")]) == ("7",)


def test_a_worked_example_that_is_tested_is_named(tmp_path: Path) -> None:
    """M3Exam's shots are the first of its dev split, as prescribed: what is in both is counted, not dropped."""
    shutil.copytree(SAMPLE / "m3exam", tmp_path / "m3exam")
    folder = tmp_path / "m3exam/text-question"
    dev, test = (json.loads((folder / f"italian-questions-{split}.json").read_text("utf-8")) for split in ("dev", "test"))
    test[3] = {**dev[2], "question_text": dev[2]["question_text"].upper() + "  "}
    (folder / "italian-questions-test.json").write_text(json.dumps(test), "utf-8")
    task = resolve("m3exam:it")
    docs = task.load(FolderSource(tmp_path))
    assert in_shots([Sample(doc, task.requests(doc), [], UNSCORED) for doc in docs]) == ("m3exam:it/3",)


@pytest.mark.parametrize("spec", ["mmlu", "mmlu@cloze", "gsm8k", "gsm8k@lm-eval", "m3exam:it", "belebele:es", "mgsm:es", "pawsx:de"])
def test_the_bundled_sample_gives_nothing_away(spec: str) -> None:
    task = resolve(spec)
    assert in_shots([Sample(doc, task.requests(doc), [], UNSCORED) for doc in task.load(SampleSource())]) == ()
