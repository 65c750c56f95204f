"""Namespaces: one set per worker, created once, and inside it new ones for each program.

    worker   tree.py's file system, this worker's processes only, no network: server, checker
      jail   for one program: its users, processes, /tmp and network: init -> program

A program sees its init and its own children, but neither server nor checker.
"""

import os

from evalkit.sandbox import kernel, tree

NOBODY = 65534
JAIL = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
WORKER = JAIL | kernel.CLONE_NEWCGROUP
# root needs no user namespace for the worker's, and gives up root inside it
WORKER_OF_ROOT = WORKER & ~kernel.CLONE_NEWUSER


def enter_worker(flags: int, uid: int, gid: int) -> None:
    """First steps inside a worker's namespaces: mount its tree, then drop all privileges. `uid` and `gid` are those outside.

    Raises OSError.
    """
    if flags & kernel.CLONE_NEWUSER:
        _map_ids(uid, gid)
    tree.build()
    if not flags & kernel.CLONE_NEWUSER:
        become_nobody()
    kernel.drop_capabilities()


def enter_jail(uid: int, gid: int, disk_bytes: int) -> None:
    """First steps of init inside a jail's namespaces. `uid` and `gid` are those outside. Raises OSError."""
    _map_ids(uid, gid)
    kernel.mount("tmpfs", tree.SCRATCH, "tmpfs", tree.PRIVATE, f"size={disk_bytes},nr_inodes=4096,mode=700")
    kernel.mount("proc", "/proc", "proc", tree.PRIVATE | kernel.MS_RDONLY)


def become_nobody() -> None:
    """Change irrevocably from root to nobody. Raises OSError."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    # the change of user cleared it, and without it a new namespace's maps cannot be written
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def _map_ids(uid: int, gid: int) -> None:
    """Map one user and one group to nobody inside, whatever they are outside."""
    for file, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        fd = os.open(f"/proc/self/{file}", os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
