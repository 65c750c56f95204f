"""Back-ends: what answers requests. `ENGINES` names them; `open_lm` builds the one a RunConfig asks for."""

from evalkit.config import RunConfig
from evalkit.errors import unknown
from evalkit.lm.base import LM, OnLoad

ENGINES = ("native", "lm_eval:CLASS", "openai:URL", "replay:RUN")


def open_lm(config: RunConfig, on_load: OnLoad | None = None) -> LM:
    """Load the model behind `config.engine`. Raises EvalkitError, in one line, for whatever is wrong with it."""
    name, _, argument = config.engine.partition(":")
    if name == "native" and not argument:
        from evalkit.lm.native import NativeLM

        return NativeLM.load(config, on_load)
    if name == "lm_eval" and argument:
        from evalkit.lm.lm_eval import LmEvalLM

        return LmEvalLM.load(config, argument)
    if name == "openai" and argument:
        from evalkit.lm.openai import OpenAILM

        return OpenAILM.load(config, argument)
    if name == "replay" and argument:
        from evalkit.lm.replay import ReplayLM

        return ReplayLM(argument)
    raise unknown("engine", config.engine, ENGINES)
