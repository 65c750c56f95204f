"""The report as one static HTML page: its style and plots inside, no script, no network, light and dark."""

import re
from pathlib import Path
from typing import Any

from evalkit.report.document import Document, Grid, Notes, Pair
from evalkit.report.plots.plot import INK, PAPER, RULE, Plot
from evalkit.report.verdict import Verdict

TEMPLATE = Path(__file__).with_name("page.html")
MARKS = {  # a sign a verdict, so that no colour is needed to tell them apart
    "reproduced": ("good", "✓"),
    "differs": ("bad", "≠"),
    "published figure inconsistent": ("odd", "!"),
    "cannot tell": ("open", "?"),
    "not comparable": ("open", "*"),
    "not measured": ("none", "–"),
    "nothing published": ("none", "·"),
}


def to_html(document: Document) -> str:
    """report.html, whole."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"kind": _kind, "inline": inline_svg, "mark": lambda word: MARKS[word]}
    text = environment.from_string(TEMPLATE.read_text("utf-8")).render(document=document)
    return "\n".join(line.rstrip() for line in text.split("\n") if line.strip()) + "\n"


def _kind(thing: object) -> str:
    """What a block or cell is, for the template."""
    names: dict[type[Any], str] = {Grid: "grid", Notes: "notes", Plot: "plot", Pair: "pair", Verdict: "verdict", str: "text"}
    return names[type(thing)]


def inline_svg(plot: Plot) -> Any:
    """A plot to stand in the page: ids of its own, colours that follow the page's theme, a name for screen readers."""
    from markupsafe import Markup, escape

    svg = plot.svg.decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{plot.name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{plot.name}-", svg).replace('xlink:href="#', f'xlink:href="#{plot.name}-')
    for color, variable in ((INK, "--ink"), (RULE, "--rule"), (PAPER, "--paper")):
        svg = svg.replace(color, f"var({variable})")
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)
    return Markup(f'{head} role="img" aria-label="{escape(plot.alt)}">{rest}')
