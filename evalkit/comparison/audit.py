"""`evalkit audit FILE`: is a bundle as it was written, and does what it holds give the decision that it states?"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from evalkit.comparison.bundle import unpack
from evalkit.comparison.gate import decide
from evalkit.comparison.gate_outcome import Gate
from evalkit.comparison.gate_output import as_json
from evalkit.errors import EvalkitError
from evalkit.record.read import read_run

PATHS = ("base", "cand", "notes")  # they name folders of the machine where the gate was held
ROUNDING = 1e-9  # relative: sums and special functions of another machine's libraries


def audit(file: Path) -> tuple[Gate, list[str]]:
    """The gate, decided again from the bundle's samples, and what to know of it, a line each. Raises EvalkitError where it differs."""
    with TemporaryDirectory(prefix="evalkit-audit-") as scratch:
        folder = Path(scratch)
        asked, stated = unpack(file, folder)
        runs = [folder / name for name in ("base", "cand")]
        gate = decide(asked.config(*runs))
        models = [read_run(run).model for run in runs]
    if difference := _difference(stated, as_json(gate), ""):
        raise EvalkitError(f"{file} states another decision than its samples give: {difference}; do not rely on it")
    names = [f"{model.spec} ({run})" for model, run in zip(models, asked.runs, strict=True)]
    notes = tuple(_renamed(note, dict(zip(map(str, runs), asked.runs, strict=True))) for note in gate.notes)
    rules = gate.policy and replace(gate.policy, path="gate.toml")
    gate = replace(gate, base=names[0], cand=names[1], notes=notes, policy=rules)
    lines = [f"decided by evalkit {asked.evalkit} on {asked.runs[0]} and {asked.runs[1]}"]
    lines += [f"{name}: {model.spec}, {model.fingerprint}" for name, model in zip(("base", "cand"), models, strict=True)]
    return gate, lines


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """With the runs' own folders instead of those that the bundle was unpacked into."""
    for unpacked, name in names.items():
        text = text.replace(unpacked, name)
    return text


def _difference(stated: Any, found: Any, where: str) -> str:
    """The first key whose value differs, with both values; "" where none does."""
    if isinstance(stated, Mapping) and isinstance(found, Mapping):
        if stated.keys() != found.keys():
            return f"{where or 'gate.json'} has the keys {', '.join(map(str, stated))}, not {', '.join(map(str, found))}"
        pairs = [(stated[key], found[key], f"{where}.{key}".lstrip(".")) for key in stated if where or key not in PATHS]
    elif isinstance(stated, list | tuple) and isinstance(found, list | tuple) and len(stated) == len(found):
        pairs = [(*each, f"{where}[{i}]") for i, each in enumerate(zip(stated, found, strict=True))]
    elif (
        isinstance(stated, int | float) and isinstance(found, int | float) and not isinstance(stated, bool) and not isinstance(found, bool)
    ):
        return "" if abs(stated - found) <= ROUNDING * max(1.0, abs(found)) else f"{where} is {stated}, not {found}"
    else:
        return "" if type(stated) is type(found) and stated == found else f"{where} is {stated!r:.80}, not {found!r:.80}"
    return next(filter(None, (_difference(*pair) for pair in pairs)), "")
