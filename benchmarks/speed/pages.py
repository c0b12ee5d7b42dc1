"""Put the tables of `adafv speed` into the pages that show them.

    python benchmarks/speed/pages.py            # after measuring
    python benchmarks/speed/pages.py --check    # exit 1 where a page differs from its results

A page shows a table between `<!-- speed: FOLDER -->`, a folder under benchmarks/speed, and `<!--
end -->`; of a folder with a selection.json what choosing costs.
`<!-- text: FOLDER -->` stands for the prefills of text alone that every measurement times, too.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adafv.models.load import DTYPES
from adafv.speed import flops
from adafv.speed.run import Measurement
from adafv.speed.tables import markdown
from adafv.utils.records import where

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "benchmarks" / "speed" / "README.md",)
TABLE = re.compile(r"(<!-- (speed|text): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def shown(match: re.Match[str]) -> str:
    """Return a table as its results are now, between its marks."""
    head, kind, name, end = match.groups()
    folder = ROOT / "benchmarks" / "speed" / name
    if (folder / "selection.json").exists():
        return f"{head}{selection(folder)}\n{end}"
    found = _read(folder / "results.json")
    made = text(found["meta"]) if kind == "text" else markdown(found["rows"], found["meta"])
    return f"{head}{made}\n{end}"


def text(meta: dict[str, Any]) -> str:
    """Return how fast a prompt of text alone is read, by its length: no pruning changes that."""
    config = Measurement(shape=meta["shape"], layers=meta["layers"]).config
    layers = config.get_text_config().num_hidden_layers
    size = DTYPES[meta["dtype"]].itemsize

    # a column for each length
    tokens = ["tokens"]
    times = ["ms"]
    speeds = ["GFLOP/s"]
    for record in meta["text_prefill_ms"]:
        work = flops.prefill(config, [record["length"]] * layers, record["batch"], size)
        tokens.append(f"{record['length']:,}")
        times.append(f"{record['ms']:.0f}")
        # ms and FLOPs: a million of them a millisecond is a GFLOP/s
        speeds.append(f"{work.flops / record['ms'] / 1e6:.0f}")
    rule = f"| :-- |{' --: |' * (len(tokens) - 1)}"
    return "\n".join([_line(tokens), rule, _line(times), _line(speeds)])


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def selection(folder: Path) -> str:
    """Return time, memory and operators of `select`."""
    found = _read(folder / "selection.json")
    head = (
        "method",
        "ms at 2,880",
        "ms at 100,000",
        "line: r², exponent",
        "MiB per 1,000",
        "operators",
        "reads",
    )
    lines = [_line(head), f"| :-- |{' --: |' * (len(head) - 1)}"]
    for name, fits in found["fits"].items():
        texts = [name, *_facts(found, name)]
        # after the times: how well a straight line goes through them
        fit = fits["select_ms"]
        texts.insert(3, f"{fit['r2']:.3f}, {fit['exponent']:.2f}")
        lines.append(_line(texts))
    # results of earlier versions are all of one crop
    layout = found["meta"].get("layout")
    if layout is not None:
        lines += ["", layout]
    return "\n".join(lines)


def _facts(found: dict[str, Any], name: str) -> list[str]:
    """Return two times, memory, operators and reads of a method, as text."""
    times = {}
    for row in where(found["rows"], method=name):
        times[row["visual_tokens"]] = row["select_ms"]
    (count,) = where(found["counts"], method=name, stage="select")
    memory = found["fits"][name]["peak_bytes"]["per_1000"] / 2**20
    texts = []
    for number in (times[2880], times[100_000], memory):
        texts.append(f"{number:.3g}" if number < 100 else f"{number:.0f}")
    return [*texts, str(count["operators"]), str(count["reads"])]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Write the pages, or check them."""
    check = "--check" in sys.argv
    # a page without marks has no tables
    stale = []
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        now = TABLE.sub(shown, before)
        if now != before:
            stale.append(page.name)
            if not check:
                page.write_text(now, encoding="utf-8")
    if check and stale:
        sys.exit(
            f"{', '.join(stale)}: not what benchmarks/speed says; "
            "run python benchmarks/speed/pages.py"
        )


if __name__ == "__main__":
    main()
