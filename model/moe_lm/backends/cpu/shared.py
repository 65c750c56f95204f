"""Packed weights that several processes of a machine hold once: in a file without a name, which lives in memory as long as they do.

Processes that open the same model pack the same matrices in the same order. The first one writes each into the file; the others find it
there, equal to their own, map it and let their own go. What is not equal is kept, so that nothing is ever computed with another's weights.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

_SIZE = 8  # bytes of a matrix's size in the table that the file begins with
_TABLE = 1 << 20
_LARGE_PAGE = 1 << 21
_COLLAPSE = 25  # MADV_COLLAPSE (Linux 6.1): large pages now, whatever the system's policy for files in memory is

_file: "_File | None" = None


class _File:
    """The file, while one process reads a model."""

    def __init__(self, fd: int):
        self.fd, self.count, self.end = fd, 0, _TABLE

    def keep(self, own: Tensor) -> Tensor:
        """The file's copy of a contiguous tensor, written now if it is the first; the tensor itself where the file holds another."""
        begin, entry, self.count = self.end, _SIZE * self.count, self.count + 1
        self.end = begin + -(-own.nbytes // _LARGE_PAGE) * _LARGE_PAGE
        known = int.from_bytes(os.pread(self.fd, _SIZE, entry), "little")
        if entry >= _TABLE or known not in (0, own.nbytes):
            return own
        if not known:
            os.ftruncate(self.fd, self.end)
            raw = own.detach().view(-1).view(torch.uint8).numpy().data
            at = 0
            while at < own.nbytes:
                at += os.pwrite(self.fd, raw[at : at + (1 << 30)], begin + at)
            os.pwrite(self.fd, own.nbytes.to_bytes(_SIZE, "little"), entry)  # last: it is whole
        # copied when it is written to, which nobody does
        memory = mmap.mmap(self.fd, own.nbytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=begin)
        with suppress(OSError):
            memory.madvise(_COLLAPSE)
        found = torch.frombuffer(memory, dtype=own.dtype).view(own.shape)
        return found if torch.equal(found.view(torch.uint8), own.view(torch.uint8)) else own


@contextmanager
def sharing(fd: int) -> Iterator[None]:
    """What is packed meanwhile is kept in the file. One process at a time: each has the whole model by itself until it is packed."""
    global _file
    own = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)  # a lock belongs to an opening of the file, and `fd` is inherited
    try:
        fcntl.flock(own, fcntl.LOCK_EX)
        if os.fstat(own).st_size < _TABLE:
            os.ftruncate(own, _TABLE)
        _file = _File(own)
        yield
    finally:
        _file = None
        fcntl.flock(own, fcntl.LOCK_UN)  # mappings keep this opening of the file, and with it the lock
        os.close(own)


def kept(packed: Tensor) -> Tensor:
    """The tensor, or its only copy on this machine where weights are shared."""
    return packed if _file is None else _file.keep(packed)
