"""How much memory is free."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path


def free_memory(device: str) -> int:
    """Free bytes of the GPU, or of the machine and of the container that this process runs in."""
    if device.partition(":")[0] == "cuda":
        import torch  # slow to import, and needed for a GPU alone

        return int(torch.cuda.mem_get_info(device)[0])
    found = []
    try:
        meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(meminfo["MemAvailable"].split()[0]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, KeyError, ValueError):  # not Linux, or another cgroup version
        pass
    if not found:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return max(0, min(found))


def trim_heap() -> None:
    """Give freed memory of the C heap back to the operating system, where the C library can (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def size(num_bytes: float) -> str:
    """In the largest unit that gives at least 1: "1.5 GB"."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.3g} GB" if num_bytes < 1000 else f"{num_bytes:,.0f} GB"
