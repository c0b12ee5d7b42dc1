"""Write what code makes of the documentation, so that it reads on the code host as well.

    python docs/site/generate.py               # methods.md, cli.md, and the tables of other pages
    python docs/site/generate.py --check       # exit 1 where a page is not what code would write
    python docs/site/generate.py --drawings    # docs/drawings too
    python docs/site/generate.py --count       # count the operations of every method anew first

A method that is new is counted in any case. A table stands between `<!-- table: NAME -->`, a name
of `tables.TABLES`, and `<!-- end -->`.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import methods
from commands import commands_page
from drawings import DRAWINGS
from tables import TABLES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOTE = "<!-- Written by docs/site/generate.py. -->\n\n"
PAGES = {"methods.md": methods.methods_page, "cli.md": commands_page}


def pages() -> Iterator[tuple[Path, str]]:
    """Every page with something made by code in it, and its text as it should be."""
    for name, make in PAGES.items():
        yield DOCS / name, NOTE + make()
    benchmarks = sorted((ROOT / "benchmarks").glob("*/README.md"))
    for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")), *benchmarks):
        text = path.read_text(encoding="utf-8")
        if path.name not in PAGES and TABLE.search(text):
            yield path, TABLE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def stale() -> list[str]:
    """Names of the pages that are not what code would write."""
    # without its count a method has no section
    if methods.uncounted():
        return [os.path.relpath(methods.OPERATIONS, ROOT)]
    found = []
    for path, text in pages():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            found.append(os.path.relpath(path, ROOT))
    return found


def main() -> None:
    """Write, or check."""
    if "--check" in sys.argv:
        if found := stale():
            sys.exit(f"{', '.join(found)}: out of date; run python docs/site/generate.py")
        return
    if "--count" in sys.argv or methods.uncounted():
        known = {} if "--count" in sys.argv else methods.operations()["methods"]
        text = json.dumps(methods.count(known), indent=1)
        methods.OPERATIONS.write_text(f"{text}\n", encoding="utf-8")
        methods.operations.cache_clear()
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
    if "--drawings" in sys.argv:
        (DOCS / "drawings").mkdir(exist_ok=True)
        for name, draw in DRAWINGS.items():
            (DOCS / "drawings" / name).write_bytes(draw())


if __name__ == "__main__":
    main()
