"""Pictures of what a reader and a visitor see, to be looked at.

    make shots                                                          # into build/shots
    .venv-ui/bin/python tests/browser/screenshots.py docs/playground.png

`make shots` draws each page of the documentation and the playground, whole, at three widths, and in
the dark at the widest.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from chromium import chromium
from playwright.sync_api import Browser, Page
from site_pages import HEIGHT, PAGES, ROOT, WIDTHS, address, build_site, served

from adafv.app.layout import LAUNCH, build
from adafv.app.playground import Playground
from adafv.models.load import load

SHOTS = ROOT / "build" / "shots"
SIZE = {"width": 1280, "height": 800}
PATIENCE_MS = 120_000
"""For a page of the reference, on a busy core."""
LOOKS = (*((width, "light") for width in WIDTHS), (WIDTHS[-1], "dark"))


def main(out: str | None = None) -> None:
    with playground() as url, chromium() as browser:
        if out is None:
            draw_everything(browser, url)
        else:
            page = browser.new_page(viewport=SIZE)
            visit(page, url)
            page.screenshot(path=out, full_page=True)


@contextmanager
def playground() -> Iterator[str]:
    """Where the playground of the model in the package can be opened."""
    ready = Playground(*load(), "embedded")
    ready.warm_up()
    app = build(ready)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    yield url
    app.close(verbose=False)


def visit(page: Page, url: str) -> None:
    """Open the playground, and wait for its first answers."""
    page.goto(url)
    page.wait_for_selector(".curve")
    page.wait_for_function("[...document.images].every(image => image.complete)")


def draw_everything(browser: Browser, url: str) -> None:
    """Write every picture: what it shows, width and scheme are its name."""
    folder = SHOTS / "site"
    build_site(folder)
    with served(folder) as site:
        for page, look in windows(browser):
            visit(page, url)
            page.screenshot(path=SHOTS / f"playground-{look}.png", full_page=True)
            for name in PAGES:
                page.goto(address(site, name))
                path = SHOTS / f"{name.replace('/', '-')}-{look}.png"
                page.screenshot(path=path, full_page=True)


def windows(browser: Browser) -> Iterator[tuple[Page, str]]:
    """A window of every width and scheme, one at a time, and what to call it."""
    for width, scheme in LOOKS:
        size = {"width": width, "height": HEIGHT}
        page = browser.new_page(viewport=size, color_scheme=scheme)
        page.set_default_timeout(PATIENCE_MS)
        yield page, f"{width}-{scheme}"
        page.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
