"""Runs model-written programs and reports their outcome. It needs no daemon and no root, and can be used by itself.

    from evalkit.sandbox import run_python

    print(run_python("print(6 * 7)"))

Layers: namespaces.py, tree.py, seccomp.py, landlock.py, limits.py; jail.py applies them; memory.py counts.
Processes, each the parent of the next:

    pool.py (yours) -> server.py, supervisor.py -> checker.py -> jail.py's init -> program.py

probe() reports which layers this machine supports.
"""

from evalkit.sandbox.job import Job
from evalkit.sandbox.level import Level
from evalkit.sandbox.limits import Limits
from evalkit.sandbox.pool import Pool, check_function, probe, require, run_python
from evalkit.sandbox.result import Result, Verdict

__all__ = ["Job", "Level", "Limits", "Pool", "Result", "Verdict", "check_function", "probe", "require", "run_python"]
