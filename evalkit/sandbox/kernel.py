"""System calls that Python 3.11 lacks, through ctypes. Every call raises OSError, and its message names the call.

Sources: the kernel's include/uapi headers; man 2 clone, mount, mount_setattr, pivot_root, prctl, capset.
"""

import ctypes
import os
import signal

MACHINE = os.uname().machine
# the GIL is kept: nothing else runs in these single-threaded processes, and a clone must not return without it
_libc = ctypes.PyDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x1000_0000, 0x2000_0000, 0x4000_0000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 0x1, 0x2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38

_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_NUMBERS = {"clone": (56, 220), "pivot_root": (155, 41), "mount_setattr": (442, 442)}


def number(row: tuple[int | None, ...]) -> int | None:
    """This machine's entry of a row (x86_64, aarch64); None on other machines."""
    return dict(zip(("x86_64", "aarch64"), row, strict=True)).get(MACHINE)


def checked(name: str, result: int) -> int:
    """The result, or OSError from errno."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def syscall(name: str, call: int | None, *arguments: object) -> int:
    """A system call by number; integers are passed as machine words."""
    if call is None:
        raise OSError(f"{name}: its number on {MACHINE} is not known")
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return checked(name, _libc.syscall(ctypes.c_long(call), *words))


def clone(namespaces: int) -> int:
    """fork() into new namespaces: 0 in the child, its pid in the parent.

    Unlike unshare(), it leaves the caller where it is. The calling process must have one thread only.
    """
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    try:
        pid = syscall("clone", number(_NUMBERS["clone"]), namespaces | signal.SIGCHLD, 0, 0, 0, 0)
    except OSError:
        api.PyOS_AfterFork_Parent()
        raise
    if pid == 0:
        api.PyOS_AfterFork_Child()
    else:
        api.PyOS_AfterFork_Parent()
    return pid


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str | None = None) -> None:
    strings = [s and os.fsencode(s) for s in (source, target, kind, options)]
    result = _libc.mount(strings[0], strings[1], strings[2], ctypes.c_ulong(flags), strings[3])
    checked(f"mount {kind or source} on {target}", result)


def restrict_mounts(target: str, attributes: int) -> None:
    """Set attributes on a mount and all mounts below it; flags that are already set stay (Linux 5.12)."""
    attr = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    call = number(_NUMBERS["mount_setattr"])
    syscall("mount_setattr", call, _AT_FDCWD, os.fsencode(target), _AT_RECURSIVE, attr, ctypes.sizeof(attr))


def change_root(folder: str) -> None:
    """Make `folder` (a mount) the root of this mount namespace, and detach the old one."""
    os.chdir(folder)
    # both names are ".": the old root ends up on top of the new one, and is unmounted there
    syscall("pivot_root", number(_NUMBERS["pivot_root"]), b".", b".")
    checked("umount", _libc.umount2(b".", MNT_DETACH))
    os.chdir("/")


def prctl(option: int, value: int, pointer: object = 0) -> int:
    third = ctypes.c_ulong(pointer) if isinstance(pointer, int) else pointer
    return checked(f"prctl {option}", _libc.prctl(option, ctypes.c_ulong(value), third, ctypes.c_ulong(0), ctypes.c_ulong(0)))


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets; irrevocable with no_new_privs."""
    header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    checked("capset", _libc.capset(header, (ctypes.c_uint32 * 6)()))
