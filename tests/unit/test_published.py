"""Which published figure is meant where several tables have one, and what a table must be."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_runs import fake_run
from report_runs import entry, figure, run
from rich.console import Console

from evalkit import cli
from evalkit.errors import EvalkitError
from evalkit.report import published
from evalkit.report.matches import agreed, column_for, in_tables, published_for
from evalkit.report.published import Column, PublishedFigure, read_table
from evalkit.report.published_checks import off_grid
from evalkit.report.screen import show
from evalkit.report.verdict import measured_figure, verdict

MODEL = "Qwen/Qwen1.5-MoE-A2.7B"  # 62.5 on MMLU under mmlu@qwen, in the table qwen1.5-moe
AddTable = Callable[..., None]


def toml(value: float | str = 59.999, protocol: str = "opencompass", decimals: int = 3, scale: float = 100) -> str:
    return f"""
title = "Made up"
source = "made up"
url = "https://example.com/table"

[[column]]
task = "mmlu"
title = "MMLU"
decimals = {decimals}
scale = {scale}

[[row]]
model = "Qwen1.5-MoE-A2.7B"
checkpoint.base = {{ hub = "{MODEL}" }}

[row.cell.mmlu]
printed = "{value}"
protocol = "{protocol}"
origin = "made up"
"""


@pytest.fixture
def add_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddTable:
    """Adds a table to the published ones, under a name that sorts first or last."""
    folder = tmp_path / "published"
    shutil.copytree(published.FOLDER, folder)
    monkeypatch.setattr(published, "FOLDER", folder)
    return lambda name, **changes: (folder / f"{name}.toml").write_text(toml(**changes)) and None


def shown(protocol: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> str:
    show(run(MODEL, mmlu=entry(0.62, protocol=protocol)), tmp_path, Console(width=160))
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_the_runs_protocol_decides(name: str, add_table: AddTable, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    add_table(name)
    (qwen,) = published_for(MODEL, "mmlu", "qwen")
    assert (qwen.table, qwen.printed, qwen.column.decimals) == ("qwen1.5-moe", "62.5", 1)
    (opencompass,) = published_for(MODEL, "mmlu", "opencompass")
    assert (opencompass.table, opencompass.printed) == (name, "59.999")
    text = shown("qwen", capsys, tmp_path)
    assert "│ mmlu │ qwen     │      62.5 │     62.0 │ 61.2 to 62.8 │" in text
    assert "mmlu: published as 62.5 in qwen1.5-moe under qwen\n" in text
    text = shown("opencompass", capsys, tmp_path)
    assert "│    59.999 │   62.000 │ 61.200 to 62.800 │" in text
    assert f"mmlu: published as 59.999 in {name} under opencompass\n" in text


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_another_protocol_names_every_table(name: str, add_table: AddTable, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    add_table(name)
    assert {match.table for match in published_for(MODEL, "mmlu", "lm-eval")} == {"qwen1.5-moe", name}
    text = shown("lm-eval", capsys, tmp_path)
    assert "62.5 in qwen1.5-moe under qwen" in text
    assert f"59.999 in {name} under opencompass" in text
    assert "cannot tell" in text


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_units_do_not_depend_on_names(name: str, add_table: AddTable) -> None:
    before = column_for("mmlu")
    add_table(name)
    assert column_for("mmlu") == before
    add_table(name, scale=1, decimals=0)  # in shares of one
    assert column_for("mmlu") == before


def gate(tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    right = round(0.625 * 14_042)
    fake_run(tmp_path / "r", MODEL, mmlu=[1.0] * right + [0.0] * (14_042 - right))
    code = cli.main(["gate", str(tmp_path / "r"), "--against", "published", "--margin", "0.015", *more])
    out, err = capsys.readouterr()
    return code, out + err


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_the_gate_takes_the_runs_protocol(name: str, add_table: AddTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_table(name)
    code, text = gate(tmp_path, capsys)
    assert code == 0
    assert "- mmlu: published as 62.5 in qwen1.5-moe under qwen\n" in text


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_tables_that_differ_are_refused_until_one_is_chosen(
    name: str, add_table: AddTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_table(name, value=80.0, decimals=1, protocol="qwen")
    code, text = gate(tmp_path, capsys)
    assert code == 2
    assert "62.5 in qwen1.5-moe under qwen" in text
    assert f"80.0 in {name} under qwen" in text
    assert "choose one with --published NAME" in text
    assert gate(tmp_path, capsys, "--published", "qwen1.5-moe")[0] == 0
    assert gate(tmp_path, capsys, "--published", name)[0] == 1
    own = tmp_path / "own.toml"
    own.write_text(toml(value=62.4, protocol="qwen"))
    code, text = gate(tmp_path, capsys, "--published", str(own))
    assert (code, "62.4 in own under qwen" in text) == (0, True)
    text = shown("qwen", capsys, tmp_path)
    assert ("62.5 / 80.0" if name == "zzz" else "80.0 / 62.5") in text
    assert "cannot tell" in text


def test_a_table_is_chosen_for_published_figures_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["gate", "a", "b", "--published", "qwen1.5-moe"]) == 2
    assert "give both" in capsys.readouterr().err


def test_figures_agree_within_their_rounding(add_table: AddTable) -> None:
    add_table("exact", value=62.47, decimals=2, protocol="qwen")
    best = agreed(published_for(MODEL, "mmlu", "qwen"))
    assert best
    assert (best.table, best.printed) == ("exact", "62.47")
    add_table("shares", value=0.625, decimals=3, scale=1, protocol="qwen")
    assert agreed(published_for(MODEL, "mmlu", "qwen")) == best
    add_table("other", value=62.6, decimals=1, protocol="qwen")
    assert agreed(published_for(MODEL, "mmlu", "qwen")) is None
    assert agreed(()) is None


def test_the_same_figure_in_two_tables() -> None:
    matches = published_for(MODEL, "multilingual", "qwen")
    assert in_tables(matches) == "published as 40.8 in qwen1.5-moe under qwen and as 40.8 in qwen1.5-multilingual under qwen"
    assert agreed(matches)


# --- what a table must be ------------------------------------------------------------------------------------------------


def test_a_table_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.toml").write_text(toml())
    assert read_table(str(tmp_path / "own.toml")).name == "own"
    (tmp_path / "run.json").write_text(json.dumps({}))
    assert cli.main(["report", "--published", str(tmp_path / "own.toml")]) == 0
    assert "59.999" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Made up"', "", "title is missing"),
        ('printed = "59.999"', "printed = 59.999", r":17: row.0.cell.mmlu.printed is 59.999, expected a text"),
        ('printed = "59.999"', 'printed = "\u0665\u0669.9"', r":17: row.0.cell.mmlu.printed is .*; give the digits"),
        ('printed = "59.999"', 'printed = "60,0"', r":17: row.0.cell.mmlu.printed is \"60,0\"; give the digits"),
        ('printed = "59.999"', 'printed = "5999.9"', r":17: row.0.cell.mmlu.printed is 5999.9, outside 0 to 100"),
        ("printed =", "pirnted =", r":17: row.0.cell.mmlu.pirnted is no key .*did you mean printed"),
        ('printed = "59.999"', 'samples = 0\nprinted = "59.999"', r":17: row.0.cell.mmlu.samples is 0"),
        ("opencompass", "opencompas", r":18: row.0.cell.mmlu.protocol is \"opencompas\", .*did you mean 'opencompass'"),
        ('"opencompass"', '"qwen"\nnot_here = true', r":18: row.0.cell.mmlu.protocol is .*, is a protocol of evalkit: leave not_here"),
        ('protocol = "opencompass"\n', "", r":16: row.0.cell.mmlu.protocol is missing"),
        ("[row.cell.mmlu]", "[row.cell.mmul]", r":16: row.0.cell.mmul is of no column; known: mmlu"),
        ("[[row]]", '[[column]]\ntask = "mmlu"\ntitle = "again"\ndecimals = 2\n\n[[row]]', r":13: column.1.task is .*there twice"),
        ("[[row]]", "[row]", "row is .*, expected a list"),
        (
            "[[row]]",
            '[[column]]\ntask = "mt_bench"\ntitle = "again"\ndecimals = 2\n\n[[row]]',
            r"column.1.scale is 100: the best rating, 10, ",
        ),
        ('model = "Qwen1.5-MoE-A2.7B"', 'model = " "', r":13: row.0.model is \" \"; give the model's name"),
        ('task = "mmlu"', 'task = "mmul"', r":16: row.0.cell.mmlu is of no column; known: mmul"),
        ('title = "MMLU"', 'title = "\\u001b[31mMMLU"', r":8: column.0.title is .*control characters"),
        ("decimals = 3", "decimals = -3", r":9: column.0.decimals is -3"),
        ("scale = 100", "scale = 0", r":10: column.0.scale is 0"),
        ("https://example.com/table", "example.com/table", r":4: url is \"example.com/table\"; give the address"),
        ('url = "https://example.com/table"\n', "", r":15: row.0.cell.mmlu.url is missing"),
        (MODEL, "Qwen1.5-MoE", r":14: row.0.checkpoint.base.hub is \"Qwen1.5-MoE\"; give the hub's id"),
        ("hub =", 'revision = "main", hub =', r":14: row.0.checkpoint.base.revision is \"main\"; give the commit"),
        ("hub =", 'precision = "bf16", hub =', r":14: row.0.checkpoint.base.precision is \"bf16\""),
        ("checkpoint.base", 'checkpoint.chat = { hub = "a/b" }\ncheckpoint.base', r":17: .*mmlu.checkpoint is missing; .*chat, base"),
        ("hub =", 'stand_in = [{ name = "dmeo", precision = "Q4_1" }], hub =', r":14: .*stand_in.0.name is .*did you mean 'demo'"),
        ("[[column]]", "[[column", "not valid TOML"),
    ],
)
def test_a_malformed_table_names_the_line(old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.toml"
    assert old in toml()
    file.write_text(toml().replace(old, new, 1))
    with pytest.raises(EvalkitError, match=message) as caught:
        read_table(str(file))
    assert str(file) in str(caught.value)
    assert cli.main(["report", "--published", str(file)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_task_that_evalkit_lacks_must_be_declared(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(toml().replace("mmlu", "mmlu_pro"))
    with pytest.raises(EvalkitError, match=r":7: column.0.task is .*unknown task 'mmlu_pro'; did you mean 'mmlu'.* or say not_here = true"):
        read_table(str(file))
    file.write_text(toml().replace("mmlu", "mmlu_pro").replace("decimals", "not_here = true\ndecimals"))
    ((_, column, cell),) = read_table(str(file)).cells()
    assert (column.not_here, cell.printed) == (True, "59.999")


def test_an_anchor_must_have_its_row(tmp_path: Path) -> None:
    anchor: dict[str, Any] = {"model": "nobody", "task": "mmlu", "value": 1.0, "protocol": "qwen", "source": "s", "url": "https://a.b"}
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in anchor.items())
    (tmp_path / "own.toml").write_text(f"{toml()}\n[[anchor]]\n{lines}\n")
    with pytest.raises(EvalkitError, match=r"own.toml:21: anchor.0 is of \"nobody\" and \"mmlu\""):
        read_table(str(tmp_path / "own.toml"))


def test_unknown_tables() -> None:
    with pytest.raises(EvalkitError, match=r"unknown published table 'qwen1\.5'; did you mean 'qwen1\.5-moe'"):
        read_table("qwen1.5")
    with pytest.raises(EvalkitError, match=r"cannot read gone\.toml"):
        read_table("gone.toml")


def test_a_wrong_table_is_refused_before_anything_is_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["run", "--tasks", "mmlu", "--out", str(tmp_path / "runs")], ["score", "mmlu", "gone.jsonl"], ["report"], ["params"]):
        assert cli.main([*command, "--published", "qwen1.5-mo"]) == 2
        assert "did you mean 'qwen1.5-moe'" in capsys.readouterr().err
    (tmp_path / "mine.toml").write_text(toml())
    assert cli.main(["report", "--published", str(tmp_path / "mina.toml")]) == 2
    assert "no such file; did you mean mine.toml?" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_tables_are_listed_and_a_damaged_one_among_them(add_table: AddTable, capsys: pytest.CaptureFixture[str]) -> None:
    add_table("damaged", value="x")
    assert cli.main(["ls", "tables"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("qwen1.5-moe", "qwen1.5-multilingual", "qwen2.5-coder", "smollm2", "damaged"))
    assert "22, 1 inconsistent" in text
    assert "unreadable" in text


def test_a_table_of_ones_own_decides_what_the_screen_compares_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.toml").write_text(toml(value=62.4, decimals=1, protocol="qwen"))
    show(run(MODEL, mmlu=entry(0.62)), tmp_path, Console(width=160), str(tmp_path / "own.toml"))
    text = capsys.readouterr().out
    assert "mmlu: published as 62.4 in own under qwen\n" in text
    assert "62.5" not in text


def test_a_column_may_be_of_another_metric_than_the_headline() -> None:
    column = replace(read_table("qwen1.5-moe").columns[0], metric="acc_norm")
    measured = entry(0.62, metrics={"acc": figure(0.62, 0.01), "acc_norm": figure(0.41, 0.01)})
    found = measured_figure(measured, column)
    assert found
    assert found.value == pytest.approx(41)
    assert str(verdict(None, column, "mmlu", entry(0.62), run(MODEL).model)) == "not measured (the run has no acc_norm; it has acc)"


@pytest.mark.parametrize(
    ("printed", "samples", "on_grid"),
    [
        ("61.6", 1, True),
        ("70.7", 1, True),
        ("71.2", 1, False),
        ("34.7", 1, True),
        ("34.8", 1, True),
        ("71.2", 20, True),
        ("53.66", 1, True),
    ],
)
def test_shares_of_documents_that_no_number_of_them_gives(printed: str, samples: int, on_grid: bool) -> None:
    """57 of 164 are 34.756: both 34.8, rounded, and 34.7, cut off, may be printed for them."""
    cell = PublishedFigure(printed, "qwen-coder", "https://a.b", samples=samples)
    assert (off_grid(cell, Column("humaneval", "HumanEval", 1)) == "") == on_grid
    assert off_grid(replace(cell, protocol="unheard of"), Column("humaneval", "HumanEval", 1)) == ""


def test_a_fraction_in_a_table_of_percent_is_recognised() -> None:
    cell = PublishedFigure(printed="0.707", protocol="qwen-coder", url="https://a.b")
    assert off_grid(cell, Column("humaneval", "HumanEval", 1)).endswith("; is it 70.7 percent, written as a fraction of 1?")
    assert off_grid(cell, Column("humaneval", "HumanEval", 3, scale=1, maximum=1)) == ""
