"""Text to token ids, off the event loop: a short text never waits for long ones."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from evalkit.lm.native_tokens import TokenModel, fault_of, trim_heap

T = TypeVar("T")

SHORT = 20_000  # characters, which take milliseconds


class Encoder:
    """`encode` for many clients at once."""

    def __init__(self, model: TokenModel):
        self.model = model
        self._short, self._long = (ThreadPoolExecutor(2, f"evalkit-encode-{name}") for name in ("short", "long"))

    async def __call__(self, text: str, bos: bool = True) -> list[int]:
        """The ids of a text, as `TokenModel.encode`. Raises EvalkitError for a text that is not valid Unicode."""
        return await self._run(len(text), lambda: self.model.encode(text, bos))

    async def chat(self, messages: Sequence[dict[str, Any]], **settings: Any) -> tuple[list[int], tuple[str, ...]]:
        """As `TokenModel.chat`."""
        return await self._run(sum(len(str(message)) for message in messages), lambda: self.model.chat(messages, **settings))

    async def _run(self, length: int, function: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        if length <= SHORT:
            return await loop.run_in_executor(self._short, _guarded, function)
        return await loop.run_in_executor(self._long, _and_trim, function)

    def close(self) -> None:
        """Drop what has not begun."""
        for pool in (self._short, self._long):
            pool.shutdown(wait=False, cancel_futures=True)


def _and_trim(function: Callable[[], T]) -> T:
    """The function's result; what it took meanwhile, some hundred bytes a token, goes back to the operating system."""
    try:
        return _guarded(function)
    finally:
        trim_heap()


def _guarded(function: Callable[[], T]) -> T:
    """The function's result; a panic of the tokenizers library, which is not an Exception, becomes one."""
    try:
        return function()
    except Exception:
        raise
    except BaseException as error:
        raise fault_of(error) from None
