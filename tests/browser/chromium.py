"""Debian's Chromium, headless, that may speak to this machine only; what axe-core finds in it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser: that of $CHROMIUM, or the one on the path."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        raise SystemExit(
            "chromium is not installed: sudo apt-get install chromium, or set CHROMIUM to a browser"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


def serious(page: Page, *rules: str, within: str | None = None) -> list[str]:
    """What axe-core finds wrong, contrast below WCAG's AA among it, and the first place of each.

    Of all its rules, or of some; on the whole page, or in the elements of a selector.
    """
    options: dict[str, list[str]] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = list(rules)
    return [
        f"{found['id']}: {found['nodes'][0]['html'][:200]}"
        for found in Axe().run(page, context=within, options=options).response["violations"]
        if found["impact"] in ("serious", "critical")
    ]
