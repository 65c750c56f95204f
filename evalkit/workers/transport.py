"""What carries messages: processes on this machine, Ray actors, or a test."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from evalkit.workers.messages import FromWorker, ToWorker


class Link(ABC):
    """A worker, as its driver sees it."""

    place: str = ""  # where it runs and logs, in words

    @abstractmethod
    def send(self, message: ToWorker) -> None:
        """Returns at once; what a worker that is gone was sent is dropped."""

    @abstractmethod
    def kill(self) -> None:
        """End it, whatever it does. Nothing of it is received from now on."""

    @abstractmethod
    def why(self) -> str:
        """Why it is gone, in words."""


class Transport(ABC):
    """Starts workers and receives what they say."""

    weights: int | None = None  # descriptor of a file in memory that all workers have inherited

    @abstractmethod
    def start(self, number: int) -> Link:
        """A new worker in the given place, 0 .. count - 1."""

    @abstractmethod
    def sharing(self, number: int) -> int:
        """How many workers share this one's machine, itself included."""

    @abstractmethod
    def receive(self, timeout: float) -> Iterable[tuple[Link, FromWorker | None]]:
        """What has been said, in order for each worker; waits for the first of it, at most `timeout` seconds. None: the worker is gone."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""
