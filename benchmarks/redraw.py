"""Draw every committed picture of measurements anew from the committed results.

python benchmarks/redraw.py          # all of them; measures nothing
python benchmarks/redraw.py speed    # those whose path holds the word
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
from adafv.utils.files import atomic

HERE = Path(__file__).parent
FIGURES = {
    "fig1": (figures.draw_scores, captions.score_caption),
    "fig2": (figures.draw_auc, captions.auc_caption),
    "fig3": (figures.draw_similarity, captions.similarity_caption),
    "fig4": (figures.draw_first_hit, captions.first_hit_caption),
}

SCRIPTS = {"speed": "selection.py", "serving": "plot.py", "peers": "compare_engines.py"}


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
    analysis = read(HERE / "analysis" / "analysis.json")
    for name, figure in analysis["figures"].items():
        draw, caption = FIGURES[name]
        # captions are made of the rows, too
        written = caption(figure["rows"])
        page = draw(figure["rows"], written.shows)
        found[HERE / "analysis" / figure["png"]] = partial(page.savefig, format="png")
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


def main() -> None:
    """Draw."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    for path, draw in drawings().items():
        if word in str(path.relative_to(HERE)):
            with atomic(path) as temporary:
                draw(temporary)
            print(path.relative_to(HERE))


if __name__ == "__main__":
    main()
