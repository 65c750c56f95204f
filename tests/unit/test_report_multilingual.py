"""The suite's page of the report: published beside measured, what has no data, the same bytes for the same run."""

import csv
import io
import random
from dataclasses import fields

import pytest
from report_runs import entry, run

from evalkit.record.sample import Sample
from evalkit.record.schema import Run
from evalkit.report.inputs import Inputs
from evalkit.report.published import read_table
from evalkit.report.sections import multilingual
from evalkit.stats import suite
from evalkit.tasks import Doc, Scored
from evalkit.tasks.registry import task_classes

pytest.importorskip("sacrebleu", reason="sacrebleu is not installed")


def record(spec: str, measured: set[str] | None = None, incomplete: dict[str, str] | None = None) -> Run:
    """A run of the suite by a model that is right four times in ten, of the sets in `measured` (all)."""
    task = task_classes()["multilingual"]
    cells, rng = task(task.protocols["qwen"]).cells(), random.Random(7)
    found = []
    for cell in cells:
        if measured is not None and cell.set not in measured:
            continue
        for i in range(4):
            words = ["so", "it", "goes", "on", "and", "on"]
            bleu = ((" ".join(words),), " ".join(word if rng.random() < 0.7 else "no" for word in words))
            value = bleu if cell.metric == "bleu" else float(rng.random() < 0.4)
            doc = Doc(f"{cell.name}/{i}", cell.name, {}, "", f"{cell.set}/{i}")
            found.append(Sample(doc, [], [], Scored({cell.metric: value}, "", "")))
    figures = suite.figures(cells, incomplete or {}, found)
    given = {f.name: getattr(figures, f.name) for f in fields(figures)}
    suites = entry(0.0, n=len(found), n_total=len(found), cells=tuple(cells), **given)
    return run(spec, spec.split("/")[-1].lower(), multilingual=suites)


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    most = {"m3exam", "belebele", "mgsm", "flores"}
    lacking = {"mmmlu:ar": "no data", "mgsm:th": "200 of 250 documents"}
    runs = [record("Qwen/Qwen1.5-MoE-A2.7B"), record("someone/else", most, lacking)]
    return Inputs(read_table("qwen1.5-multilingual"), runs)


def test_published_and_measured_side_by_side(inputs: Inputs) -> None:
    section = multilingual.section(inputs)
    assert section is not None
    grid = next(block for block in section.blocks if getattr(block, "title", "") == "Categories")
    first, second = grid.rows  # type: ignore[union-attr]
    assert [pair.published for pair in first[1:6]] == ["44.54", "61.08", "30.20", "27.35", "40.79"]
    assert all(pair.sure for pair in first[1:6])
    assert first[-1] == "96 of 96"
    assert [pair.published for pair in second[1:6]] == ["-"] * 5
    assert not any(pair.sure for pair in second[1:6])
    assert second[-1] == "94 of 96"
    measured = inputs.runs[0].tasks["multilingual"].metrics["mean"]
    assert first[5].measured == f"{100 * measured.value:.2f}"


def test_what_has_no_data_is_said(inputs: Inputs) -> None:
    lines = list(multilingual.remarks(inputs.runs[1].tasks["multilingual"]))
    assert lines[0] == "partial: 70 of 96 cells have data, 94 all of theirs; no data: mmmlu ar; in part: mgsm:th 200 of 250 documents"
    assert any(line.startswith("BLEU by ja-mecab: nrefs:1|case:mixed|eff:no|tok:ja-mecab") for line in lines)
    assert any(line.startswith("chrF: nrefs:1|case:mixed|eff:yes|nc:6|nw:0") for line in lines)
    assert not any("partial" in line for line in multilingual.remarks(inputs.runs[0].tasks["multilingual"]))


def test_every_cell_is_in_the_csv(inputs: Inputs) -> None:
    section = multilingual.section(inputs)
    assert section is not None
    rows = list(csv.DictReader(io.StringIO(section.csv["multilingual"])))
    assert len(rows) == 2 * 96
    absent = [row["cell"] for row in rows if row["run"] == "else" and row["value"] == ""]
    assert "belebele:th" not in absent
    assert "xcopa:th" in absent
    assert next(row["incomplete"] for row in rows if row["run"] == "else" and row["cell"] == "mmmlu:ar") == "no data"


def test_plots_have_every_cell_and_the_same_bytes(inputs: Inputs) -> None:
    plots = [block for block in multilingual.section(inputs).blocks if hasattr(block, "svg")]  # type: ignore[union-attr]
    again = [block for block in multilingual.section(inputs).blocks if hasattr(block, "svg")]  # type: ignore[union-attr]
    assert [plot.name for plot in plots] == ["multilingual-categories", "multilingual-qwen1-5-moe-a2-7b", "multilingual-else"]
    assert all(one.svg == other.svg for one, other in zip(plots, again, strict=True))
    assert plots[0].png == again[0].png
    heat_map = plots[1].svg.decode()
    for text in ("BELEBELE", "XStoryCloze", "FLORES en → ..", "FLORES .. → zh", "ar", "id"):
        assert f">{text}<" in heat_map
    assert "·" not in heat_map
    assert plots[2].svg.decode().count("·") == 26  # mMMLU 10, XWinograd 4, XCOPA 3, PAWS-X 5, XStoryCloze 4
    assert "measured in part" in plots[0].svg.decode()


def test_no_suite_no_page(inputs: Inputs) -> None:
    assert multilingual.section(Inputs(inputs.table, [])) is None
