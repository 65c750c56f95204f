"""Back-ends answer requests. `ENGINES` lists them; `open_lm` opens the one that a ModelSpec names."""

from evalkit.config import ModelSpec
from evalkit.errors import unknown
from evalkit.lm.base import LM

ENGINES = ("native", "llama_cpp", "lm_eval:CLASS", "openai:URL", "replay:RUN", "python:FILE:CLASS")


def require_model(model: ModelSpec) -> None:
    """Raises EvalkitError for an engine or a model that cannot be one, at once: without the network, and before any data is read."""
    name, _, argument = model.engine.partition(":")
    takes_argument = {known.partition(":")[0]: ":" in known for known in ENGINES}
    if takes_argument.get(name) != bool(argument):
        raise unknown("engine", model.engine, ENGINES)
    if name == "llama_cpp":
        from evalkit.lm.llama_cpp.library import require_installed

        require_installed()
    if name == "python":
        from evalkit.lm.python.engine import require_class

        require_class(model, argument)
    if name in ("native", "llama_cpp"):
        from evalkit.lm.models import require_known

        require_known(model.name)


def open_lm(model: ModelSpec, worker: int | None = None) -> LM:
    """Open the model with `model.engine`; the native engine reads the weights later. Raises EvalkitError.

    Of several servers (openai:URL,URL) each worker, by number, asks one; without workers they are refused.
    """
    name, _, argument = model.engine.partition(":")
    if name == "native" and not argument:
        from evalkit.lm.native import NativeLM

        return NativeLM.open(model)
    if name == "llama_cpp" and not argument:
        from evalkit.lm.llama_cpp.engine import LlamaCppLM

        return LlamaCppLM.open(model)
    if name == "lm_eval" and argument:
        from evalkit.lm.lm_eval import LmEvalLM

        return LmEvalLM.load(model, argument)
    if name == "openai" and argument:
        from evalkit.lm.openai import OpenAILM

        return OpenAILM.load(model, argument, worker)
    if name == "replay" and argument:
        from evalkit.lm.replay import ReplayLM

        return ReplayLM(argument)
    if name == "python" and argument:
        from evalkit.lm.python.engine import PythonLM

        return PythonLM.load(model, argument)
    raise unknown("engine", model.engine, ENGINES)
