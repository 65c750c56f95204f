"""`evalkit view RUN [RUN]`: builds the page.

The header is JSON in a data block, escaped so that no text in it can end the block. The samples are gzip in base64, whose alphabet can't
end it either, and which keeps 15,000 samples near 5 MB; browsers unpack it themselves (DecompressionStream, in all since 2023, also for
files opened from disk). A Content-Security-Policy allows the page's own script and style, by hash, and nothing else: no network.
"""

import base64
import gzip
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from evalkit import __version__
from evalkit.errors import EvalkitError
from evalkit.files import require_file, write_output
from evalkit.view.data import ViewedRun
from evalkit.view.pack import finite, pack
from evalkit.view.read import read

HERE = Path(__file__).parent
NAME = "view.html"
STYLES = ("theme.css", "page.css")
SCRIPTS = ("text.js", "samples.js", "figures.js", "detail.js", "responses.js", "list.js", "page.js")


def write_view(paths: Sequence[str], out: str | None = None, in_browser: bool = False) -> Path:
    """Write the page and print its path; `in_browser` opens it. `out` is a file, or a folder (one that is there, or ends with a slash).

    Raises EvalkitError if it cannot be written.
    """
    if len(paths) > 2:
        raise EvalkitError(f"evalkit view shows one run or two side by side; {len(paths)} were given")
    if out:
        out = str(Path(out) / NAME) if os.path.isdir(out) or out.endswith(os.sep) else out
        require_file(Path(out), "--out")
    runs = [read(path) for path in paths]
    packed = pack(runs)
    file = Path(out) if out else default_file(runs)
    page = build(runs, packed)
    write_output(file, page)
    print(f"wrote {file}: {len(packed['samples']):,} samples, {len(page.encode()) / 1e6:.1f} MB; it opens from disk, without a network")
    for viewed in runs:
        if not viewed.is_complete:
            what = ("a shard", "its documents alone") if viewed.is_shard else ("incomplete", "the tasks that were done")
            print(f"{viewed.folder} is {what[0]}: the page shows {what[1]}")
    if in_browser:
        import webbrowser

        webbrowser.open(file.resolve().as_uri())
    return file


def default_file(runs: Sequence[ViewedRun]) -> Path:
    """view.html in the run's folder; for two runs, in the second's folder and named after the first."""
    if len(runs) == 1:
        return runs[0].folder / NAME
    return runs[1].folder / f"view-against-{runs[0].folder.resolve().name}.html"


def build(runs: Sequence[ViewedRun], packed: dict[str, Any]) -> str:
    """The whole page. The same runs give the same bytes."""
    style = "\n".join((HERE / name).read_text("utf-8") for name in STYLES)
    script = '"use strict";\n' + "\n".join((HERE / name).read_text("utf-8") for name in SCRIPTS)
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'; img-src 'none'"
    )
    about = finite({"evalkit": __version__, "runs": [viewed.about for viewed in runs]})
    samples = gzip.compress(json.dumps(packed, separators=(",", ":")).encode("ascii"), 6, mtime=0)
    return Template((HERE / "page.html").read_text("utf-8")).substitute(
        policy=policy, style=style, script=script, about=data_block(about), samples=base64.b64encode(samples).decode("ascii")
    )


def data_block(value: Any) -> str:
    """JSON for a <script type="application/json">: ASCII, with no character that HTML could read as markup. Raises ValueError on NaN."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    """A content-security-policy source: exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
