"""The report's page in headless Chromium: no accessibility fault, no complaint, no request, nothing cut off on any screen.

Needs playwright, axe-playwright-python, and a chromium on the PATH or named by EVALKIT_CHROMIUM (Debian: apt-get install chromium).
"""

from pathlib import Path
from typing import Any

import pytest
from report_runs import bench, entry, run

from evalkit.report.assemble import assemble
from evalkit.report.findings import CheckedFinding, Finding
from evalkit.report.inputs import Inputs
from evalkit.report.published import read_table
from evalkit.report.render.html import to_html
from evalkit.stats.estimate import Estimate


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    subject = {"acc": Estimate(0.4, 0.1, (0.2, 0.6), 9)}
    subjects = {"astronomy": subject, "philosophy": subject}
    runs = (run("Qwen/Qwen1.5-MoE-A2.7B", mmlu=entry(0.62, subjects=subjects)), run("demo", mmlu=entry(0.2, n=14)))
    benches = (bench("Qwen/Qwen1.5-MoE-A2.7B", 2.0), bench("Qwen/Qwen1.5-7B", 1.15))
    file = tmp_path_factory.mktemp("page") / "report.html"
    finding = Finding("qwen1.5-moe", "Qwen1.5-MoE-A2.7B", "mmlu", "the prompt", ("a", "b"), "it explains it")
    inputs = Inputs(read_table("qwen1.5-moe"), runs, benches, [CheckedFinding(finding, "62.0 in a; 63.0 in b, +1.0")])
    file.write_text(to_html(assemble(inputs)), "utf-8")
    return file


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1366)], ids=["phone", "laptop"])
def test_axe_finds_nothing(scheme: str, width: int, browser: Any, page_file: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    # axe is a script, and the page allows none
    page = browser.new_context(color_scheme=scheme, bypass_csp=True, viewport={"width": width, "height": 800}).new_page()
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = axe.Axe().run(page).response["violations"]
    page.context.close()
    assert [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in found] == []


def test_it_complains_of_nothing_asks_for_nothing_and_fits_every_screen(browser: Any, page_file: Path) -> None:
    page = browser.new_context().new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.context.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    for width in (360, 400, 700, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        assert page.evaluate("[...document.querySelectorAll('.wide')].every(each => each.scrollWidth <= each.clientWidth + 1)"), width
        words = page.locator(".word").evaluate_all("all => all.map(each => each.getBoundingClientRect().right)")
        assert len(words) > 10
        assert max(words) < width
        boxes = [svg.bounding_box() for svg in page.locator("svg").all()]
        assert len(boxes) > 4
        assert all(300 < box["width"] <= 610 for box in boxes)  # no text of a plot is small, none is huge
    page.context.close()
    assert complaints == []
    assert requests == [page_file.as_uri()]
