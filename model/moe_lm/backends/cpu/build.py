"""Builds the CPU kernels of csrc/ into lib/, one shared library for each kind of processor: `python -m moe_lm.backends.cpu.build`.

The build hook of the package runs the same code (hatch_build.py), so this module needs nothing but the standard library.
A manifest in the same folder records what was built from what; `library.py` loads nothing that it does not describe.
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
AVX512 = ("-march=x86-64-v4", "-mtune=cascadelake", "-mprefer-vector-width=512")
# the best one first; what the compiler may contract is written out in the source, as targets differ in what they would
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {"avx512vnni": (*AVX512, "-mavx512vnni"), "avx512": AVX512, "avx2": ("-march=x86-64-v3",)},
    "aarch64": {"neon": ()},  # the same bits under qemu-user; not run on an Arm processor yet
}
SANITIZED = "-asan"
SANITIZE = ("-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


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
    for path in sorted((*SOURCE.glob("*.cpp"), *SOURCE.glob("*.h"))):  # an editor may keep files of its own there
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def read_manifest(text: str) -> dict[str, Built]:
    """Variant -> what was built. Raises ValueError for anything but a manifest of this version."""
    try:
        return {variant: Built(**entry | {"flags": tuple(entry["flags"])}) for variant, entry in json.loads(text).items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a manifest of kernels: {error}") from error


def compiler() -> str:
    """The C++ compiler to use, $CXX before all others. Raises BuildError if there is none."""
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return found
    if wanted:
        raise BuildError(f"CXX is {wanted!r}, which is no program in PATH; unset it, or name a C++ compiler")
    raise BuildError("there is no C++ compiler (c++, g++ or clang++) in PATH; install one (Debian: apt-get install g++)")


def build(sanitize: bool = False) -> dict[str, Built]:
    """Build what is not built yet of every variant for this kind of machine, and write the manifest. Raises BuildError.

    With `sanitize` the variants that AddressSanitizer and UndefinedBehaviorSanitizer watch, which EVALKIT_CPU_VARIANT alone chooses.
    """
    variants = VARIANTS.get(platform.machine(), {})
    if platform.system() != "Linux" or not variants:
        wanted = " or ".join(VARIANTS)
        raise BuildError(f"the CPU kernels run on Linux on {wanted}, and this is {platform.system()} on {platform.machine()}")
    cxx = compiler()
    version, source = _run([cxx, "--version"]).partition("\n")[0], source_sha256()
    flags = {name: (*FLAGS, *own) for name, own in variants.items()}
    if sanitize:
        flags = {name + SANITIZED: (*own, *SANITIZE) for name, own in flags.items()}
    present = {name: built for name, built in _present().items() if (built.source_sha256, built.compiler) == (source, version)}
    try:
        return _compile(cxx, flags, source, version, present)
    except OSError as error:  # a read-only checkout, a full disk, or a CXX that writes nothing
        raise BuildError(f"the CPU kernels cannot be written to {LIB} ({error}); make it writable, and check CXX") from error


def _compile(cxx: str, flags: dict[str, tuple[str, ...]], source: str, version: str, present: dict[str, Built]) -> dict[str, Built]:
    """Build the libraries that are not `present` with these flags; write them and the manifest. Raises BuildError and OSError."""
    LIB.mkdir(exist_ok=True)
    LIB.chmod(0o755)
    with tempfile.TemporaryDirectory(dir=LIB) as folder, ThreadPoolExecutor() as pool:

        def one(name: str) -> Built:
            if name in present and present[name].flags == flags[name]:
                return present[name]
            out = Path(folder) / library_name(name)
            _run([cxx, *flags[name], *map(str, sorted(SOURCE.glob("*.cpp"))), "-o", str(out)])
            out.chmod(0o755)
            return Built(file_sha256(out), source, version, flags[name])

        built = dict(zip(flags, pool.map(one, flags), strict=True))
        manifest = Path(folder) / MANIFEST
        manifest.write_text(json.dumps({name: asdict(entry) for name, entry in (present | built).items()}, indent=1) + "\n")
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
    parser = argparse.ArgumentParser(prog="python -m moe_lm.backends.cpu.build", description=__doc__.partition("\n")[0])
    parser.add_argument("--sanitize", action="store_true", help="the variants for `make test-asan`")
    try:
        built = build(parser.parse_args().sanitize)
    except BuildError as error:
        print(f"evalkit: {error}", file=sys.stderr)
        return 2
    print(f"built the CPU kernels for {', '.join(built)} in {LIB}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
