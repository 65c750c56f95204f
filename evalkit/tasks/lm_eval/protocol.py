"""The protocol of a task of lm-eval's: lm-eval's version and the task's, its whole configuration, and what a run sets."""

from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.hashing import sha256_json
from evalkit.tasks.lm_eval.build import FEWSHOT_SEED, shots_of
from evalkit.tasks.lm_eval.index import lm_eval_version
from evalkit.tasks.lm_eval.options import PREFIX, STABLE, LmEvalOptions
from evalkit.tasks.lm_eval.tree import Group, Leaf
from evalkit.tasks.lm_eval.yaml_files import FunctionRef
from evalkit.tasks.task import Protocol, Sampling


def protocol_of(member: Leaf | Group, leaves: Sequence[Leaf], stable: bool, options: LmEvalOptions, sampling: Sampling) -> Protocol:
    """Functions count by the digest of their files. Raises EvalkitError for shots that a task's file forbids."""
    config = {leaf.name: leaf.config for leaf in leaves}
    version, installed = member.version, lm_eval_version()
    means = [[mean.metric, mean.filters, mean.by_documents] for mean in member.means] if isinstance(member, Group) else []
    settings: dict[str, Any] = {
        "lm_eval": installed,
        "version": version,
        "config_sha256": sha256_json([_identity(config), means]),
        "num_fewshot": {leaf.name: shots_of(leaf, options) for leaf in leaves},
        "shots": [STABLE, sampling.seed] if stable else ["lm_eval", FEWSHOT_SEED],
        "apply_chat_template": options.apply_chat_template,
        "fewshot_as_multiturn": options.fewshot_as_multiturn,
        "system_instruction": options.system_instruction,
    }
    macro = isinstance(member, Group) and not member.means[0].by_documents
    return Protocol(
        task=f"{PREFIX}{member.name}",
        name=f"lm-eval-{installed}{f'-v{version}' if version else ''}{options.suffix}{f'-{STABLE}' if stable else ''}",
        summary=f"{member.name} as lm-eval {installed} has it{f', version {version}' if version else ''}",
        source="the installed lm-eval",
        headline="",  # known once the task is loaded
        averaging="macro" if macro else "micro",
        settings=settings,
    )


def _identity(value: Any) -> Any:
    """A configuration as JSON, its functions by the digest of their files."""
    if isinstance(value, FunctionRef):
        return value.identity()
    if isinstance(value, Mapping):
        return {str(key): _identity(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
