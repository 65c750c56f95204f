"""The file system of a jail: the standard library and the shared libraries it loads, read-only, and nothing else of the host.

It has no home, almost no /etc, no sockets and no programs. It has no third-party packages either: a verdict must not depend on
what happens to be installed with evalkit.
"""

import os
import sys
from functools import cache

from evalkit.sandbox import kernel

# a tmpfs for each program, its home and working folder; the interpreter is elsewhere
SCRATCH = "/scratch" if sys.base_prefix.startswith("/tmp/") else "/tmp"
# not /dev/zero: mapped, it is shared memory of any size
DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
PRIVATE = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo")
# the new tree is assembled over a folder that every Linux has and that contains none of the sources
_STAGE = "/sys"


@cache
def readable() -> tuple[str, ...]:
    """The paths that Python needs, of those that exist here."""
    prefixes = [os.path.join(sys.base_prefix, name) for name in ("lib", "lib64")]
    paths = [path for path in (*_LIBRARIES, *_FILES, *prefixes) if os.path.exists(path)]
    return tuple(path for path in dict.fromkeys(paths) if not any(path.startswith(f"{other}/") for other in paths))


def build() -> None:
    """Make the tree this mount namespace's root, with this process namespace's /proc. Needs CAP_SYS_ADMIN over both; raises OSError."""
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", _STAGE, "tmpfs", PRIVATE, "size=1m,nr_inodes=4096,mode=755")
    for path in (*readable(), *DEVICES):
        _bind(path)
    for folder in ("/proc", SCRATCH):
        os.makedirs(_STAGE + folder, exist_ok=True)
    os.symlink(SCRATCH, f"{_STAGE}/dev/shm")  # where multiprocessing keeps its locks and arrays
    kernel.restrict_mounts(_STAGE, kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID)
    # the kernel lets an unprivileged user mount a new /proc only while the old one is visible
    kernel.mount("proc", f"{_STAGE}/proc", "proc", PRIVATE)
    kernel.change_root(_STAGE)


def _bind(path: str) -> None:
    target = _STAGE + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(path, target, flags=kernel.MS_BIND | kernel.MS_REC)
