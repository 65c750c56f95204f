"""A filter on system calls: the second layer, against kernel bugs that namespaces alone would expose.

A deny list: calls that reach other processes, mounts, namespaces, devices or the network, that run other programs, or that make the
kernel keep memory which nothing counts (memory.py counts the rest). Some are refused by an argument. Calls newer than this file fail as
if unknown. Calls of another architecture (32-bit, x32) kill the program.
Sources: the kernel's unistd.h of both machines, man 2 seccomp, Docker's default profile.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import termios
from functools import cache

from evalkit.sandbox import kernel

_ARCHITECTURES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}  # AUDIT_ARCH_*
_FIRST_UNKNOWN = 451
_X32 = 0x4000_0000
_NEW_NAMESPACES = 0x7E02_0000  # every CLONE_NEW* that clone(2) takes
_CLONE_FILES, _CLONE_THREAD = 0x400, 0x1_0000
_CLOSE_RANGE_UNSHARE = 2
_MAP_HUGETLB = 0x4_0000
MAX_SHARED = 1 << 20  # bytes of a shared anonymous mapping: what it has taken stays until the last page of it is unmapped
# set and get PDEATHSIG, DUMPABLE (get), NAME, SECCOMP (get), CAPBSET_READ, NO_NEW_PRIVS
_PRCTL_TAKEN = (1, 2, 3, 15, 16, 21, 23, 38, 39)
_IOCTL_TAKEN = (termios.TCGETS, termios.TIOCGWINSZ, termios.FIONREAD, termios.FIONBIO, termios.FIOCLEX, termios.FIONCLEX)
_F_SETPIPE_SZ, _F_OFD_SETLK, _F_OFD_SETLKW = 1031, 37, 38
_FCNTL_DENIED = (_F_SETPIPE_SZ, _F_OFD_SETLK, _F_OFD_SETLKW, fcntl.F_SETLEASE, fcntl.F_NOTIFY)

# name: (x86_64, aarch64)
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "kcmp": (312, 272), "pidfd_getfd": (438, 438), "move_pages": (279, 239), "migrate_pages": (256, 238),
    # other programs: the jail has none
    "execve": (59, 221), "execveat": (322, 281),
    # the network, and the host's sockets
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268), "sethostname": (170, 161), "setdomainname": (171, 162),
    # large kernel surfaces with a history
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "modify_ldt": (154, None), "personality": (135, 92), "vmsplice": (278, 75),
    "remap_file_pages": (216, 234), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18), "mknod": (133, None), "mknodat": (259, 33),
    # memory that counts neither as address space nor in /tmp, and what a user has a share of with all his programs
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190),
    "msgget": (68, 186), "mq_open": (240, 180), "io_setup": (206, 0), "epoll_create": (213, None), "epoll_create1": (291, 20),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "setsockopt": (54, 208), "splice": (275, 76), "tee": (276, 77), "sendfile": (40, 71), "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
    # what others have in memory
    "sync": (162, 81), "syncfs": (306, 267), "fadvise64": (221, 223),
    # the machine
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116), "vhangup": (153, 58), "iopl": (172, None),
    "ioperm": (173, None), "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "uselib": (134, None), "ustat": (136, None), "sysfs": (139, None), "_sysctl": (156, None), "nfsservctl": (180, 42),
}  # fmt: skip
_CLONE, _CLONE3, _SOCKETPAIR, _CLOSE_RANGE = (56, 220), (435, 435), (53, 199), (436, 436)
_MMAP, _PRCTL, _IOCTL, _FCNTL, _PRLIMIT = (9, 222), (157, 167), (16, 29), (72, 25), (302, 261)

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|J*|K, BPF_RET|K
_NR, _ARCH, _ARGUMENT = 0, 4, 16  # offsets in seccomp_data
_KILL, _ERRNO, _ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFF_0000
_REFUSED, _NO_MEMORY = _ERRNO | errno.EPERM, _ERRNO | errno.ENOMEM
_FILTER_MODE = 2
_AF_UNIX = 1
_Row = tuple[int, int, int, int]  # code, jump if true, jump if false, k


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("if_true", ctypes.c_uint8), ("if_false", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


@cache
def _program() -> _Program:
    """The filter, which keeps its instructions alive."""
    rows = _instructions()
    return _Program(len(rows), (_Instruction * len(rows))(*(_Instruction(*row) for row in rows)))


def _instructions() -> list[_Row]:
    program: list[_Row] = [
        (_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, _ARCHITECTURES[kernel.MACHINE]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NR)
    ]  # fmt: skip
    if kernel.MACHINE == "x86_64":
        program += _when(_AT_LEAST, _X32, _KILL)
    program += _when(_AT_LEAST, _FIRST_UNKNOWN, _ERRNO | errno.ENOSYS)
    for row in _DENIED.values():
        program += _call(row, [(_RETURN, 0, 0, _REFUSED)])
    # its flags are behind a pointer, which a filter cannot follow; libc falls back to clone
    program += _call(_CLONE3, [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)])
    # a thread has its process's files: memory.py looks for them there
    program += _call(_CLONE, [
        _argument(0), *_when(_ANY_BIT, _NEW_NAMESPACES, _REFUSED), *_unless(_ANY_BIT, _CLONE_THREAD, _ALLOW),
        *_unless(_ANY_BIT, _CLONE_FILES, _REFUSED), (_RETURN, 0, 0, _ALLOW),
    ])  # fmt: skip
    program += _call(_CLOSE_RANGE, [_argument(2), *_when(_ANY_BIT, _CLOSE_RANGE_UNSHARE, _REFUSED), (_RETURN, 0, 0, _ALLOW)])
    program += _call(_MMAP, [
        _argument(3), *_when(_ANY_BIT, _MAP_HUGETLB, _NO_MEMORY),
        *_unless(_ANY_BIT, mmap.MAP_ANONYMOUS, _ALLOW), *_unless(_ANY_BIT, mmap.MAP_SHARED, _ALLOW),
        _argument(1, 4), *_unless(_EQUAL, 0, _NO_MEMORY), _argument(1), *_when(_AT_LEAST, MAX_SHARED + 1, _NO_MEMORY),
        (_RETURN, 0, 0, _ALLOW),
    ])  # fmt: skip
    program += _call(_SOCKETPAIR, [_argument(0), *_when(_EQUAL, _AF_UNIX, _ALLOW), (_RETURN, 0, 0, _REFUSED)])
    program += _call(_PRCTL, [_argument(0), *_any_of(_PRCTL_TAKEN, _ALLOW), (_RETURN, 0, 0, _REFUSED)])
    program += _call(_IOCTL, [_argument(1), *_any_of(_IOCTL_TAKEN, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.ENOTTY)])
    program += _call(_FCNTL, [_argument(1), *_any_of(_FCNTL_DENIED, _REFUSED), (_RETURN, 0, 0, _ALLOW)])
    # of another process: init's
    program += _call(_PRLIMIT, [_argument(0), *_when(_EQUAL, 0, _ALLOW), (_RETURN, 0, 0, _REFUSED)])
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _call(row: tuple[int | None, int | None], body: list[_Row]) -> list[_Row]:
    """The body, which always returns, for one call; skipped if the number is another."""
    number = kernel.number(row)
    return [] if number is None else [(_EQUAL, 0, len(body), number), *body]


def _argument(index: int, offset: int = 0) -> _Row:
    """Load a word of the call's argument: the low one, or at offset 4 the high one."""
    return _LOAD, 0, 0, _ARGUMENT + 8 * index + offset


def _when(test: int, value: int, answer: int) -> list[_Row]:
    return [(test, 0, 1, value), (_RETURN, 0, 0, answer)]


def _unless(test: int, value: int, answer: int) -> list[_Row]:
    return [(test, 1, 0, value), (_RETURN, 0, 0, answer)]


def _any_of(values: tuple[int, ...], answer: int) -> list[_Row]:
    return [row for value in values for row in _when(_EQUAL, value, answer)]


def missing() -> str:
    """Why there can be no filter here; "" if there can."""
    if kernel.MACHINE not in _ARCHITECTURES:
        return f"no system call numbers for {kernel.MACHINE}; x86_64 and aarch64 have them"
    try:
        kernel.prctl(kernel.PR_SET_SECCOMP, _FILTER_MODE, 0)
    except OSError as error:
        # a kernel that has filters goes on to read the program, from a null pointer
        if error.errno != errno.EFAULT:
            return f"seccomp filters: {os.strerror(error.errno or 0)}"
    _program()  # built once, for all processes that are forked from this one
    return ""


def install() -> None:
    """Irrevocably filter this process and its children. no_new_privs must be set."""
    kernel.prctl(kernel.PR_SET_SECCOMP, _FILTER_MODE, ctypes.byref(_program()))
