"""Made-up published tables for `evalkit reproduce`, and reports without what differs from run to run."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

COLUMNS = {"mmlu": "MMLU", "gsm8k": "GSM8K", "humaneval": "HumanEval", "mt_bench": "MT-Bench"}


def write_table(path: Path, rows: Mapping[str, tuple[Sequence[str], Mapping[str, str]]]) -> Path:
    """Rows by model: (the weights that may stand in for its checkpoint, which is nowhere; {task: protocol})."""
    lines = ['title = "Made up"', 'source = "made up"', 'url = "https://example.org"']
    for task, title in COLUMNS.items():
        lines += [
            "[[column]]",
            f'task = "{task}"',
            f'title = "{title}"',
            "decimals = 1",
            *["scale = 1", "maximum = 10"] * (task == "mt_bench"),
        ]
    for model, (weights, cells) in rows.items():
        hub, stand_ins = f"nobody/{model.replace(' ', '-')}", (f'{{ name = "{name}", precision = "float32" }}' for name in weights)
        lines += ["[[row]]", f'model = "{model}"', "[row.checkpoint.only]", f'hub = "{hub}"', f"stand_in = [{', '.join(stand_ins)}]"]
        for task, protocol in cells.items():
            printed = "2.5" if task == "mt_bench" else "25.0"
            lines += [f"[row.cell.{task}]", f'printed = "{printed}"', f'protocol = "{protocol}"', 'origin = "made up"']
            lines += ["not_here = true"] * protocol.startswith("no-") + ['judges = ["unpublished"]'] * (task == "mt_bench")
    path.write_text("\n".join(lines) + "\n")
    return path


def report_of(folder: Path) -> dict[str, bytes]:
    """The report's files by name, without times of day and durations."""
    times = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.+-]+|(\d+ h )?\d+(\.\d+)? (s|min)\b")
    files = sorted(path for path in (folder / "report").rglob("*") if path.is_file() and path.suffix != ".partial")
    return {str(path.relative_to(folder)): times.sub(b"-", path.read_bytes()) for path in files}
