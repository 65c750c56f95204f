"""What a page of `evalkit view` holds, taken apart."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

from evalkit.view.pack import pack
from evalkit.view.read import read


def parts(file: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(the page, its header, its samples)."""
    html = file.read_text("utf-8")
    (about,) = re.findall(r'<script type="application/json" id="about">(.*?)</script>', html, re.DOTALL)
    (samples,) = re.findall(r'<script type="application/octet-stream" id="samples">(.*?)</script>', html, re.DOTALL)
    return html, json.loads(about), json.loads(gzip.decompress(base64.b64decode(samples, validate=True)))


def packed(*runs: Path) -> dict[str, Any]:
    return pack([read(str(run)) for run in runs])
