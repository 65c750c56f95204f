"""What a report begins with, the causes that were tested, a report of runs alone, and the index of several tables."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_runs import SAMPLE, bench, entry, figure, run

from evalkit import cli
from evalkit.codec import encode
from evalkit.errors import EvalkitError
from evalkit.record.schema import Run, TaskEntry
from evalkit.report.assemble import assemble, index
from evalkit.report.document import Claims, Document, Grid
from evalkit.report.inputs import Inputs, read_inputs
from evalkit.report.plots.dots import DotPanel, DotRow, dot_plot
from evalkit.report.render.html import to_html
from evalkit.report.render.latex import latex_files
from evalkit.report.render.markdown import to_markdown
from evalkit.report.verdict import Measured

TABLE = """
title = "Small"
source = "a made-up report"
url = "https://example.com/small.pdf"
[[column]]
task = "humaneval"
protocol = "codex"
title = "HumanEval (codex)"
decimals = 1
[[column]]
task = "humaneval"
protocol = "chat"
title = "HumanEval (chat)"
decimals = 1
[[row]]
model = "Small-1B"
checkpoint.chat = { hub = "someone/Small-1B", precision = "bfloat16" }
[row.cell."humaneval@codex"]
printed = "40.2"
[row.cell."humaneval@chat"]
printed = "61.0"
[[row]]
model = "Large-9B"
checkpoint.chat = { hub = "someone/Large-9B", precision = "bfloat16" }
[row.cell."humaneval@codex"]
printed = "70.1"
[row.cell."humaneval@chat"]
printed = "81.2"
inconsistent = "no number of 164 problems gives 81.2"
"""
FINDING = """
[[finding]]
table = "{table}"
model = "Small-1B"
task = "humaneval@chat"
cause = "the prompt"
runs = ["chat", "chat-again"]
conclusion = "it explains 6 points"
"""


def humaneval(passed: int, protocol: str, half: float = 0.075) -> TaskEntry:
    score = figure(passed / 164, half, 164)
    return entry(0, protocol=protocol, headline="pass@1", metrics={"pass@1": score}, n=164, n_total=164)


RUNS = (
    run("someone/Small-1B", "codex", humaneval=humaneval(66, "codex")),
    run("someone/Small-1B", "chat", humaneval=humaneval(80, "chat")),
    run("someone/Small-1B", "chat-again", humaneval=humaneval(90, "chat")),
)


@pytest.fixture
def table(tmp_path: Path) -> str:
    (tmp_path / "small.toml").write_text(TABLE)
    return str(tmp_path / "small.toml")


def saved(folder: Path, *runs: Run) -> list[str]:
    for each in runs:
        (folder / each.name).mkdir()
        (folder / each.name / "run.json").write_text(json.dumps(encode(each)))
    return [str(folder / each.name) for each in runs]


def findings(folder: Path, **changes: str) -> str:
    text = FINDING.format(table="small")
    for key, value in changes.items():
        (old,) = [line for line in text.splitlines() if line.startswith(f"{key} = ")]
        text = text.replace(old, f"{key} = {value}")
    (folder / "findings.toml").write_text(text)
    return str(folder / "findings.toml")


def claims(document: Document) -> dict[str, list[str]]:
    return {block.title: [claim.title for claim in block.claims] for block in document.story if isinstance(block, Claims)}


def test_the_story_tells_what_holds_and_what_does_not(tmp_path: Path, table: str) -> None:
    (inputs,) = read_inputs([table], saved(tmp_path, *RUNS[:2]))
    document = assemble(inputs)
    assert document.story[0] == "Claimed: 4 scores of 2 models on 1 benchmark. Source: a made-up report."
    assert document.story[1] == "Found here: 2 of 4 measured: 1 reproduced, 1 differs. 1 cannot be right as printed."
    assert claims(document) == {
        "What holds": ["HumanEval (codex), Small-1B"],
        "What does not hold": ["HumanEval (chat), Small-1B"],
        "What cannot be right as printed": ["HumanEval (chat), Large-9B"],
    }
    assert document.story[-1] == "Not measured: HumanEval (codex) of 1 of 2 models."
    text = to_markdown(document)
    assert "measured 40.2 (32.7 to 47.7), difference 0.0; reproduced" in text
    assert "humaneval@codex, n = 164, data dir abababab, fingerprint cdcdcdcd, run codex" in text  # no bare figure


def test_a_report_of_nothing_measured_says_so(table: str) -> None:
    (inputs,) = read_inputs([table], [])
    document = assemble(inputs)
    assert document.story[1] == "Found here: none of 4 measured. 1 cannot be right as printed."
    assert document.plots == [] or not any(plot.name == "scores" for plot in document.plots)
    assert "measured with" not in to_markdown(document).lower()


def test_verdicts_are_counted_a_section_one_for_each_published_figure() -> None:
    from evalkit.report.published import read_table

    runs = [run("Qwen/Qwen1.5-7B", name, mmlu=entry(score)) for name, score in (("a", 0.61), ("b", 0.5))]
    sections = {section.slug: section for section in assemble(Inputs(read_table("qwen1.5-moe"), runs)).sections}
    assert sections["quality"].tally == {"reproduced": 1, "published figure inconsistent": 1, "not measured": 20}
    assert sections["parameters"].tally["reproduced"] == 12
    page = to_html(Document("d", ["told"], [sections["parameters"]]))
    assert page.index("told") < page.index("<b>12</b>")


def test_a_finding_stands_under_its_cell_s_verdict(tmp_path: Path, table: str) -> None:
    (inputs,) = read_inputs([table], [*saved(tmp_path, *RUNS), findings(tmp_path)])
    document = assemble(inputs)
    (claim,) = [claim for block in document.story if isinstance(block, Claims) for claim in block.claims if claim.causes]
    assert claim.title == "HumanEval (chat), Small-1B"
    (cause,) = claim.causes
    assert cause.effect == "48.8 (41.3 to 56.3) in chat; 54.9 (47.4 to 62.4) in chat-again, +6.1"
    for text in (to_markdown(document), to_html(document), latex_files(document)["report.tex"]):
        assert text.count("Tested: the prompt.") == 1
        assert "it explains 6 points" in text
    rows = list(csv.DictReader(io.StringIO(document.sections[0].csv["quality"])))
    assert {row["task"] for row in rows if row["findings"]} == {"humaneval@chat"}


def test_a_run_that_a_finding_names_is_left_to_the_finding_s_table(tmp_path: Path, table: str) -> None:
    rescored = run("answers-cut.jsonl", "chat-again", humaneval=humaneval(90, "given"))
    paths = [*saved(tmp_path, *RUNS[:2], rescored), findings(tmp_path)]
    found = {
        inputs.table.name: [each.name for each in inputs.runs] for inputs in read_inputs([table, "qwen1.5-moe"], paths) if inputs.table
    }
    assert sorted(found["small"]) == ["chat", "chat-again", "codex"]
    assert found["qwen1.5-moe"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": '"no-table"'}, "unknown published table 'no-table'"),
        ({"model": '"Small-2B"'}, "unknown model 'Small-2B'; did you mean 'Small-1B'"),
        ({"task": '"humaneval"'}, "unknown cell of Small-1B 'humaneval'"),
        ({"runs": '["chat", "nowhere"]'}, "run nowhere is not among the report's runs: chat, chat-again, codex"),
        ({"runs": '["chat"]'}, "runs must name at least two runs"),
        ({"runs": '["chat", "chat"]'}, "runs must name at least two runs"),
        ({"runs": '["chat", "codex/humaneval@qwen"]'}, "unknown task of run codex 'humaneval@qwen'"),
        ({"cause": '" "'}, "cause or conclusion is empty"),
        ({"conclusion": "3"}, "conclusion is 3, expected a text"),
        ({"cause": '"x"\nwhy = "y"'}, "why"),
    ],
)
def test_a_finding_that_is_wrong_is_refused_with_its_line(changes: dict[str, str], message: str, tmp_path: Path, table: str) -> None:
    paths = [*saved(tmp_path, *RUNS), findings(tmp_path, **changes)]
    with pytest.raises(EvalkitError) as refused:
        read_inputs([table], paths)
    assert message in str(refused.value)
    assert "findings.toml:" in str(refused.value)


def test_a_run_of_several_protocols_is_named_with_its_task(tmp_path: Path, table: str) -> None:
    both = run("someone/Small-1B", "both", **{"humaneval@chat": humaneval(80, "chat"), "humaneval@codex": humaneval(66, "codex")})
    paths = saved(tmp_path, both)
    with pytest.raises(EvalkitError, match="run both holds humaneval@chat, humaneval@codex: name one, as in both/humaneval@chat"):
        read_inputs([table], [*paths, findings(tmp_path, runs='["both", "both/humaneval@codex"]')])
    (inputs,) = read_inputs([table], [*paths, findings(tmp_path, runs='["both/humaneval@chat", "both/humaneval@codex"]')])
    assert inputs.findings[0].effect.endswith("40.2 (32.7 to 47.7) in both/humaneval@codex, -8.5")


def test_the_mean_can_be_the_cause(tmp_path: Path, table: str) -> None:
    """A task with subjects has two means of the same answers."""
    subjects = {name: {"pass@1": figure(value, 0.1, n)} for name, value, n in (("large", 0.4, 100), ("small", 0.7, 64))}
    both = run("someone/Small-1B", "both", humaneval=replace(humaneval(85, "chat"), subjects=subjects))
    paths = saved(tmp_path, both, RUNS[1])
    (inputs,) = read_inputs([table], [*paths, findings(tmp_path, runs='["both", "both as macro mean"]')])
    assert inputs.findings[0].effect.startswith("51.8 (44.3 to 59.3) in both; 55.0 (47.9 to 62.1) in")
    assert inputs.findings[0].effect.endswith(") in both as macro mean, +3.2")
    assert inputs.findings[0].run_names == {"both"}
    for runs, message in (
        ('["both", "both as micro mean"]', "run both has no micro mean beside its headline; leave as micro mean out"),
        (f'["both", "{RUNS[1].name} as macro mean"]', f"run {RUNS[1].name} has no macro mean beside its headline"),
    ):
        with pytest.raises(EvalkitError, match=message):
            read_inputs([table], [*paths, findings(tmp_path, runs=runs)])


def test_a_table_of_runs_alone_names_no_published_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(encode(bench("demo", 1.0))))
    left_out = [str(tmp_path / "bench.json"), findings(tmp_path)]
    small = run("Qwen/Qwen1.5-7B", "sample", mmlu=entry(0.3, data=SAMPLE))
    paths = saved(tmp_path, small, run("Qwen/Qwen1.5-7B", "whole", mmlu=entry(0.61)), *RUNS)
    (inputs,) = read_inputs([], paths)
    document = assemble(inputs)
    (grid,) = [block for block in document.sections[0].blocks if isinstance(block, Grid) and block.name == "scores"]
    assert grid.head == ("Model", "mmlu@qwen", "humaneval@chat", "humaneval@codex")
    shown = {str(row[0]): row[1:] for row in grid.rows}
    assert shown["Qwen/Qwen1.5-7B (sample)"][0] == "30.0 (29.2 to 30.8)*"  # two runs of one model go by their names
    assert shown["Qwen/Qwen1.5-7B (whole)"][0] == "61.0 (60.2 to 61.8)"
    assert cli.main(["report", *paths, *left_out, "--runs-only"]) == 0
    text, said = capsys.readouterr()
    assert "the bench records of demo are left out" in said
    assert "findings.toml is skipped" in said
    assert "bundled sample, not the benchmark" in text
    assert "| 61.0 |" not in text
    assert "Published" not in text
    assert cli.main(["report", "--runs-only"]) == 2
    assert "give a run's folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        cli.main(["report", *paths, "--runs-only", "--published", "qwen1.5-moe"])
    assert refused.value.code == 2


def test_an_index_leads_to_a_page_for_each_table(tmp_path: Path, table: str) -> None:
    pages = read_inputs([table, "qwen1.5-multilingual"], saved(tmp_path, *RUNS, run("other", "other", mmlu=entry(0.5))))
    assert [[each.name for each in page.runs] for page in pages] == [["other", "chat", "chat-again", "codex"], ["other"]]
    listed = index(pages)
    text, page = to_markdown(listed), to_html(listed)
    assert "| [Small](small/report.md) | 4 scores of 2 models on 1 benchmark. Source: a made-up report. | 2 of 4 measured" in text
    assert '<a href="small/report.html">Small</a>' in page
    assert '<a href="../index.html">All tables</a>' in to_html(assemble(pages[0], "../index"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "small.toml").write_text(TABLE)
    with pytest.raises(EvalkitError, match="two published tables are named small"):
        read_inputs([table, str(tmp_path / "b" / "small.toml")], [])


def test_where_no_table_is_named_it_is_that_of_the_runs_model(tmp_path: Path) -> None:
    def tables(*runs: Run) -> list[str]:
        return [page.table.name for page in read_inputs(None, [str(tmp_path / each.name) for each in runs]) if page.table]

    smollm, coder = run("smollm2-135m", "smollm", mmlu=entry(0.28)), run("qwen2.5-coder-0.5b", "coder", humaneval=entry(0.3))
    mine = run("./mine", "mine", mmlu=entry(0.5))
    saved(tmp_path, smollm, coder, mine)
    assert tables(smollm) == ["smollm2"]
    assert tables(coder, smollm) == ["qwen2.5-coder", "smollm2"]
    assert tables(mine) == tables() == ["qwen1.5-moe"]


def test_one_model_under_several_protocols_is_a_picture(tmp_path: Path, table: str) -> None:
    (inputs,) = read_inputs([table], saved(tmp_path, *RUNS))
    document = assemble(inputs)
    (plot,) = [plot for plot in document.plots if plot.name == "protocols-small-1b"]
    assert plot.alt == "HumanEval: chat published 61.0 and measured 48.8 and measured 54.9, codex published 40.2 and measured 40.2"
    text = plot.svg.decode()
    assert text.index(">HumanEval<")
    assert all(f">{each}<" in text for each in ("chat", "codex", "61.0", "40.2", "48.8", "54.9"))


def test_a_dot_is_on_the_line_of_its_label() -> None:
    from matplotlib.figure import Figure

    wide = Measured(30, 20, 40, 9)
    rows = [DotRow("one", [10.0], [(wide, True)]), DotRow("a label that takes two lines", [50.0], [(wide, True), (wide, False)])]
    plot = dot_plot("n", "t", "a", [DotPanel("p", rows)])
    assert plot
    drawn = Figure(layout="constrained")
    plot.paint(drawn)
    (axes,) = drawn.axes
    labels = dict(zip([text.get_text() for text in axes.get_yticklabels()], axes.get_yticks(), strict=True))
    drawn_lines: list[Any] = list(axes.lines)
    points = [(line.get_marker(), list(zip(*line.get_data(), strict=True))) for line in drawn_lines]
    dots = {ends[0][0]: ends[0][1] for marker, ends in points if marker == "o"}
    assert dots == {10.0: labels["one"], 50.0: labels["a label that takes\ntwo lines"]}
    intervals = [ends[0][1] for _, ends in points if len(ends) == 2]
    assert intervals[0] == labels["one"]
    assert sum(intervals[1:]) / 2 == dots[50.0]
    assert axes.get_ylim()[0] > max(intervals)
    low, high = axes.get_xlim()
    assert 0 <= low < 10 < 50 < high <= 100
