"""What a disk may hold after a power cut: rebuilt from a record of all writes and syncs that shim.c made.

What was written before a file's last sync is there. Of what came later, any 512-byte sector may be or not, whatever the order; a
created or removed name counts once its folder is synced. Run as a script it is the process that writes the record.
"""

import ctypes
import itertools
import os
import random
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from evalkit.runner import journal
from evalkit.tasks import Generated

HEAD = struct.Struct("<cIIq")
SECTOR = 512
ANSWERS, REOPENED_AT = 500, 440
SYNCED_EACH = 4  # answers: the clock of the writer goes on by a quarter of SYNC_EVERY with each
FILES = ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-journal")  # -shm is memory, made anew


@dataclass(frozen=True, slots=True)
class Call:
    """One call: W(rite), T(runcate to), S(ync), C(reate), U(nlink); M(ark): `offset` answers are put."""

    kind: str
    name: str
    offset: int
    data: bytes


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Call] = field(default_factory=list)

    def settle(self, keeps: float, rng: random.Random) -> bytearray:
        """The file with each pending sector or truncation there with the chance `keeps`."""
        content = bytearray(self.durable)
        for call in self.pending:
            if call.kind == "T":
                if rng.random() < keeps:
                    _resize(content, call.offset)
                continue
            for at in range(0, len(call.data), SECTOR):
                if rng.random() < keeps:
                    part = call.data[at : at + SECTOR]
                    _resize(content, max(len(content), call.offset + at + len(part)))
                    content[call.offset + at : call.offset + at + len(part)] = part
        return content


class Disk:
    """The folder of a journal, call by call. A disk that is not `honest` says that it synced and did not."""

    def __init__(self, honest: bool = True):
        self.honest = honest
        self.names: dict[str, _File] = {}
        self.durable_names: dict[str, _File] = {}
        self.pending_names: list[tuple[str, _File | None]] = []

    def apply(self, call: Call) -> None:
        if call.kind == "C":
            self.names[call.name] = _File()
            self.pending_names.append((call.name, self.names[call.name]))
        elif call.kind == "U":
            self.names.pop(call.name, None)
            self.pending_names.append((call.name, None))
        elif call.kind == "S" and not self.honest:
            return
        elif call.kind == "S" and call.name == "":  # the folder
            for name, file in self.pending_names:
                _enter(self.durable_names, name, file)
            self.pending_names.clear()
        elif call.kind == "S":
            file = self.names[call.name]
            file.durable = file.settle(1.0, random.Random())
            file.pending.clear()
        elif call.kind in "WT":
            self.names[call.name].pending.append(call)

    def cut(self, folder: Path, rng: random.Random) -> None:
        """Write what the disk may hold now into an empty folder."""
        names, keeps = dict(self.durable_names), rng.choice((0.0, 0.2, 0.5, 0.9, 0.99, 1.0))
        for name, file in self.pending_names:
            if rng.random() < keeps:
                _enter(names, name, file)
        for name, file in names.items():
            if name in FILES:
                (folder / name).write_bytes(file.settle(keeps, rng))


def _enter(names: dict[str, _File], name: str, file: _File | None) -> None:
    if file:
        names[name] = file
    else:
        names.pop(name, None)


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    content.extend(bytes(size - len(content)))


def read(path: Path, folder: Path) -> Iterator[Call]:
    """The record's calls, in order."""
    record = memoryview(path.read_bytes())
    at = 0
    while at < len(record):
        kind, path_n, n, offset = HEAD.unpack_from(record, at)
        at += HEAD.size
        name = bytes(record[at : at + path_n]).decode().removeprefix(str(folder)).lstrip("/")
        yield Call(kind.decode(), name, offset, bytes(record[at + path_n : at + path_n + n]))
        at += path_n + n


def answer(i: int) -> tuple[str, Generated]:
    """The i-th key and answer; answers are up to several pages long."""
    rng = random.Random(i)
    return f"{rng.getrandbits(256):064x}", Generated(rng.randbytes(rng.choice((20, 400, 6000))).hex(), "stop", i)


def _write(folder: Path, trace: Path) -> None:
    shim = ctypes.CDLL(None)
    shim.shim_note.argtypes = (ctypes.c_char, ctypes.c_char_p, ctypes.c_int64, ctypes.c_char_p, ctypes.c_uint32)
    shim.shim_trace(os.fsencode(folder), os.open(trace, os.O_WRONLY | os.O_CREAT))
    ticks = itertools.count()
    journal.time.monotonic = lambda: next(ticks) * journal.SYNC_EVERY / SYNCED_EACH  # type: ignore[assignment]
    opened = journal.Journal(folder / "journal.sqlite")
    for i in range(ANSWERS):
        if i == REOPENED_AT:
            opened.close()
            opened = journal.Journal(folder / "journal.sqlite")
        key, response = answer(i)
        opened.put(key, response, "task", 1.0, 1, 0)
        shim.shim_note(b"M", b"", i + 1, b"", 0)
    opened.close()


if __name__ == "__main__":
    _write(Path(sys.argv[1]), Path(sys.argv[2]))
