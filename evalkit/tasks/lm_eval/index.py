"""Names of lm-eval's tasks, groups and tags -> their files. Its own 14,000 files are looked through for names; a user's are parsed.

lm-eval's TaskManager parses each of them, which takes ten seconds. Who may have which name: lm-eval 0.4.13, tasks/_index.py.
"""

import difflib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from os import walk
from pathlib import Path
from typing import Literal

from evalkit.errors import EvalkitError, pip_install

_IGNORED = {"__pycache__", ".ipynb_checkpoints"}
_NAMING = ("task", "group", "tag", "class", "include")  # the keys that names are in
_KEY = re.compile(rb"""^["']?(task|group|tag|class|include)["']?[ \t]*:[ \t]*(.*(?:\n[ \t]*-.*)*)""", re.MULTILINE)
_ITEM = re.compile(r"""[^\s,\[\]"'][^,\[\]"'\n]*""")
_CLOSE = 5  # names that are suggested


@dataclass(frozen=True, slots=True)
class Entry:
    """What a name stands for: a task or group of the file `path`, or a tag, which is the tasks of these names."""

    kind: Literal["task", "group", "tag"]
    path: Path | None
    tasks: list[str] = field(default_factory=list)


Index = Mapping[str, Entry]


def installed() -> Path:
    """The folder of the installed lm-eval's tasks. Raises EvalkitError where it is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise EvalkitError(f"tasks lm_eval:NAME are lm-eval's, which is not installed; run {pip_install('lm-eval')}")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def lm_eval_version() -> str:
    """Of the installed lm-eval."""
    return version("lm_eval")


@cache
def index(include_path: str | None) -> Index:
    """Every name of the installed lm-eval, and of the user's own folder, whose names come first. Raises EvalkitError."""
    found = dict(_index(installed()))
    if include_path is not None:
        folder = Path(include_path).expanduser().resolve()
        if not folder.is_dir():
            raise EvalkitError(f"--include-path {include_path}: no such folder; give one with lm-eval's task files (NAME.yaml)")
        found |= _index(folder)
    return found


def entry(name: str, names: Index) -> Entry:
    """Raises EvalkitError with the nearest names where there is none of this name."""
    if name in names:
        return names[name]
    if not name:
        raise EvalkitError("lm_eval: needs the name of one of lm-eval's tasks, groups or tags, as in --tasks lm_eval:arc_easy")
    close = difflib.get_close_matches(name, names, n=_CLOSE, cutoff=0.6)
    parts = [each for each in names if name.lower() in each.lower()]
    near = dict.fromkeys([*close, *sorted(parts, key=len)])
    hint = f"did you mean {', '.join([*near][:_CLOSE])}?" if near else "see https://github.com/EleutherAI/lm-evaluation-harness"
    raise EvalkitError(f"lm-eval {lm_eval_version()} has no task, group or tag {name!r}; {hint}")


def _index(folder: Path) -> Index:
    found: dict[str, Entry] = {}
    for path in sorted(_files(folder), key=Path.as_posix):
        keys = _keys(path)
        kind: Literal["task", "group"] = "group" if "group" in keys and "class" not in keys else "task"
        names = keys.get(kind, ())
        if len(names) != 1 or names[0] in found:  # the first file of a name has it
            continue
        found[names[0]] = Entry(kind, path)
        if kind == "task":
            for tag in keys.get("tag", ()):
                found.setdefault(tag, Entry("tag", None)).tasks.append(names[0])
    return found


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, files in walk(folder):
        folders[:] = [each for each in folders if each not in _IGNORED]
        yield from (Path(root) / file for file in files if file.endswith(".yaml"))


def _keys(path: Path) -> dict[str, Sequence[str]]:
    """The values of the keys that names are in, of a file and those that it includes."""
    own = _own_keys(path) if path.is_relative_to(installed()) else _parsed_keys(path)
    found: dict[str, Sequence[str]] = {}
    for name in own.get("include", ()):
        found |= _included(path.parent / name)
    return found | own


@cache
def _included(path: Path) -> Mapping[str, Sequence[str]]:
    """Many files include the same one."""
    try:
        return _keys(path)
    except (OSError, RecursionError):  # the task that asks for it is refused when it is read whole
        return {}


def _parsed_keys(path: Path) -> dict[str, Sequence[str]]:
    """Of a file in any style of YAML, JSON among them."""
    import yaml

    try:
        node = yaml.compose(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError):  # told when the task that it may be is asked for
        return _own_keys(path)
    if not isinstance(node, yaml.MappingNode):
        return {}
    found: dict[str, Sequence[str]] = {}
    for key, value in node.value:
        if key.value in _NAMING and value.tag != "tag:yaml.org,2002:null":
            items = value.value if isinstance(value, yaml.SequenceNode) else [value]
            found[key.value] = [item.value for item in items if isinstance(item, yaml.ScalarNode)]
    return found


def _own_keys(path: Path) -> dict[str, Sequence[str]]:
    found: dict[str, Sequence[str]] = {}
    for key, raw in _KEY.findall(path.read_bytes()):
        text = re.sub(r"(^|\s)#.*", "", raw.decode("utf-8", "replace"))
        found[key.decode()] = [item.strip() for line in text.splitlines() for item in _ITEM.findall(re.sub(r"^\s*-\s*", "", line))]
    return found
