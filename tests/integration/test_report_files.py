"""The report's files: the same bytes in another process and locale; LaTeX that compiles."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_report import hostile_inputs

from evalkit.report.assemble import assemble, report_files
from evalkit.report.inputs import Inputs
from evalkit.report.render.latex import to_latex


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return hostile_inputs()


def test_latex_compiles(inputs: Inputs, tmp_path: Path) -> None:
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed")
    document = assemble(inputs)
    for plot in document.plots:
        (tmp_path / f"{plot.name}.png").write_bytes(plot.png)
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,longtable,array,graphicx}\begin{document}"
    (tmp_path / "main.tex").write_text(head + "\n" + to_latex(document) + "\\end{document}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert found.returncode == 0, found.stdout[-2000:]


def test_the_same_input_gives_the_same_bytes_whatever_matplotlib_is_set_to(inputs: Inputs, tmp_path: Path) -> None:
    here = report_files(inputs)
    (tmp_path / "matplotlibrc").write_text("font.size: 20\nsvg.fonttype: path\nlines.linewidth: 9\naxes.grid: True\n")
    code = (
        "import pickle, sys; from pathlib import Path\n"
        "from evalkit.report.assemble import report_files\n"
        "inputs = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "Path(sys.argv[2]).write_bytes(pickle.dumps(report_files(inputs)))\n"
    )
    import pickle

    (tmp_path / "in").write_bytes(pickle.dumps(inputs))
    environment = os.environ | {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out")], env=environment, check=True)
    assert pickle.loads((tmp_path / "out").read_bytes()) == here
    assert {"throughput.svg", "subjects.svg", "activated.png", "scores.png"} <= here.keys()
