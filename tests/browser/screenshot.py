"""Draws docs/playground.png: `.venv-ui/bin/python tests/browser/screenshot.py
docs/playground.png`.
"""

import sys

from chromium import chromium

from adafv.app.layout import LAUNCH, build
from adafv.app.playground import Playground
from adafv.models.load import load

SIZE = {"width": 1280, "height": 800}


def main(out: str) -> None:
    playground = Playground(*load(), "embedded")
    playground.warm_up()
    app = build(playground)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    with chromium() as browser:
        page = browser.new_page(viewport=SIZE)
        page.goto(url)
        page.wait_for_selector(".curve")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        page.screenshot(path=out, full_page=True)
    app.close(verbose=False)


if __name__ == "__main__":
    main(sys.argv[1])
