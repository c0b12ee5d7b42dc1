"""The table of benchmarks/clips, made of the committed measurements."""

from pathlib import Path
from typing import Any

from writing import percent, table

from adafv.evaluation import report
from adafv.evaluation.beyond_resize import BEYOND_RESIZE
from adafv.evaluation.paired import SIGNIFICANT
from adafv.utils.records import Rows, distinct, where

FOLDER = Path(__file__).parents[2] / "benchmarks" / "clips"
NAMES = {
    "evs:first=0.5": "`evs:first=0.5` (ours)",
    "oracle": "oracle, which knows the boxes",
}


def clips() -> str:
    """Accuracy of each method on clips, marked where it is another than that of `adafv`."""
    whole = {
        ("none", 1): "dense, with a thumbnail of all frames",
        ("uniform", 0.9983): "all frames, without it (`uniform`, all tokens but one)",
        ("blind", 0): "blind",
    }
    return _table(report.read(FOLDER / "results.json"), whole)


def of_photographs() -> str:
    """The same of the photo model, on clips of photographs."""
    whole = {("none", 1): "dense, all tokens", ("blind", 0): "blind: the text alone"}
    return _table(report.read(FOLDER / "photographs" / "results.json"), whole)


def of_types() -> str:
    """What the photo model answers of each type, from all tokens and blind."""
    lines = []
    for name in ("photographs", "motion"):
        rows = report.read(FOLDER / name / "results.json")["rows"]
        for type_ in distinct(rows, "question_type"):
            if type_ in ("all", BEYOND_RESIZE):
                continue
            [dense] = where(rows, method="none", question_type=type_)
            [blind] = where(rows, method="blind", question_type=type_)
            lines.append([f"`{type_}`", str(dense["n"]), _share(dense, []), _share(blind, [])])
    return table(["type", "n", "all tokens", "blind"], lines)


def _table(found: dict[str, Any], whole: dict[tuple[str, float], str]) -> str:
    """Return a line for each method, and for what reads all tokens or none."""
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
    for (method, most), name in whole.items():
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
