"""Draw every committed picture of measurements, and write their pages, from committed results.

python benchmarks/redraw.py            # all of them; measures nothing
python benchmarks/redraw.py speed      # those whose path holds the word
python benchmarks/redraw.py --check    # exit 1 where a page is not what its results say
"""

import json
import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from adafv.analysis import captions, figures
from adafv.evaluation import plot as accuracy
from adafv.speed import plot as speed
from adafv.speed.tables import title
from adafv.utils.files import atomic, write_text

HERE = Path(__file__).parent
FIGURES = {
    "fig1": (figures.draw_scores, captions.score_caption),
    "fig2": (figures.draw_auc, captions.auc_caption),
    "fig3": (figures.draw_similarity, captions.similarity_caption),
    "fig4": (figures.draw_first_hit, captions.first_hit_caption),
}

SCRIPTS = {"speed": "selection.py", "serving": "plot.py", "peers": "compare_engines.py"}

PAGES = {
    "evaluation": "evaluation/measure.py",
    "peers": "peers/compare_engines.py",
    "serving": "serving/report.py",
    "serving/stages": "serving/request_stages.py",
    "speed/choosing": "speed/choosing.py",
    "speed/repeated_crops": "speed/repeated_crops.py",
    "start": "start/start_times.py",
}
"""Folders whose README.md a script writes whole, and the script; others are written by hand, or
where they are measured."""


def read(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def drawings() -> dict[Path, Callable[[Path], Any]]:
    """Return for each picture what draws it into a file."""
    found: dict[Path, Callable[[Path], Any]] = {}
    for path in sorted(HERE.glob("*/accuracy.png")):
        rows = read(path.with_name("results.json"))["rows"]
        found[path] = partial(accuracy.draw, rows)
    for path in sorted(HERE.glob("speed/*/speed.png")):
        results = read(path.with_name("results.json"))
        found[path] = partial(speed.draw, results["rows"], title(results["meta"]))
    for path in sorted(HERE.glob("analysis/**/analysis.json")):
        for name, figure in read(path)["figures"].items():
            draw, caption = FIGURES[name]
            # captions are made of the rows, too
            written = caption(figure["rows"])
            page = draw(figure["rows"], written.shows)
            found[path.with_name(figure["png"])] = partial(page.savefig, format="png")
    # scripts, each beside what it imports
    for folder, script in SCRIPTS.items():
        sys.path.insert(0, str(HERE / folder))
        module = runpy.run_path(str(HERE / folder / script))
        if folder == "serving":
            rows = read(HERE / folder / "results.json")["rows"]
            found[HERE / folder / "serving.png"] = partial(module["draw"], rows)
            continue
        if folder == "peers":
            rows = [module["Row"](**row) for row in read(HERE / folder / "results.json")["rows"]]
            found[HERE / folder / "peers.png"] = partial(module["draw"], rows)
            continue
        results = read(HERE / folder / "selection" / "selection.json")
        path = HERE / folder / "selection" / "selection.png"
        heading = module["title_of"](results["meta"])
        found[path] = partial(module["draw"], results["rows"], results["fits"], heading)
    return found


def pages(word: str = "") -> dict[Path, str]:
    """Return the text of each page that is written from results beside it."""
    found = {}
    for folder, script in PAGES.items():
        path = HERE / folder / "README.md"
        if word in str(path.relative_to(HERE)):
            sys.path.insert(0, str((HERE / script).parent))
            found[path] = runpy.run_path(str(HERE / script))["written"](HERE / folder)
    return found


def stale() -> list[str]:
    """Return the pages that are not what their results say."""
    found = []
    for path, text in pages().items():
        if path.read_text(encoding="utf-8") != text:
            found.append(str(path.relative_to(HERE)))
    return found


def main() -> None:
    """Draw and write, or check."""
    if "--check" in sys.argv:
        if found := stale():
            sys.exit(f"{', '.join(found)}: out of date; run python benchmarks/redraw.py")
        return
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    for path, text in pages(word).items():
        write_text(path, text)
        print(path.relative_to(HERE))
    for path, draw in drawings().items():
        if word in str(path.relative_to(HERE)):
            with atomic(path) as temporary:
                draw(temporary)
            print(path.relative_to(HERE))


if __name__ == "__main__":
    main()
