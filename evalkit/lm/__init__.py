"""Back-ends: what answers requests. `ENGINES` names them; `open_lm` builds the one that a ModelSpec asks for."""

from evalkit.config import ModelSpec
from evalkit.errors import unknown
from evalkit.lm.base import LM

ENGINES = ("native", "lm_eval:CLASS", "openai:URL", "replay:RUN")


def open_lm(model: ModelSpec) -> LM:
    """The model behind `model.engine`; the native one's weights are read later. Raises EvalkitError, in one line, for what is wrong."""
    name, _, argument = model.engine.partition(":")
    if name == "native" and not argument:
        from evalkit.lm.native import NativeLM

        return NativeLM.open(model)
    if name == "lm_eval" and argument:
        from evalkit.lm.lm_eval import LmEvalLM

        return LmEvalLM.load(model, argument)
    if name == "openai" and argument:
        from evalkit.lm.openai import OpenAILM

        return OpenAILM.load(model, argument)
    if name == "replay" and argument:
        from evalkit.lm.replay import ReplayLM

        return ReplayLM(argument)
    raise unknown("engine", model.engine, ENGINES)
