"""Builds the CPU kernels of csrc/ into lib/, one shared library for each kind of processor: `python -m moe_lm.backends.cpu.build`.

The build hook of the package runs the same code (hatch_build.py), so this module needs nothing but the standard library.
Beside the libraries lies a manifest of what was built from what; `library.py` loads nothing that the manifest does not describe.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "csrc"
LIB = Path(__file__).parent / "lib"
MANIFEST = "manifest.json"
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi")
# the best one first; what the compiler may contract is written out in the source, as targets differ in what they would
VARIANTS = {
    "x86_64": {"avx512": ("-march=x86-64-v4", "-mtune=cascadelake", "-mprefer-vector-width=512"), "avx2": ("-march=x86-64-v3",)},
    "aarch64": {"neon": ()},
}


class BuildError(RuntimeError):
    """Why the kernels cannot be built here, in one line."""


@dataclass(frozen=True, slots=True)
class Built:
    """A library: its own hash, that of the source it was built from, and how."""

    sha256: str
    source_sha256: str
    compiler: str
    flags: tuple[str, ...]


def library_name(variant: str) -> str:
    return f"kernels-{variant}.so"


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def source_sha256() -> str:
    digest = hashlib.sha256()
    for path in sorted(SOURCE.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def read_manifest(text: str) -> dict[str, Built]:
    """Variant -> what was built. Raises ValueError for anything but a manifest of this version."""
    try:
        return {variant: Built(**entry | {"flags": tuple(entry["flags"])}) for variant, entry in json.loads(text).items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a manifest of kernels: {error}") from error


def compiler() -> str:
    """The C++ compiler to use, $CXX before all others. Raises BuildError where there is none."""
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return found
    if wanted:
        raise BuildError(f"CXX is {wanted!r}, which is no program in PATH; unset it, or name a C++ compiler")
    raise BuildError("there is no C++ compiler (c++, g++ or clang++) in PATH; install one (Debian: apt-get install g++)")


def build() -> dict[str, Built]:
    """Build every variant for this kind of machine that is not built yet, and write the manifest. Raises BuildError."""
    variants = VARIANTS.get(platform.machine(), {})
    if platform.system() != "Linux" or not variants:
        wanted = " or ".join(VARIANTS)
        raise BuildError(f"the CPU kernels run on Linux on {wanted}, and this is {platform.system()} on {platform.machine()}")
    cxx = compiler()
    version, source, present = _run([cxx, "--version"]).partition("\n")[0], source_sha256(), _present()
    LIB.mkdir(exist_ok=True)
    LIB.chmod(0o755)
    with tempfile.TemporaryDirectory(dir=LIB) as folder, ThreadPoolExecutor() as pool:

        def one(variant: str, own_flags: Sequence[str]) -> Built:
            flags, out = (*FLAGS, *own_flags), Path(folder) / library_name(variant)
            entry = present.get(variant)
            if entry and (entry.source_sha256, entry.compiler, entry.flags) == (source, version, flags):
                return entry
            _run([cxx, *flags, *map(str, sorted(SOURCE.glob("*.cpp"))), "-o", str(out)])
            out.chmod(0o755)
            return Built(file_sha256(out), source, version, flags)

        built = dict(zip(variants, pool.map(one, variants, variants.values()), strict=True))
        manifest = Path(folder) / MANIFEST
        manifest.write_text(json.dumps({variant: asdict(entry) for variant, entry in built.items()}, indent=1) + "\n")
        manifest.chmod(0o644)
        for path in Path(folder).iterdir():
            path.replace(LIB / path.name)
    return built


def _present() -> dict[str, Built]:
    """The undamaged libraries in lib/."""
    try:
        manifest = read_manifest((LIB / MANIFEST).read_text("utf-8"))
        return {name: built for name, built in manifest.items() if file_sha256(LIB / library_name(name)) == built.sha256}
    except (OSError, ValueError):
        return {}


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"the C++ compiler {command[0]} cannot be run: {error.strerror}; set CXX to one that can") from error
    if done.returncode:
        complaint = next((line for line in done.stderr.splitlines() if "error" in line), f"exit status {done.returncode}")
        raise BuildError(f"the C++ compiler {command[0]} cannot build the CPU kernels: {complaint}")
    return done.stdout


def main() -> int:
    argparse.ArgumentParser(prog="python -m moe_lm.backends.cpu.build", description=__doc__.partition("\n")[0]).parse_args()
    try:
        built = build()
    except BuildError as error:
        print(f"evalkit: {error}", file=sys.stderr)
        return 2
    print(f"built the CPU kernels for {', '.join(built)} in {LIB}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
