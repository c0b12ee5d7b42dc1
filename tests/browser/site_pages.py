"""The documentation as it is built, where a browser can open it."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).parents[2]
PAGES = re.findall(r": (\S+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
"""Every page of the navigation, of which `mkdocs build --strict` lets none be missing."""
WIDTHS = (390, 768, 1400)
"""Of a phone, a tablet, a desk."""
HEIGHT = 1200


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


def build_site(folder: Path) -> None:
    """Build the site into a folder; another build may run meanwhile."""
    subprocess.run(["make", "docs", f"SITE={folder}"], cwd=ROOT, check=True)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Where a site that was built can be opened."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def address(site: str, name: str) -> str:
    """Where a page is, by its name in the navigation."""
    return site if name == "index" else f"{site}{name}/"
