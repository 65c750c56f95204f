"""Damaged files by the thousand: what a mutation does to bytes and to JSON, and what an attempt to read the result cost."""

import copy
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STRANGE = [
    *(None, True, False, 0, -1, 1, 2, 3, 7, 64, 2**31, 2**63, 10**30, 0.5, -0.0, 1e-6, 1e300, math.nan, math.inf, -math.inf),
    *("", "x", "5", "</s>", "\ud800", "a" * 5000, [], [[]], {}, [0], [1, 2], ["a"], {"a": 1}, {"content": "a"}, [None] * 1000),
]


def mutated_bytes(raw: bytes, rng: random.Random, start: int = 0, end: int | None = None) -> bytes:
    """One to three times: bits flipped, bytes cut, inserted, removed, repeated or replaced; within [start, end) of the file."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        last = min(len(data), end if end is not None else len(data))
        at = rng.randrange(start, max(start + 1, last))
        size = rng.choice((1, 1, 2, 4, 8, 64))
        match rng.randrange(7):
            case 0:
                data[at : at + 1] = bytes([data[at] ^ 1 << rng.randrange(8)]) if at < len(data) else b""
            case 1:
                del data[at:]
            case 2:
                data[at:at] = rng.randbytes(size)
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = data[at : at + size]
            case 5:
                data[at : at + size] = rng.choice((b"\0", b"\xff", b'"', b"[", b"9")) * min(size, len(data) - at)
            case 6:
                data[at : at + size] = rng.randbytes(min(size, len(data) - at))
    return bytes(data)


def mutated_json(value: Any, rng: random.Random, more: dict[str, Any]) -> bytes:
    """One to three values replaced, removed, moved or renamed; or a key of `more` added; or the text damaged."""
    found = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = _some_container(found, rng)
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        strange = copy.deepcopy(rng.choice(STRANGE))
        if not keys or (place is found and rng.random() < 0.3):
            if isinstance(found, dict):
                key = rng.choice(sorted(more))
                found[key] = rng.choice((strange, copy.deepcopy(more[key])))
            continue
        key = rng.choice(keys)
        match rng.randrange(6):
            case 0 | 1 | 2:
                place[key] = strange
            case 3:
                del place[key]
            case 4:
                place[key] = copy.deepcopy(place[rng.choice(keys)])
            case 5 if isinstance(place, dict):
                place[key + rng.choice("_ sX")] = place.pop(key)
            case _:
                number = place[key]
                if type(number) in (int, float):
                    place[key] = rng.choice((number + 1, number - 1, number * 2, -number, number / 2, str(number)))
    text = json.dumps(found).encode()
    return mutated_bytes(text, rng) if rng.random() < 0.2 else text


def _some_container(value: Any, rng: random.Random) -> Any:
    """The value, or a list or object inside of it."""
    while rng.random() < 0.7:
        inside = [v for v in (value.values() if isinstance(value, dict) else value) if isinstance(v, dict | list) and v]
        if not inside:
            break
        value = rng.choice(inside)
    return value


@dataclass(frozen=True)
class Cost:
    """CPU seconds, and how far the process's memory rose above what it was, in bytes."""

    seconds: float
    memory: int


def measured(attempt: Callable[[], Any]) -> tuple[Any, Cost]:
    """The attempt's result and its cost. Memory is 0 where the system does not tell its peak (other than Linux)."""
    before = _peak(reset=True)
    start = time.process_time()
    result = attempt()
    return result, Cost(time.process_time() - start, max(0, _peak() - before))


def _peak(reset: bool = False) -> int:
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
