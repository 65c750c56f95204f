"""Back-ends: what answers requests. `ENGINES` names them; `open_lm` builds the one a RunConfig asks for."""

from evalkit.config import RunConfig
from evalkit.errors import unknown
from evalkit.lm.base import LM

ENGINES = ("native", "lm_eval:CLASS", "openai:URL", "replay:RUN")


def open_lm(config: RunConfig) -> LM:
    """The model behind `config.engine`; the native one's weights are read later. Raises EvalkitError, in one line, for what is wrong."""
    name, _, argument = config.engine.partition(":")
    if name == "native" and not argument:
        from evalkit.lm.native import NativeLM

        return NativeLM.open(config)
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
