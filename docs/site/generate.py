"""Write what code makes of the documentation, so that it reads on the code host as well.

    python docs/site/generate.py               # pages of code alone, and the tables of other pages
    python docs/site/generate.py --check       # exit 1 where a page is not what code would write
    python docs/site/generate.py --drawings    # docs/drawings too
    python docs/site/generate.py --count       # count the operations of every method anew first

A method that is new is counted in any case. A table stands between `<!-- table: NAME -->`, a name
of `tables.TABLES`, and `<!-- end -->`; links to the modules of a page of the reference between
`<!-- modules -->` and `<!-- end -->`.
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
from leaderboard import static_page
from tables import TABLES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOTE = "<!-- Written by docs/site/generate.py. -->\n\n"
MODULES = re.compile(r"(<!-- modules -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = {
    "methods.md": methods.methods_page,
    "cli.md": commands_page,
    "../benchmarks/leaderboard/board.md": static_page,
}
"""Pages that code writes whole, from `docs` on."""


def pages() -> Iterator[tuple[Path, str]]:
    """Every page with something made by code in it, and its text as it should be."""
    for name, make in PAGES.items():
        yield DOCS / name, NOTE + make()
    benchmarks = sorted((ROOT / "benchmarks").glob("*/README.md"))
    for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")), *benchmarks):
        text = path.read_text(encoding="utf-8")
        if path.name not in PAGES and TABLE.search(text):
            yield path, TABLE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)
    for path in sorted((DOCS / "reference").glob("*.md")):
        yield path, with_modules(path.read_text(encoding="utf-8"))


def with_modules(text: str) -> str:
    """A page of the reference with a link to the file of each module that it is about."""
    links = []
    for name in re.findall(r"^::: (\S+)", text, re.MULTILINE):
        path = f"src/{name.replace('.', '/')}"
        file = f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"
        links.append(f"- [`{name}`](../../{file})\n")
    return MODULES.sub(lambda found: f"{found[1]}{''.join(links)}{found[2]}", text)


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
