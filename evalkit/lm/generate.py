"""`evalkit generate`: completes one prompt with the native back-end."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.config import DEMO, ModelSpec
from evalkit.errors import EvalkitError
from evalkit.tasks import Generate, Generated

if TYPE_CHECKING:  # the command line reads GenerateConfig's defaults; rich would slow --help down
    from evalkit.progress import Reporter


@dataclass(frozen=True, slots=True)
class GenerateConfig:
    """One `evalkit generate`. Prompt "-" is read from standard input."""

    prompt: str
    model: ModelSpec = DEMO
    chat: bool = False  # through the model's chat template
    system: str | None = None  # None: the template's default
    max_new_tokens: int = 256
    temperature: float = 0.0  # 0: greedy
    seed: int = 0

    def __post_init__(self) -> None:
        if self.system is not None and not self.chat:
            raise EvalkitError("--system needs --chat: without it the prompt goes to the model as it stands")
        if self.model.chat_template_args and not self.chat:
            raise EvalkitError("--chat-template-arg needs --chat: without it the prompt goes to the model as it stands")
        if self.max_new_tokens < 1:
            raise EvalkitError(f"--max-new-tokens is {self.max_new_tokens}; give at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise EvalkitError(f"--temperature is {self.temperature}; give 0 (greedy) or more")


def generate(config: GenerateConfig, reporter: Reporter) -> None:
    """Write the answer to standard output, and time and tokens to the reporter. Raises EvalkitError for bad input."""
    from evalkit.lm.native import NativeLM

    prompt = _prompt(config.prompt)
    with reporter.bar("loading model", 100, counted=False) as advance:
        lm = NativeLM.load(config.model, lambda done, total: advance(done * 100 // total))
    for notice in lm.notices:
        reporter.say(notice)
    if config.chat:
        system = [] if config.system is None else [{"role": "system", "content": config.system}]
        prompt = lm.chat_prompt([*system, {"role": "user", "content": prompt}])
    start = time.perf_counter()
    request = Generate(prompt, (), config.max_new_tokens, config.temperature, config.seed)
    ((_, answer),) = lm.generate([request])
    print(answer.text, flush=True)
    reporter.say(_stats(answer, time.perf_counter() - start))


def _prompt(given: str) -> str:
    """The prompt; if read from standard input, without the line end that `echo` adds."""
    try:
        text = sys.stdin.read().removesuffix("\n") if given == "-" else given
        text.encode()  # bytes in another encoding arrive from the shell as surrogates
    except UnicodeError:
        raise EvalkitError("the prompt is not valid UTF-8 text; convert it, or pipe it in with --prompt -") from None
    if not text.strip():
        raise EvalkitError('the prompt is empty; try evalkit generate --prompt "Once upon a time"')
    return text


def _stats(answer: Generated, seconds: float) -> str:
    ends = {"eos": "ended by the model", "length": "cut at --max-new-tokens"}
    cut = f"; the prompt's first {answer.truncated} tokens did not fit and were left out" if answer.truncated else ""
    rate = f"{answer.num_tokens / seconds:.1f} tokens/s"
    return f"{answer.num_tokens} tokens in {seconds:.1f} s, {rate}, {ends.get(answer.finish_reason, answer.finish_reason)}{cut}"
