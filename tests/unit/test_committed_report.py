"""reports/: the tracked files equal what `evalkit report` makes of the tracked runs and published tables, in any order of them."""

from importlib.metadata import version
from pathlib import Path

import pytest

from evalkit.report.assemble import all_files
from evalkit.report.inputs import Inputs, read_inputs

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"
TABLES = sorted(path.name for path in REPORTS.iterdir() if path.is_dir())
BASELINES = ROOT / "results" / "baselines"
BY_HAND = {"README.md"}
AGAIN = "make report"
DRAWN = (".svg", ".html")  # the page holds the plots
PINNED = next(line.split("==")[1] for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("matplotlib=="))


@pytest.fixture(scope="module")
def pages() -> list[Inputs]:
    return read_inputs(TABLES, [str(path) for path in sorted(BASELINES.glob("*"))])


@pytest.fixture(scope="module")
def made(pages: list[Inputs]) -> dict[str, bytes]:
    return all_files(pages)


def test_the_tracked_reports_hold_every_file_and_no_other(made: dict[str, bytes]) -> None:
    tracked = {str(path.relative_to(REPORTS)) for path in REPORTS.rglob("*") if path.is_file()}
    assert tracked - BY_HAND == made.keys(), f"make them again: {AGAIN}"


def test_their_texts_are_the_same_bytes(made: dict[str, bytes]) -> None:
    texts = [name for name in made if name.endswith((".md", ".tex", ".csv"))]
    assert len(texts) >= 3 * len(TABLES)
    for name in texts:
        assert (REPORTS / name).read_bytes() == made[name], f"{name} is out of date; make it again: {AGAIN}"


def test_their_plots_and_pages_are_the_same_bytes(made: dict[str, bytes]) -> None:
    if version("matplotlib") != PINNED:
        pytest.skip(f"matplotlib {version('matplotlib')} draws other paths than {PINNED}, which the tracked plots were made with")
    for name in (name for name in made if name.endswith(DRAWN)):
        assert (REPORTS / name).read_bytes() == made[name], f"{name} is out of date; make it again: {AGAIN}"


def test_their_images_are_there(made: dict[str, bytes]) -> None:
    # dots, not bytes: how a curve is rounded to them differs by processor, and zlib's versions pack them differently
    for name in (name for name in made if name.endswith(".png")):
        assert (REPORTS / name).read_bytes()[:24] == made[name][:24], f"{name} has another size; make it again: {AGAIN}"


def test_baselines_are_whole_runs_without_benchmark_data(pages: list[Inputs]) -> None:
    assert not pages[0].skipped
    for folder in (path for path in BASELINES.iterdir() if path.is_dir()):
        assert {path.name for path in folder.iterdir()} <= {"run.json", "bench.json"}, folder
