"""Finds, verifies and loads the library of CPU kernels that this processor can run.

Loaded code can do anything, so a library is loaded only if its manifest describes it to the byte and nobody but root and the current
user can have written either. Above the package's own folder nothing is checked: whoever can write there can replace this module too.
"""

import ctypes
import grp
import os
import platform
import pwd
import stat
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from moe_lm.backends.cpu.build import LIB, MANIFEST, SANITIZED, SOURCE, VARIANTS, file_sha256, library_name, read_manifest, source_sha256
from moe_lm.errors import ModelError

PACKAGE = Path(__file__).parents[2]
VARIANT_VARIABLE = "EVALKIT_CPU_VARIANT"
# of /proc/cpuinfo: what -march=x86-64-v3 and -v4 let the compiler use
AVX2 = frozenset("avx avx2 bmi1 bmi2 f16c fma abm movbe".split())
AVX512 = AVX2 | frozenset("avx512f avx512bw avx512cd avx512dq avx512vl".split())
FEATURES = {
    "avx512vnni": AVX512 | {"avx512_vnni"},
    "avx512": AVX512,
    "avx2": AVX2,
    "neon": frozenset({"asimd"}),
}

POINTER, INT, FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
TABLE = (POINTER, POINTER, POINTER, INT, INT, INT)  # positions, sequences, table, N, columns, pages
# the arguments of each function of csrc/kernels.h after the first two, which say how to start threads and how many
SIGNATURES = {
    # x, x_rows, order, offsets, matrices, weights, bfloat16, M, K, outputs, activation, bias, accumulate, row_scales, out
    "gemm": (POINTER, INT, POINTER, POINTER, INT, POINTER, *[INT] * 5, POINTER, INT, POINTER, POINTER),
    # x, x_rows, order, offsets, matrices, parts, part_count, places, M, K, outputs, activation, bias, accumulate, row_scales, int8, out
    "gemm_blocks": (POINTER, INT, POINTER, POINTER, INT, POINTER, INT, POINTER, *[INT] * 4, POINTER, INT, POINTER, INT, POINTER),
    # rows, matrices, outputs, K, kind, packed
    "pack_blocks": (POINTER, *[INT] * 4, POINTER),
    # codes, scales, zeros, matrices, outputs, K, group_size, kind, packed
    "pack_groups": (POINTER, POINTER, POINTER, *[INT] * 5, POINTER),
    # packed, kind, K, ids, T, out
    "block_rows": (POINTER, INT, INT, POINTER, INT, POINTER),
    # x, weight, T, D, eps, offset, out
    "rms_norm": (POINTER, POINTER, INT, INT, FLOAT, FLOAT, POINTER),
    # x, cos, sin, T, heads, d, width
    "rope": (POINTER, POINTER, POINTER, INT, INT, INT, INT),
    # k, k_row, v, v_row, T, J, d, .., k_pages, v_pages
    "append_kv": (POINTER, INT, POINTER, INT, INT, INT, INT, *TABLE, POINTER, POINTER),
    # q, q_row, T, H, J, d, scale, .., window, k_pages, v_pages, out
    "paged_attention": (POINTER, *[INT] * 5, FLOAT, *TABLE, INT, POINTER, POINTER, POINTER),
    # layer, x, T, cos, sin, .., k_pages, v_pages, out
    "attend": (POINTER, POINTER, INT, POINTER, POINTER, *TABLE, POINTER, POINTER, POINTER),
    # layer, attended, T, x
    "feed": (POINTER, POINTER, INT, POINTER),
    # y, rows, weights, T, K, D, begin, end, out
    "combine": (POINTER, POINTER, POINTER, *[INT] * 5, POINTER),
    # logits, T, E, K, normalise, weights, ids
    "route": (POINTER, INT, INT, INT, INT, POINTER, POINTER),
    # x, T, out
    "sigmoid": (POINTER, INT, POINTER),
    # positions, inv_freq, T, half, cos, sin
    "rotation": (POINTER, POINTER, INT, INT, POINTER, POINTER),
    # x, P, V, out
    "logsumexp": (POINTER, INT, INT, POINTER),
    # x, blocks, bits, out
    "k_quants": (POINTER, INT, INT, POINTER),
}
# what a function returns that would have read or written out of range (Fault in csrc/kernels.h)
FAULTS = {
    1: "offsets do not rise from 0 to the number of rows",
    2: "order has a row that x does not have",
    3: "positions has a token before the first or beyond its sequence's pages",
    4: "sequences has a sequence that the table does not have",
    5: "table has a page that k_pages and v_pages do not have",
    6: "places has an input that the weights do not have",
}


class Unavailable(ModelError):
    """This machine has no kernels, or a processor that cannot run them: plain torch computes. (Damaged kernels are another matter.)"""


def available() -> bool:
    """Are there kernels for this machine? Raises ModelError where there are some that must not be loaded."""
    return reason_missing() is None


def reason_missing() -> str | None:
    """Why there are no kernels for this machine, in one line; None where there are. Raises ModelError as `load` does for damaged ones."""
    try:
        load()
    except Unavailable as error:
        return str(error)
    return None


@cache
def load() -> ctypes.CDLL:
    """The verified library for this processor, its functions declared.

    Raises Unavailable if there is none, ModelError if it is damaged, older than its source, or writable by others.
    """
    path = _verified(LIB, chosen_variant())
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ModelError(f"the CPU kernels {path} cannot be loaded ({error}); run `make kernels`, or reinstall evalkit") from error
    for name, signature in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = (POINTER, INT, *signature), INT
    return library


def call(name: str, *arguments: Tensor | float | None) -> None:
    """Call a function of csrc/ on torch's threads; a tensor is passed as its address. Raises ValueError for an index out of range."""
    pointers = [value.data_ptr() if isinstance(value, Tensor) else value for value in arguments]
    if fault := getattr(load(), name)(_gomp_parallel(), torch.get_num_threads(), *pointers):
        raise ValueError(f"{name}: {FAULTS[fault]}")


@cache
def _gomp_parallel() -> ctypes.c_void_p:
    """GOMP_parallel of the OpenMP runtime that torch has loaded: a second pool of threads would compete with torch's for the cores."""
    return ctypes.cast(ctypes.CDLL("libgomp.so.1").GOMP_parallel, ctypes.c_void_p)


def chosen_variant() -> str:
    """The best variant that this processor can run, or the one that EVALKIT_CPU_VARIANT names. Raises Unavailable, ModelError."""
    variants = VARIANTS.get(platform.machine(), {}) if platform.system() == "Linux" else {}
    wanted = os.environ.get(VARIANT_VARIABLE)
    if wanted is not None:
        variant = wanted.removesuffix(SANITIZED)
        if variant not in variants:
            known = ", ".join(variants) or "none"
            raise ModelError(f"{VARIANT_VARIABLE} is {wanted!r}; the variants for {platform.machine()} are {known}; name one, or unset it")
        if missing := FEATURES[variant] - processor_features():
            raise ModelError(f"{VARIANT_VARIABLE} is {wanted!r}, and this processor lacks {', '.join(sorted(missing))}; unset it")
        return wanted
    for variant in variants:
        if FEATURES[variant] <= processor_features():
            return variant
    needs = "Linux and a processor with AVX2 (or an Arm one)"
    raise Unavailable(f"the CPU kernels need {needs}; this is {platform.system()} on {platform.machine()}")


@cache
def processor_features() -> frozenset[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), ":").partition(":")[2].split())


def _verified(folder: Path, variant: str) -> Path:
    """The library of a variant, found to be what the manifest in its folder says. Raises as `load` does."""
    manifest, path = folder / MANIFEST, folder / library_name(variant)
    if not manifest.exists():
        raise Unavailable(
            "evalkit was installed without its CPU kernels, for want of a C++ compiler; install one (Debian: apt-get install g++), "
            "then run python -m moe_lm.backends.cpu.build"
        )
    if not path.exists():
        raise _damaged(path)
    for each in (path, manifest, *_folders(folder)):
        _check_owner(each)
    try:
        built, sha256 = read_manifest(manifest.read_text("utf-8"))[variant], file_sha256(path)
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path) from error
    if sha256 != built.sha256:
        raise _damaged(path)
    if SOURCE.is_dir() and built.source_sha256 != source_sha256():
        raise ModelError(f"the CPU kernels in {folder} are older than their source; run `make kernels`")
    return path


def _folders(folder: Path) -> list[Path]:
    """The folder and those above it, up to the package's own."""
    return [each for each in (folder, *folder.parents) if each.is_relative_to(PACKAGE)]


def _this_code() -> os.stat_result:
    """Status of this file: whoever can write it runs code here anyway. A checkout mounted into a container belongs to the host's user."""
    return Path(__file__).lstat()


def _check_owner(path: Path) -> None:
    status, code = path.lstat(), _this_code()
    fix = "so the CPU kernels are not loaded; reinstall evalkit as yourself or as root, without write permission for others"
    if stat.S_ISLNK(status.st_mode):
        raise ModelError(f"{path} is a symbolic link, {fix}")
    if status.st_uid not in (0, os.geteuid(), code.st_uid):
        raise ModelError(f"{path} belongs to another user (uid {status.st_uid}), {fix}")
    group_writes_code = code.st_mode & stat.S_IWGRP and code.st_gid == status.st_gid
    harmless = group_writes_code or _is_private(status.st_gid, status.st_uid)
    if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not harmless):
        raise ModelError(f"{path} can be written by others (mode {stat.S_IMODE(status.st_mode):o}), {fix}")


def _is_private(gid: int, uid: int) -> bool:
    """Whether the group has only its user. With one group per user, as on Debian and Fedora, umask is often 002."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(uid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and user.pw_gid == gid and set(group.gr_mem) <= {user.pw_name}


def _damaged(path: Path) -> ModelError:
    return ModelError(f"the CPU kernels {path} are damaged; reinstall: pip install --force-reinstall evalkit-lm")
