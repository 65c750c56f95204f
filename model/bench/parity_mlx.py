"""mlx-lm beside the native engine on the same weights: logits after every token of a text, on a CPU.

    pip install mlx mlx-cpu mlx-lm
    python model/bench/parity_mlx.py [MODEL] [--tokens 64]

MODEL is a name, a folder or a GGUF file, which is written as a Hugging Face folder first (to the model cache), and both read that. MLX's
Linux build computes on a CPU without vector instructions of its own: it tells whether both agree, not how fast MLX is on a Mac.
"""

import argparse
from typing import Any

import numpy as np

from evalkit.config import ModelSpec
from evalkit.lm.distributions import TokenRequest
from evalkit.lm.lm_eval import exported_folder
from evalkit.lm.models import find
from evalkit.lm.native import NativeLM

TEXT = (
    "Evaluation is the measurement of a model on questions whose answers are known. In 1889, Paris built a tower of iron; today "
    "2 + 2 = 4, def f(x): return x ** 2, and the sum of the first hundred numbers is 5050. Wer die Zahlen prüft, prüft auch den Rechner."
)
HELD = 1e-3  # KL divergence in nats, mean over the positions; float32 on both sides gives about 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=64, help="at most so many of the text")
    options = parser.parse_args()
    try:
        import mlx.core as mx
        from mlx_lm.utils import load_model
    except ImportError as error:
        raise SystemExit(f"error: {error}: pip install mlx mlx-cpu mlx-lm") from None

    folder = exported_folder(find(options.model, for_transformers=True))
    lm = NativeLM.load(ModelSpec(str(folder), dtype="float32", device="cpu"))
    ids = lm.encode(TEXT)[: options.tokens]
    request = TokenRequest((ids[0],), (tuple(ids[1:]),))
    ours = np.stack([each.logits for each in lm.distributions([request])])  # [tokens - 1, V]
    model, _ = load_model(folder)
    found: Any = model(mx.array([ids[:-1]]))
    theirs = np.array(found[0].astype(mx.float32))[:, : ours.shape[1]]
    p, q = _log_softmax(ours), _log_softmax(theirs)
    divergence = (np.exp(p) * (p - q)).sum(-1)
    same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    print(f"{options.model}, {len(ids)} tokens, float32, mlx {mx.__version__} on {mx.default_device()}")
    print(f"largest difference of a logit {np.abs(ours - theirs).max():.2e}, mean KL {divergence.mean():.2e}, same top token {same:.2%}")
    if not divergence.mean() < HELD:
        raise SystemExit(f"error: the mean KL is not below {HELD:g}: the engines compute different models")


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, over the last dimension."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


if __name__ == "__main__":
    main()
