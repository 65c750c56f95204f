"""reports/: the tracked files equal what `evalkit report` makes of the tracked runs and published tables, in any order of them."""

from importlib.metadata import version
from pathlib import Path

import pytest

from evalkit.report.assemble import report_files
from evalkit.report.inputs import Inputs, read_inputs

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"
TABLES = sorted(path.name for path in REPORTS.iterdir() if path.is_dir())
BASELINES = ROOT / "results" / "baselines"
AGAIN = "make report"
DRAWN = (".svg", ".html")  # the page holds the plots
PINNED = next(line.split("==")[1] for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("matplotlib=="))


@pytest.fixture(scope="module", params=TABLES)
def inputs(request: pytest.FixtureRequest) -> Inputs:
    return read_inputs(request.param, [str(path) for path in sorted(BASELINES.glob("*"))])


@pytest.fixture
def report(inputs: Inputs) -> Path:
    return REPORTS / inputs.table.name


@pytest.fixture(scope="module")
def made(inputs: Inputs) -> dict[str, bytes]:
    return report_files(inputs)


def test_the_tracked_report_holds_every_file_and_no_other(made: dict[str, bytes], report: Path) -> None:
    assert {path.name for path in report.iterdir()} == made.keys(), f"make it again: {AGAIN}"


def test_its_texts_are_the_same_bytes(made: dict[str, bytes], report: Path) -> None:
    texts = [name for name in made if name.endswith((".md", ".tex", ".csv"))]
    assert len(texts) >= 3
    for name in texts:
        assert (report / name).read_bytes() == made[name], f"{name} is out of date; make it again: {AGAIN}"


def test_its_plots_and_page_are_the_same_bytes(made: dict[str, bytes], report: Path) -> None:
    if version("matplotlib") != PINNED:
        pytest.skip(f"matplotlib {version('matplotlib')} draws other paths than {PINNED}, which the tracked plots were made with")
    for name in (name for name in made if name.endswith(DRAWN)):
        assert (report / name).read_bytes() == made[name], f"{name} is out of date; make it again: {AGAIN}"


def test_its_images_are_there(made: dict[str, bytes], report: Path) -> None:
    # dots, not bytes: how a curve is rounded to them differs by processor, and zlib's versions pack them differently
    for name in (name for name in made if name.endswith(".png")):
        assert (report / name).read_bytes()[:24] == made[name][:24], f"{name} has another size; make it again: {AGAIN}"


def test_baselines_are_whole_runs_without_benchmark_data(inputs: Inputs) -> None:
    for run in inputs.runs:
        assert run.is_complete, run.name
    for folder in BASELINES.glob("*"):
        assert {path.name for path in folder.iterdir()} <= {"run.json", "bench.json"}, folder
