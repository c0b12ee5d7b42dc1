"""The table of budgets below 5 %, made of the committed measurement, with Holm's correction."""

import csv
from pathlib import Path

from writing import percent, table

from adafv.evaluation import report
from adafv.utils.records import Rows, distinct, where
from adafv.utils.stats import holm

LOW = Path(__file__).parents[2] / "benchmarks" / "low"
OURS = "adafv+"
BELOW = 0.05
"""A p beyond luck, once corrected."""
NAMES = {
    "none": "dense, all tokens",
    "blind": "blind: the text alone",
    "oracle": "oracle, which knows the boxes",
}


def low() -> str:
    """Accuracy of every method, and in brackets what `adafv+` has more, with its interval."""
    rows = where(report.read(LOW / "results.json")["rows"], question_type="all")
    suites = distinct(rows, "suite")
    keeps = sorted({row["keep"] for row in rows if 0 < row["keep"] < 1}, reverse=True)
    pairs = _pairs()
    beyond = _beyond_luck(pairs)

    lines = []
    for method in distinct(rows, "method"):
        cells = [NAMES.get(method, f"`{method}`")]
        for suite in suites:
            for keep in keeps:
                cells.append(_cell(rows, pairs, beyond, suite, keep, method))
        lines.append(cells)
    head = [f"`{suite}`, {percent(keep)}" for suite in suites for keep in keeps]
    return table(["method", *head], lines)


def _cell(
    rows: Rows,
    pairs: dict[tuple[str, float, str], dict[str, float]],
    beyond: set[tuple[str, float, str]],
    suite: str,
    keep: float,
    method: str,
) -> str:
    """Return an accuracy, and the difference to it where there is one."""
    found = where(rows, suite=suite, method=method)
    # all tokens, or none, are one measurement for every budget
    whole = [row for row in found if row["keep"] in (0, 1)]
    [row] = whole or where(found, keep=keep)
    text = f"{100 * row['accuracy']:.1f}"
    pair = pairs.get((suite, keep, method))
    if pair is None:
        return text
    more = f"{100 * pair['difference']:+.1f}"
    more = f"**{more}**" if (suite, keep, method) in beyond else more
    return f"{text} ({more} [{100 * pair['ci_low']:.1f}, {100 * pair['ci_high']:.1f}])"


def _pairs() -> dict[tuple[str, float, str], dict[str, float]]:
    """Return what `adafv+` has more than each rival, by suite, keep and rival."""
    found = {}
    with (LOW / "pairs.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["method"] != OURS or row["rival"] in NAMES:
                continue
            numbers = {name: float(row[name]) for name in ("difference", "ci_low", "ci_high", "p")}
            found[row["suite"], float(row["keep"]), row["rival"]] = numbers
    return found


def _beyond_luck(
    pairs: dict[tuple[str, float, str], dict[str, float]],
) -> set[tuple[str, float, str]]:
    """Return the comparisons that hold after Holm's correction for all of them."""
    corrected = holm([pair["p"] for pair in pairs.values()])
    return {key for key, p in zip(pairs, corrected, strict=True) if p < BELOW}
