"""Landlock: the third layer. It restricts which files a process and its children reach, whatever is mounted (man 7 landlock).

Nothing may be executed. Version 4 and later also block TCP; version 6 and later block signals and abstract sockets out of the domain.
"""

import ctypes
import os
from collections.abc import Iterable

from evalkit.sandbox import kernel

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every machine
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _MAKE_CHAR, _MAKE_BLOCK, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 11, 1 << 14
_EXECUTE = 1 << 0


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """The kernel's Landlock version; 0 if it has none."""
    try:
        return kernel.syscall("landlock", _CREATE, 0, 0, _VERSION)
    except OSError:
        return 0


def restrict(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Irrevocably restrict this process and its children to these paths, skipping missing ones. no_new_privs must be set."""
    abi = version()
    bits = {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)
    handled = (1 << bits) - 1
    ruleset = _Ruleset(handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    rules = kernel.syscall("landlock_create_ruleset", _CREATE, ctypes.byref(ruleset), size, 0)
    read = _READ_FILE | _READ_DIR
    for paths, allowed in ((readable, read), (writable, handled & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK))):
        for path in paths:
            _allow(rules, path, allowed & handled)
    kernel.syscall("landlock_restrict_self", _RESTRICT, rules, 0)
    os.close(rules)


def _allow(rules: int, path: str, allowed: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        allowed &= _READ_FILE | _WRITE_FILE | _TRUNCATE  # the rights that a file can have
    rule = _PathBeneath(allowed, parent)
    kernel.syscall("landlock_add_rule", _ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(rule), 0)
    os.close(parent)
