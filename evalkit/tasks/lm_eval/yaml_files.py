"""lm-eval's task files: YAML with `include:` and `!function`. They are read here without importing lm-eval or the functions they name.

Rules of inclusion: lm-eval 0.4.13, tasks/_yaml_loader.py.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError, first_line
from evalkit.tasks.lm_eval.index import installed


@dataclass(frozen=True, slots=True)
class FunctionRef:
    """`!function utils.process_docs` in a file of `folder`: a function of the file utils.py beside it, or else of an installed module."""

    name: str
    folder: Path

    @property
    def file(self) -> Path | None:
        """The Python file beside the task's, if it is there."""
        file = self.folder / f"{self.name.rpartition('.')[0].replace('.', '/')}.py"
        return file if file.exists() else None

    def identity(self) -> Mapping[str, str | None]:
        """Its name and the digest of its file, wherever that is."""
        return {"function": self.name, "sha256": hashlib.sha256(self.file.read_bytes()).hexdigest() if self.file else None}


def read(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a task's file, those of the files that it includes among them. Raises EvalkitError where one can't be read."""
    import yaml

    if path in including:
        raise EvalkitError(f"{path} includes itself ({' -> '.join(each.name for each in (*including, path))}); mend its include")
    loader = type("Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})
    yaml.add_constructor("!function", lambda load, node: FunctionRef(load.construct_scalar(node), path.parent), Loader=loader)
    try:
        raw = path.read_bytes()
        if not path.is_relative_to(installed()):  # some of lm-eval's own state a key twice, and it takes the last
            _require_distinct(yaml.compose(raw, Loader=loader), path, set())
        own = yaml.load(raw, Loader=loader)
    except OSError as error:
        raise EvalkitError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EvalkitError(f"{path} is not YAML ({first_line(error)})") from None
    if not isinstance(own, dict):
        raise EvalkitError(f"{path} holds no keys; a task's file is a YAML mapping")
    names = own.pop("include", None) or []
    found: dict[str, Any] = {}
    for name in names if isinstance(names, list) else [names]:
        included = read((path.parent / name).resolve(), (*including, path))
        found |= {key: value for key, value in included.items() if key != "task_list"}
    return found | own


def _require_distinct(node: Any, path: Path, seen: set[int]) -> None:
    """Raises EvalkitError for a mapping of the file that has a key twice. `seen`: nodes that were looked at, which aliases repeat."""
    if id(node) in seen or not isinstance(getattr(node, "value", None), list):  # nothing, or a scalar
        return
    seen.add(id(node))
    keys: set[Any] = set()
    for child in node.value:
        if not isinstance(child, tuple):
            _require_distinct(child, path, seen)
            continue
        key, value = child
        if isinstance(key.value, str) and (key.tag, key.value) in keys:
            raise EvalkitError(f"{path} has {key.value} twice, again in line {key.start_mark.line + 1}; leave one of them out")
        keys.add((key.tag, str(key.value)))
        _require_distinct(value, path, seen)
