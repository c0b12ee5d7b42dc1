"""Put the tables of `adafv speed` into the pages that show them.

    python benchmarks/speed/pages.py            # after measuring python benchmarks/speed/pages.py
    --check    # exit 1 where a page says something else than its results

A page shows a table between `<!-- speed: FOLDER -->`, a folder under benchmarks/speed, and `<!--
end -->`; of a folder with a selection.json what choosing cost before and after it was made faster.
`<!-- text: FOLDER -->` stands for the prefills of text alone that every measurement times, too.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from adafv.models.load import DTYPES
from adafv.speed import flops
from adafv.speed.run import Measurement
from adafv.speed.tables import markdown

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "speed.md")
TABLE = re.compile(r"(<!-- (speed|text): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def shown(match: re.Match[str]) -> str:
    """A table as its results are now, between its marks."""
    head, kind, name, end = match.groups()
    folder = ROOT / "benchmarks" / "speed" / name
    if (folder / "selection.json").exists():
        return f"{head}{selection(folder)}\n{end}"
    found = _read(folder / "results.json")
    made = text(found["meta"]) if kind == "text" else markdown(found["rows"], found["meta"])
    return f"{head}{made}\n{end}"


def text(meta: dict[str, Any]) -> str:
    """How fast a prompt of text alone is read, by its length: what no pruning changes."""
    config = Measurement(shape=meta["shape"], layers=meta["layers"]).config
    layers, size = config.get_text_config().num_hidden_layers, DTYPES[meta["dtype"]].itemsize
    rows = []
    for record in meta["text_prefill_ms"]:
        work = flops.prefill(config, [record["length"]] * layers, record["batch"], size)
        rows.append(
            (
                f"{record['length']:,}",
                f"{record['ms']:.0f}",
                f"{work.flops / record['ms'] / 1e6:.0f}",
            )
        )
    names = ("tokens", "ms", "GFLOP/s")
    lines = [
        f"| {name} | {' | '.join(cells)} |"
        for name, cells in zip(names, zip(*rows, strict=True), strict=True)
    ]
    return "\n".join([lines[0], f"| :-- |{' --: |' * len(rows)}", *lines[1:]])


def selection(folder: Path) -> str:
    """Time, memory and operators of `select` as before.json has them, and as they are."""
    before, now = _read(folder / "before.json"), _read(folder / "selection.json")
    lines = [
        "| method | ms at 2,880 | ms at 100,000 | line: r², exponent | MiB per 1,000 | operators | reads |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
    ]
    for name, fits in now["fits"].items():
        both = [_facts(found, name) for found in (before, now)]
        cells = [f"{a} → {b}" for a, b in zip(*both, strict=True)]
        line = f"{fits['select_ms']['r2']:.3f}, {fits['select_ms']['exponent']:.2f}"
        lines.append(
            f"| {name} | {cells[0]} | {cells[1]} | {line} | {cells[2]} | {cells[3]} | {cells[4]} |"
        )
    return "\n".join(lines)


def _facts(found: dict[str, Any], name: str) -> list[str]:
    times = {
        row["visual_tokens"]: row["select_ms"] for row in found["rows"] if row["method"] == name
    }
    (count,) = (row for row in found["counts"] if (row["method"], row["stage"]) == (name, "select"))
    memory = found["fits"][name]["peak_bytes"]["per_1000"] / 2**20
    numbers = (times[2880], times[100_000], memory)
    return [
        *(f"{x:.3g}" if x < 100 else f"{x:.0f}" for x in numbers),
        str(count["operators"]),
        str(count["reads"]),
    ]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := TABLE.sub(shown, text)) != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(new, encoding="utf-8")
    if "--check" in sys.argv and stale:
        sys.exit(
            f"{', '.join(stale)}: not what benchmarks/speed says; run python benchmarks/speed/pages.py"
        )


if __name__ == "__main__":
    main()
