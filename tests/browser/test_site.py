"""The documentation as it is built, in a real Chromium: no page is wider than its window, axe-core
finds nothing serious, light or dark, and formulas are typeset.
"""

import re
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

pytest.importorskip("playwright", reason="needs Playwright: make test-ui")

from chromium import chromium, serious
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "site-shots"
PAGES = ("index", "serving", "accuracy", "how-it-works", "methods", "cli", "limits")
# a phone, a tablet, a desk
WIDTHS = (390, 768, 1400)
HEIGHT = 1200


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The site's files, as it is built now; another build may run meanwhile."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(["make", "docs", f"SITE={folder}"], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def site(built) -> Iterator[str]:
    """Where the site can be opened."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(built)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(params=["light", "dark"])
def page(browser, request) -> Iterator[Page]:
    """A reader's window in one of the two colours, in which nothing may go wrong."""
    context = browser.new_context(color_scheme=request.param, reduced_motion="reduce")
    opened, wrong = context.new_page(), []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    context.close()
    assert not wrong


@pytest.mark.parametrize("name", PAGES)
def test_pages(page, site, name):
    """Wide tables scroll in their own box; what is the same at every width is looked at once."""
    page.goto(site if name == "index" else f"{site}{name}/")
    scheme = page.locator("body").get_attribute("data-md-color-scheme")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        page.screenshot(path=SHOTS / f"{name}-{width}-{scheme}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert serious(page) == []


def test_formulas_are_typeset(built):
    """As MathML, every one of them, with no TeX left that nothing understood."""
    formulas = 0
    for path in built.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        formulas += text.count("<math")
        assert "arithmatex" not in text, path
        prose = re.sub(r"<(script|style|pre|code)\b.*?</\1>|<[^>]*>", "", text, flags=re.DOTALL)
        assert not re.search(r"\$|\\[a-z]", prose), path
    assert formulas


@pytest.mark.parametrize("page", ["light"], indirect=True)
def test_a_wide_formula_scrolls_by_the_keyboard(page, site):
    """On a phone, in its own box."""
    page.set_viewport_size({"width": WIDTHS[0], "height": HEIGHT})
    page.goto(f"{site}methods/")
    expect(page.locator(".formula[tabindex='0']").first).to_be_attached()
    assert serious(page, "scrollable-region-focusable") == []


@pytest.mark.parametrize("page", ["light"], indirect=True)
def test_a_wide_table_scrolls_by_the_keyboard(page, site):
    """Where it is wider than its box, and nowhere else."""
    page.set_viewport_size({"width": WIDTHS[0], "height": HEIGHT})
    page.goto(f"{site}limits/")
    stops = page.locator(".md-typeset__scrollwrap[tabindex='0']")
    expect(stops.first).to_be_attached()
    assert serious(page, "scrollable-region-focusable") == []
    page.set_viewport_size({"width": WIDTHS[-1], "height": HEIGHT})
    expect(stops).to_have_count(0)
