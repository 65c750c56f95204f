"""evalkit's engines as a model class of lm-eval: importing this package registers the model `evalkit` there.

python -m evalkit.lm_eval --model evalkit --model_args pretrained=MODEL --tasks TASKS ..   lm-eval's own command line, all of it
"""

from evalkit.errors import pip_install

try:
    import lm_eval.models  # noqa: F401 - it registers lm-eval's own, which it would not where there is one already
    from lm_eval.api.registry import model_registry
except ImportError:
    raise ImportError(f"evalkit.lm_eval needs lm-eval; run {pip_install('lm-eval')}") from None

from evalkit.lm_eval.model import EvalkitLM

model_registry.register("evalkit", target=EvalkitLM)

__all__ = ["EvalkitLM"]
