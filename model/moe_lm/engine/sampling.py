"""How a token is drawn from logits."""

import torch
from torch import Tensor

from moe_lm.engine.request import GenerateRequest


def sample(logits_V: Tensor, request: GenerateRequest, rng: torch.Generator) -> int:
    """One token at a temperature above 0, in float64 on the CPU: the same on every device, and whatever else is in the batch."""
    logits_V = logits_V.cpu().double()
    scaled_V = logits_V / request.temperature
    if not scaled_V.isfinite().all():  # the temperature is so small that they overflow: as greedy, ties aside
        scaled_V = (logits_V - logits_V.max()) / request.temperature
    probs_V = torch.softmax(scaled_V, dim=-1)
    if request.top_k or request.top_p < 1 or request.min_p:
        probs_V = filtered(probs_V, request.top_k, request.top_p, request.min_p)
    return int(torch.multinomial(probs_V, 1, generator=rng))


def filtered(probs_V: Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    """The probabilities, 0 for tokens that may not be drawn; of equally likely ones those of lower id come first.

    As in transformers and vLLM: of the `top_k` likeliest (0: all) the smallest set that has at least `top_p` of their probability, and in
    any case only tokens that are at least `min_p` times as likely as the likeliest. The likeliest is always among them.
    """
    sorted_V, ids_V = probs_V.sort(descending=True, stable=True)
    kept_V = sorted_V >= min_p * sorted_V[0]
    if top_k:
        sorted_V[top_k:] = 0
    if top_p < 1:
        sums_V = sorted_V.cumsum(0)
        kept_V &= sums_V - sorted_V < top_p * sums_V[-1]  # what comes before has less than top_p
    return torch.zeros_like(probs_V).scatter(0, ids_V, sorted_V * kept_V)
