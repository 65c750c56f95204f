"""The report's page in headless Chromium: no serious accessibility fault, no complaint, no request, nothing cut off on a phone.

Needs playwright, axe-playwright-python, and a chromium on the PATH or named by EVALKIT_CHROMIUM (Debian: apt-get install chromium).
"""

from pathlib import Path
from typing import Any

import pytest
from report_runs import bench, entry, run

from evalkit.report.assemble import assemble
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
    file.write_text(to_html(assemble(Inputs(read_table("qwen1.5-moe"), runs, benches))), "utf-8")
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(scheme: str, browser: Any, page_file: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    # axe is a script, and the page allows none
    page = browser.new_context(color_scheme=scheme, bypass_csp=True).new_page()
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = axe.Axe().run(page).response["violations"]
    page.context.close()
    assert [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []


def test_it_complains_of_nothing_asks_for_nothing_and_fits_a_phone(browser: Any, page_file: Path) -> None:
    page = browser.new_context(viewport={"width": 360, "height": 740}).new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.context.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("svg").count() == 4
    assert all(box and box["width"] > 300 for box in (svg.bounding_box() for svg in page.locator("svg").all()))
    page.context.close()
    assert complaints == []
    assert requests == [page_file.as_uri()]
