"""Why a model overflows: the first layer whose output is not finite, and whether its weights or its input are to blame."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass

import torch
from torch import Tensor, nn

from moe_lm.backends.base import PAGE, Backend
from moe_lm.engine.batch import forward
from moe_lm.engine.pages import PagePool
from moe_lm.errors import NotFinite

ORDINARY = 1e4  # weights of trained models are far below
CHUNK = 2048  # tokens a pass


@dataclass(frozen=True, slots=True)
class _Outputs:
    """What a part of the model makes of a sequence: can the next part compute with it, and the largest absolute value."""

    sound: bool
    largest: float


def suspect(hidden_PD: Tensor, logits_PV: Tensor) -> Tensor:
    """Which rows may come of an overflow, [P]: logits that are NaN or infinite; hidden states of 0, since a norm divides by infinity.

    One such logit makes its row's sum NaN or infinite; so may finite ones beyond 1e33, which `explain` then finds sound.
    """
    return ~(logits_PV.sum(-1).isfinite() & (hidden_PD != 0).any(-1))


@torch.inference_mode()
def explain(backend: Backend, ids: Sequence[int], consequence: str) -> NotFinite | None:
    """The error for a sequence whose last row is suspect; None if nothing overflows.

    The sequence is run again several times, each time up to another layer, to find the first whose output overflows.
    `consequence` completes "the model overflows, so ..".
    """
    cause = _cause(backend, ids)
    return NotFinite(f"the model overflows, so {consequence}: {cause}") if cause else None


def _cause(backend: Backend, ids: Sequence[int]) -> str:
    num_layers = backend.config.num_hidden_layers
    # after `good` layers the hidden states are sound, after `bad` they are not; no later layer undoes an overflow
    good, bad = 0, num_layers + 1
    before = _Outputs(True, 0.0)
    while bad - good > 1:
        middle = (good + bad) // 2 if bad <= num_layers else num_layers
        outputs = _run(backend, ids, middle)
        if outputs.sound:
            good, before = middle, outputs
        else:
            bad = middle
    if bad <= num_layers:
        blame = _blame(backend, backend.layers[bad - 1], before)
        return f"layer {bad - 1} (of 0 to {num_layers - 1}) is the first whose output is not finite, or too large for a norm; {blame}"
    if not _run(backend, ids, None).sound:
        return f"every layer's output is finite, the final norm's is not; {_blame(backend, backend.norm, before)}"
    if not _run(backend, ids, None, with_head=True).sound:
        return f"every layer's output is finite, the output head's is not; {_advice(backend)}"
    return ""


def _run(backend: Backend, ids: Sequence[int], num_layers: int | None, with_head: bool = False) -> _Outputs:
    """The hidden states after so many layers; None: after all of them and the final norm; or the last token's logits."""
    cache = PagePool(backend, -(-len(ids) // PAGE)).fork(None, len(ids))
    largest = 0.0
    with nullcontext() if num_layers is None else backend.first_layers(num_layers):
        for begin in range(0, len(ids), CHUNK):
            some = ids[begin : begin + CHUNK]
            outputs_TD = forward(backend, [(some, cache)], range(len(some)))
            if with_head:
                outputs_TD = backend.logits(outputs_TD[-1:])
            if not outputs_TD.float().square().mean(-1).isfinite().all():  # as a norm computes
                return _Outputs(False, torch.inf)
            largest = max(largest, float(outputs_TD.abs().max()))
    return _Outputs(True, largest)


def _blame(backend: Backend, part: object, before: _Outputs) -> str:
    name, largest = max(((name, float(w.abs().max())) for name, w in _weights(part)), key=lambda found: _rank(found[1]))
    if not largest <= ORDINARY:
        return f"its {name} reaches {largest:.3g}: check the checkpoint"
    return f"its weights reach {largest:.3g} and its input {before.largest:.3g}; {_advice(backend)}"


def _rank(largest: float) -> float:
    return largest if largest == largest else torch.inf  # NaN compares with nothing


def _advice(backend: Backend) -> str:
    return "check the checkpoint and its config.json" if backend.dtype == torch.float32 else "use float32, or check the checkpoint"


def _weights(part: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of a part of a model, a module or dataclasses, by name."""
    if isinstance(part, Tensor):
        if part.numel():
            yield name, part
    elif isinstance(part, nn.Module):
        for inner, parameter in part.named_parameters():
            yield from _weights(parameter, f"{name}.{inner}".lstrip("."))
    elif is_dataclass(part):
        for field in fields(part):
            yield from _weights(getattr(part, field.name), f"{name}.{field.name}".lstrip("."))
