"""The report's files: the same bytes in another process and locale; LaTeX that compiles, and fits a column."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_report import hostile_inputs

from evalkit.report.assemble import report_files
from evalkit.report.inputs import Inputs


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return hostile_inputs()


def test_latex_compiles(inputs: Inputs, tmp_path: Path) -> None:
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed")
    for name, content in report_files(inputs).items():
        (tmp_path / "r").mkdir(exist_ok=True)
        (tmp_path / "r" / name).write_bytes(content)
    head = r"\documentclass[twocolumn]{article}\usepackage[T1]{fontenc}\usepackage{booktabs,array,graphicx}\setlength{\textwidth}{6.9in}"
    (tmp_path / "main.tex").write_text(head + r"\newcommand{\evalkitfolder}{r/}\begin{document}\input{r/report}\end{document}" + "\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert found.returncode == 0, found.stdout[-2000:]
    too_wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide\)", found.stdout)]
    assert not [points for points in too_wide if points > 3], found.stdout[-2000:]


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
    assert {"throughput.svg", "subjects.svg", "activated.pdf", "scores.png"} <= here.keys()
