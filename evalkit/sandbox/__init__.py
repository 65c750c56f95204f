"""Runs what a model wrote, and says what became of it. No daemon, no root; usable by itself.

    from evalkit.sandbox import run_python

    print(run_python("print(6 * 7)"))

Walls: namespaces.py, tree.py, seccomp.py, landlock.py, limits.py; jail.py puts them up. Processes, each a child of the one before:

    pool.py (yours) -> server.py, supervisor.py -> checker.py -> jail.py's init -> program.py

What this machine gives: probe().
"""

from evalkit.sandbox.job import Job
from evalkit.sandbox.level import Level
from evalkit.sandbox.limits import Limits
from evalkit.sandbox.pool import Pool, check_function, probe, require, run_python
from evalkit.sandbox.result import Result, Verdict

__all__ = ["Job", "Level", "Limits", "Pool", "Result", "Verdict", "check_function", "probe", "require", "run_python"]
