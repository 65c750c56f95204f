"""Names of tasks of one's own: FILE.py, FILE.py:NAME, or a data file without code: FILE.csv, .jsonl, .json, or the .toml that describes it.

Such a task's name in run.json is the file's without its folder (`capitals.csv`, `my_tasks.py:capitals`), which no built-in task can have:
theirs have no full stop.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import EvalkitError

# a task's name before "@" begins no path: a protocol's name, which a record may have from anyone, then names no file
_SPEC = re.compile(
    r"(?![\w-]+(?::[\w-]+)?@)"
    r"(?P<file>.+?(?P<suffix>\.py|\.csv|\.jsonl|\.json|\.toml))(?::(?P<name>[^:@]+)(?::(?P<part>[^@]+))?)?(?:@(?P<protocol>.*))?"
)
_FILE_NAME = re.compile(r"[\w.+() -]{1,100}")


@dataclass(frozen=True, slots=True)
class OwnSpec:
    """`name`: which task of a Python file, "" for its only one. `protocol`: "" for the task's default."""

    file: Path
    name: str = ""
    part: str = ""
    protocol: str = ""

    @classmethod
    def parse(cls, spec: str) -> "OwnSpec | None":
        """What a spec names; None where it is no file's. Raises EvalkitError for a file that can't be named in run.json."""
        found = _SPEC.fullmatch(spec)
        if found is None:
            return None
        file = Path(found["file"]).expanduser()
        if not _FILE_NAME.fullmatch(file.name):
            raise EvalkitError(
                f"{file.name!r} can't name a task in run.json; rename the file: letters, digits and . _ - + ( ), at most 100 characters"
            )
        if found["suffix"] != ".py" and found["name"]:
            raise EvalkitError(f"{spec}: a data file is one task; leave out :{found['name']}")
        return cls(file, found["name"] or "", found["part"] or "", found["protocol"] or "")

    @property
    def is_python(self) -> bool:
        return self.file.suffix == ".py"


def is_own(task: str) -> bool:
    """Is it a task of one's own, by its name in run.json?"""
    return "/" not in task and _SPEC.fullmatch(task) is not None


def in_run(name: str) -> str:
    """A task's name in run.json of what the user calls it: without the folder of its file."""
    return name.rpartition("/")[2] if _SPEC.fullmatch(name) and not name.startswith("lm_eval:") else name


def read_bytes(file: Path) -> bytes:
    """The file's bytes. Raises EvalkitError where it can't be read."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise EvalkitError(f"{file}: no such file; paths are from the working directory, and in a .toml from its folder") from None
    except OSError as error:
        raise EvalkitError(f"cannot read {file}: {error.strerror}") from None
