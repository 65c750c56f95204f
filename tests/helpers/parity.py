"""How close moe_lm comes to transformers on one model: the largest difference of logits, and how many greedy tokens are the same."""

from dataclasses import dataclass

import torch
import transformers
from tiny_models import admit, logits, relative_diff, run_all

from moe_lm.engine.generator import GenerateRequest, Generator
from moe_lm.engine.pages import PagePool


@dataclass(frozen=True)
class Parity:
    difference: float  # of logits, in units of the largest; with and without a cached prefix
    equal: int  # greedy tokens that are the same ..
    tokens: int  # .. of so many


def parity(backend, theirs, sequences, new_tokens):
    """Logits at every position of each sequence, and `new_tokens` greedy tokens after it, through ends of text."""
    theirs.generation_config = transformers.GenerationConfig()  # the model's own names tokens that would stop it
    generator = Generator(backend, decode=str, stop_ids=frozenset())
    answers = dict(generator.generate([GenerateRequest(sequence, max_new_tokens=new_tokens) for sequence in sequences]))
    difference, equal = 0.0, 0
    for i, sequence in enumerate(sequences):
        ids = torch.tensor([sequence])
        with torch.inference_mode():
            expected = theirs(ids).logits[0].float()
        for found in (logits(backend, sequence), _after_a_cached_prefix(backend, sequence)):
            difference = max(difference, relative_diff(found, expected))
        out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)
        equal += sum(ours == other for ours, other in zip(answers[i].tokens, out[0, len(sequence) :].tolist(), strict=True))
    return Parity(difference, equal, new_tokens * len(sequences))


def _after_a_cached_prefix(backend, sequence):
    pool, cut = PagePool(backend, 1 + len(sequence) // 128), len(sequence) * 2 // 3
    cache = admit(pool, sequence, len(sequence))
    (first,), (rest,) = (run_all(backend, [(part, cache)]) for part in (sequence[:cut], sequence[cut:]))
    return backend.logits(torch.cat([first, rest]))
