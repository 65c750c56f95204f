"""The wheel: three top-level packages with the sample, the published tables and the known configurations; it runs outside the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from evalkit import __version__
from evalkit.errors import DISTRIBUTION
from moe_lm.backends.cpu import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build", reason="the build package is not installed")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_top_level_names(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"evalkit", "moe_lm", "evalkit_tasks"}


def test_its_name_and_its_type_markers(wheel: Path) -> None:
    assert wheel.name.startswith(f"{DISTRIBUTION.replace('-', '_')}-{__version__}-py3-none-")
    assert {f"{package}/py.typed" for package in ("evalkit", "moe_lm", "evalkit_tasks")} <= set(zipfile.ZipFile(wheel).namelist())


def test_it_carries_the_cpu_kernels_where_they_can_be_built(wheel: Path) -> None:
    try:
        variants = build.build()
    except build.BuildError:
        variants = {}
    kernels = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("moe_lm/backends/cpu/lib/")}
    assert kernels == ({*map(build.library_name, variants), build.MANIFEST} if variants else set())
    assert wheel.stem.endswith("-none-any") == (not variants)


def test_it_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import evalkit, evalkit_tasks, moe_lm; assert evalkit.__file__.startswith({site!r}), evalkit.__file__\n"
        "from evalkit.cli import main\n"
        "assert main(['data', 'verify', '--data', 'sample']) == 0\n"
        "assert main(['ls', 'protocols']) == 0\n"
        "assert main(['report']) == 0\n"
        "from evalkit.report.sections.params import print_parameters\n"
        "assert print_parameters([]) == 0\n"
    ).format(site=str(tmp_path / "site"))
    # -I leaves out this checkout's editable install; the site-packages with the dependencies come after the wheel
    site = str(tmp_path / "site")
    path = f"import sys; sys.path[:] = [{site!r}] + [p for p in sys.path if {str(ROOT)!r} not in p or 'site-packages' in p]\n"
    found = subprocess.run([sys.executable, "-I", "-c", path + code], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "Qwen1.5-MoE-A2.7B" in found.stdout
    assert "mmlu@opencompass" in found.stdout
    assert "14,315,784,192" in found.stdout
