"""A worker: an engine that answers leases. It knows nothing of tasks, documents or the journal, and keeps nothing."""

import threading
import time
import traceback
from collections.abc import Callable

from evalkit.errors import EvalkitError, in_words
from evalkit.lm import open_lm
from evalkit.lm.base import LM, Tokens, responses_to
from evalkit.workers.messages import (
    BEAT,
    Alive,
    Answer,
    Failed,
    Finished,
    FromWorker,
    Hello,
    Lease,
    Loaded,
    Loading,
    Opened,
    Prepare,
    ToWorker,
)

Open = Callable[[Hello], LM]


def engine_of(hello: Hello) -> LM:
    """The engine that a worker is to open. Raises EvalkitError."""
    lm = open_lm(hello.model, hello.number)
    lm.keep_prefixes()  # a branch comes in parts
    lm.share_memory(hello.sharing, hello.weights)
    return lm


def serve(receive: Callable[[], ToWorker], send: Callable[[FromWorker], None], open_engine: Open = engine_of) -> None:
    """Do as the driver says, until the engine fails or whoever waits in `receive` is ended. `send` may be called by two threads."""
    engine: list[LM] = []
    ended = threading.Event()
    threading.Thread(target=_beat, args=(engine, send, ended), daemon=True).start()
    try:
        while True:
            _do(receive(), send, engine, open_engine)
    except EvalkitError as error:
        send(Failed(str(error), error.exit_code))
    except BaseException as error:
        traceback.print_exc()
        send(Failed(in_words(error), None))
    finally:
        ended.set()


def _do(message: ToWorker, send: Callable[[FromWorker], None], engine: list[LM], open_engine: Open) -> None:
    match message:
        case Hello():
            log(f"worker {message.number + 1} opens {message.model.name} with {message.model.engine}")
            lm = open_engine(message)
            engine.append(lm)
            send(Opened(lm.fingerprint, lm.describe(), tuple(lm.notices)))
        case Prepare():
            engine[0].prepare(_Percent(send))
            log("the model is read")
            send(Loaded())
        case Lease():
            log(f"lease {message.id}: {len(message.requests)} requests")
            for index, response in responses_to(engine[0], message.requests):
                tokens = engine[0].tokens()
                send(Answer(message.id, index, response, tokens.computed, tokens.shared))
            send(Finished(message.id, engine[0].describe()))


def log(text: str) -> None:
    """A line of the worker's log, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class _Percent:
    """Says how much of the weights is read, a hundred times at most."""

    def __init__(self, send: Callable[[FromWorker], None]):
        self.send, self.said = send, -1

    def __call__(self, done: int, total: int) -> None:
        if done * 100 // total > self.said:
            self.said = done * 100 // total
            self.send(Loading(done, total))


def _beat(engine: list[LM], send: Callable[[FromWorker], None], ended: threading.Event) -> None:
    """Signs of life, from the start on."""
    while True:
        tokens = engine[0].tokens() if engine else Tokens()
        send(Alive(tokens.computed, tokens.shared, tuple(engine[0].unfinished()) if engine else ()))
        if ended.wait(BEAT):
            return
