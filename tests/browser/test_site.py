"""The documentation as it is built, in a real Chromium: no page is wider than its window, axe-core
finds nothing serious, light or dark, and formulas are typeset.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="needs Playwright: make test-ui")

from chromium import chromium, serious
from playwright.sync_api import Browser, Page, expect
from site_pages import HEIGHT, PAGES, WIDTHS, address, build_site, served

CONTENT = ".md-content"
"""What differs from page to page."""
LONG = "leaderboard"
"""A page of a thousand lines of one make: some are looked at, after its script has run."""
REFERENCE = [name for name in PAGES if name.startswith("reference/")]
"""Long pages that are generated alike, of which one is looked at by axe."""
LOOKED_AT = [name for name in PAGES if name not in (LONG, *REFERENCE[1:])]
SCROLLED = """() => Array.from(
    document.querySelectorAll(".md-content :is(.md-typeset__scrollwrap, pre > code, .formula)")
).filter(box => box.scrollWidth > box.clientWidth).map(box => box.textContent.slice(0, 80))"""
"""The beginning of every table, block of code and formula that is wider than its box."""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The site's files, as it is built now."""
    folder = tmp_path_factory.mktemp("site")
    build_site(folder)
    return folder


@pytest.fixture(scope="module")
def site(built) -> Iterator[str]:
    """Where the site can be opened."""
    with served(built) as url:
        yield url


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


@pytest.mark.parametrize("page", ["light"], indirect=True)
@pytest.mark.parametrize("name", PAGES)
def test_every_page(page, site, name):
    """Nothing is wider than the window, on a desk nothing scrolls sideways, and on a phone, where
    boxes scroll, what is the page's own is accessible.
    """
    page.goto(address(site, name))
    for width in reversed(WIDTHS):
        page.set_viewport_size({"width": width, "height": HEIGHT})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if width == WIDTHS[-1]:
            assert page.evaluate(SCROLLED) == []
    if name in LOOKED_AT:
        assert serious(page, within=CONTENT) == []


@pytest.mark.parametrize("page", ["dark"], indirect=True)
@pytest.mark.parametrize("name", LOOKED_AT[::3])
def test_pages_in_the_dark(page, site, name):
    """Of what the colours change, only contrast; all pages have the same style."""
    page.goto(address(site, name))
    assert page.locator("body").get_attribute("data-md-color-scheme") == "slate"
    assert serious(page, "color-contrast", within=CONTENT) == []


@pytest.mark.parametrize("width", [WIDTHS[0], WIDTHS[-1]])
def test_what_surrounds_a_page(page, site, width):
    """Header, navigation and footer are the same everywhere, so they are looked at once."""
    page.set_viewport_size({"width": width, "height": HEIGHT})
    page.goto(site)
    assert serious(page) == []


def test_the_leaderboard(page, site):
    """As its script leaves it: one method's lines, sorted by the keyboard."""
    page.goto(f"{site}leaderboard/")
    page.get_by_label("method", exact=True).select_option("adafv+")
    head = page.locator("#board th").nth(3)
    expect(head).to_have_text("accuracy, %")
    head.press("Enter")
    expect(head).to_have_attribute("aria-sort", "descending")
    shown = page.locator("#board tbody tr:not([hidden])")
    assert set(shown.locator("td:first-child").all_inner_texts()) == {"adafv+"}
    assert serious(page, within=CONTENT) == []


@pytest.mark.parametrize("page", ["light"], indirect=True)
def test_what_matters_is_in_sight_on_a_phone(page, site):
    """What a line of the leaderboard measured, and what an argument of a function is."""
    page.set_viewport_size({"width": WIDTHS[0], "height": HEIGHT})
    for name, cells in (
        ("leaderboard", "#board tbody tr:nth-child(3n) td:nth-child(4)"),
        ("reference/methods", ".doc-md-description"),
    ):
        page.goto(address(site, name))
        rights = page.locator(cells).evaluate_all(
            "cells => cells.map(cell => cell.getBoundingClientRect().right)"
        )
        assert len(rights) > 50
        assert max(rights) <= WIDTHS[0], name


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
