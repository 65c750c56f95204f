"""evalkit: does this model really score what its table says?

The names of `__all__` are the library (docs/library.md). Each is imported when it is first used: `import evalkit` itself imports nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalkit.comparison.compare import Comparison
    from evalkit.comparison.gate_outcome import Gate
    from evalkit.errors import (
        DataError,
        EvalkitError,
        InternalError,
        Interrupted,
        MissingData,
        OutOfTime,
        OwnCodeError,
        RequestsSetAside,
        RunIncomplete,
        Undecided,
    )
    from evalkit.library.compare import compare, gate
    from evalkit.library.result import Run
    from evalkit.library.run import load_run, run

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "DataError",
    "EvalkitError",
    "Gate",
    "InternalError",
    "Interrupted",
    "MissingData",
    "OutOfTime",
    "OwnCodeError",
    "RequestsSetAside",
    "Run",
    "RunIncomplete",
    "Undecided",
    "compare",
    "gate",
    "load_run",
    "run",
]
_MODULES = {
    "Comparison": "evalkit.comparison.compare",
    "Gate": "evalkit.comparison.gate_outcome",
    "Run": "evalkit.library.result",
    "compare": "evalkit.library.compare",
    "gate": "evalkit.library.compare",
    "load_run": "evalkit.library.run",
    "run": "evalkit.library.run",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'evalkit' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_MODULES.get(name, "evalkit.errors")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


del TYPE_CHECKING
