"""Tables of the accuracy measurement, made of what `adafv table` prints."""

from functools import cache
from pathlib import Path

from writing import table

from adafv.evaluation import report
from adafv.utils.records import distinct

ACCURACY = Path(__file__).parents[2] / "benchmarks" / "accuracy" / "results.json"
SHOWN = 0.05
"""Share of the tokens of these tables, beside all and none."""
NAMES = {
    "dense": "dense, all tokens",
    "blind": "blind, no image",
    "oracle": "oracle, which knows the boxes",
}
ANSWERS = 3  # columns of a suite: right answers, their interval, their share of the dense model's


def held() -> str:
    """Share of the dense model's accuracy on every suite, methods sorted by the first suite."""
    suites, lines = _printed()
    ranked = sorted(lines, key=lambda line: -float(line[1].rstrip("▲▼")))
    rows = []
    for line in ranked:
        shares = line[ANSWERS::ANSWERS]
        rows.append([_name(line), *(share or "–" for share in shares)])
    return table(["method", *suites], rows)


def intervals() -> str:
    """Right answers in percent on every suite, each with its interval and its mark."""
    suites, lines = _printed()
    rows = []
    for line in lines:
        pairs = zip(line[1::ANSWERS], line[2::ANSWERS], strict=True)
        cells = [f"{right} ({interval})" if interval else right for right, interval in pairs]
        rows.append([_name(line), *cells])
    return table(["method", *suites], rows)


@cache
def _printed() -> tuple[list[str], list[list[str]]]:
    """Return the suites, and the lines that are printed: a method and the columns of each suite."""
    found = report.read(ACCURACY)
    rows = [row for row in found["rows"] if row["keep"] in (0, SHOWN, 1)]
    _kept, _tokens, *columns = report.table(rows, found["pairs"]).columns
    lines = zip(*(column.cells for column in columns), strict=True)
    return [f"`{suite}`" for suite in distinct(rows, "suite")], [[*line] for line in lines]


def _name(line: list[str]) -> str:
    return NAMES.get(line[0], f"`{line[0]}`")
