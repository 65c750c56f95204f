"""Tables at 80 and at 200 columns: no figure is cut, whatever is in the cells beside it."""

import io
import re
from pathlib import Path

import pytest
from fake_runs import fake_run, flips
from report_runs import entry, run
from rich.console import Console

from evalkit import cli
from evalkit.record.write import write_record
from evalkit.report.screen import show
from evalkit.table import Table

FIGURES = ["0.123456789012", "1,319", "61.7 to 63.3"]
HEAD = ("task", "value", "n", "interval", "remark")


def printed(table: Table, width: int) -> str:
    out = io.StringIO()
    table.show(Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("name", ["mmlu", "lm_eval:arabic_leaderboard_arabic_mt_arc_easy_light@lm-eval-0.4.13-v2-0123abcd"])
def test_no_figure_is_cut(name: str, width: int) -> None:
    text = printed(Table("what\n", HEAD, [(name, *FIGURES, "words " * 30)] * 2, folds=("remark",)), width)
    for figure in [name, *FIGURES]:
        assert text.count(figure) == 2
    assert len(re.findall(r"\bwords\b", text)) == 60
    assert "\u2026" not in text
    if width > 40:
        assert all(len(line) <= max(width, 4 + len("remark " + "words " * 30)) for line in text.splitlines())


def test_texts_are_folded_and_long_names_of_columns_too() -> None:
    table = Table("", ("layout", "answers at a time", "documents differing"), [("one", "64", "0")])
    assert "documents differing" in printed(table, 80)
    assert [line for line in printed(table, 36).splitlines() if "differing" in line and "documents" not in line]


def test_row_by_row_a_repeated_name_is_said_again() -> None:
    text = printed(Table("", ("model", "figure"), [("m", "1" * 30), ("", "2" * 30)]), 20)
    assert text.count("- m\n") == 2


def test_a_line_after_a_group() -> None:
    rows = [("a", "1"), ("b", "2"), ("all", "3")]
    assert printed(Table("", ("of", "n"), rows, rules=[1]), 80).count("\u251c") == 1


@pytest.mark.parametrize("width", [80, 200])
def test_screens(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("evalkit.progress.PIPE_WIDTH", width)
    monkeypatch.delenv("EVALKIT_DATA", raising=False)
    base, cand = flips(2_000, 10, 50)
    fake_run(tmp_path / "a-run-with-a-long-name-as-evalkit-makes-them--mmlu--sample", "old", mmlu=base)
    fake_run(tmp_path / "b", "new", mmlu=cand)
    one, two = sorted(map(str, tmp_path.iterdir()))
    for command in (
        ["ls", "tasks"],
        ["ls", "protocols"],
        ["ls", "models"],
        ["ls", "tables"],
        ["ls", "runs", "--out", str(tmp_path)],
        ["data", "status"],
        ["data", "verify", "mmlu", "--data", "sample"],
        ["params"],
        ["compare", one, two],
        ["gate", one, two],
    ):
        assert cli.main(command) in (0, 1)
        text = capsys.readouterr().out
        assert "\u2026" not in text, command
        assert all(len(line) <= width for line in text.splitlines() if line[:1] in tuple("\u2502\u2503\u250f\u2514")), command
        assert "\x1b" not in text
    write_record(tmp_path / "c", record := run("Qwen/Qwen1.5-MoE-A2.7B", "c", mmlu=entry(0.62)))
    out = io.StringIO()
    show(record, tmp_path / "c", Console(file=out, width=width))
    for figure in ("62.5", "62.0", "61.2 to 62.8", "14,042", "dir abababab", "reproduced"):
        assert figure in out.getvalue()
