"""The same bits on every x86-64 processor: with this one's best instructions, and with AVX2 alone, in the kernels and in torch."""

import os
import subprocess
import sys

import pytest
from cpu_cases import needs_kernels

from moe_lm.backends.cpu.library import FEATURES, processor_features

pytestmark = [
    needs_kernels,
    pytest.mark.skipif(not FEATURES["avx512"] <= processor_features(), reason="this processor has no AVX-512 to compare AVX2 with"),
]

# scores, hidden states and greedy tokens of a tiny mixture of experts and of a model with every norm: all between ids and answers
ANSWERS = """
import sys
sys.path[:0] = {path!r}
import torch
from tiny_models import logits, on, tiny_config, tiny_decoder, tokens
from moe_lm.engine.generator import GenerateRequest, Generator
from moe_lm.engine.scorer import Scorer, ScoreRequest

families = {{"qwen2_moe": 24, "gemma3_text": 256}}
for family, dtype in [(family, dtype) for family in families for dtype in (torch.float32, torch.bfloat16)]:
    config = tiny_config(family, vocab_size=1003, hidden_size=72, head_dim=families[family], rope_theta=1e6)
    backend = on("cpu", tiny_decoder(config).to(dtype))
    requests = [ScoreRequest(tokens(n, n, 1003), [[n], [n + 1, 5]]) for n in (1, 17, 130, 300)]
    found = dict(Scorer(backend).score(requests))
    print([score.logprob.hex() for i in range(len(requests)) for score in found[i]])
    print(logits(backend, tokens(200, 1, 1003)).flatten().tolist()[::97])
    prompts = [GenerateRequest(tokens(n, n, 1003), max_new_tokens=12) for n in (3, 150)]
    answers = dict(Generator(backend, str, frozenset()).generate(prompts))
    print([answers[i].tokens for i in range(2)])
"""


def answers(**settings: str) -> str:
    command = [sys.executable, "-c", ANSWERS.format(path=[path for path in sys.path if path])]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_answers_of_a_model_do_not_depend_on_the_processor() -> None:
    best = answers(EVALKIT_CPU_VARIANT="avx512", ATEN_CPU_CAPABILITY="avx512")
    assert best.count("\n") == 12
    assert answers(EVALKIT_CPU_VARIANT="avx2", ATEN_CPU_CAPABILITY="avx2", OMP_NUM_THREADS="1") == best
