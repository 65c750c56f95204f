"""Workers that are Ray actors, on the machines of a cluster. Ray places them, and sees when an actor or a node is lost."""

from __future__ import annotations

import importlib.util
import os
import queue
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError, first_line, pip_install
from evalkit.workers.messages import FromWorker, ToWorker
from evalkit.workers.processes import ON_GPUS
from evalkit.workers.transport import Link, Transport
from evalkit.workers.worker import serve

HELD = 256  # messages that an actor holds for a driver that does not ask for them; then its engine waits
LISTEN = 1.0  # seconds that a call waits for an actor's first message
PACKAGES = ("evalkit", "moe_lm", "evalkit_tasks")
VARIABLES = ("HF_HUB_OFFLINE", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE")


class Worker:
    """The actor: the engine runs in a thread, and what it says waits to be fetched."""

    def __init__(self) -> None:
        self._said: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self._says: queue.Queue[FromWorker] = queue.Queue(HELD)
        threading.Thread(target=serve, args=(self._said.get, self._says.put), daemon=True).start()

    def tell(self, message: ToWorker) -> None:
        self._said.put(message)

    def fetch(self) -> list[FromWorker]:
        """What it has said: waits for the first message, and takes all that are there."""
        found: list[FromWorker] = []
        with suppress(queue.Empty):
            found.append(self._says.get(timeout=LISTEN))
            while True:
                found.append(self._says.get_nowait())
        return found


class Actor(Link):
    """A worker's actor. `fetching`: the call under way that brings what it says next."""

    def __init__(self, ray: Any, handle: Any, number: int):
        self.ray, self.handle, self.place = ray, handle, f"actor {number + 1}, see Ray's logs"
        self.fetching: Any = handle.fetch.remote()
        self.error = ""

    def send(self, message: ToWorker) -> None:
        with suppress(self.ray.exceptions.RayError):  # it is gone, which `fetching` finds out too
            self.handle.tell.remote(message)

    def kill(self) -> None:
        self.fetching = None
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(self.handle)

    def why(self) -> str:
        return self.error


class RayActors(Transport):
    """`count` actors, or one a GPU, or without GPUs one a node. Raises EvalkitError without Ray, a cluster or room."""

    def __init__(self, address: str, model: ModelSpec, count: int | None):
        self.ray = ray = _ray()
        settings: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            try:
                ray.init(
                    address=address,
                    namespace="evalkit",
                    log_to_driver=False,
                    configure_logging=False,
                    runtime_env=_environment(is_remote=address != "local"),
                    **settings,
                )
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise EvalkitError(f"--ray {address}: {first_line(error)}; give the address of a running cluster, auto, or local") from None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = [int(resources.get("CPU", 0)) for resources in nodes]
        gpus = sum(int(resources.get("GPU", 0)) for resources in nodes)
        on_gpus = gpus > 0 and model.engine.partition(":")[0] in ON_GPUS and model.device != "cpu"
        self.count = count or (gpus if on_gpus else sum(n > 0 for n in cpus))
        if on_gpus and self.count > gpus:
            raise EvalkitError(f"--workers {count}, and the cluster has {gpus} GPUs: one worker a GPU; give --workers {gpus}")
        # the most threads for each with which all have room
        self.threads = max((n for n in range(1, max(cpus, default=0) + 1) if sum(each // n for each in cpus) >= self.count), default=0)
        if not self.threads:
            raise EvalkitError(f"--workers {self.count}, and the cluster has {sum(cpus)} CPUs: a worker takes at least one; give fewer")
        self._most_here = max(max(cpus) // self.threads, 1)
        options = {"num_cpus": self.threads, "num_gpus": int(on_gpus), "max_restarts": 0, "max_task_retries": 0}
        groups = {"tell": 1, "fetch": 1}  # a thread for each, so that messages keep their order
        methods = {
            "tell": ray.method(concurrency_group="tell")(Worker.tell),
            "fetch": ray.method(concurrency_group="fetch")(Worker.fetch),
        }
        self._class = ray.remote(concurrency_groups=groups)(type("EvalkitWorker", (Worker,), methods)).options(**options)
        self._on_gpus = on_gpus
        self._actors: dict[Actor, None] = {}

    def sharing(self, number: int) -> int:
        return 1 if self._on_gpus else min(self.count, self._most_here)

    def start(self, number: int) -> Actor:
        actor = Actor(self.ray, self._class.remote(), number)
        self._actors[actor] = None
        return actor

    def receive(self, timeout: float) -> Iterable[tuple[Actor, FromWorker | None]]:
        fetching = {actor.fetching: actor for actor in self._actors if actor.fetching is not None}
        self._actors = dict.fromkeys(fetching.values())
        if not fetching:
            return []
        calls = list(fetching)
        done, _ = self.ray.wait(calls, num_returns=1, timeout=timeout)
        if done:
            done, _ = self.ray.wait(calls, num_returns=len(calls), timeout=0)
        found: list[tuple[Actor, FromWorker | None]] = []
        for call in done:
            actor = fetching[call]
            try:
                found += [(actor, message) for message in self.ray.get(call)]
                actor.fetching = actor.handle.fetch.remote()
            except self.ray.exceptions.RayError as error:
                actor.error, actor.fetching = first_line(error), None
                found.append((actor, None))
        return found

    def close(self) -> None:
        for actor in self._actors:
            actor.kill()
        self._actors = {}
        if self._is_ours:
            self.ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # an actor without GPUs is left what it sees
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise EvalkitError(f"--ray needs Ray; run {pip_install('ray')}") from None
    return ray


def _environment(is_remote: bool) -> dict[str, Any]:
    """What actors need of this process: settings, but no keys, which a cluster shows to its users; and, on other machines, its own code,
    so that driver and workers are of one version."""
    environment: dict[str, Any] = {"env_vars": {name: value for name in VARIABLES if (value := os.environ.get(name))}}
    if is_remote:
        found = [importlib.util.find_spec(package) for package in PACKAGES]
        environment["py_modules"] = [folder for each in found if each for folder in each.submodule_search_locations or ()]
    return environment
