"""What a newcomer sees: the end of a run, `ls runs`, `data verify`, and progress on terminals, in pipes and without colours."""

import io
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from report_runs import SAMPLE, bench, counted, entry, judge, run
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from evalkit import cli, progress
from evalkit.cli.output import Listing
from evalkit.codec import encode
from evalkit.data.sources import open_source
from evalkit.progress import Reporter, console, duration
from evalkit.record.sample import Sample
from evalkit.record.schema import Run
from evalkit.record.write import task_entry
from evalkit.report.screen import next_step, show, written
from evalkit.report.verdict import WORDS, Word
from evalkit.runner.running_score import RunningScore
from evalkit.stats.estimate import Estimate
from evalkit.table import Table
from evalkit.tasks import Generated, Loglikelihoods
from evalkit.tasks.registry import resolve

UNJUDGED = entry(0.5, protocol="fastchat", headline="score", metrics={}, n=80, n_total=80, counts=counted(unscored=80))
JUDGED = {"score": Estimate(7.17, 0.1, (6.9, 7.4), 160)}


def shown(record: Run, folder: Path) -> str:
    out = io.StringIO()
    show(record, folder, Console(file=out, width=160))
    return out.getvalue()


def test_the_end_of_a_run_says_what_where_and_what_next(tmp_path: Path) -> None:
    for name in ("journal.sqlite", "journal.lock", "journal.sqlite-wal", "run.json", "samples/mmlu.jsonl", "lm_eval/m/x.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    text = shown(run("Qwen/Qwen1.5-MoE-A2.7B", mmlu=entry(0.62)), tmp_path)
    assert "│ mmlu │ qwen     │      62.5 │     62.0 │ 61.2 to 62.8 │ 14,042 │ dir abababab │ reproduced │" in text
    assert "reproduced: the published figure lies in the interval" in text
    assert "model sha256:cdcdcdcdcdcd, native, bfloat16" in text
    assert f"written to {tmp_path}: run.json, samples/, lm_eval/, journal.sqlite\n" in text
    assert f"next: evalkit report {tmp_path} --out report" in text
    assert "mmlu: 12 s, 300 tokens computed of 400 (25% shared)" in text


def test_both_means_are_told_where_there_are_subjects(tmp_path: Path) -> None:
    subjects = {"a": {"acc": Estimate(0.5, 0.1, (0.3, 0.7), 30)}, "b": {"acc": Estimate(0.8, 0.1, (0.6, 1.0), 10)}}
    for averaging, said in (
        ("micro", "acc as macro mean, over 2 subjects: 65.0 (51.1 to 78.9)"),
        ("macro", "acc as micro mean, over 40 documents: 57.5 (42.0 to 73.0)"),
    ):
        record = run("m", mmlu=entry(0.5, averaging=averaging, subjects=subjects, n=40))
        assert f"mmlu: {said}\n" in shown(record, tmp_path)
    one = {"a": {"acc": Estimate(0.5, 0.1, (0.3, 0.7), 30)}, "b": {"acc": Estimate(1.0, 0.0, (0.2, 1.0), 1)}}
    assert " mean, over" not in shown(run("m", mmlu=entry(0.5, subjects=one)), tmp_path)


def test_protocols_on_the_same_documents_stand_beside_each_other(tmp_path: Path) -> None:
    two = {"mmlu@qwen": entry(0.22), "mmlu@cloze": entry(0.46, protocol="cloze")}
    said = "mmlu: on the same 14,042 documents the same weights score 22.0 under qwen and 46.0 under cloze\n"
    assert said in shown(run("m", **two), tmp_path)
    assert "the same weights" not in shown(run("m", mmlu=entry(0.22)), tmp_path)
    assert "the same weights" not in shown(run("m", **two | {"mmlu@cloze": entry(0.46, protocol="cloze", n=140)}), tmp_path)


def test_every_verdict_has_its_words() -> None:
    assert set(WORDS) == set(get_args(Word))


def test_what_is_kept_is_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("")
    (tmp_path / "completions").mkdir()
    assert written(tmp_path) == ["run.json", "completions/"]
    assert written(tmp_path / "gone") == []


def test_answers_that_wait_for_a_judge(tmp_path: Path) -> None:
    text = shown(run("Qwen/Qwen1.5-7B-Chat", mt_bench=UNJUDGED), tmp_path)
    assert "│ mt_bench │ fastchat │      7.60 │        - │ -" in text
    assert "not measured" in text
    assert "no figure yet: 80 of 80 documents wait for judgments" in text
    assert f"next: evalkit judge {tmp_path} --judge-model NAME" in text


def test_points_of_ten_are_no_percent(tmp_path: Path) -> None:
    judged = replace(UNJUDGED, metrics=JUDGED, counts=counted(), groups={"writing": JUDGED}, judge=judge("gpt-4"))
    text = shown(run("some/model", mt_bench=judged), tmp_path)
    assert "7.17 │ 6.90 to 7.40" in text
    assert "writing 7.17" in text


def test_an_incomplete_run_is_to_be_gone_on_with(tmp_path: Path) -> None:
    record = run("m", status="incomplete", mmlu=entry(0.5))
    assert next_step(record, tmp_path) == "run the same command again to resume"
    whole = run("org/m", mmlu=entry(0.5))
    assert next_step(whole, tmp_path, "own.toml") == f"evalkit report {tmp_path} --published own.toml --out report"


def test_scored_answers_lead_to_no_model_run(tmp_path: Path) -> None:
    demo, record = (run(name, mmlu=entry(0.5, data=SAMPLE)) for name in ("demo", "answers.jsonl"))
    assert next_step(demo, tmp_path).startswith("your model on real data, for example evalkit run")
    assert next_step(record, tmp_path).startswith("the same command on the benchmark's own data: --data hub")
    scored = replace(record, model=replace(record.model, engine="file"))
    assert next_step(scored, tmp_path) == f"evalkit view {tmp_path}"


def write(folder: Path, record: Run) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(encode(replace(record, name=folder.name))))


def test_ls_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "second", run("[red]m[/red]", started="2026-02-01", mmlu=entry(0.62, n=500)))
    write(tmp_path / "first", run("m", started="2026-01-01", status="incomplete", mt_bench=UNJUDGED, gsm8k=entry(0.3)))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "timed").mkdir()
    (tmp_path / "timed" / "bench.json").write_text(json.dumps(encode(bench("m", 2.0))))
    assert cli.main(["ls", "runs", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "timed: m, 2 requests/s on NVIDIA A100-SXM4-80GB" in text
    assert text.index("broken") < text.index("first") < text.index("second")
    assert "500 of 14,042" in text
    assert "[red]m[/red]" in text
    assert "unreadable" in text
    assert f"mt_bench waits for a judge: evalkit judge {tmp_path / 'first'} --judge-model NAME" in text
    assert "first is incomplete; run the same command again to resume it" in text
    assert f"next: evalkit report {tmp_path}/* --out report" in text


def test_ls_runs_suggests_only_what_can_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def suggested() -> str:
        assert cli.main(["ls", "runs", "--out", str(tmp_path)]) == 0
        return next((line for line in capsys.readouterr().out.splitlines() if "evalkit compare" in line), "")

    write(tmp_path / "a", run("m", started="1", mmlu=entry(0.6), gsm8k=entry(0.3)))
    write(tmp_path / "b", run("m", started="2", humaneval=entry(0.6)))
    write(tmp_path / "c", run("m", started="3", status="incomplete", mmlu=entry(0.6)))
    write(tmp_path / "d", run("m", started="4", mmlu=entry(0.6, n=500)))
    write(tmp_path / "e", run("m", started="5", mmlu=entry(0.6, protocol_sha256="1" * 64)))
    write(tmp_path / "f", run("m", started="6", mmlu=entry(0.6, data=SAMPLE)))
    assert suggested() == ""
    write(tmp_path / "g", run("m", started="7", mmlu=entry(0.7)))
    assert suggested() == f"  or: evalkit compare {tmp_path / 'a'} {tmp_path / 'g'} --tasks mmlu"
    write(tmp_path / "h", run("m", started="8", mmlu=entry(0.7)))
    assert suggested() == f"  or: evalkit compare {tmp_path / 'g'} {tmp_path / 'h'}"


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"[" * 100_000, b"[]", b'{"schema": 1}', b'{"schema": 1, "schema": 1}', b'{"schema": 1, "tasks": [1]}', None]
)
def test_one_odd_run_does_not_hide_the_others(content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "good", run("m", mmlu=entry(0.6)))
    (tmp_path / "odd").mkdir()
    if content is None:
        (tmp_path / "odd" / "run.json").mkdir()
    else:
        (tmp_path / "odd" / "run.json").write_bytes(content)
    assert cli.main(["ls", "runs", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "good" in text
    assert "unreadable" in text


def test_ls_runs_of_an_empty_folder_says_how_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ls", "runs", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path} yet; start with: evalkit run --tasks mmlu,gsm8k\n"


def test_data_verify_ends_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "verify", "mmlu", "--data", "sample"]) == 0
    text = capsys.readouterr().out
    assert "the bundled sample is complete for 1 of 1 tasks; its figures are not the benchmarks'" in text
    assert "next: evalkit run --tasks mmlu --data sample" in text
    assert cli.main(["data", "verify", "gsm8k", "--data", str(tmp_path)]) == 2
    text = capsys.readouterr().out
    assert "0 of 1 tasks have the official rows" in text
    assert "check gsm8k: a run on them stops" in text


def test_a_pipe_is_wide_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    assert console().width == progress.PIPE_WIDTH
    console().print(Text("x", style="bold red"))
    assert capsys.readouterr().out == "x\n"


def test_texts_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of models, files and tasks are no markup and no terminal sequences, in lines, cells, titles and messages."""
    hostile = "[/b] [red]x :smile: \x1b[31m\x9b\x07\u202e\udcff"
    shown = "[/b] [red]x :smile: \\x1b[31m\\x9b\\x07\\u202e\\udcff"
    table = RichTable(hostile, title=hostile)
    table.add_row(hostile)
    console().print(table, soft_wrap=True)
    console().print(hostile, soft_wrap=True)
    Listing("texts", Table(hostile, [hostile], [[hostile]]), [], [hostile]).show()
    Reporter().say(hostile)
    assert cli.main(["compare", hostile, hostile]) == 2
    found = capsys.readouterr()
    assert found.out.count(shown) == 8
    assert found.err.count(shown) == 2
    assert "\x1b" not in found.out + found.err


def test_no_color_is_obeyed_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    colours = "\x1b[31m"
    for forbidden in (False, True):
        monkeypatch.setenv("NO_COLOR", "1") if forbidden else monkeypatch.delenv("NO_COLOR", raising=False)
        out = io.StringIO()
        Console(file=out, force_terminal=True, color_system="standard").print("[red]x[/]")
        assert (colours in out.getvalue()) == (not forbidden)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "TICK", 1e6)  # lines come with steps alone
    monkeypatch.setattr(progress, "FIRST_LINE", 5.0)
    return now


def test_a_log_gets_a_line_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """The first after 5 seconds of silence, the others every 30."""
    reporter = Reporter()
    with reporter.bar("opening model", 1, counted=False):
        clock[0] = 3.0
    with reporter.bar("mmlu@qwen", 1000, done=100) as advance:
        clock[0] = 4.5
        advance(101)
        assert capsys.readouterr().err == ""
        clock[0] = 5.0
        advance(102)
        assert capsys.readouterr().err == "mmlu@qwen: 102 of 1,000, 1.0/s\n"  # two steps tell no time left
        clock[0] = 34.0
        advance(300, "acc 50.0")
        assert capsys.readouterr().err == ""
        clock[0] = 43.0
        advance(500, "acc 45.2")
        assert capsys.readouterr().err == "mmlu@qwen: 500 of 1,000, 10.0/s, 50 s left, acc 45.2\n"


def test_a_log_is_not_silent_while_nothing_is_done(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "TICK", 0.001)
    said = threading.Event()
    reporter = Reporter()
    monkeypatch.setattr(reporter, "say", lambda text: (Reporter.say(reporter, text), said.set()))
    for label, is_counted, line in (
        ("reading data", False, "reading data, 6 s\n"),
        ("gsm8k@qwen", True, "gsm8k@qwen: 0 of 60, 12 tokens computed\n"),
    ):
        with reporter.bar(label, 60, counted=is_counted, status="12 tokens computed"):
            clock[0] += 6
            assert said.wait(60)
        assert capsys.readouterr().err == line
        said.clear()
    with reporter.bar("loading model", 100, counted=False) as advance:
        advance(40)
        clock[0] += 7
        assert said.wait(60)
    assert capsys.readouterr().err == "loading model, 40%, 7 s\n"


def test_a_slow_rate_is_per_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter().bar("gsm8k@qwen", 60) as advance:
        clock[0] = 120.0
        advance(10)
    assert capsys.readouterr().err == "gsm8k@qwen: 10 of 60, 5.0/min, 10 min left\n"
    with Reporter(quiet=True).bar("x", 10) as advance:
        clock[0] = 400.0
        advance(5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_terminal_gets_a_bar_with_rate_time_and_score(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    reporter, out = Reporter(), io.StringIO()
    reporter.console = Console(file=out, force_terminal=True, width=140)
    with reporter.bar("mmlu@qwen", 100) as advance:
        advance(100, "acc 45.2")
    text = out.getvalue()
    assert ("acc 45.2" in text and "100/100" in text and "left" in text) == (term == "xterm")
    if term == "dumb":
        assert "\x1b" not in text


def test_durations() -> None:
    assert [duration(s) for s in (45, 119, 125, 7000, 12_000)] == ["45 s", "119 s", "2 min", "117 min", "3 h 20 min"]


def test_the_running_score_ends_at_the_score() -> None:
    task = resolve("mmlu")
    docs = task.load(open_source("sample"))[:30]
    requests = [task.requests(doc) for doc in docs]
    running, known, texts = RunningScore(task, docs, requests), {}, []
    for i, (request,) in enumerate(requests):
        known[request] = Loglikelihoods(tuple(-1.0 * ((i + k) % 4) for k in range(4)), (False,) * 4)
        texts.append(running.add(request, known))
    samples = [Sample(d, r, [known[r[0]]], task.score(d, [known[r[0]]])) for d, r in zip(docs, requests, strict=True)]
    assert texts[-1] == f"acc {100 * task_entry(task, samples, 30, SAMPLE).metrics['acc'].value:.1f}"
    assert texts[0] in ("acc 0.0", "acc 100.0")
    assert len(set(texts)) > 3


def test_a_document_counts_once_all_its_requests_are_answered() -> None:
    task = resolve("mmlu")
    docs = task.load(open_source("sample"))[:2]
    first, second = (task.requests(doc)[0] for doc in docs)
    running = RunningScore(task, docs, [[first, second], [first]])
    answer = Loglikelihoods((0.0, -1.0, -1.0, -1.0), (True, False, False, False))
    assert running.add(second, {second: answer}) == ""
    running.task = type("Task", (), {"score": lambda *_: task.score(docs[0], [answer]), "protocol": task.protocol})()
    assert running.add(first, {first: answer, second: answer}).startswith("acc ")
    assert running.count == 2


def test_tasks_that_run_code_or_wait_for_a_judge_have_no_running_score() -> None:
    for name in ("humaneval", "mt_bench"):
        task = resolve(name)
        (doc, *_) = task.load(open_source("sample"))
        (request,) = task.requests(doc)
        running = RunningScore(task, [doc], [[request]])
        assert running.add(request, {request: Generated("an answer", "stop", 3)}) == ""
