"""The table of benchmarks/clips, made of the committed measurements."""

from pathlib import Path
from typing import Any

from writing import percent, table

from adafv.evaluation import report
from adafv.evaluation.paired import SIGNIFICANT
from adafv.utils.records import Rows, distinct, where

RESULTS = Path(__file__).parents[2] / "benchmarks" / "clips" / "results.json"
NAMES = {
    "evs:first=0.5": "`evs:first=0.5` (ours)",
    "oracle": "oracle, which knows the boxes",
}


def clips() -> str:
    """Accuracy of each method on clips, marked where it is another than that of `adafv`."""
    found = report.read(RESULTS)
    rows = where(found["rows"], question_type="all")
    keeps = sorted({row["keep"] for row in rows if 0 < row["keep"] < 0.9}, reverse=True)
    lines = []
    for method in distinct(rows, "method"):
        if method in ("none", "blind"):
            continue
        cells = [NAMES.get(method, f"`{method}`")]
        for keep in keeps:
            row = where(rows, method=method, keep=keep)
            pair = where(found["pairs"], method="adafv", rival=method, keep=keep)
            cells.append(_share(row[0], pair) if row else "–")
        lines.append(cells)
    for name, method, most in (
        ("dense, with a thumbnail of all frames", "none", 1),
        ("all frames, without it (`uniform`, all tokens but one)", "uniform", 0.9983),
        ("blind", "blind", 0),
    ):
        [row] = where(rows, method=method, keep=most)
        lines.append([name, _share(row, []), *[""] * (len(keeps) - 1)])
    return table(["method", *(f"{percent(keep)} kept" for keep in keeps)], lines)


def _share(row: dict[str, Any], pairs: Rows) -> str:
    """Return right answers in % with their interval, and whether they are more or fewer."""
    mark = ""
    for pair in pairs:
        if pair["p"] < SIGNIFICANT:
            mark = "▼" if pair["difference"] > 0 else "▲"
    low, high = 100 * row["ci_low"], 100 * row["ci_high"]
    return f"{100 * row['accuracy']:.1f}{mark} [{low:.1f}, {high:.1f}]"
