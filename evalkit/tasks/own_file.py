"""Python files of the user's own: run as modules, each with a digest of what it is made of."""

import ast
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType

from evalkit.errors import EvalkitError, own_code
from evalkit.hashing import sha256_json
from evalkit.tasks.own import read_bytes


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file that has been run as a module. `sha256` is over it and the modules beside it that it imports; `packages`: NAME VERSION of
    the installed packages that these import.
    """

    path: Path
    module: ModuleType
    sha256: str
    packages: tuple[str, ...]


def run_file(file: Path) -> OwnFile:
    """Run a file as a module, once for the same content. Modules beside it can be imported, as by `python FILE`.

    Raises EvalkitError where it can't be read, and OwnCodeError where it fails.
    """
    return _run(file.absolute(), read_bytes(file))


@cache
def _run(path: Path, source: bytes) -> OwnFile:
    sha256 = hashlib.sha256(source).hexdigest()
    module = ModuleType(f"evalkit_own_{path.stem}_{sha256[:12]}")
    module.__file__ = str(path)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: nothing beside it takes the place of an installed package
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    try:
        with own_code("the import", path):
            exec(compile(source, str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[module.__name__]
        raise
    beside, packages = _imported(path, source)
    return OwnFile(path, module, sha256_json([sha256, *beside]), tuple(packages))


def _imported(path: Path, source: bytes) -> tuple[list[str], list[str]]:
    """What the file and the modules beside it import, sorted: "NAME SHA256" of such modules, "NAME VERSION" of installed packages."""
    beside: dict[Path, str] = {path: ""}
    installed: set[str] = set()
    to_read = [(path, source)]
    while to_read:
        here, text = to_read.pop()
        for name in _import_names(here, text, path.parent):
            files = _files_of(name, path.parent)
            if not files:
                installed.add(name.partition(".")[0])
            for module, file in files.items():
                _require_imported(path, module, file)
                if file in beside:
                    continue
                raw = read_bytes(file)
                beside[file] = f"{file.relative_to(path.parent)} {hashlib.sha256(raw).hexdigest()}"
                to_read.append((file, raw))
    packages = packages_distributions()
    versions = {f"{each} {version(each)}" for name in installed for each in packages.get(name, ())}
    return sorted(filter(None, beside.values())), sorted(versions)


def _import_names(file: Path, source: bytes, root: Path) -> Iterator[str]:
    """The dotted names that a file imports, of `from a import b` both a and a.b."""
    package = file.relative_to(root).parent.parts
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # if it is ever imported, that fails
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from filter(None, (base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)))


def _files_of(name: str, root: Path) -> dict[str, Path]:
    """The files below `root` that importing a dotted name runs, by module; none of evalkit itself, where it lies there."""
    parts = name.split(".")
    if parts[0] == "evalkit":
        return {}
    files = {".".join(parts[:i]): root.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)}
    if not files[name].is_file():
        files[name] = root.joinpath(*parts).with_suffix(".py")
    return {module: file for module, file in files.items() if file.is_file()}


def _require_imported(path: Path, module: str, file: Path) -> None:
    """Raises EvalkitError where a module beside the file is not the one that was imported by this name."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if loaded and Path(loaded) != file:
        raise EvalkitError(f"{path} imports {module}, which is {loaded} here, and not {file} beside it; rename {file.name}")
