"""What `evalkit run` prints at its end: the figures, what they are worth, and what to do next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evalkit.registry import resolve
from evalkit.report.ledger import published_for
from evalkit.report.verdict import verdict, why_not_comparable


def show(record: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Print one run."""
    model = record["model"]
    table = Table(title=f"{model['spec']}: published and measured", title_justify="left")
    for name in ("task", "protocol", "published", "measured", "95% interval", "n", "data", "verdict"):
        table.add_column(name, justify="right" if name in ("published", "measured", "n") else "left")
    for key, entry in record["tasks"].items():
        task = key.partition("@")[0]
        cell, column = published_for(model["spec"], task) or (None, None)
        figure = entry["metrics"][entry["headline"]]
        low, high = figure["ci95"]
        n = f"{entry['n']:,}" if entry["n"] == entry["n_total"] else f"{entry['n']:,} of {entry['n_total']:,}"
        table.add_row(
            task,
            entry["protocol"],
            f"{cell.value:.{column.decimals}f}" if cell and column else "-",
            f"{100 * figure['value']:.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
            n,
            entry["data"]["source"],
            verdict(cell, column, task, entry).word,
        )
    console.print(table)
    for key, entry in record["tasks"].items():
        for line in _remarks(key, entry):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"kept in {folder}: run.json, samples/, lm_eval/, journal.sqlite", highlight=False, markup=False, soft_wrap=True)
    console.print(_next_step(record, folder), highlight=False, markup=False, soft_wrap=True)


def _remarks(key: str, entry: Mapping[str, Any]) -> list[str]:
    task = key.partition("@")[0]
    remarks = []
    if remark := resolve(f"{task}@{entry['protocol']}").remark():
        remarks.append(f"{key}: {remark}")
    if reason := why_not_comparable(task, entry):
        remarks.append(f"{key}: not the benchmark's figure: {reason}")
    words = {
        "extraction_failed": "answers held nothing to extract (counted wrong)",
        "truncated": "prompts were truncated",
        "boundary_merged": "questions had a token merged across context and continuation",
        "stopped_by_length": "answers were stopped by their length",
        "unscored": "documents were not scored",
    }
    remarks += [f"{key}: {entry['counts'][name]:,} of {entry['n']:,} {text}" for name, text in words.items() if entry["counts"][name]]
    others = [f"{m} {100 * e['value']:.1f}" for m, e in entry["metrics"].items() if m != entry["headline"]]
    groups = [f"{g} {100 * m[entry['headline']]['value']:.1f}" for g, m in entry["groups"].items()]
    if others or groups:
        remarks.append(f"{key}: " + ", ".join(others + groups))
    tokens = entry["tokens"]
    if tokens["computed"]:
        total = tokens["computed"] + tokens["shared"]
        remarks.append(
            f"{key}: {entry['seconds']:.0f} s, {tokens['computed']:,} tokens computed of {total:,} ({tokens['shared'] / total:.0%} shared)"
        )
    return remarks


def _next_step(record: Mapping[str, Any], folder: Path) -> str:
    if any(entry["data"]["source"] == "sample" for entry in record["tasks"].values()):
        return "next: real data and a model of yours, e.g. evalkit run --tasks mmlu,gsm8k --model Qwen/Qwen1.5-MoE-A2.7B --data hub"
    return f"next: evalkit report {folder}"
