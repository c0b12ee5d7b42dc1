"""What `adafv+` was to reach, beside what was measured: tables made of the committed results.

A cell is a suite at a budget in one of the measurements. Its rivals are all methods that choose
before the language model, `adafv` among them.
"""

from collections.abc import Iterable
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from writing import percent, table

from adafv.core.layerwise import LayerPruner
from adafv.evaluation import report
from adafv.evaluation.paired import DRAWS, SIGNIFICANT
from adafv.methods import CLASSES
from adafv.utils.records import Rows, distinct, where
from adafv.utils.stats import holm

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MEASURED = {
    "accuracy": "../accuracy/README.md",
    "fresh": "../../docs/accuracy.md",
    "low": "README.md",
    "photo": "../../docs/photo.md",
}
"""Measurements, and where each is told of, seen from the page of these tables."""
OURS = "adafv+"
NO_RIVALS = {"oracle", *(cls.name for cls in CLASSES if issubclass(cls, LayerPruner))}
SMALL = 0.05
"""Share of the tokens up to which `adafv+` was to be ahead."""
HALFWAY = 0.025
"""Share of the tokens at which half of the distance to the oracle was to be closed."""
NEAR = ("scope", "mmtok")
POINT = 0.01
SHARE = 1 / 3
"""Of the cells, in which it was to be ahead of every rival."""


class Cell(NamedTuple):
    """A suite at a budget: the measurement, and how `adafv+` compares with each rival."""

    measured: str
    suite: str
    keep: float
    pairs: Rows

    @property
    def nearest(self) -> dict[str, Any]:
        """The comparison with the best rival, of equal ones the one that shows least."""
        return min(self.pairs, key=lambda pair: (pair["difference"], -pair["p"]))

    @property
    def ahead(self) -> float:
        """The p-value of being ahead of every rival at once: the largest of all; 1: it is not."""
        if self.nearest["difference"] <= 0:
            return 1.0
        return float(max(pair["p"] for pair in self.pairs))

    @property
    def above(self) -> Rows:
        """The comparisons with rivals that have more right, the clearest first."""
        found = [pair for pair in self.pairs if pair["difference"] < 0]
        return sorted(found, key=lambda pair: pair["p"])

    def accuracy(self, method: str, question_type: str = "all") -> float:
        """Accuracy of a method in this cell."""
        return float(self.row(method, question_type)["accuracy"])

    def row(self, method: str, question_type: str = "all") -> dict[str, Any]:
        """The row of a method in this cell; all tokens have one for every budget."""
        keep = 1.0 if method == "none" else self.keep
        rows = where(_results(self.measured)["rows"], suite=self.suite, keep=keep)
        [row] = where(rows, method=method, question_type=question_type)
        return row


@cache
def _results(measured: str) -> dict[str, Any]:
    return report.read(BENCHMARKS / measured / "results.json")


@cache
def cells() -> tuple[Cell, ...]:
    """Every cell of the measurements, in the order in which they were measured."""
    found = []
    for measured in MEASURED:
        pairs = where(_results(measured)["pairs"], method=OURS)
        pairs = [pair for pair in pairs if pair["rival"] not in NO_RIVALS]
        for suite, keep in dict.fromkeys((pair["suite"], pair["keep"]) for pair in pairs):
            found.append(Cell(measured, suite, keep, where(pairs, suite=suite, keep=keep)))
    return tuple(found)


def small() -> list[Cell]:
    """The cells at budgets at which `adafv+` was to be ahead."""
    return [cell for cell in cells() if cell.keep <= SMALL]


def below() -> list[Cell]:
    """The cells of the measurement below 5 %."""
    return [cell for cell in cells() if cell.measured == "low"]


def aims() -> str:
    """Each aim, what was measured of it, and if it is reached."""
    rows = [
        [f"within 1 point of the better of {_listed(NEAR)} at 2.5 and 1.25 %", *_within()],
        [f"half of the distance to the oracle closed at {percent(HALFWAY)}", *_halfway()],
        ["in no cell below a method that chooses before the language model, beyond luck", *_no()],
        [
            f"in a third of the cells at {percent(SMALL)} and less ahead of the best rival, "
            "beyond luck",
            *_third(),
        ],
    ]
    return table(["aim", "measured", "reached"], rows)


def _within() -> list[str]:
    gaps = []
    for cell in below():
        near = [pair["difference"] for pair in cell.pairs if pair["rival"] in NEAR]
        gaps.append((_name(cell), min(near)))
    said = ", ".join(f"{name} {100 * gap:+.1f}" for name, gap in gaps)
    return [f"points to the better one: {said}", _verdict(all(gap >= -POINT for _, gap in gaps))]


def _halfway() -> list[str]:
    said = []
    shares = []
    for cell in where_keep(below(), HALFWAY):
        oracle, rival = cell.accuracy("oracle"), cell.nearest["rival"]
        parts = []
        for start in (rival, "adafv"):
            distance = oracle - cell.accuracy(start)
            share = (cell.accuracy(OURS) - cell.accuracy(start)) / distance
            parts.append(f"{100 * share:.0f} % of the {100 * distance:.1f} points from `{start}`")
            if start == rival:
                shares.append(share)
        said.append(f"`{cell.suite}`: {', '.join(parts)}")
    verdict = _verdict(all(share >= 1 / 2 for share in shares))
    return ["; ".join(said), f"{verdict}, counted from the best rival"]


def _no() -> list[str]:
    pairs = [pair for cell in cells() for pair in cell.pairs]
    above = [pair for cell in cells() for pair in cell.above]
    clear = [pair for pair in above if pair["p"] < SIGNIFICANT]
    within = [min(_corrected_above(cell), default=1.0) for cell in cells()]
    said = (
        f"of {len(pairs)} comparisons {len(above)} are against it, {len(clear)} of these with "
        f"p < {SIGNIFICANT} before any correction{_which(clear)}; corrected for the rivals of its "
        f"own cell alone the smallest p against it is {min(within):.2f}"
    )
    return [said, _verdict(min(within) >= SIGNIFICANT)]


def _third() -> list[str]:
    found = small()
    chances = [cell.ahead for cell in found]
    alone = sum(p < SIGNIFICANT for p in chances)
    corrected = sum(p < SIGNIFICANT for p in holm(chances))
    needed = ceil(SHARE * len(found))
    said = f"{corrected} of {len(found)} cells corrected for all of them, {alone} uncorrected"
    return [f"{said}; a third are {needed}", _verdict(corrected >= needed)]


def resolution() -> str:
    """How many comparisons there are, and what that many can show at all."""
    count = sum(len(cell.pairs) for cell in cells())
    least = 1 / (DRAWS + 1)
    return (
        f"One correction for all {count} comparisons would find nothing for or against anyone: "
        f"no p below {least:.5f} can come of {DRAWS:,} draws, and {count} times that is "
        f"{count * least:.2f}."
    )


def of_cells() -> str:
    """A line for each cell: the best rival, what `adafv+` has more, and who is above it."""
    found = small()
    corrected = dict(zip(map(_key, found), holm([cell.ahead for cell in found]), strict=True))
    rows = []
    for cell in cells():
        nearest = cell.nearest
        more = f"{100 * nearest['difference']:+.1f}"
        ends = f"[{100 * nearest['ci_low']:.1f}, {100 * nearest['ci_high']:.1f}]"
        ahead = corrected.get(_key(cell))
        rows.append(
            [
                f"[{cell.measured}]({MEASURED[cell.measured]})",
                f"`{cell.suite}`",
                percent(cell.keep),
                f"{100 * cell.accuracy(OURS):.1f}",
                f"`{nearest['rival']}`",
                f"{more} {ends}",
                _chance(nearest["p"]),
                "" if ahead is None else _chance(ahead),
                f"{len(cell.above)} of {len(cell.pairs)}",
                _clearest(cell),
            ]
        )
    head = [
        *("results", "suite", "kept", "`adafv+`, %", "best rival", "`adafv+` more, points", "p"),
        *("p of ahead of all, corrected", "rivals above", "the clearest of these: p (corrected)"),
    ]
    return table(head, rows)


def of_types() -> str:
    """By type of question: right answers below 5 %, and what of the evidence is kept."""
    rows = []
    for cell in below():
        rival = cell.nearest["rival"]
        methods = ("none", OURS, rival, "oracle")
        types = distinct(where(_results(cell.measured)["rows"], suite=cell.suite), "question_type")
        single = len(types) == 2  # `all`, and the one type
        lines = []
        for type_ in types:
            if single and type_ != "all":
                continue
            right = [_right(cell.row(method, type_)) for method in methods]
            evidence = [percent(cell.row(name, type_)["evidence_kept"]) for name in methods[1:]]
            gap = right[-1] - right[1]
            name = "**all**" if type_ == "all" else f"`{type_}`"
            count = str(cell.row(OURS, type_)["n"])
            counts = [str(number) for number in right]
            counts[2] += f" (`{rival}`)"
            lines.append((gap, [_name(cell), name, count, *counts, str(gap), " / ".join(evidence)]))
        lines.sort(key=lambda line: -line[0])
        rows += [line for _, line in lines]
    head = [
        *("suite, kept", "questions", "n", "all tokens", "`adafv+`", "best rival", "oracle"),
        *("oracle more", "evidence kept: `adafv+` / best rival / oracle"),
    ]
    return table(head, rows)


def where_keep(found: Iterable[Cell], keep: float) -> list[Cell]:
    """The cells at one budget."""
    return [cell for cell in found if cell.keep == keep]


def _key(cell: Cell) -> tuple[str, str, float]:
    return cell.measured, cell.suite, cell.keep


def _name(cell: Cell) -> str:
    return f"`{cell.suite}` {percent(cell.keep)}"


def _right(row: dict[str, Any]) -> int:
    return round(row["accuracy"] * row["n"])


def _corrected_above(cell: Cell) -> list[float]:
    """The p-values of the rivals above, corrected for all rivals of the cell."""
    corrected = holm([pair["p"] for pair in cell.pairs])
    both = zip(cell.pairs, corrected, strict=True)
    return [p for pair, p in both if pair["difference"] < 0]


def _clearest(cell: Cell) -> str:
    if not cell.above:
        return ""
    first = cell.above[0]
    return f"`{first['rival']}` {_chance(first['p'])} ({_chance(min(_corrected_above(cell)))})"


def _which(clear: Rows) -> str:
    if not clear:
        return ""
    named = []
    for pair in clear:
        points = f"{-100 * pair['difference']:.1f} points behind `{pair['rival']}`"
        where_ = f"`{pair['suite']}` at {percent(pair['keep'])}"
        named.append(f"{points} on {where_}, p = {_chance(pair['p'])}")
    return f" ({'; '.join(named)})"


def _chance(p: float) -> str:
    return f"{p:.2g}"


def _verdict(holds: bool) -> str:
    return "yes" if holds else "**no**"


def _listed(names: Iterable[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)
