"""Reading protocols/TASK.toml: one table per protocol, every key checked, so that a misspelt setting can't pass unnoticed."""

import importlib.resources
import tomllib
from collections.abc import Mapping
from typing import Any

from evalkit.tasks import Protocol


def read_protocols(
    task: str, settings: Mapping[str, type], package: str = "evalkit_tasks", optional: Mapping[str, type] | None = None
) -> dict[str, Protocol]:
    """All protocols of a task of `package`. `settings`: the keys that each must have besides Protocol's own, with their types;
    `optional`: those that it may have.
    """
    raw = tomllib.loads((importlib.resources.files(package) / "protocols" / f"{task}.toml").read_text("utf-8"))
    return {name: _protocol(task, name, table, settings, optional or {}) for name, table in raw.items()}


def _protocol(task: str, name: str, table: dict[str, Any], settings: Mapping[str, type], optional: Mapping[str, type]) -> Protocol:
    settings = {**settings, **{key: kind for key, kind in optional.items() if key in table}}
    wanted = {"summary": str, "source": str, "headline": str, "averaging": str, **settings}
    wrong = (wanted.keys() ^ table.keys()) | {key for key, value in table.items() if not isinstance(value, wanted.get(key, object))}
    if wrong:
        raise ValueError(f"protocols/{task}.toml [{name}]: missing, unknown or of the wrong type: {', '.join(sorted(wrong))}")
    own = {key: table[key] for key in ("summary", "source", "headline", "averaging")}
    return Protocol(task=task, name=name, settings={key: table[key] for key in settings}, **own)
