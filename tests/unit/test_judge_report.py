"""MT-Bench in a report: the page and its plots, from run.json alone."""

from typing import Any

import pytest

from evalkit.judge.result import judged_entry
from evalkit.judge.score import counts, rated
from evalkit.report.document import Grid, Notes
from evalkit.report.inputs import Inputs
from evalkit.report.plots.plot import Plot
from evalkit.report.published import read_table
from evalkit.report.sections import mt_bench

CATEGORIES = ("math", "writing", "stem")


def judged_run(name: str, shift: float) -> dict[str, Any]:
    rows = [
        rated(str(i), CATEGORIES[i % 3], turn, 0, f"[[{(i + turn) % 8 + 1 + shift}]]", (i + turn) % 8 + 1 + shift)
        for i in range(9)
        for turn in (1, 2)
    ]
    about = {"model": "gpt-4-0613", "rating": "published", "counts": counts(rows)}
    entry = {"protocol": "fastchat", "headline": "score", "n": 9, "n_total": 80, "counts": {}} | judged_entry("0", rows, "published", about)
    return {"name": name, "model": {"spec": name, "fingerprint": "sha256:0"}, "tasks": {"mt_bench": entry}}


def inputs(*runs: dict[str, Any]) -> Inputs:
    return Inputs(read_table("qwen1.5-moe"), runs)


def test_the_page_holds_every_judged_run() -> None:
    section = mt_bench.section(inputs(judged_run("one", 0), judged_run("two", 1)))
    assert section is not None
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
    waiting = judged_run("w", 0)
    waiting["tasks"]["mt_bench"] |= {"metrics": {}, "groups": {}}
    assert mt_bench.section(inputs(waiting)) is None


def test_plots_are_the_same_bytes_for_the_same_runs() -> None:
    judged = mt_bench.judged_entries([judged_run("one", 0), judged_run("two", 1)])
    first, second = mt_bench.plots(judged), mt_bench.plots(judged)
    assert [(p.png, p.svg) for p in first] == [(p.png, p.svg) for p in second]
    assert "writing" in first[0].svg.decode()
    assert "one: turn 1" in first[1].alt


@pytest.mark.parametrize("categories", [1, 2])
def test_few_categories_draw_too(categories: int) -> None:
    run = judged_run("one", 0)
    entry = run["tasks"]["mt_bench"]
    entry["groups"] = dict(list(entry["groups"].items())[:categories])
    assert len(mt_bench.plots(mt_bench.judged_entries([run]))) == 2
