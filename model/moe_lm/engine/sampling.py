"""How a token is drawn from logits."""

import torch
from torch import Tensor


def sample(logits_V: Tensor, temperature: float, rng: torch.Generator) -> int:
    """One token at a temperature above 0, in float64 on the CPU: the same on every device, and whatever else is in the batch."""
    logits_V = logits_V.cpu().double()
    scaled_V = logits_V / temperature
    if not scaled_V.isfinite().all():  # the temperature is so small that they overflow: as greedy, ties aside
        scaled_V = (logits_V - logits_V.max()) / temperature
    return int(torch.multinomial(torch.softmax(scaled_V, dim=-1), 1, generator=rng))
