"""The library of CPU kernels: built once, verified to the byte before it is loaded, refused where others could have written it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cpu_cases import needs_kernels

from moe_lm.backends.cpu import build, library
from moe_lm.errors import ModelError


@pytest.fixture
def lib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a copy of the libraries, in a package of its own; nothing is loaded yet."""
    package = tmp_path / "moe_lm"
    folder = package / "lib"
    shutil.copytree(library.LIB, folder)
    for path in (package, folder):
        path.chmod(0o755)
    monkeypatch.setattr(library, "PACKAGE", package)
    monkeypatch.setattr(library, "LIB", folder)
    library.load.cache_clear()
    yield folder
    library.load.cache_clear()


def chosen(lib: Path) -> Path:
    return lib / build.library_name(library.chosen_variant())


@needs_kernels
def test_a_copy_is_loaded(lib):
    library.load()
    assert str(chosen(lib)) in Path("/proc/self/maps").read_text()


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "another variant": lambda path: shutil.copyfile(next(other for other in path.parent.glob("*.so") if other != path), path),
    "the manifest is not JSON": lambda path: (path.parent / build.MANIFEST).write_text("{"),
    "the manifest is a list": lambda path: (path.parent / build.MANIFEST).write_text("[]"),
    "the manifest has no such variant": lambda path: (path.parent / build.MANIFEST).write_text("{}"),
}


@needs_kernels
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_library_is_refused_in_one_line(lib, damage):
    DAMAGE[damage](chosen(lib))
    with pytest.raises(ModelError, match=r"are damaged; reinstall: pip install --force-reinstall evalkit-lm$"):
        library.load()
    with pytest.raises(ModelError, match="are damaged"):
        library.available()
    assert str(chosen(lib)) not in Path("/proc/self/maps").read_text()


@needs_kernels
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
@pytest.mark.parametrize("which", ["library", "manifest", "folder", "package"])
def test_what_others_can_write_is_not_loaded(lib, which, mode):
    path = {"library": chosen(lib), "manifest": lib / build.MANIFEST, "folder": lib, "package": lib.parent}[which]
    path.chmod(mode)
    if mode == 0o775:
        give_to_another_group(path)
    with pytest.raises(ModelError, match=rf"can be written by others \(mode {mode:o}\), so the CPU kernels are not loaded"):
        library.load()


def give_to_another_group(path: Path) -> None:
    """Give a file to a group that is not its owner's own."""
    if os.getuid():
        pytest.skip("only root can give a file to another group")
    os.chown(path, -1, 12345)


@needs_kernels
def test_the_write_bit_of_the_owners_private_group_is_harmless(lib, monkeypatch):
    monkeypatch.setattr(library, "_is_private", lambda gid, uid: (gid, uid) == (os.getgid(), os.getuid()))
    chosen(lib).chmod(0o775)
    library.load()


@needs_kernels
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_who_can_write_the_code_can_write_the_kernels(lib, monkeypatch):
    """Root in a container whose checkout belongs to the host's user, of another umask."""
    code = os.stat_result((0o100664, 0, 0, 1, 12345, 12345, 0, 0, 0, 0))
    for path in (lib.parent, lib, chosen(lib), lib / build.MANIFEST):
        os.chown(path, 12345, 12345)
        path.chmod(0o775)
    with pytest.raises(ModelError, match="belongs to another user"):
        library.load()
    monkeypatch.setattr(library, "_this_code", lambda: code)
    library.load()


@needs_kernels
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("which", ["library", "manifest", "folder", "package"])
def test_what_belongs_to_another_user_is_not_loaded(lib, which):
    path = {"library": chosen(lib), "manifest": lib / build.MANIFEST, "folder": lib, "package": lib.parent}[which]
    os.chown(path, 12345, -1)
    with pytest.raises(ModelError, match=r"belongs to another user \(uid 12345\)"):
        library.load()


@needs_kernels
def test_a_symbolic_link_is_not_followed(lib):
    path = chosen(lib)
    moved = path.rename(lib.parent.parent / path.name)
    path.symlink_to(moved)
    with pytest.raises(ModelError, match="is a symbolic link"):
        library.load()


@needs_kernels
def test_a_package_below_a_folder_like_tmp_is_loaded(lib):
    """Whoever can replace the package itself can replace the Python code that checks: only what is inside is looked at."""
    lib.parent.parent.chmod(0o1777)
    library.load()


@needs_kernels
def test_a_library_older_than_its_source_is_refused(lib, monkeypatch, tmp_path):
    shutil.copytree(build.SOURCE, tmp_path / "csrc")
    monkeypatch.setattr(build, "SOURCE", tmp_path / "csrc")
    library.load()
    library.load.cache_clear()
    (tmp_path / "csrc" / "new.cpp").write_text("")
    with pytest.raises(ModelError, match="are older than their source; run `make kernels`"):
        library.load()


def test_without_libraries_the_reason_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "LIB", tmp_path)
    library.load.cache_clear()
    try:
        assert not library.available()
        assert "for want of a C++ compiler; install one" in library.reason_missing()
        with pytest.raises(library.Unavailable):
            library.load()
    finally:
        library.load.cache_clear()


@needs_kernels
def test_the_variant_is_chosen_by_the_processor_or_the_environment(monkeypatch):
    avx2 = library.FEATURES["avx2"]
    monkeypatch.delenv(library.VARIANT_VARIABLE, raising=False)
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    avx512 = library.FEATURES["avx512"]
    for features, best in (
        (avx2, "avx2"),
        (avx512, "avx512"),
        (avx2 | {"avx512f"}, "avx2"),
        (avx512 | {"avx512_vnni"}, "avx512vnni"),
        (avx2 | {"avx512_vnni"}, "avx2"),
    ):
        monkeypatch.setattr(library, "processor_features", lambda features=features: features)
        assert library.chosen_variant() == best
    monkeypatch.setenv(library.VARIANT_VARIABLE, "avx2")
    assert library.chosen_variant() == "avx2"
    monkeypatch.setenv(library.VARIANT_VARIABLE, "avx512")
    with pytest.raises(ModelError, match="EVALKIT_CPU_VARIANT is 'avx512', and this processor lacks avx512bw, avx512cd, avx512dq"):
        library.chosen_variant()
    for unknown in ("avx-512", ""):
        monkeypatch.setenv(library.VARIANT_VARIABLE, unknown)
        with pytest.raises(ModelError, match=f"EVALKIT_CPU_VARIANT is '{unknown}'; the variants for x86_64 are avx512vnni, avx512, avx2"):
            library.chosen_variant()
    monkeypatch.delenv(library.VARIANT_VARIABLE)
    monkeypatch.setattr(library, "processor_features", lambda: avx2 - {"avx2"})
    with pytest.raises(library.Unavailable, match="need Linux and a processor with AVX2"):
        library.chosen_variant()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source that builds in an instant, in place of the kernels'."""
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "one.cpp").write_text('extern "C" __attribute__((visibility("default"))) int one() { return 1; }\n')
    monkeypatch.setattr(build, "SOURCE", folder)
    monkeypatch.setattr(build, "LIB", tmp_path / "lib")
    return folder


@needs_kernels
def test_only_what_changed_is_built_again(source):
    first = build.build()
    assert first == {name: build.Built(**entry | {"flags": tuple(entry["flags"])}) for name, entry in manifest().items()}
    times = {path.name: path.stat().st_mtime_ns for path in build.LIB.glob("*.so")}
    assert set(times) == {build.library_name(name) for name in first}
    assert build.build() == first
    assert {path.name: path.stat().st_mtime_ns for path in build.LIB.glob("*.so")} == times
    damaged = build.LIB / min(times)
    damaged.write_bytes(b"")
    assert build.build() == first
    assert build.file_sha256(damaged) in {built.sha256 for built in first.values()}
    (source / "one.cpp").write_text((source / "one.cpp").read_text().replace("return 1", "return 2"))
    assert all(built.sha256 != first[name].sha256 for name, built in build.build().items())
    assert {path.name for path in build.LIB.iterdir()} == {*times, build.MANIFEST}


def manifest() -> dict:
    return json.loads((build.LIB / build.MANIFEST).read_text())


def test_a_build_fails_with_one_line(source, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["build.py"])
    broken = tmp_path / "broken"
    monkeypatch.setenv("CXX", str(broken))
    for script, complaint in (
        (None, f"CXX is '{broken}', which is no program in PATH"),
        ("not a program", f"the C++ compiler {broken} cannot be run: Exec format error"),
        ("#!/bin/sh\n", "make it writable, and check CXX"),  # succeeds, and writes nothing
        ("#!/bin/sh\n[ $1 = --version ] && exit 0\necho 'x.cpp:1: error: bad option' >&2; exit 1\n", "x.cpp:1: error: bad option"),
    ):
        if script:
            broken.write_text(script)
            broken.chmod(0o755)
        assert build.main() == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert complaint in line
    monkeypatch.delenv("CXX")
    with monkeypatch.context() as patched:  # as in a read-only checkout, for root too
        patched.setattr(build, "LIB", source / next(source.iterdir()).name / "lib")
        assert build.main() == 2
    assert "cannot be written to" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert build.main() == 2
    assert "there is no C++ compiler" in capsys.readouterr().err


@needs_kernels
def test_an_editors_files_beside_the_source_change_nothing(source):
    before = build.source_sha256()
    (source / ".gemm.cpp.swp").write_text("an editor's")
    (source / "__pycache__").mkdir()
    assert build.source_sha256() == before


@needs_kernels
def test_the_source_has_no_warnings():
    for own_flags in build.VARIANTS[build.platform.machine()].values():
        command = [build.compiler(), *build.FLAGS, *own_flags, "-Werror", "-fsyntax-only", *map(str, build.SOURCE.glob("*.cpp"))]
        assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == ""


def test_the_build_needs_no_torch():
    """The package's build hook runs it where nothing is installed yet."""
    command = [sys.executable, "-I", "-S", build.__file__, "--help"]
    assert "Builds the CPU kernels" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
