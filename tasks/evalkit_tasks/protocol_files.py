"""Protocols from TOML: protocols/TASK.toml, or a table of the user's own in the same schema. Every key and value is checked, so that a
misspelt setting can't pass unnoticed.
"""

import importlib.resources
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.tasks import Field, Misfit, Protocol, Rule, one_of, shown

Settings = Mapping[str, type | Field]
OWN: Settings = {"summary": str, "source": str, "headline": str, "averaging": one_of("micro", "macro")}  # Protocol's keys


def read_protocols(task: str, settings: Settings, package: str = "evalkit_tasks", optional: Settings | None = None) -> dict[str, Protocol]:
    """All protocols of a task of `package`. `settings`: the keys that each must have besides Protocol's own, with what they may hold;
    `optional`: those that it may have.
    """
    raw = tomllib.loads((importlib.resources.files(package) / "protocols" / f"{task}.toml").read_text("utf-8"))
    try:
        return {name: make_protocol(task, name, table, settings, optional or {}) for name, table in raw.items()}
    except Misfit as misfit:
        raise ValueError(f"protocols/{task}.toml: {misfit}") from None


def make_protocol(
    task: str, name: str, table: Mapping[str, Any], settings: Settings, optional: Settings, rules: Sequence[Rule] = ()
) -> Protocol:
    """One table as a protocol. Raises Misfit, with the key, for one that is missing, unknown or has a value that it may not have."""
    known: Settings = {**OWN, **settings, **optional}
    for key, value in table.items():
        if key not in known:
            raise Misfit(f"is no key of {task}'s protocols; they have {', '.join(known)}", key, name)
        wanted = known[key]
        if not (wanted.fits(value) if isinstance(wanted, Field) else type(value) is wanted):
            words = wanted.wanted if isinstance(wanted, Field) else _WORDS.get(wanted, wanted.__name__)
            raise Misfit(f"is {shown(value)}, expected {words}", key, name)
    if lacking := [key for key in (*OWN, *settings) if key not in table]:
        raise Misfit(f"lacks {', '.join(lacking)}", name)
    for rule in rules:
        if not rule.holds(table):
            raise Misfit(f"is {shown(table[rule.column])}, expected {rule.wanted}", rule.column, name)
    own = {key: table[key] for key in OWN}
    return Protocol(task=task, name=name, settings={key: table[key] for key in known if key in table and key not in OWN}, **own)


_WORDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "a table"}
