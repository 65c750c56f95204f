"""The report: verdicts, published figures, the tables, and that a sample or limited run never passes for a full one."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from lm_eval_folders import rows, write
from report_runs import SAMPLE, as_installed, bench, counted, entry, figure, judge, run

from evalkit import cli
from evalkit.bench.record import BenchRecord
from evalkit.codec import encode
from evalkit.errors import EvalkitError
from evalkit.record.schema import Coverage, DataInfo, Run, TaskEntry
from evalkit.report.assemble import assemble, report_files
from evalkit.report.inputs import Inputs, read_inputs
from evalkit.report.lines import best, lines
from evalkit.report.matches import column_for, published_for
from evalkit.report.published import read_table, table_names
from evalkit.report.render.markdown import to_markdown
from evalkit.report.sections.quality import to_csv
from evalkit.report.sections.throughput import ratio_verdict
from evalkit.report.verdict import measured_figure, verdict
from evalkit.stats.estimate import Estimate

TABLE = read_table("qwen1.5-moe")
ROWS = {row.model: row for row in TABLE.rows}
INPUTS = Inputs(TABLE, ())
COLUMNS = {column.task: column for column in TABLE.columns}

ROOT = Path(__file__).parents[2]


def hub_of(model: str, task: str) -> str:
    """The hub id that a cell is of; the row's first where the table has no such cell."""
    cell = ROWS[model].cells.get(task)
    return cell.checkpoint.hub if cell and cell.checkpoint else ROWS[model].hubs[0]


def verdict_of(model: str, measured: TaskEntry | None, task: str = "mmlu") -> str:
    measured = as_installed(task, measured) if measured else None
    return str(verdict(ROWS[model].cells.get(task), COLUMNS[task], task, measured, run(hub_of(model, task)).model))


def test_verdicts() -> None:
    moe = "Qwen1.5-MoE-A2.7B"
    assert verdict_of(moe, entry(0.62)) == "reproduced"
    assert verdict_of(moe, entry(0.6165)) == "reproduced"  # 62.5 lies 0.05 outside, within its rounding
    assert verdict_of(moe, entry(0.60)) == "differs"
    assert verdict_of(moe, None) == "not measured"
    assert verdict_of(moe, entry(0.62, half=0.09)) == "cannot tell (n = 14042 is too small: +-9.0 points)"
    assert verdict_of(moe, entry(0.30, half=0.09)) == "differs"
    assert verdict_of(moe, entry(0.62, protocol="cloze")) == "cannot tell (published under mmlu@qwen, measured under mmlu@cloze)"
    assert verdict_of("DeepSeekMoE 16B", entry(0.45)).startswith("cannot tell (how the published figure was made")
    inconsistent = "published figure inconsistent (no number of 164"
    assert verdict_of(moe, entry(0.342, n=164, n_total=164), "humaneval").startswith(inconsistent)
    assert verdict_of(moe, None, "humaneval").startswith(inconsistent)  # it is so whoever measures


def test_a_cut_that_the_protocol_prescribes_is_no_flaw() -> None:
    """Qwen's script cuts MMLU's longest prompts, more than 1 % of all, and the published figure is of those."""
    assert verdict_of("Qwen1.5-MoE-A2.7B", entry(0.625, counts=counted(cut_by_protocol=378))) == "reproduced"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": SAMPLE, "n": 140, "n_total": 140}, "bundled sample"),
        ({"n": 500}, "limited to 500 of 14,042"),
        ({"data": DataInfo(source="dir", sha256="ab" * 32, official=False)}, "its rows are not the benchmark's (evalkit data verify mmlu)"),
        ({"metrics": {"acc": figure(0.62, 0.008, n=9_000)}}, "9,000 of 14,042 documents have acc"),
        ({"n": 140, "n_total": 140}, "the benchmark has 14,042"),
        ({"counts": counted(truncated=200)}, "200 of 14,042 documents truncated"),
        ({"counts": counted(boundary_merged=14_042)}, "boundary merged"),
        ({"judge": judge("gpt-4", failed=3, judgments=100)}, "3 of 100 judgments have no rating, more than 2%"),
        ({"coverage": Coverage(cells=60, measured=50, complete=41, incomplete={})}, "41 of 60 parts"),
    ],
)
def test_no_partial_run_passes_for_a_full_one(changes: dict, reason: str) -> None:
    found = verdict_of("Qwen1.5-MoE-A2.7B", entry(0.625, **changes))
    assert found.startswith("not comparable")
    assert reason in found


def test_what_was_asked_otherwise_is_not_the_same_figure() -> None:
    cell, column = ROWS["Qwen1.5-MoE-A2.7B"].cells["mmlu"], COLUMNS["mmlu"]
    model, today = run(hub_of("Qwen1.5-MoE-A2.7B", "mmlu")).model, as_installed("mmlu", entry(0.62))
    assert str(verdict(replace(cell, samples=20), column, "mmlu", today, model)) == (
        "cannot tell (published as the mean of 20 sampled answers a document, measured with one)"
    )
    changed = str(verdict(cell, column, "mmlu", entry(0.62, protocol_sha256="1" * 64), model))
    assert changed == "cannot tell (mmlu@qwen has changed since this run (it was 11111111); run it again)"
    foreign = entry(0.62, protocol_sha256="1" * 64, data=DataInfo(source="lm-eval", sha256="ab" * 32))
    assert str(verdict(cell, column, "mmlu", foreign, model)) == "reproduced"  # its settings have another program's hash


def test_the_blogs_table_is_held() -> None:
    assert [[row.cells[c.task].value if c.task in row.cells else None for c in TABLE.columns] for row in TABLE.rows] == [
        [64.1, 47.5, 27.4, 40.0, 7.60],
        [64.6, 50.9, 32.3, None, None],
        [61.0, 62.5, 36.0, 45.2, 7.60],
        [45.0, 18.8, 26.8, None, 6.93],
        [62.5, 61.5, 34.2, 40.8, 7.17],
    ]
    assert all(cell.origin for row in TABLE.rows for cell in row.cells.values())


def test_models_are_recognised() -> None:
    moe = ROWS["Qwen1.5-MoE-A2.7B"]
    assert moe.is_model("Qwen/Qwen1.5-MoE-A2.7B")
    assert moe.is_model("Qwen/Qwen1.5-MoE-A2.7B@abc123")
    assert moe.is_model("/models/qwen1.5-moe-a2.7b/")
    assert not moe.is_model("demo")
    assert not ROWS["Qwen1.5-7B"].is_model("Qwen/Qwen1.5-MoE-A2.7B")


def test_a_points_scale_is_not_percent() -> None:
    moe, column = ROWS["Qwen1.5-MoE-A2.7B"], COLUMNS["mt_bench"]
    model = run("Qwen/Qwen1.5-MoE-A2.7B-Chat").model
    figure = Estimate(7.2, 0.1, (7.0, 7.4), 160)
    rated = entry(0.5, protocol="fastchat", headline="score", metrics={"score": figure}, n=80, n_total=80, judge=judge("gpt-4-0613"))
    measured = measured_figure(rated, column)
    assert measured
    assert (measured.value, measured.low, measured.n) == (7.2, 7.0, 160)
    assert str(verdict(moe.cells["mt_bench"], column, "mt_bench", rated, model)) == "reproduced"
    wide = replace(rated, metrics={"score": replace(figure, ci95=(6.0, 8.0))})
    assert str(verdict(moe.cells["mt_bench"], column, "mt_bench", wide, model)) == "cannot tell (n = 160 is too small: +-1.0 points)"
    small = replace(rated, judge=judge("small-judge"))
    assert "judged by gpt-4, measured as judged by small-judge" in str(verdict(moe.cells["mt_bench"], column, "mt_bench", small, model))


def test_the_throughput_figures_agree_with_each_other() -> None:
    printed = TABLE.throughput
    assert printed
    speeds = {row.model: row.throughput for row in TABLE.rows if row.throughput}
    assert {model: (t.requests_per_second, t.tokens_per_second) for model, t in speeds.items()} == {
        "Qwen1.5-7B": (1.15, 2298.89),
        "Qwen1.5-MoE-A2.7B": (2.01, 4010.27),
    }
    tokens = printed.prompt_tokens + printed.output_tokens
    for speed in speeds.values():
        assert abs(speed.tokens_per_second / tokens - speed.requests_per_second) < 0.005 + 1e-9
    assert round(speeds[printed.model].tokens_per_second / speeds[printed.baseline].tokens_per_second, 2) == printed.ratio


def test_the_multilingual_column_is_the_mean_of_its_four_categories() -> None:
    table = read_table("qwen1.5-multilingual")
    assert [column.key for column in table.columns][-1] == "multilingual"
    for row in table.rows:
        *categories, column = (row.cells[c.key] for c in table.columns)
        mean = math.fsum(cell.value for cell in categories) / 4
        # the last digit may have been rounded either way from a mean that ends in 5, or from categories that were rounded themselves
        assert abs(mean - column.value) <= column.rounding + 1e-9, row.model
    blog = {row.model: row.cells["multilingual"].value for row in TABLE.rows if "multilingual" in row.cells}
    assert blog == {row.model: row.cells["multilingual"].value for row in table.rows if row.model in blog}


def test_what_any_table_holds() -> None:
    (moe, *others) = published_for("Qwen/Qwen1.5-MoE-A2.7B", "multilingual", "qwen")
    assert (moe.figure.value, moe.column.decimals, len(others)) == (40.8, 1, 1)
    (gemma,) = published_for("google/gemma-7b", "multilingual", "qwen")  # the blog has none
    assert gemma.printed == "42.8"
    (exams,) = published_for("Qwen/Qwen1.5-7B", "multilingual:exams", "qwen")
    assert exams.printed == "47.70"
    assert published_for("Qwen/Qwen1.5-7B", "no_such_task", "qwen") == ()
    column = column_for("mt_bench")
    assert column
    assert (column.scale, column.maximum) == (1, 10)
    assert TABLE.anchors
    assert all(anchor.protocol and anchor.source for anchor in TABLE.anchors)


def test_random_weights_are_no_model_of_the_table() -> None:
    assert not any(row.is_model(f"random:{spec}") for row in TABLE.rows for spec in (row.slug, *row.hubs))


def test_a_suites_categories_are_judged_one_by_one() -> None:
    table = read_table("qwen1.5-multilingual")
    figure = Estimate(0.5, 0.01, (0.45, 0.55), 100)
    column = {"headline": "mean", "metrics": {"mean": figure}, "groups": {"exams": {"mean": figure}}}
    found = lines(table, [run("Qwen/Qwen1.5-7B", multilingual=entry(0.5, n=100, n_total=100, **column))])
    words = {line.task: line.verdict.word for line in found if line.model == "Qwen1.5-7B"}
    assert words["multilingual:understanding"] == "not measured"
    assert words["multilingual:exams"] == "reproduced"
    assert words["multilingual"] == "not comparable"  # the whole task must have all its documents


def markdown(*runs: Run, benches: tuple[BenchRecord, ...] = ()) -> str:
    return to_markdown(assemble(Inputs(TABLE, runs, benches)))


def test_markdown_and_csv() -> None:
    runs = [run("Qwen/Qwen1.5-MoE-A2.7B", mmlu=entry(0.6249)), run("demo", mmlu=entry(0.25, data=SAMPLE))]
    text = markdown(*runs)
    assert "| Qwen1.5-MoE-A2.7B | 62.5 → **62.5** | 61.5 | 34.2 | 40.8 | 7.17 |" in text
    assert "| Gemma-7B | 64.6 | 50.9 | 32.3 | - | - |" in text
    assert "| demo | - → **25.0**\\* | - | - | - | - |" in text
    assert "| 62.5 (61.7 to 63.3) | 0.0 | reproduced | mmlu@qwen, n = 14,042, data dir abababab, fingerprint cdcdcdcd, run r |" in text
    found = lines(TABLE, runs)
    rows = list(csv.DictReader(io.StringIO(to_csv(found, INPUTS))))
    assert len(rows) == 22 + 1
    (moe,) = [r for r in rows if r["model"] == "Qwen1.5-MoE-A2.7B" and r["task"] == "mmlu"]
    assert (moe["published"], moe["measured"], moe["difference"], moe["verdict"]) == ("62.5", "62.49", "-0.01", "reproduced")
    assert (markdown(*runs), to_csv(lines(TABLE, runs), INPUTS)) == (text, to_csv(found, INPUTS))


def test_what_a_model_of_the_table_did_on_a_task_without_a_column_is_shown() -> None:
    *_, last = lines(TABLE, [run("Qwen/Qwen1.5-7B", mmlu=entry(0.61), xcopa=entry(0.5, protocol="qwen", n=1_500, n_total=1_500))])
    assert (last.model, last.task, last.published, last.verdict.word) == ("Qwen1.5-7B", "xcopa", "-", "nothing published")
    text = markdown(run("Qwen/Qwen1.5-7B", xcopa=entry(0.5, n=1_500, n_total=1_500)))
    assert "| Qwen1.5-7B | xcopa | - | 50.0 (49.2 to 50.8) | - | nothing published |" in text


def test_the_most_telling_of_several_measurements_stands_for_the_cell() -> None:
    spec = "Qwen/Qwen1.5-7B"
    runs = [run(spec, mmlu=entry(0.7, protocol="cloze")), run(spec, mmlu=entry(0.61)), run(spec, mmlu=entry(0.5, n=20))]
    chosen = best(lines(TABLE, runs))["Qwen1.5-7B", "mmlu"]
    assert chosen.measured
    assert chosen.measured.value == pytest.approx(61)


def test_what_each_humaneval_protocol_breaks_is_told() -> None:
    rows = {line.split(" | ")[0].lstrip("| "): line for line in markdown().splitlines() if line.startswith("| humaneval@")}
    assert "breaks 37 of the 164 canonical solutions: its ceiling is 77.4" in rows["humaneval@qwen"]
    assert "breaks none of the 164" in rows["humaneval@codex"]
    assert len(rows) >= 7


def test_answers_that_wait_for_a_judge_are_named_as_such() -> None:
    waiting = entry(0.5, protocol="fastchat", headline="score", metrics={}, n=80, n_total=80, counts=counted(unscored=80))
    text = markdown(run("Qwen/Qwen1.5-7B-Chat", mt_bench=waiting))
    assert "not measured (80 of 80 documents wait for judgments)" in text
    assert "| Qwen1.5-7B | 61.0 | 62.5 | 36.0 | 45.2 | 7.60 |" in text


def test_remarks_name_the_protocol_that_was_measured_and_every_count() -> None:
    counts = counted(extraction_failed=3, truncated=2, cut_by_protocol=378, stopped_by_length=1)
    text = markdown(run("Qwen/Qwen1.5-7B", name="shorter", mmlu=entry(0.61, protocol="cloze", counts=counts)))
    said = [line for line in text.splitlines() if line.startswith("- run shorter, ")]
    assert said == [
        "- run shorter, mmlu@cloze: 3 of 14,042 answers had nothing to extract; they count as wrong",
        "- run shorter, mmlu@cloze: 2 of 14,042 prompts did not fit and were truncated",
        "- run shorter, mmlu@cloze: 378 of 14,042 prompts were cut to the length that the protocol allows",
        "- run shorter, mmlu@cloze: 1 of 14,042 answers reached the length limit",
    ]


def test_throughput_without_records_is_not_measured() -> None:
    text = markdown()
    assert "| Qwen1.5-7B | 1.15 | 2,298.89 | - | - | - | - | not measured | - | - |" in text
    assert "| 1.74 | - | not measured" in text


def test_throughput_on_the_published_device() -> None:
    moe, dense = bench("Qwen/Qwen1.5-MoE-A2.7B", 2.1), bench("Qwen/Qwen1.5-7B", 1.5)
    text = markdown(benches=(moe, dense))
    assert "| Qwen1.5-MoE-A2.7B | 2.01 | 4,010.27 | 2.10 | 4,200.00 | 2,100.00 | 50% | reproduced (within 10%)" in text
    assert "| 2,298.89 | 1.50 | 3,000.00 | 1,500.00 | 50% | differs (by more than 10%)" in text
    assert ratio_verdict(TABLE, [moe, dense])[0] == "1.40"
    assert ratio_verdict(TABLE, [moe, dense])[1].word == "differs"


def test_throughput_elsewhere_tells_the_ratio_alone() -> None:
    h100 = {"device": "NVIDIA H100 80GB HBM3"}
    moe, dense = bench("random:qwen1.5-moe-a2.7b", 5.4, **h100), bench("random:qwen1.5-7b", 3.0, **h100)
    text = markdown(benches=(moe, dense))
    assert "cannot tell (published on one NVIDIA A100-80G, measured on NVIDIA H100 80GB HBM3)" in text
    value, found = ratio_verdict(TABLE, [moe, dense])
    assert (value, found.word) == ("1.80", "reproduced")
    assert ratio_verdict(TABLE, [moe, replace(dense, num_requests=7)])[1].word == "not measured"
    assert ratio_verdict(TABLE, [replace(moe, prompt_tokens=9), replace(dense, prompt_tokens=9)])[1].word == "not comparable"
    assert ratio_verdict(TABLE, [replace(moe, short_answers=3), dense])[1].word == "not comparable"


def test_a_server_tells_no_dtype_and_may_end_answers_early() -> None:
    remote = {"engine": "openai:http://x", "dtype": None, "device": "the server's", "roofline": None, "short_answers": 3}
    text = markdown(benches=(bench("Qwen/Qwen1.5-7B", 0.01234, **remote),))
    assert "| 0.0123 | 24.68 | 12.34 | - | not comparable (3 answers ended early" in text
    assert "| openai:http://x, the server's | 1,000 |" in text


def test_a_name_that_is_not_utf_8_is_printed_with_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell may pass it: `--name $'\\xff'`."""
    monkeypatch.setattr("evalkit.report.assemble.attachments", lambda document: {})  # the plots take seconds
    found = Inputs(read_table("qwen1.5-moe"), (run("demo", "a\udcff", mmlu=entry(0.25)),))
    assert b"a?" in report_files(found)["report.md"]


def test_inputs_are_told_apart_and_their_order_does_not_matter(tmp_path: Path) -> None:
    for name, content in (("a", run("demo", mmlu=entry(0.25))), ("b", run("demo", "b", mmlu=entry(0.3)))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(encode(content)))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "bench.json").write_text(json.dumps(encode(bench("demo", 1.0))))
    paths = [str(tmp_path / "a"), str(tmp_path / "b" / "run.json"), str(tmp_path / "c")]
    (found,) = read_inputs(["qwen1.5-moe"], paths)
    assert (len(found.runs), len(found.benches)) == (2, 1)
    (turned,) = read_inputs(["qwen1.5-moe"], [*reversed(paths), paths[0]])
    assert to_markdown(assemble(found)) == to_markdown(assemble(turned))
    assert [plot.svg for plot in assemble(found).plots] == [plot.svg for plot in assemble(turned).plots]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"kind": "bench", "schema": 2}', "not a bench record of schema 1"),
        (
            json.dumps({k: v for k, v in encode(bench("demo", 1.0)).items() if k != "device"}),
            "device is missing; measure again with evalkit bench",
        ),
        ("[1]", "not a run.json"),
        ("{", "is not a run"),
    ],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(EvalkitError, match=message):
        read_inputs(["qwen1.5-moe"], [str(tmp_path / "x.json")])


def test_every_published_table_makes_a_report() -> None:
    """Those with a tracked report are made in test_committed_report.py."""
    for name in set(table_names()) - {path.name for path in (ROOT / "reports").iterdir()}:
        files = report_files(*read_inputs([name], []))
        assert {"report.md", "report.tex", "report.html", "quality.csv", "table-as-published.tex"} <= files.keys()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(encode(run("./mine", mmlu=entry(0.25)))))
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.md", "report.tex", "report.html", "quality.csv", "parameters.csv", "throughput.csv", "activated.png"} <= names
    said = capsys.readouterr().out
    assert "report.html in a browser" in said
    assert "Found here: none of 22 measured. 1 cannot be right as printed." in said
    assert "Parameters: counted and published: 12 reproduced, 3 published figure inconsistent" in said
    assert cli.main(["report"]) == 0
    assert "not measured" in capsys.readouterr().out
    assert cli.main(["report", "--out", str(tmp_path / "run.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_runs_that_are_not_finished_are_skipped_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, record in (("done", run("m", "done", mmlu=entry(0.5))), ("half", run("n", "half", status="incomplete", mmlu=entry(0.5)))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(encode(record)))
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "journal.sqlite").write_text("")
    assert cli.main(["report", *map(str, sorted(tmp_path.iterdir()))]) == 0
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'half'} is skipped: it is incomplete; run `evalkit run` again to finish it" in err
    assert f"{tmp_path / 'begun'} is skipped: it has no run.json yet" in err
    assert "run done: m, native" in out
    assert cli.main(["report", str(tmp_path / "half")]) == 2
    assert "nothing to report" in capsys.readouterr().err


def test_a_report_on_lm_evals_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "Qwen1.5-MoE-A2.7B", {"mmlu": rows("mmlu", [1.0, 1.0, 1.0, 0.0] * 25)}, model_name="Qwen/Qwen1.5-MoE-A2.7B")
    assert cli.main(["report", str(folder)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "lm-eval's mmlu" in line and line.startswith("|")]
    assert "75.0" in line
    assert "not comparable" in line  # 100 documents are not the benchmark
    next(folder.glob("samples_*")).write_text("")
    assert cli.main(["report", str(folder)]) == 2
    assert "holds 0 documents of mmlu, and its results are of 100" in capsys.readouterr().err
