"""The licences of what evalkit installs, from the metadata of the installed packages: the tables of docs/licences.md.

python tests/helpers/licence_table.py > docs/licences.md
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
HEAD = """# Licences

evalkit is under the [Apache License 2.0](../LICENSE). pip installs these packages beside it, each from its own
project. The tables are made from the packages' metadata (`python tests/helpers/licence_table.py > docs/licences.md`), at the versions of
`constraints.txt`; a test holds them to the dependencies of `pyproject.toml`.
"""
# where metadata has no SPDX expression, the classifier says it, or the first words of the text
SPDX = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}


def dependencies() -> tuple[list[str], dict[str, list[str]]]:
    """The requirements of pyproject.toml: those of every installation, and those of each extra but for `dev`, which is no user's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: some for name, some in project["optional-dependencies"].items() if name != "dev"}
    own = canonicalize_name(project["name"])
    return project["dependencies"], {
        name: [each for each in some if canonicalize_name(Requirement(each).name) != own] for name, some in extras.items()
    }


def licence(package: PackageMetadata) -> str:
    """The SPDX expression, or what the classifiers or the licence's name say."""
    if expression := package.get("License-Expression"):
        return expression
    classified = [text.split(" :: ")[-1] for text in package.get_all("Classifier") or [] if text.startswith("License :: OSI Approved :: ")]
    named = classified or [(package.get("License") or "not stated").splitlines()[0]]
    return " AND ".join(SPDX.get(name, name) for name in named)


def closure(requirements: Iterable[str]) -> dict[str, PackageMetadata]:
    """The packages that the requirements install here, by name, with all that they bring."""
    found: dict[str, PackageMetadata] = {}
    waiting = [(Requirement(each), "") for each in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        try:
            found[name] = metadata(name)
        except PackageNotFoundError:  # of an extra that is not installed, or of another platform
            continue
        waiting += [(Requirement(each), wanted) for each in requires(name) or () for wanted in (requirement.extras or {""})]
    return found


def rows(packages: Mapping[str, PackageMetadata]) -> Iterator[str]:
    yield "| package | licence | project |"
    yield "|---|---|---|"
    for name, package in sorted(packages.items()):
        links = dict(re.split(r",\s*", link, maxsplit=1) for link in package.get_all("Project-URL") or [])
        named = (links[key] for key in ("Homepage", "homepage", "Source", "Repository", *links) if key in links)
        yield f"| {name} | {licence(package)} | {package.get('Home-page') or next(named, '')} |"


def page() -> str:
    """docs/licences.md."""
    always, extras = dependencies()
    direct = {canonicalize_name(Requirement(each).name): metadata(Requirement(each).name) for each in always}
    optional = {canonicalize_name(Requirement(each).name): metadata(Requirement(each).name) for some in extras.values() for each in some}
    others = {name: package for name, package in closure(always).items() if name not in direct}
    parts = [HEAD]
    for title, packages in (("Always installed", direct), ("Extras", optional), ("What those that are always installed bring", others)):
        parts += [f"## {title}\n", *rows(packages), ""]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
