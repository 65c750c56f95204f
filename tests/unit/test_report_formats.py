"""The report as markdown, LaTeX, HTML and plots: nothing in it is markup by accident, and the same input gives the same bytes."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hostile_report import HOSTILE, hostile_inputs, subjects
from report_runs import entry, run

from evalkit.report.assemble import SECTIONS, assemble
from evalkit.report.document import Document, Grid, Notes, Pair, Section
from evalkit.report.inputs import Inputs
from evalkit.report.published import read_table
from evalkit.report.render.html import to_html
from evalkit.report.render.latex import latex_files, tex, to_latex
from evalkit.report.render.markdown import markdown_table, to_markdown
from evalkit.report.sections.subjects import subject_plot
from evalkit.report.verdict import Verdict

TABLE = read_table("qwen1.5-moe")
VOID = {"meta", "link", "br", "hr", "img", "input"}


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return hostile_inputs()


@pytest.fixture(scope="module")
def document(inputs: Inputs) -> Document:
    return assemble(inputs)


@pytest.fixture(scope="module")
def page(document: Document) -> str:
    return to_html(document)


class Outline(HTMLParser):
    """Tags in order, ids, and whether every element that is opened is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_whole_and_stands_alone(page: str) -> None:
    outline = Outline(page)
    assert not outline.open
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    names = {tag for tag, _ in outline.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "image"}
    used = [value for _, attributes in outline.tags for key, value in attributes.items() if key in ("href", "xlink:href", "src")]
    assert used
    assert all(value and value.startswith("#") and value[1:] in ids for value in used)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)
    assert "default-src 'none'" in page
    assert not re.search(r"url\(['\"]?(?!#)", page)


def test_the_page_speaks_to_screen_readers_and_both_themes(page: str) -> None:
    tags = Outline(page).tags
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "svg")
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    assert all(
        attributes.get("aria-label") and attributes.get("tabindex") == "0" for _, attributes in tags if attributes.get("class") == "wide"
    )
    assert ("html", {"lang": "en"}) in tags
    assert "prefers-color-scheme: dark" in page
    assert page.count("var(--ink)") > 20  # the plots' texts follow the theme


def test_names_are_no_markup(document: Document, page: str) -> None:
    texts = "".join(Outline(page).texts)
    assert HOSTILE in texts
    markdown = to_markdown(document)
    assert "<script>" not in markdown
    assert "[a](b)" not in markdown
    assert "**b**" not in markdown
    latex = to_latex(document)
    assert "\\input{x}" not in latex
    assert "\\textbackslash{}input\\{x\\}" in latex


def test_every_row_of_a_markdown_table_has_its_columns(document: Document) -> None:
    blocks = re.findall(r"(?:^\|.*\n)+", to_markdown(document), re.MULTILINE)
    assert len(blocks) >= 6
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}) == 1
    assert markdown_table(("a", "b"), [("x|y", "1\n2")], "lr") == "| a | b |\n| --- | ---: |\n| x\\|y | 1 2 |\n"


def test_latex_tables_are_closed_and_escaped(document: Document) -> None:
    latex = "\n".join(latex_files(document).values())
    begun, ended = (re.findall(rf"\\{word}\{{(\w+)\}}", latex) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended)
    assert {"tabular", "figure", "itemize"} <= set(begun)
    assert latex.count("\\toprule") == latex.count("\\midrule") == latex.count("\\bottomrule") > 5
    body = re.sub("^%.*\n", "", latex, flags=re.MULTILINE)
    for special in "&%$#_~^":
        stray = re.sub(r"\\[&%$#_]|\\text\w+\{\}|\$\\to\$|\$\\times\$|\$\\pm\$|%\n| & ", "", body)
        assert special not in stray, special
    assert tex("5 ± 1\n→ é ∞") == "5 $\\pm$ 1 $\\to$ é ?"


def test_a_verdict_is_told_by_a_sign_and_a_word_not_by_colour() -> None:
    grid = Grid("t", "T", "ll", ("a", "b"), [("x", Verdict("differs", "why <b>")), ("y", Pair("1", "2", sure=False))])
    page = to_html(Document("d", [], [Section("s", "S", [grid, Notes("n", ["l"], folded=True)], [Verdict("differs")])]))
    assert re.search(r"≠</span> differs</span> <span class=\"why\">why &lt;b&gt;", page)
    assert "<strong>2</strong>*" in page
    assert "<details>" in page


def test_a_table_with_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="rows of another width"):
        Grid("t", "T", "ll", ("a", "b"), [("x",)])


def test_svgs_carry_no_date_path_or_version(document: Document) -> None:
    for plot in document.plots:
        text = plot.svg.decode()
        assert "dc:date" not in text
        assert "Matplotlib v" not in text
        assert str(Path.cwd()) not in text
        assert plot.png.startswith(b"\x89PNG")
        assert plot.alt


def test_subjects_that_a_run_lacks_are_left_open() -> None:
    whole = run("a", mmlu=entry(0.6, subjects=subjects(0.1, 0.4, 0.5, 0.6, 0.9)))
    part = run("b", "part", mmlu=entry(0.6, subjects={"anatomy": subjects(1, 1, 1, 1, 1)["anatomy"]}))
    plot = subject_plot([whole, part])
    assert plot
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg.decode())
    assert texts.count("-") == 4
    assert "econometrics" in texts
    assert subject_plot([run("a", mmlu=entry(0.6))]) is None


def test_a_section_without_inputs_is_left_out() -> None:
    document = assemble(Inputs(TABLE, ()))
    assert [section.slug for section in document.sections][:3] == ["quality", "parameters", "throughput"]
    assert all("throughput.svg" not in plot.name for plot in document.plots)
    assert not any(plot.name in ("throughput", "subjects") for plot in document.plots)
    assert len(SECTIONS) >= len(document.sections)
