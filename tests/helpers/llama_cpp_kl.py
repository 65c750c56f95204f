"""llama.cpp's KL divergence of one position, as `llama-perplexity --kl-divergence` computes it, from its description of it."""

import math

import numpy as np


def llama_cpp_kl(base, logits):
    """The base's log-probabilities are kept in 16 bits, from 16 nats below the best on, and tokens below e^-16 left out; exponentials are
    float32's, sums float64's. Takes float32 logits [V].
    """
    f32 = np.float32
    low = max(base.min(), base.max() - f32(16))
    total = f32(math.log(np.exp(base - base.max()).astype(float).sum()))
    scale = f32((base.max() - low) / f32(65535))
    steps = np.where(base > low, np.rint((base - low) / scale), 0).astype(f32)
    log_p = scale * steps + (low - base.max() - total)
    log_q_shift = logits.max() + f32(math.log(np.exp(logits - logits.max()).astype(float).sum()))
    kept = log_p > -16
    return float((np.exp(log_p[kept]) * (log_p[kept] - logits[kept] + log_q_shift)).astype(float).sum())
