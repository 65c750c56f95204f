"""A worker: a clean, warm interpreter in its own namespaces that forks a checker for each job.

    host -> keeper -> server (first process of the worker's namespaces) -> checker -> jail (supervisor.py)

The keeper creates the namespaces. A job arrives as limits and an open file: the server reads the limits, the checker the file.
"""

import gc
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from multiprocessing import resource_tracker
from typing import NoReturn

from evalkit.sandbox import kernel, landlock, namespaces, seccomp, wire
from evalkit.sandbox.level import Level
from evalkit.sandbox.limits import Limits
from evalkit.sandbox.supervisor import HostGone, supervise

# what programs and tests import most, loaded once
_WARM = ("bisect", "collections", "copy", "datetime", "functools", "heapq", "itertools", "math", "random", "re", "string", "typing")
_TRIAL_BYTES = 1 << 20
_LIMITS_BYTES = 4096


def main(channel: int) -> NoReturn:
    """Serve jobs from a socket until its other end is closed. The first frame sent is the level: its missing layers."""
    del sys.path[0]  # the host's folder of evalkit, which the jail's tree does not have
    for module in _WARM:
        import_module(module)
    selectors.DefaultSelector = selectors.PollSelector  # type: ignore[misc, assignment]  # asyncio's too: the jail has no epoll
    # it would start a program to remove what is left of shared memory; the jail runs none, and leaves nothing
    resource_tracker.register = resource_tracker.unregister = lambda name, rtype: None
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    missing = {"seccomp": seccomp.missing(), "landlock": "" if landlock.version() else "this kernel has none, or has it switched off"}
    missing = {layer: reason for layer, reason in missing.items() if reason}
    if os.geteuid() == 0:
        _try(namespaces.WORKER_OF_ROOT, channel, Level(missing))
        with suppress(OSError):  # in a user namespace there may be no other user to change to
            namespaces.become_nobody()
    reason = _try(namespaces.WORKER, channel, Level(missing))
    server = os.fork()
    if server == 0:
        _serve(channel, Level({"namespaces": reason, **missing}))
    os.waitpid(server, 0)
    sys.exit(0)


def _try(flags: int, channel: int, level: Level) -> str:
    """Serve in new namespaces and end with the server, or return why they cannot be created."""
    ids = os.getuid(), os.getgid()
    told, tell = os.pipe()
    try:
        server = kernel.clone(flags)
    except OSError as error:
        return str(error)
    if server == 0:
        try:
            namespaces.enter_worker(flags, *ids)
            _try_jail()
        except BaseException as error:
            os.write(tell, f"{error}".encode())
            os._exit(1)
        os.close(tell)
        os.close(told)
        _serve(channel, level)
    os.close(tell)
    reason = os.read(told, 1000).decode()
    os.close(told)
    os.waitpid(server, 0)
    if not reason:
        sys.exit(0)
    return reason


def _try_jail() -> None:
    """Try a jail, which may be forbidden even if the worker's namespaces are not. Raises OSError."""
    ids = os.getuid(), os.getgid()
    told, tell = os.pipe()
    pid = kernel.clone(namespaces.JAIL)
    if pid == 0:
        try:
            namespaces.enter_jail(*ids, _TRIAL_BYTES)
        except BaseException as error:
            os.write(tell, f"{error}".encode())
        os._exit(0)
    os.close(tell)
    reason = os.read(told, 1000).decode()
    os.close(told)
    os.waitpid(pid, 0)
    if reason:
        raise OSError(reason)


def _serve(channel: int, level: Level) -> NoReturn:
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    gc.freeze()  # a garbage collection in a child would copy every page that it marks
    code = 1
    try:
        wire.send(channel, dict(level.missing))
        with socket.socket(fileno=channel) as host:
            while True:
                limits, files, _, _ = socket.recv_fds(host, _LIMITS_BYTES, 1)
                if not limits:
                    raise HostGone
                result = supervise(files[0], Limits(**json.loads(limits)), level, channel)
                os.close(files[0])
                wire.send(channel, result)
    except (HostGone, ConnectionError):
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # the first process of its namespaces: everything in them ends with it
