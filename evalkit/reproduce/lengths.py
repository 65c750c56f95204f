"""How long answers are while none is known: as long as whole benchmarks' were under the same protocol, else a share of their limit."""

import math

from evalkit.runner.workload import likely_length

# Mean new tokens of an answer, of all documents of a benchmark: the tokens that a run of results/baselines computed and shared, without
# those of its prompts. Where two models answered, of both: theirs differ by less than a sixth, those of two protocols by up to nine times.
MEASURED = {
    "gsm8k@qwen": 118,  # Qwen2.5-Coder-0.5B
    "gsm8k@smollm-chat": 73,  # SmolLM2-135M
    "humaneval@chat": 242,  # Qwen2.5-Coder-0.5B, as the next one
    "humaneval@codex": 133,
    "humaneval@evalscope": 307,  # Qwen2.5-Coder-1.5B, as the next two
    "humaneval@lm-eval": 69,
    "humaneval@lm-eval-instruct-v2": 626,
    "humaneval@multipl-e": 168,  # 180 of the 0.5B and 157 of the 1.5B
    "humaneval@qwen-coder": 182,  # 195 and 170
    "humaneval@qwen-coder-plus": 182,
}


def mean_length(task: str, limit: float) -> float:
    """Of the answers to a task ("gsm8k@qwen"), in tokens, none of which is longer than the limit."""
    return min(limit, MEASURED.get(task, likely_length(limit)))


def unseen(answers: int, mean: float, limit: float) -> list[float]:
    """So many lengths of this mean, cut at the limit, in no order: quantiles of an exponential distribution, as of waiting times."""
    if not answers:
        return []
    scale = _scale(min(mean, 0.99 * limit), limit)
    quantiles = [min(limit, max(1.0, -scale * math.log(1 - (i + 0.5) / answers))) for i in range(answers)]
    stride = next((s for s in (37, 41, 43) if math.gcd(s, answers) == 1), 1)
    return [quantiles[i * stride % answers] for i in range(answers)]


def _scale(mean: float, limit: float) -> float:
    """Of the exponential distribution which has this mean once it is cut at the limit: scale * (1 - exp(-limit / scale)) = mean."""
    low, high = mean, 100 * limit
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * (1 - math.exp(-limit / middle)) < mean else (low, middle)
    return high
