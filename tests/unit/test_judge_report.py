"""MT-Bench in a report: the page and its plots, from run.json alone."""

from dataclasses import replace

import pytest
from report_runs import entry, run

from evalkit.judge.result import judged_entry
from evalkit.judge.score import Rated, Ratings
from evalkit.record.schema import JudgeEntry, Run
from evalkit.report.document import Grid, Notes
from evalkit.report.inputs import Inputs
from evalkit.report.plots.plot import Plot
from evalkit.report.published import read_table
from evalkit.report.sections import judged as report
from evalkit_tasks.mt_bench.task import MTBench

CATEGORIES = ("math", "writing", "stem")


def judged_run(name: str, shift: float) -> Run:
    rows = [
        Rated(str(i), CATEGORIES[i % 3], turn, 0, "", (i + turn) % 8 + 1 + shift, (i + turn) % 8 + 1 + shift)
        for i in range(9)
        for turn in (1, 2)
    ]
    ratings = Ratings(rows, "published", MTBench.scale)
    about = JudgeEntry(model="gpt-4-0613", rating="published", counts=ratings.counts())
    waiting = entry(0.0, protocol="fastchat", headline="score", metrics={}, n=9, n_total=80)
    return run(name, name, mt_bench=judged_entry(waiting, "0", ratings, about))


def inputs(*runs: Run) -> Inputs:
    return Inputs(read_table("qwen1.5-moe"), runs)


def test_the_page_holds_every_judged_run() -> None:
    (section,) = report.sections(inputs(judged_run("one", 0), judged_run("two", 1)))
    (grid,) = [block for block in section.blocks if isinstance(block, Grid)]
    assert list(grid.head[-3:]) == ["writing", "math", "stem"]  # the questions' order, not the runs'
    assert [row[0] for row in grid.rows] == ["one", "two"]
    assert [f"{float(str(two)) - float(str(one)):.2f}" for one, two in zip(grid.rows[0][2:5], grid.rows[1][2:5], strict=True)] == [
        "1.00"
    ] * 3
    (notes,) = [block for block in section.blocks if isinstance(block, Notes)]
    assert any("judge gpt-4-0613" in line for line in notes.lines)
    assert [block.name for block in section.blocks if isinstance(block, Plot)] == ["mt-bench-radar", "mt-bench-turns"]


def test_runs_that_wait_for_their_judge_have_no_page() -> None:
    waiting = run("w", mt_bench=entry(0.0, protocol="fastchat", headline="score", metrics={}))
    assert report.sections(inputs(waiting)) == []


def test_plots_are_the_same_bytes_for_the_same_runs() -> None:
    judged = report.judged_entries([judged_run("one", 0), judged_run("two", 1)], "mt_bench")
    first, second = report.plots(MTBench, judged), report.plots(MTBench, judged)
    assert [(p.png, p.svg) for p in first] == [(p.png, p.svg) for p in second]
    assert "writing" in first[0].svg.decode()
    assert "one: turn 1" in first[1].alt


@pytest.mark.parametrize("categories", [1, 2])
def test_few_categories_draw_too(categories: int) -> None:
    judged = judged_run("one", 0).tasks["mt_bench"]
    few = replace(judged, groups=dict(list(judged.groups.items())[:categories]))
    assert len(report.plots(MTBench, {"one": few})) == 2
