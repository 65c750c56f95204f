"""The report: verdicts, the published table, and that a sample or limited run never passes for a full one."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from evalkit import cli
from evalkit.report.ledger import read_table
from evalkit.report.table import lines, to_csv, to_markdown
from evalkit.report.verdict import verdict

TABLE = read_table("qwen1.5-moe")
ROWS = {row.model: row for row in TABLE.rows}
COLUMNS = {column.task: column for column in TABLE.columns}


def entry(value: float, half: float = 0.008, **changes: Any) -> dict[str, Any]:
    """A full MMLU run's entry of run.json."""
    return {
        "protocol": "qwen",
        "headline": "acc",
        "metrics": {"acc": {"value": value, "stderr": half / 1.96, "ci95": [value - half, value + half], "n": 14_042}},
        "groups": {},
        "n": 14_042,
        "n_total": 14_042,
        "counts": {"extraction_failed": 0, "truncated": 0, "boundary_merged": 0, "stopped_by_length": 0, "unscored": 0},
        "data": {"source": "dir", "revision": None, "sha256": "ab" * 32},
    } | changes


def run(spec: str, **tasks: dict[str, Any]) -> dict[str, Any]:
    model = {"spec": spec, "fingerprint": "sha256:" + "cd" * 32, "engine": "native", "dtype": "bfloat16"}
    return {"schema": 1, "name": "r", "model": model, "tasks": tasks}


def judge(model: str, measured: dict[str, Any] | None, task: str = "mmlu") -> str:
    return str(verdict(ROWS[model].cells.get(task), COLUMNS[task], task, measured))


def test_verdicts() -> None:
    moe = "Qwen1.5-MoE-A2.7B"
    assert judge(moe, entry(0.62)) == "reproduced"
    assert judge(moe, entry(0.6165)) == "reproduced"  # 62.5 lies 0.05 outside, within its rounding
    assert judge(moe, entry(0.60)) == "differs"
    assert judge(moe, None) == "not measured"
    assert judge(moe, entry(0.62, half=0.09)) == "cannot tell (n = 14042 is too small: +-9.0 points)"
    assert judge(moe, entry(0.30, half=0.09)) == "differs"
    assert judge(moe, entry(0.62, protocol="cloze")) == "cannot tell (published under mmlu@qwen, measured under mmlu@cloze)"
    assert judge("DeepSeekMoE 16B", entry(0.45)).startswith("cannot tell (how the published figure was made")
    assert judge(moe, entry(0.342) | {"n": 164, "n_total": 164}, "humaneval").startswith("published figure inconsistent (no number of 164")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": {"source": "sample", "sha256": "0"}, "n": 140, "n_total": 140}, "bundled sample"),
        ({"n": 500}, "limited to 500 of 14,042"),
        ({"n": 140, "n_total": 140}, "the benchmark has 14,042"),
        ({"counts": {"truncated": 200}}, "200 of 14,042 documents truncated"),
        ({"counts": {"boundary_merged": 14_042}}, "boundary merged"),
    ],
)
def test_no_partial_run_passes_for_a_full_one(changes: dict, reason: str) -> None:
    found = judge("Qwen1.5-MoE-A2.7B", entry(0.625, **changes))
    assert found.startswith("not comparable")
    assert reason in found


def test_the_ledger_holds_the_blogs_table() -> None:
    assert [[row.cells[c.task].value if c.task in row.cells else None for c in TABLE.columns] for row in TABLE.rows] == [
        [64.1, 47.5, 27.4, 40.0, 7.60],
        [64.6, 50.9, 32.3, None, None],
        [61.0, 62.5, 36.0, 45.2, 7.60],
        [45.0, 18.8, 26.8, None, 6.93],
        [62.5, 61.5, 34.2, 40.8, 7.17],
    ]
    assert all(cell.origin for row in TABLE.rows for cell in row.cells.values())


def test_models_are_recognised() -> None:
    moe = ROWS["Qwen1.5-MoE-A2.7B"]
    assert moe.is_model("Qwen/Qwen1.5-MoE-A2.7B")
    assert moe.is_model("Qwen/Qwen1.5-MoE-A2.7B@abc123")
    assert moe.is_model("/models/qwen1.5-moe-a2.7b/")
    assert not moe.is_model("demo")
    assert not ROWS["Qwen1.5-7B"].is_model("Qwen/Qwen1.5-MoE-A2.7B")


def test_markdown_and_csv() -> None:
    runs = [run("Qwen/Qwen1.5-MoE-A2.7B", mmlu=entry(0.6249)), run("demo", mmlu=entry(0.25, data={"source": "sample", "sha256": "0"}))]
    found = lines(TABLE, runs)
    text = to_markdown(TABLE, found)
    assert "| Qwen1.5-MoE-A2.7B | 62.5 → **62.5** | 61.5 | 34.2 | 40.8 | 7.17 |" in text
    assert "| Gemma-7B | 64.6 | 50.9 | 32.3 | - | - |" in text
    assert "| demo | - → **25.0**\\* | - | - | - | - |" in text
    assert "61.7 to 63.3 | -0.0 | reproduced | mmlu@qwen | 14,042 | dir abababab |" in text
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert len(rows) == 22 + 1
    (moe,) = [r for r in rows if r["model"] == "Qwen1.5-MoE-A2.7B" and r["task"] == "mmlu"]
    assert (moe["published"], moe["measured"], moe["difference"], moe["verdict"]) == ("62.5", "62.49", "-0.01", "reproduced")
    assert (to_markdown(TABLE, lines(TABLE, runs)), to_csv(lines(TABLE, runs))) == (text, to_csv(found))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(run("demo", mmlu=entry(0.25))))
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["qwen1.5-moe.csv", "qwen1.5-moe.md"]
    assert cli.main(["report"]) == 0
    assert "not measured" in capsys.readouterr().out
