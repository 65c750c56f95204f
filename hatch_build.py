"""The build hook: a wheel or an editable installation contains the CPU kernels if there is a C++ compiler."""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = "model/moe_lm/backends/cpu"


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds in place, into the git-ignored lib/; the wheel is tagged for this platform where it holds libraries."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # by its path: the package it belongs to is not installed yet
        spec = importlib.util.spec_from_file_location("kernels_build", Path(self.root) / KERNELS / "build.py")
        assert spec is not None
        assert spec.loader is not None
        kernels = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernels)
        try:
            built = kernels.build()
        except kernels.BuildError as error:
            self.app.display_warning(f"evalkit is installed without its CPU kernels (plain torch will compute, more slowly): {error}")
            return
        files = (kernels.MANIFEST, *map(kernels.library_name, built))
        build_data["artifacts"] += [f"{KERNELS}/lib/{file}" for file in files]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
