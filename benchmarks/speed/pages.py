"""Put the tables of `adafv speed` into the pages that show them.

    python benchmarks/speed/pages.py            # after measuring
    python benchmarks/speed/pages.py --check    # exit 1 where a page says something else than its results

A page shows a table between `<!-- speed: FOLDER -->`, a folder under benchmarks/speed, and `<!-- end -->`.
"""

import json
import re
import sys
from pathlib import Path

from adafv.speed.tables import markdown

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "speed.md")
TABLE = re.compile(r"(<!-- speed: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def shown(match: re.Match[str]) -> str:
    """A table as its results are now, between its marks."""
    found = json.loads((ROOT / "benchmarks" / "speed" / match[2] / "results.json").read_text(encoding="utf-8"))
    return f"{match[1]}{markdown(found['rows'], found['meta'])}\n{match[3]}"


def main() -> None:
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := TABLE.sub(shown, text)) != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(new, encoding="utf-8")
    if "--check" in sys.argv and stale:
        sys.exit(f"{', '.join(stale)}: not what benchmarks/speed says; run python benchmarks/speed/pages.py")


if __name__ == "__main__":
    main()
