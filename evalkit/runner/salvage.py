"""Rows from a damaged SQLite file: every page is read, whether or not another one points to it.

Format: sqlite.org/fileformat2.html, sections 1.6, 2.1 and 4 (index b-trees, which are what a table WITHOUT ROWID is made of). The
result may contain anything: each row has a hash, which the caller checks.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

PAGE = 4096  # bytes; the page size in the file may itself be damaged
LEAF, INNER = 0x0A, 0x02
_MOST = (PAGE - 12) * 64 // 255 - 23  # bytes of a row in its page; of a longer one at least _LEAST are, the rest is in a chain of pages
_LEAST = (PAGE - 12) * 32 // 255 - 23
_INTEGERS = (0, 1, 2, 3, 4, 6, 8)  # bytes, by serial type
Value = None | int | float | bytes | str
Row = tuple[Value, ...]


def rows(path: Path) -> Iterator[Row]:
    """Everything that looks like a row, in the file and in its write-ahead log. Invalid UTF-8 becomes replacement characters."""
    main = path.read_bytes()
    pages = [main[at : at + PAGE] for at in range(0, len(main), PAGE)]
    latest = dict(enumerate(pages, 1))
    log = Path(f"{path}-wal")
    frames = log.read_bytes()[32:] if log.exists() else b""
    for at in range(0, len(frames) - PAGE - 23, PAGE + 24):
        (number,) = struct.unpack_from(">I", frames, at)
        pages.append(frames[at + 24 : at + 24 + PAGE])
        latest[number] = pages[-1]
    for page in pages:
        if page[:1] not in (bytes([LEAF]), bytes([INNER])):
            continue
        inner = page[0] == INNER
        try:
            pointers = struct.unpack_from(f">{struct.unpack_from('>H', page, 3)[0]}H", page, 12 if inner else 8)
        except struct.error:
            continue
        for pointer in pointers:
            try:
                yield _record(_payload(page, pointer + 4 * inner, latest))
            except (LookupError, ValueError, struct.error):
                continue


def _payload(page: bytes, at: int, latest: dict[int, bytes]) -> bytes:
    """A cell's bytes, including those on its overflow pages."""
    size, at = _varint(page, at)
    if size > PAGE * len(latest):
        raise ValueError
    if size <= _MOST:
        return page[at : at + size]
    local = _LEAST + (size - _LEAST) % (PAGE - 4)
    local = local if local <= _MOST else _LEAST
    payload = bytearray(page[at : at + local])
    (number,) = struct.unpack_from(">I", page, at + local)
    seen = set()
    while len(payload) < size:
        if number in seen:  # a cycle in the chain
            raise ValueError
        seen.add(number)
        payload += latest[number][4:]
        (number,) = struct.unpack_from(">I", latest[number])
    return bytes(payload[:size])


def _record(payload: bytes) -> Row:
    header_end, at = _varint(payload, 0)
    kinds = []
    while at < header_end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[Value] = []
    for kind in kinds:
        size = 8 if kind == 7 else 0 if kind in (0, 8, 9) else _INTEGERS[kind] if kind < 7 else (kind - 12) // 2
        raw = payload[at : at + size]
        at += size
        if kind == 0:
            values.append(None)
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind == 7:
            values.append(struct.unpack(">d", raw)[0])
        elif kind < 7:
            values.append(int.from_bytes(raw, "big", signed=True))
        elif kind >= 12:
            values.append(raw.decode("utf-8", "replace") if kind % 2 else raw)
        else:
            raise ValueError
    return tuple(values)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends."""
    value = 0
    for i in range(8):
        value = value << 7 | data[at + i] & 0x7F
        if data[at + i] < 0x80:
            return value, at + i + 1
    return value << 8 | data[at + 8], at + 9
