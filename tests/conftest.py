"""What tests share: where the real data is, and skipping with a reason where it is not."""

import os
from pathlib import Path

import pytest

# taken out of the environment at once: no test reads real data but through `data_dir`
_DATA = os.environ.pop("EVALKIT_DATA", None)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real benchmark data (EVALKIT_DATA)."""
    if not _DATA:
        pytest.skip("EVALKIT_DATA is not set: no real benchmark data at hand")
    return Path(_DATA).resolve()
