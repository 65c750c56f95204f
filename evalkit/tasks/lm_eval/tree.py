"""A name of lm-eval's -> the tasks that it stands for, each with its whole configuration, and the groups that average them.

How groups pass settings down to their members: lm-eval 0.4.13, tasks/_factory.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.tasks.lm_eval.index import Index, entry
from evalkit.tasks.lm_eval.yaml_files import FunctionRef, read

_GROUP_KEYS = ("group", "group_alias", "task", "aggregate_metric_list", "metadata")
_NOT_OF_A_TASK = ("tag", "group", "task_list")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One task of lm-eval's: its configuration, in which functions are not resolved, its file (None: written in its group's), and the
    version that it states, or "".
    """

    name: str
    config: Mapping[str, Any]
    path: Path | None
    version: str

    def leaves(self) -> "Iterator[Leaf]":
        """Itself."""
        yield self


@dataclass(frozen=True, slots=True)
class Mean:
    """A group's metric: the mean of its tasks', by documents or with equal weights. `filters` None: those that its tasks have."""

    metric: str
    filters: Sequence[str] | None
    by_documents: bool


@dataclass(frozen=True, slots=True)
class Group:
    """A group and its members; without `means` it is a list of tasks, and has no figure of its own."""

    name: str
    members: "Sequence[Leaf | Group]"
    means: Sequence[Mean]
    version: str

    def leaves(self) -> Iterator[Leaf]:
        """Its tasks and those of its groups, in order."""
        for member in self.members:
            yield from member.leaves()

    def groups(self) -> "Iterator[Group]":
        """The groups below it."""
        for member in self.members:
            if isinstance(member, Group):
                yield member
                yield from member.groups()


def members_of(name: str, names: Index) -> "Sequence[Leaf | Group]":
    """What a name stands for: itself, or the tasks of a tag, or of a group without a figure. Raises EvalkitError."""
    found = entry(name, names)
    if found.kind == "tag":
        return [_leaf(task, {}, names) for task in sorted(found.tasks)]
    if found.kind == "task":
        return [_leaf(name, {}, names)]
    group = _group(name, _read(found.path), {}, names)
    return [group] if group.means else [each for member in group.members for each in _with_figures(member)]


def _with_figures(member: "Leaf | Group") -> "Iterator[Leaf | Group]":
    if isinstance(member, Leaf) or member.means:
        yield member
    else:
        for each in member.members:
            yield from _with_figures(each)


def _read(path: Path | None) -> dict[str, Any]:
    assert path is not None
    return read(path)


def _leaf(name: str, overrides: Mapping[str, Any], names: Index) -> Leaf:
    path = entry(name, names).path
    config = {**_read(path), **overrides}
    version = _version(name, config)
    return Leaf(config["task"], {key: value for key, value in config.items() if key not in _NOT_OF_A_TASK}, path, version)


def _version(name: str, config: Mapping[str, Any]) -> str:
    """What a file's metadata says of it, or "". Raises EvalkitError for metadata that have no keys."""
    metadata = config.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise EvalkitError(f"lm_eval:{name} has metadata: {metadata!r:.80}; give them keys, as in metadata: {{version: 1.0}}")
    return str(metadata.get("version", ""))


def _group(name: str, config: Mapping[str, Any], overrides: Mapping[str, Any], names: Index, within: tuple[str, ...] = ()) -> Group:
    """`within`: the groups that it is a member of. Raises EvalkitError for one that lists nothing, or itself."""
    if name in within:
        raise EvalkitError(
            f"lm-eval's group {name} lists itself ({' -> '.join((*within[within.index(name) :], name))}); mend its task list"
        )
    passed_down = {key: value for key, value in config.items() if key not in _GROUP_KEYS} | dict(overrides)
    listed = [config["task"]] if isinstance(config.get("task"), str) else config.get("task") or []
    if not isinstance(listed, list):
        raise EvalkitError(f"lm-eval's group {name} has task: {listed!r:.80}, which is no list; list its tasks there")
    members = [each for item in listed for each in _members(item, name, passed_down, names, (*within, name))]
    if not members:
        raise EvalkitError(f"lm-eval's group {name} lists no tasks (task: {config.get('task')!r}); list them there")
    listed = config.get("aggregate_metric_list") or []
    means = [_mean(name, each) for each in (listed if isinstance(listed, list) else [listed])]
    return Group(name, members, means, _version(name, config))


def _members(item: Any, group: str, overrides: Mapping[str, Any], names: Index, within: tuple[str, ...]) -> "Iterator[Leaf | Group]":
    """The members that one item of a group's list names. Raises EvalkitError for what is no item."""
    if isinstance(item, dict) and "group" in item:
        name = item["group"]
        if not isinstance(name, str):
            raise EvalkitError(f"lm-eval's group {group} lists {item!r:.80}, which names no group")
        if name in names:
            if "task" in item:
                raise EvalkitError(
                    f"lm-eval's group {group} lists the group {name} with tasks of its own, and {name} is a group already; leave them out, "
                    "or give it another name"
                )
            own = {**overrides, **{key: value for key, value in item.items() if key != "group"}}
            yield _group(name, _read(names[name].path), own, names, within)
        else:
            yield _group(f"{group}::{name}", item, overrides, names, within)
        return
    name = item.get("task") if isinstance(item, dict) else item
    if not isinstance(name, str):
        raise EvalkitError(f"lm-eval's group {group} lists {item!r:.80}, which names no task")
    own = {**overrides, **(item if isinstance(item, dict) else {})}
    if name not in names:
        if not isinstance(item, dict):
            raise EvalkitError(f"lm-eval's group {group} lists {name!r}, and there is no such task")
        full = f"{group}::{name}"
        yield Leaf(full, {**own, "task": full}, None, _version(full, own))
        return
    own.pop("task", None)  # a name, not a setting for what it names
    if names[name].kind == "group":
        yield _group(name, _read(names[name].path), own, names, within)
    elif names[name].kind == "tag":
        for task in sorted(names[name].tasks):
            yield _leaf(task, {"task": task, **own}, names)
    else:
        yield _leaf(name, {"task": name, **own}, names)


def _mean(group: str, config: Any) -> Mean:
    if not (isinstance(config, Mapping) and isinstance(config.get("metric"), str)):
        raise EvalkitError(
            f"lm-eval's group {group} aggregates {config!r:.80}; name the metric, as in aggregate_metric_list: [{{metric: acc}}]"
        )
    if isinstance(config.get("aggregation", "mean"), FunctionRef):
        raise EvalkitError(f"lm-eval's group {group} aggregates {config.get('metric')} by a function; name its tasks one by one")
    filters = config.get("filter_list")
    return Mean(config["metric"], [filters] if isinstance(filters, str) else filters, bool(config.get("weight_by_size", True)))
