"""What of a task runs code: it is refused, in one line, unless the user allows it; and never where it runs programs of the model's."""

from collections.abc import Iterator, Mapping
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.tasks.lm_eval.tree import Leaf
from evalkit.tasks.lm_eval.yaml_files import FunctionRef

_NAMED = 4  # functions in a message


def permit(name: str, leaves: list[Leaf], allowed: bool) -> None:
    """Raises EvalkitError for tasks that run code without leave, or a model's programs at all."""
    for leaf in leaves:
        if leaf.config.get("unsafe_code"):
            raise EvalkitError(
                f"lm_eval:{name}: {leaf.name} runs programs that the model writes, and lm-eval has no sandbox for them; "
                "evalkit's own humaneval has one (--tasks humaneval@lm-eval)"
            )
    if allowed:
        return
    reasons = list(dict.fromkeys(reason for leaf in leaves for reason in functions_of(leaf.config)))
    if reasons:
        more = f" and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
        raise EvalkitError(
            f"lm_eval:{name} runs Python of its own ({', '.join(reasons[:_NAMED])}{more}); read it in {_where(leaves)}, "
            "and pass --allow-task-code"
        )


def permit_metrics(leaf: Leaf, allowed: bool) -> None:
    """Raises EvalkitError for a metric that lm-eval would fetch from the hub, as code, and does not have itself, or for no list of them."""
    metrics = leaf.config.get("metric_list") or []
    if not (isinstance(metrics, list) and all(isinstance(metric, Mapping) for metric in metrics)):
        raise EvalkitError(
            f"lm_eval:{leaf.name} has metric_list: {metrics!r:.80}; list its metrics there, as in metric_list: [{{metric: acc}}]"
        )
    from lm_eval.api.metrics import mean  # noqa: F401 - it registers lm-eval's own metrics
    from lm_eval.api.registry import METRIC_REGISTRY

    if allowed or leaf.config.get("process_results") is not None:  # which computes the metrics itself
        return
    for metric in metrics:
        name = metric.get("metric")
        if isinstance(name, str) and (metric.get("hf_evaluate") or name not in METRIC_REGISTRY):
            raise EvalkitError(
                f"lm_eval:{leaf.name}: its metric {name} is code that lm-eval downloads from the hub; pass --allow-task-code to run it"
            )


def functions_of(value: Any) -> Iterator[str]:
    """The functions that a configuration names, at any depth."""
    if isinstance(value, FunctionRef):
        yield value.name
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from functions_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from functions_of(each)


def _where(leaves: list[Leaf]) -> str:
    """The folder of the first task that names a function."""
    return str(next((leaf.path.parent for leaf in leaves if leaf.path and any(functions_of(leaf.config))), "its file"))
