"""The report as one static HTML page: with style and plots inside, no script, no network, and a light and a dark theme."""

import re
from pathlib import Path
from typing import Any

from evalkit.report.document import Document
from evalkit.report.plots.plot import INK, PAPER, RULE, Plot

TEMPLATE = Path(__file__).with_name("page.html")
MARKS = {  # a sign for each verdict, so that no colour is needed to tell them apart
    "reproduced": ("good", "✓"),
    "differs": ("bad", "≠"),
    "published figure inconsistent": ("odd", "!"),
    "cannot tell": ("open", "?"),
    "not comparable": ("open", "*"),
    "not measured": ("none", "–"),
    "nothing published": ("none", "·"),
}


def to_html(document: Document) -> str:
    """The whole of report.html."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"kind": _kind, "inline": inline_svg, "unbroken": _unbroken, "mark": lambda word: MARKS[word]}
    text = environment.from_string(TEMPLATE.read_text("utf-8")).render(document=document)
    return "\n".join(line.rstrip() for line in text.split("\n") if line.strip()) + "\n"


def _kind(thing: object) -> str:
    """The kind of a block or cell, for the template."""
    return "text" if isinstance(thing, str) else type(thing).__name__.lower()


def _unbroken(text: str) -> str:
    """An interval stays on one line."""
    return re.sub(r"\([\d.]+ to [\d.]+\)", lambda found: found[0].replace(" ", "\xa0"), text)


def inline_svg(plot: Plot) -> Any:
    """A plot for the page: with unique ids, colours that follow the page's theme, and a name for screen readers."""
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
