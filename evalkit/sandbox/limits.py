"""Limits on what a program may use."""

import math
import resource
from dataclasses import dataclass, fields

from evalkit.errors import EvalkitError

MAX_OUTPUT = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """CPU time counts; the wall clock stops programs that sleep. Raises EvalkitError for a limit out of range."""

    cpu_seconds: float = 3.0  # of all its processes together
    wall_seconds: float = 20.0
    memory_bytes: int = 1 << 30  # address space of each process, and what all hold together (memory.py)
    disk_bytes: int = 64 << 20  # the size of its /tmp
    processes: int = 32  # threads count
    open_files: int = 64
    output_bytes: int = 64 << 10  # of its output that are kept

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise EvalkitError(f"sandbox limit {field.name} is {value}; pass a number above 0")
        if self.output_bytes > MAX_OUTPUT:
            raise EvalkitError(f"sandbox limit output_bytes is {self.output_bytes}; at most {MAX_OUTPUT} are kept")

    @classmethod
    def of(cls, cpu_seconds: float | None) -> "Limits":
        """The usual limits, or with this limit of CPU time, and so much more on the clock."""
        usual = cls()
        return usual if cpu_seconds is None else cls(cpu_seconds, wall_seconds=usual.wall_seconds + cpu_seconds)

    def apply(self) -> None:
        """Apply the limits irrevocably to this process and its children."""
        # the kernel counts whole seconds here; the supervisor stops it earlier, at the exact limit
        cpu = math.ceil(self.cpu_seconds) + 1
        for name, value in (
            (resource.RLIMIT_CPU, cpu),
            (resource.RLIMIT_AS, self.memory_bytes),
            (resource.RLIMIT_FSIZE, self.disk_bytes),
            (resource.RLIMIT_NPROC, self.processes + 1),  # the jail's init counts too
            (resource.RLIMIT_NOFILE, self.open_files),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_SIGPENDING, 256),
        ):
            hard = resource.getrlimit(name)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(name, (value, value))
