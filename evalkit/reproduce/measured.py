"""What was measured for plans, kept in the reproduction's folder: the device's speed, tasks' workloads, and what journals answer."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from evalkit.codec import decode, encode
from evalkit.config import ModelSpec
from evalkit.errors import EvalkitError
from evalkit.files import write_output
from evalkit.lm.native import device_of, dtype_of
from evalkit.lm.pass_speed import Like, PassSpeed, measure
from evalkit.record.write import processor
from evalkit.runner.workload import Workload

FILE = "measured.json"
SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """Speeds by device, precision, kernels and threads; workloads by a key of protocol, data, limit and model (`Job.key`); by run and
    task, the keys under which its journal was written.
    """

    schema: Literal[1] = SCHEMA
    speeds: Mapping[str, PassSpeed] = field(default_factory=dict)
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    journals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Measurements:
    """The file. One that cannot be read is measured again: nothing but the plan depends on it."""

    def __init__(self, folder: Path):
        self.file = folder / FILE
        try:
            self.known = decode(Measured, json.loads(self.file.read_text("utf-8")), str(self.file))
        except (OSError, ValueError, EvalkitError):
            self.known = Measured()

    def speed(self, model: ModelSpec, like: Like) -> PassSpeed:
        """This device's speed in the model's precision, on its kernels; measured if need be, for about two seconds.

        One that was measured while other programs had the processor is not kept: it would be untrue of the hours after them.
        """
        key = f"{device_key(model)}, {like}"
        if key in self.known.speeds:
            return self.known.speeds[key]
        speed = measure(model, like)
        if not speed.is_of_a_busy_device:
            self._keep(replace(self.known, speeds={**self.known.speeds, key: speed}))
        return speed

    def workload(self, key: str) -> Workload | None:
        return self.known.workloads.get(key)

    def keep_workload(self, key: str, work: Workload) -> None:
        self._keep(replace(self.known, workloads={**self.known.workloads, key: work}))

    def is_answering(self, run: str, task: str, key: str) -> bool:
        """Do the run's answers to the task belong to this key alone? A journal keeps the answers of other weights and rows too."""
        return self.known.journals.get(f"{run} {task}") == (key,)

    def keep_answering(self, run: str, keys: Mapping[str, str]) -> None:
        """The run is about to answer these tasks, under these keys."""
        found = {f"{run} {task}": key for task, key in keys.items()}
        known = self.known.journals
        new = {name: tuple(dict.fromkeys((*known.get(name, ()), key))) for name, key in found.items()}
        if not new.items() <= known.items():
            self._keep(replace(self.known, journals={**known, **new}))

    def _keep(self, known: Measured) -> None:
        self.known = known
        with suppress(EvalkitError):  # a folder that can't be written is no reason not to plan
            write_output(self.file, json.dumps(encode(known), indent=2) + "\n")


def device_key(model: ModelSpec) -> str:
    """What a speed is measured with: "AMD EPYC (cpu), threads: 2, float32, kernel auto, torch 2.13.0"."""
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    where = f"{processor()} ({device_of(model)}), threads: {threads}"
    return f"{where}, {dtype_of(model)}, kernel {model.kernel}, torch {version('torch')}"
