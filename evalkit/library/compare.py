"""`evalkit.compare` and `evalkit.gate`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evalkit.comparison.gate_config import GateConfig, Margins, beside_policy
from evalkit.library.given import AnyRun, Place, names_of, path_of

if TYPE_CHECKING:
    from evalkit.comparison.compare import Comparison
    from evalkit.comparison.gate_outcome import Gate


def compare(
    base: AnyRun, cand: AnyRun, *, tasks: str | Sequence[str] = (), metric: str | None = None, cluster: str | None = None
) -> Comparison:
    """`evalkit compare`: for each task the paired difference, candidate - base, and which documents flipped.

    Raises EvalkitError where the runs can't be read or compared.
    """
    from evalkit.comparison.compare import compare

    return compare(path_of(base), path_of(cand), names_of(tasks), metric, cluster)


def gate(
    *runs: AnyRun,
    margin: float | str | Mapping[str, float] | None = None,
    policy: Place | None = None,
    bench: Sequence[Place] = (),
    against: str | None = None,
    published: str | None = None,
    tasks: str | Sequence[str] = (),
    metric: str | None = None,
    cluster: str | None = None,
    allow_small_margin: bool = False,
) -> Gate:
    """`evalkit gate BASE CAND`: may the candidate replace the base? `word` is pass, fail or inconclusive, `outcomes` have the figures.

    `margin`: one for all tasks, in the metric's unit (0.01 is a point of accuracy), or by task. Nothing is printed or written. Raises
    EvalkitError where the runs can't be compared, or a margin is below what their documents can detect.
    """
    from evalkit.comparison.gate import decide, require_detectable

    if policy is not None and margin is not None:
        raise beside_policy("margins")
    found = decide(
        GateConfig(
            tuple(map(path_of, runs)),
            _margins(margin),
            against=against,
            published=published,
            tasks=tuple(names_of(tasks)),
            metric=metric,
            cluster=cluster,
            allow_small_margin=allow_small_margin,
            policy=None if policy is None else os.fspath(policy),
            bench=tuple(os.fspath(each) for each in bench),
        )
    )
    require_detectable(found)
    return found


def _margins(margin: float | str | Mapping[str, float] | None) -> Margins:
    if margin is None:
        return Margins()
    if isinstance(margin, Mapping):
        return Margins(None, margin)
    return Margins.parse(margin) if isinstance(margin, str) else Margins(margin)
