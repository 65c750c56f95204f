"""One program in its jail: init applies the layers of the sandbox, starts the program inside and waits for it.

When init ends, for whatever reason, the kernel kills everything in the jail. The program can see init, so init keeps
capabilities that the program lacks and is not dumpable: the program cannot reach into it.
"""

import os
import signal
from typing import Any, NamedTuple, NoReturn

from evalkit.sandbox import kernel, landlock, namespaces, program, seccomp, tree, wire
from evalkit.sandbox.level import Level
from evalkit.sandbox.limits import Limits

_ENVIRONMENT = {"HOME": tree.SCRATCH, "TMPDIR": tree.SCRATCH, "LANG": "C.UTF-8", "PATH": "/nonexistent"}


class Ends(NamedTuple):
    """The jail's ends of its pipes. The program itself never has `status`."""

    status: int  # one frame: {"code": exit code, or minus the signal}, or {"broken": why a layer failed}
    output: int
    requests: int
    answers: int


def start(job: dict[str, Any], limits: Limits, level: Level, scratch: str, ends: Ends) -> None:
    """Start a program, as a child that dies with this process. Raises OSError if no process can be created."""
    ids = os.getuid(), os.getgid()
    if (kernel.clone(namespaces.JAIL) if level.has("namespaces") else os.fork()) == 0:
        try:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            keep(*ends)
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("1000")  # out of memory, the kernel kills this first
            if level.has("namespaces"):
                namespaces.enter_jail(*ids, limits.disk_bytes)
            _init(job, limits, level, scratch, ends)
        except BaseException as error:
            wire.send(ends.status, {"broken": f"{type(error).__name__}: {error}"})
        finally:
            os._exit(1)


def _init(job: dict[str, Any], limits: Limits, level: Level, scratch: str, ends: Ends) -> NoReturn:
    os.setsid()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    main = os.fork()
    if main == 0:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        _confine(limits, level, scratch, ends.output)
        keep(ends.requests, ends.answers)  # without `status`: from here on nothing can claim that a layer is missing
        if job["function"]:
            program.serve(job["program"], job["function"], ends.requests, ends.answers)
        else:
            program.run(job["program"], ends.answers)
        os._exit(0)
    keep(ends.status)
    while True:
        pid, code = os.wait()  # orphans included
        if pid == main:
            wire.send(ends.status, {"code": os.waitstatus_to_exitcode(code)})
            os._exit(0)


def _confine(limits: Limits, level: Level, scratch: str, output: int) -> None:
    os.setsid()
    for target in (1, 2):
        os.dup2(output, target)
    os.environ.clear()
    os.environ.update(_ENVIRONMENT)
    os.chdir(scratch)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    limits.apply()
    lock(level, scratch)


def lock(level: Level, *writable: str) -> None:
    """Irrevocably drop the remaining privileges, and block the files and system calls that are not needed."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if level.has("landlock"):
        landlock.restrict([*tree.readable(), "/proc"], [*writable, *tree.DEVICES])
    kernel.drop_capabilities()
    if level.has("seccomp"):
        seccomp.install()


def keep(*fds: int) -> None:
    """Close every file except these and the standard three."""
    edge = 3
    for fd in sorted(fds):
        os.closerange(edge, fd)
        edge = fd + 1
    os.closerange(edge, 1 << 20)
