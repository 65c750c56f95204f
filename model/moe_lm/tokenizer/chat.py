"""Chat templates: a conversation as the one text that the model was trained to see.

A template is rendered as transformers' apply_chat_template does it, in a process of its own (`template_worker.py`) with
limits on time, memory and output, since templates come from strangers. The process is started once and answers all later calls.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from moe_lm.errors import ModelError
from moe_lm.tokenizer.template_worker import CPU_SECONDS, DATA_BYTES, LENGTH_BYTES

Message = Mapping[str, Any]  # {"role": "system" | "user" | "assistant" | .., "content": text, or a list of text parts, ..}

WALL_SECONDS = 60.0  # a process that has not answered by then is hung, however busy the machine is


class TemplateRefusal(ModelError):
    """The template would drop what it was given: `field` names it."""

    def __init__(self, message: str, field: str):
        super().__init__(message)
        self.field = field


def render(
    messages: Sequence[Message],
    template: str | None,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
    arguments: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The conversation as text, special tokens written out; where no message has the role "system", what the template puts there.

    `arguments` are further variables of the template, such as enable_thinking. All that is given must be plain JSON.

    Raises ModelError, in one line, where there is no template or it fails: by its own raise_exception, a syntax error, an unsafe
    access, too much time or memory, or anything else that a program can do wrong. Raises TemplateRefusal for tools, arguments and
    further fields of messages that the template never reads.
    """
    if not template:
        raise ModelError("the model has no chat template; leave out --chat and write the prompt as the model knows it")
    variables: dict[str, Any] = {"tools": tools, "documents": documents, "add_generation_prompt": add_generation_prompt}
    # a token that the model does not name is undefined, not empty: some templates test for that
    variables |= {name: token for name, token in (("bos_token", bos_token), ("eos_token", eos_token)) if token}
    arguments = dict(arguments or {})
    if taken := sorted(arguments.keys() & {"messages", *variables}):
        raise TemplateRefusal(f"{taken[0]!r} is not an argument of the chat template: it is set by the conversation", taken[0])
    asked = {"template": template, "messages": [dict(m) for m in messages], "variables": variables, "arguments": arguments}
    answer = _worker.ask(asked)
    if "text" in answer:
        return answer["text"]
    if "field" in answer:
        raise TemplateRefusal(f"{answer['refused']}; leave it out", answer["field"])
    raise ModelError(f"the model's chat template failed: {answer['failed']}")


class _Worker:
    """The process that renders, started at the first call and again after it was ended. Any thread may ask; a fork starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The process's answer, or {"failed": why there is none}."""
        try:
            encoded = json.dumps(asked).encode()
        except RecursionError:
            return {"failed": "what it is given is nested too deeply"}
        with self._lock:
            for attempt in range(2):
                process = self._started()
                try:
                    assert process.stdin
                    process.stdin.write(len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded)
                    process.stdin.flush()
                except BrokenPipeError:  # ended from outside while it was idle
                    self._end()
                    if attempt:
                        raise ModelError("the process that renders chat templates cannot be started") from None
                    continue
                break
            answer = self._answer(process)
            if answer is None:
                process.kill()
                answer = {"failed": _why(process.wait())}
                self._end()
        if "memory" in answer:
            return {"failed": f"it needs more than {DATA_BYTES >> 20} MiB of memory"}
        return answer

    def _answer(self, process: "subprocess.Popen[bytes]") -> dict[str, Any] | None:
        """None where the process has ended or does not answer."""
        length = self._read(process, LENGTH_BYTES)
        content = length and self._read(process, int.from_bytes(length, "little"))
        return json.loads(content) if content else None

    def _read(self, process: "subprocess.Popen[bytes]", size: int) -> bytes | None:
        assert process.stdout
        parts = bytearray()
        while len(parts) < size:
            ready, _, _ = select.select([process.stdout], [], [], WALL_SECONDS)
            part = os.read(process.stdout.fileno(), size - len(parts)) if ready else b""
            if not part:
                return None
            parts += part
        return bytes(parts)

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            # -P: the worker's own folder, which has modules of common names, is not searched
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("template_worker.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with suppress(BrokenPipeError):  # what it had not read is lost
                    pipe.close()

    def close(self) -> None:
        """End the process; a later call starts another."""
        with self._lock:
            self._end()

    def after_fork(self) -> None:
        """In a forked child: the process and its pipes are the parent's."""
        self._forgotten = self._process  # kept, so that it is not reported as left behind
        self._lock, self._process = threading.Lock(), None


def _why(status: int) -> str:
    """Why a worker ended: negative for a signal."""
    if status == -signal.SIGPROF:
        return f"it takes more than {CPU_SECONDS:g} s of processor time"
    if status == -signal.SIGKILL:
        return "its process did not answer"
    return f"its process ended with {signal.Signals(-status).name if status < 0 else f'status {status}'}"


_worker = _Worker()
atexit.register(_worker.close)
os.register_at_fork(after_in_child=_worker.after_fork)
