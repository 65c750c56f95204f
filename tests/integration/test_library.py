"""The README's program, as it is written."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


def test_the_readmes_program_runs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tiny model in place of the one that has to be installed."""
    (program,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert program.count('"smollm2-135m"') == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(program.replace('"smollm2-135m"', repr(str(tiny_model))), "README.md", "exec"), {})
    assert re.search(r"Estimate\(value=0\.\d+, .*n=28\)", capsys.readouterr().out)
