"""The HTML report in a real browser: Debian's chromium, or any on the PATH, driven by playwright."""

from __future__ import annotations

import os
import shutil

import pytest

from projclean.report import render
from tests.samples import HOSTILE, eval_result, repair_result, scan_result

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on the PATH (apt-get install chromium)")

RESULTS = {"scan": scan_result, "repair": repair_result, "eval": eval_result}
LOOKS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]

#: Contrast of every text with what is behind it (WCAG 2.1): the texts below 4.5.
FAINT = """
() => {
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || node.closest("style")) continue;
    const style = getComputedStyle(node);
    const front = light(parse(node.closest("svg") ? style.fill : style.color)), back = light(behind(node));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (ratio < 4.5) faint.push([walk.currentNode.data.trim(), ratio]);
  }
  return faint;
}
"""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=BROWSER, args=sandbox)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Open a result's page; afterwards there must have been no console message, no error and no other request."""
    pages = []

    def open_page(result, width=1280, scheme="light"):
        file = tmp_path / "report.html"
        file.write_text(render(result, "html"), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        troubles: list[str] = []
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: troubles.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        pages.append((page, troubles))
        return page

    yield open_page
    for page, troubles in pages:
        page.close()
        assert troubles == []


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
@pytest.mark.parametrize("name", RESULTS)
def test_report_is_readable_and_within_the_screen(visit, name, width, scheme):
    page = visit(RESULTS[name](), width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for plot in page.locator("svg").all():
        box = plot.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 384) == (scheme == "dark")
    assert page.evaluate(FAINT) == []


def test_scan_page_has_verdict_table_plot_and_caveats(visit):
    page = visit(scan_result())
    assert page.get_by_role("region", name="Verdict").get_by_text("SUSPICIOUS", exact=True).is_visible()
    table = page.get_by_role("table", name="What it was made to say, the surest first, then by score")
    assert table.get_by_role("rowheader", name="you have been hacked").is_visible()
    assert table.get_by_role("columnheader").all_inner_texts()[0] == "made to say"
    plot = page.get_by_role("img", name="Bar chart of the 2 strongest utterances")
    assert plot.is_visible()
    assert plot.get_by_text("you have been hacked").count() == 1
    assert page.get_by_role("heading", name="Changed outside the projector").is_visible()
    clean = visit(scan_result(share=0.1))
    assert clean.get_by_role("heading", name="What this does not prove").is_visible()


def test_repair_page_shows_the_whole_trade_off(visit):
    page = visit(repair_result())
    plot = page.get_by_role("img", name="Scatter plot of attack success against clean accuracy")
    for label in ("interpolation", "base", "suspect", "repaired (rank 2)"):
        assert plot.get_by_text(label, exact=True).is_visible()
    rows = page.get_by_role("table", name="Clean accuracy, attack success and robust accuracy").get_by_role("row")
    assert rows.count() == 1 + 3 + 9
    assert page.get_by_role("table", name="What was tried").get_by_text("rank 2 ← chosen").is_visible()


def test_on_a_phone_a_table_is_still_a_table_and_no_figure_is_lost(visit):
    page = visit(eval_result(), 390)
    table = page.get_by_role("table", name="Clean accuracy, attack success and robust accuracy")
    assert table.get_by_role("row").count() == 4
    assert table.get_by_role("cell", name="0.75 [0.67, 0.82]").is_visible()


def test_everything_is_reached_by_keyboard(visit):
    page = visit(scan_result())
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent")
        )
    assert reached[0] == "Skip to the report"
    assert "The update ΔW of every projector layer" in reached


def test_a_hostile_model_stays_text(visit):
    for result in (scan_result(HOSTILE, model=HOSTILE), repair_result(HOSTILE, out=HOSTILE), eval_result(HOSTILE)):
        page = visit(result)
        assert page.locator("script, img, iframe").count() == 0
        assert "<script>alert(1)</script>" in page.locator("main").inner_text()
        assert "{{ 7 * 7 }}" in page.locator("main").inner_text()
