"""run.json, as it is read."""

import json
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError

SCHEMA = 1


def read_run(path: str) -> dict[str, Any]:
    """run.json of a run's folder (or the file itself). Raises EvalkitError where it is missing, damaged or of another schema."""
    file = Path(path) / "run.json" if Path(path).is_dir() else Path(path)
    try:
        record = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EvalkitError(f"{path} is not a run: cannot read {file} ({error})") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise EvalkitError(f"{file} is not a run.json of schema {SCHEMA}, which this evalkit reads")
    return record
