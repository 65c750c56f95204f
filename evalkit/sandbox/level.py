"""The sandbox level: which layers this machine supports."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# layer: what it isolates
LAYERS = {
    "namespaces": "own users, processes and network (none); a read-only tree with nothing of the host; one small writable /tmp",
    "seccomp": "no ptrace, mount, namespaces, sockets, exec; no memory that nothing counts; none of the kernel's large or new calls",
    "landlock": "the same files once more, nothing executable, no signals to outside",
    "rlimits": "CPU time, memory, file size, processes, open files, no core dumps",
}
# Landlock is an additional layer; these two are required
REQUIRED = ("namespaces", "seccomp")
_SWITCHES = (  # file below /proc/sys, the value that forbids namespaces, the command that allows them
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
    ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
)
_ELSE = "Linux 5.14 or later; in a container, docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined"


@dataclass(frozen=True, slots=True)
class Level:
    """The missing layers, and why. rlimits always work."""

    missing: Mapping[str, str]

    def has(self, layer: str) -> bool:
        return layer not in self.missing

    @property
    def name(self) -> str:
        """ "full", or what is missing: "no-landlock", "no-namespaces-seccomp"."""
        return f"no-{'-'.join(self.missing)}" if self.missing else "full"

    @property
    def layers(self) -> dict[str, str]:
        """Layer -> what it isolates, of those that work."""
        return {name: gives for name, gives in LAYERS.items() if self.has(name)}

    @property
    def safe(self) -> bool:
        """Whether untrusted code may run."""
        return all(self.has(layer) for layer in REQUIRED)

    @property
    def fix(self) -> str:
        """What to enable for a safe level."""
        if self.has("namespaces"):
            return "x86_64 or aarch64, and a kernel with CONFIG_SECCOMP_FILTER"
        for file, forbidden, command in _SWITCHES:
            path = Path("/proc/sys", file)
            if path.exists() and path.read_text().strip() == forbidden:
                return command
        return _ELSE

    def __str__(self) -> str:
        """One line for the screen."""
        absent = "".join(f"; {name} missing: {reason}" for name, reason in self.missing.items())
        return f"sandbox level {self.name} ({', '.join(self.layers)}{absent})"
