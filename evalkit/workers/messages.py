"""What a driver and its workers say to each other, whatever carries it.

    driver                              worker
    Hello ----------------------------> opens the engine
          <---------------------------- Opened: its fingerprint and description, or Failed
    Prepare --------------------------> reads the weights
          <---------------------------- Loading .., Loaded
    Lease: some requests -------------> computes
          <---------------------------- Answer, one for each request as soon as it is known; then Finished
          <---------------------------- Alive, every BEAT seconds whatever it does: this renews the lease

The driver has the journal, and a worker keeps nothing. A worker holds one lease at a time, so that neither side waits with more than that:
the driver sends nothing to a busy worker, and a worker that the driver does not listen to waits with its next answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.config import ModelSpec
from evalkit.tasks import Request, Response

BEAT = 2.0  # seconds between signs of life
SILENCE = 20.0  # seconds without one, after which a worker has lost its lease
STARTING = 120.0  # the same while it starts, opens its engine or reads weights: a library may hold Python's lock for long


@dataclass(frozen=True, slots=True)
class Hello:
    """Open the engine. `number` is the worker's, from 0; `sharing` and `weights` are what `LM.share_memory` is told."""

    model: ModelSpec
    number: int
    sharing: int
    weights: int | None = None


@dataclass(frozen=True, slots=True)
class Prepare:
    """Read the weights."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Answer these requests, all of one kind."""

    id: int
    requests: Sequence[Request]


@dataclass(frozen=True, slots=True)
class Opened:
    """The engine is open: who it is, and what `LM.describe` says of it."""

    fingerprint: str
    description: Mapping[str, Any]
    notices: Sequence[str]


@dataclass(frozen=True, slots=True)
class Loading:
    """So many parameters are read, of so many."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The weights are read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A request's response; `index` counts in its lease. `computed` and `shared`: the worker's tokens so far."""

    lease: int
    index: int
    response: Response
    computed: int
    shared: int


@dataclass(frozen=True, slots=True)
class Finished:
    """All requests of the lease are answered. An engine may know more of itself by now."""

    lease: int
    description: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Alive:
    """A sign of life; `unfinished`: new tokens so far of each answer in the making."""

    computed: int
    shared: int
    unfinished: Sequence[int]


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker ends. `exit_code` is that of an EvalkitError; None: the engine failed, and the worker's log has the traceback."""

    message: str
    exit_code: int | None


ToWorker = Hello | Prepare | Lease
FromWorker = Opened | Loading | Loaded | Answer | Finished | Alive | Failed
