"""What a program holds of the machine's memory. Resident pages alone leave out what is mapped nowhere and what the kernel itself needs.

Everything counts with the most that it can take; what has no such bound is refused (seccomp.py). No cgroup is asked: most users have none,
and a verdict must not depend on who runs the program.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress

from evalkit.sandbox import tree
from evalkit.sandbox.seccomp import MAX_SHARED

_MAPPING = 2 << 10  # bytes: vm_area_struct, its share of the tree, a link to the pages of each ancestor
_OPEN_FILE = 64 << 10  # a pipe's 16 pages; less for what is read from /proc
_LOCK = 256  # a range of a file that is locked
_PAGES = re.compile(rb"^Vm(?:RSS|Swap|PTE):\s+(\d+) kB", re.MULTILINE)
_PAGE_TABLES = re.compile(rb"^VmPTE:\s+(\d+) kB", re.MULTILINE)
_OWN_SHARE = re.compile(rb"^(?:Pss|SwapPss):\s+(\d+) kB", re.MULTILINE)
_SHARED_ANONYMOUS = re.compile(rb" (\d+) +/dev/zero \(deleted\)$", re.MULTILINE)
_SOCKETS = re.compile(rb"^sockets: used (\d+)", re.MULTILINE)


def held(pids: Iterable[int], jailed: bool, exact: bool = False) -> int:
    """Bytes that processes hold together; `jailed`: they have namespaces of their own, and all in these is theirs.

    A page that several have mapped counts for each of them, unless `exact`, which takes milliseconds a process.
    """
    alive = [found for pid in pids if (found := _alive(pid))]
    folders = [folder for folder, _ in alive]
    total = sum(_pages(folder, status, exact) + _open_files(folder) for folder, status in alive)
    shared: set[bytes] = set()
    for folder in folders:
        maps = _read(f"{folder}/maps")
        total += maps.count(b"\n") * _MAPPING
        shared |= set(_SHARED_ANONYMOUS.findall(maps))
    # whatever is mapped of it now, all of it may still be there
    total += len(shared) * MAX_SHARED
    return total + (_scratch(folders) + _sockets(folders) if jailed else 0)


def _alive(pid: int) -> tuple[str, bytes] | None:
    """The folder below /proc that shows a process's memory and files, and the status in it; None if it has none left.

    A first thread that has ended shows neither, while the others keep both.
    """
    for folder in (f"/proc/{pid}", *(f"/proc/{pid}/task/{thread}" for thread in _names(f"/proc/{pid}/task"))):
        if _PAGES.search(status := _read(f"{folder}/status")):
            return folder, status
    return None


def _pages(folder: str, status: bytes, exact: bool) -> int:
    """Resident and swapped pages, and the tables that map them."""
    if exact:  # of init, which is closed to us, and of what is just ending there is no share
        kilobytes = _OWN_SHARE.findall(_read(f"{folder}/smaps_rollup")) + _PAGE_TABLES.findall(status)
    else:
        kilobytes = _PAGES.findall(status)
    return sum(map(int, kilobytes)) * 1024


def _open_files(folder: str) -> int:
    files = [_read(f"{folder}/fdinfo/{fd}") for fd in _names(f"{folder}/fdinfo")]
    return len(files) * _OPEN_FILE + sum(file.count(b"\nlock:") for file in files) * _LOCK


def _scratch(folders: list[str]) -> int:
    """The files in /tmp, those without a name included."""
    for folder in folders:
        with suppress(OSError):  # init's is closed to us
            used = os.statvfs(f"{folder}/root{tree.SCRATCH}")
            return (used.f_blocks - used.f_bfree) * used.f_frsize
    return 0


def _sockets(folders: list[str]) -> int:
    """The most that the sockets hold, those without an open file included: in flight, or closed with data underway."""
    for folder in folders:
        if found := _SOCKETS.search(_read(f"{folder}/net/sockstat")):
            # the kernel lets the last message exceed what may wait in a socket, by as much at most
            return int(found[1]) * 2 * int(_read("/proc/sys/net/core/wmem_default") or 212_992)
    return 0


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # it has just ended, or is closed to us
        return []


def _read(path: str) -> bytes:
    """A file of /proc, as far as it can be read."""
    parts = []
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while part := os.read(fd, 1 << 16):
                parts.append(part)
        finally:
            os.close(fd)
    return b"".join(parts)
