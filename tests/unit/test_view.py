"""`evalkit view`: what is read and packed, how two runs are laid side by side, what is refused, and that no text can end its block."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from fake_runs import asked, edit_run, fake_run, flips, sample, write_samples
from report_runs import judge
from view_pages import packed, parts

from evalkit.cli import _Parser, view
from evalkit.codec import encode
from evalkit.errors import EvalkitError
from evalkit.tasks import SuiteCell
from evalkit.view import page
from evalkit.view.read import read

FIGURE = {"value": 0.4, "stderr": 0.05, "ci95": [0.3, 0.5], "n": 80}


def command(*arguments: str) -> None:
    parser = _Parser()
    view.add(parser.add_subparsers())
    parsed = parser.parse_args(["view", *arguments])
    parsed.command(parsed)


def refusal(*runs: Path) -> str:
    with pytest.raises(EvalkitError) as caught:
        page.write_view([str(run) for run in runs])
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_what_prompts_of_a_subject_share_is_stored_once(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "a", "a", mmlu=[1.0] * 6)
    shots = {f"subject{i}": "".join(f"Worked example {k} of subject {i}.\nAnswer: A\n\n" for k in range(5)) for i in range(3)}
    rows = [sample(i, 1.0, "x") for i in range(6)]
    for i, row in enumerate(rows):  # questions that begin alike are cut at a line's end
        row["requests"] = [asked(f"{shots[row['group']]}Question: {i}?\nAnswer:")] * 2
    write_samples(run, "mmlu", [*rows, sample(6, 1.0, "x", group="subject0", requests=[asked("")])])
    found = packed(run)
    assert found["prefixes"] == list(shots.values())
    shown = [(request["prefix"], request["context"]) for request in (each["requests"][0][0] for each in found["samples"][:6])]
    assert shown == [(i % 3, f"Question: {i}?\nAnswer:") for i in range(6)]
    assert found["samples"][0]["requests"][0][1]["context"] is None  # the same again


def test_the_command_writes_the_same_bytes_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, cand = flips(30, 2, 3)
    fake_run(tmp_path / "a", "old", mmlu=base)
    fake_run(tmp_path / "b", "new", mmlu=cand)
    command(str(tmp_path / "a"), str(tmp_path / "b"))
    assert f"wrote {tmp_path / 'b' / 'view-against-a.html'}: 30 samples" in capsys.readouterr().out
    command(str(tmp_path / "a"), str(tmp_path / "b" / "run.json"), "--out", str(tmp_path / "deep" / "x.html"))
    assert (tmp_path / "deep" / "x.html").read_bytes() == (tmp_path / "b" / "view-against-a.html").read_bytes()


def test_two_runs_are_aligned_by_document(tmp_path: Path) -> None:
    base = fake_run(tmp_path / "a", "a", mmlu=[1.0, 0.0, 1.0], gsm8k=[1.0])
    cand = fake_run(tmp_path / "b", "b", mmlu=[0.0, 0.0, 1.0])
    rows = [sample(i, s, "b") for i, s in ((3, 1.0), (2, 1.0), (0, 0.0))]
    write_samples(cand, "mmlu", [rows[0], rows[1], rows[2] | {"requests": [asked("asked differently")]}])
    found = {(each["task"], each["id"]): each for each in packed(base, cand)["samples"]}
    verdicts = {key: [side and side["verdict"] for side in each["runs"]] for key, each in found.items()}
    assert verdicts == {
        ("mmlu", "d0"): ["right", "wrong"],
        ("mmlu", "d1"): ["wrong", None],
        ("mmlu", "d2"): ["right", "right"],
        ("mmlu", "d3"): [None, "right"],
        ("gsm8k", "d0"): ["right", None],
    }
    assert len(found["mmlu", "d2"]["requests"]) == 1  # asked the same, stored once
    assert [side[0]["context"] for side in found["mmlu", "d0"]["requests"]] == ["question 0\nAnswer:", "asked differently"]


def test_verdicts_of_scores_that_are_not_right_or_wrong(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "a", "a", ratings=[1.0], bleu=[1.0], shares=[1.0], gaps=[1.0])
    write_samples(run, "ratings", [sample(0, 1.0, "x"), sample(1, 7.5, "x")])
    edit_run(run, "bleu", headline="bleu", metrics={"bleu": FIGURE})
    write_samples(run, "bleu", [sample(0, None, "x", metrics={"bleu": [["reference"], "said"]})])
    write_samples(run, "shares", [sample(0, 0.25, "x"), sample(0, 1.0, "again")])
    write_samples(run, "gaps", [sample(2, 1.0, "x", metrics={}), sample(3, 0.0, "x")])
    samples = packed(run)["samples"]
    verdicts = [(each["task"], each["id"], each["runs"][0]["verdict"]) for each in samples]
    assert verdicts == [
        ("ratings", "d0", "graded"),  # 1 of 10 is not "right"
        ("ratings", "d1", "graded"),
        ("bleu", "d0", "graded"),
        ("shares", "d0", "graded"),
        ("shares", "d0 (2)", "right"),
        ("gaps", "d2", "unscored"),
        ("gaps", "d3", "wrong"),
    ]
    assert page.write_view([str(run)]).exists()


def test_a_suite_s_document_is_scored_by_its_cell_s_metric(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "a", "a", suite=[1.0])
    cells = [asdict(SuiteCell(f"{name}:th", name, "th", "exams", metric)) for name, metric in (("xcopa", "acc"), ("flores", "bleu"))]
    edit_run(run, "suite", headline="mean", metrics={"mean": FIGURE}, cells=cells)
    bleu = {"bleu": [["reference"], "said"]}
    write_samples(run, "suite", [sample(0, 0.0, "x", group="xcopa:th"), sample(1, 0, "x", group="flores:th", metrics=bleu)])
    assert [each["runs"][0]["verdict"] for each in packed(run)["samples"]] == ["wrong", "graded"]
    assert read(str(run)).about["tasks"]["suite"]["ci95"] == FIGURE["ci95"]


def test_a_judge_s_ratings_are_graded_and_its_words_kept(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "a", "a", mt_bench=[1.0])
    edit_run(run, "mt_bench", headline="score", metrics={})
    judgment = {"turn": 1, "repeat": 0, "published": 1.0, "strict": 1.0, "judgment": "Rating: [[1]]"}
    rows = [sample(0, 0, "x", metrics={}), sample(1, 0, "x", metrics={"score": 1.0}, judgments=[judgment])]
    write_samples(run, "mt_bench", rows[:1])
    assert packed(run)["samples"][0]["runs"][0]["verdict"] == "unscored"  # before `evalkit judge`
    edit_run(run, "mt_bench", metrics={"score": FIGURE}, judge=encode(judge("gpt-4")))
    write_samples(run, "mt_bench", rows)
    outcomes = [each["runs"][0] for each in packed(run)["samples"]]
    assert [each["verdict"] for each in outcomes] == ["unscored", "graded"]
    assert outcomes[1]["judgments"] == [judgment]


def test_no_text_ends_its_block(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><!--<script>&amp;\u2028\u2029]]>\x00\ud800$policy ${script}"
    run = fake_run(tmp_path / "a", hostile, mmlu=[1.0])
    write_samples(run, "mmlu", [sample(0, 1.0, hostile, group=hostile, doc={hostile: hostile}, extracted=hostile, target=hostile)])
    html, about, found = parts(page.write_view([str(run)]))
    assert about["runs"][0]["model"]["spec"] == hostile
    assert found["samples"][0]["runs"][0]["responses"][0]["text"] == hostile
    assert html.count("<script") == html.count("</script>") == 3
    assert "alert(1)" not in html.replace("\\u003cscript\\u003ealert(1)", "")
    for bad in ("\u2028", "\u2029", "\x00"):
        assert bad not in html


def test_the_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    html, _, _ = parts(page.write_view([str(fake_run(tmp_path / "a", "a", mmlu=[1.0, 0.0]))]))
    assert not re.findall(r"https?:|//[a-z]+\.|@import|url\(|\ssrc=|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", html)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_what_is_refused(tmp_path: Path) -> None:
    base = fake_run(tmp_path / "a", "a", mmlu=[1.0] * 4)
    other = fake_run(tmp_path / "b", "b", mmlu=[1.0] * 4)
    write_samples(other, "mmlu", [sample(0, 1.0, "x", doc_hash="another")])
    assert "mmlu: document d0 is not the same in both runs" in refusal(base, other)
    assert "no task in common" in refusal(base, fake_run(tmp_path / "c", "c", gsm8k=[1.0]))
    assert "one run or two" in refusal(base, base, base)
    assert "no such run" in refusal(tmp_path / "nothing")
    empty = fake_run(tmp_path / "d", "d", mmlu=[1.0])
    write_samples(empty, "mmlu", [])
    assert "no sample to show" in refusal(empty)
    write_samples(other, "mmlu", [{"doc_id": "d0"}])
    assert "mmlu.jsonl line 1: group is missing; run it again" in refusal(other)
    (other / "samples" / "mmlu.jsonl").write_text("{\n")
    assert "line 1 is damaged" in refusal(other)
    (tmp_path / "file").write_text("")
    with pytest.raises(EvalkitError, match="cannot write"):
        page.write_view([str(base)], str(tmp_path / "file" / "view.html"))


def test_an_incomplete_run_is_shown_as_far_as_it_got(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fake_run(tmp_path / "a", "a", mmlu=[1.0, 0.0])
    record = json.loads((run / "run.json").read_text()) | {"status": "incomplete"}
    (run / "run.json").write_text(json.dumps(record))
    _, about, found = parts(page.write_view([str(run)]))
    assert about["runs"][0]["status"] == "incomplete"
    assert len(found["samples"]) == 2
    assert "is incomplete: the page shows the tasks that were done" in capsys.readouterr().out
