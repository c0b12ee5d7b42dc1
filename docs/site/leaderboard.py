"""The leaderboard: a page made of the committed results, and nothing else. The code host has it as
plain tables, the site with fields to filter and sort.

Sources are the evaluations on test splits under `benchmarks`, and the entries that
`adafv eval --entry` wrote into `benchmarks/leaderboard`.
"""

import html
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from writing import percent, table

from adafv.evaluation import report
from adafv.evaluation.beyond_resize import BEYOND_RESIZE
from adafv.evaluation.entry import ENTRY, read_entry
from adafv.methods import METHODS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EVALUATIONS = ("accuracy", "fresh", "low", "photo")
"""The first that has a kind of question at a budget decides; the others are listed, too."""
CHOOSING = BENCHMARKS / "speed" / "choosing" / "results.json"
SCRIPT = Path(__file__).with_name("leaderboard.js")
KINDS = {
    "colours": (("scenes", "color"), ("photos", "colour")),
    "presence": (("scenes", "exists"), ("photos", "exists")),
    "places of things that the question names": (("scenes", "relation"), ("photos", "where")),
    "places: what is beside a thing": (("scenes", "beside"), ("photos", "beside")),
    "reading": (("scenes-text", "all"),),
    "counting": (("scenes", "count"), ("photos", "count")),
    "screens": (("pages", "screen"),),
}
"""What is asked about, with the suites and types of question that measure it, one for a model."""
TARGET = 0.95  # of the dense model's accuracy
NAMED = 3  # methods on top that are listed
ANSWERED = 0.8  # by the dense model, for a share of it to mean something
COLUMNS = (
    "method",
    "budget",
    "suite",
    "accuracy, %",
    "retention, %",
    "model",
    "n",
    "filter, %",
    "evidence kept, %",
    "selection at 5 %, ms",
    "tokens",
    "results",
)
FILTERS = ("method", "budget", "suite", "model", "results")
WIDE = "---\nhide: [toc]\n---\n\n"
"""What gives the table of the site the room of the page's contents."""
HEAD = """# Leaderboard

Made of results under `benchmarks` alone. To add a line, see [entries]({entries}).

## Which method, which budget

The smallest measured budget at which some method holds {target} of the accuracy with all tokens, by
the lower end of its 95 % interval. Named are the methods with the highest accuracy there, and
how many *more* hold {target}, too. Where many methods are compared, one may be on top by luck.
Budgets come from several evaluations, each beside all tokens of its own questions.

{decisions}

**What not to prune**: {whole}

## All results

Accuracy with its 95 % interval. *Retention* is its share of the dense model's. *Filter* is the
share, with how many questions it rests on, of what all tokens answer and an image shrunk to the
same budget does not (VTC-Bench, arXiv 2510.07143). It needs images of one crop: the embedded
model's are several, which `resize` refuses to shrink, so that none of its lines has one.
*Evidence kept* is the share of the tokens in the boxes of what is asked that stay. *Selection* is
the time to choose {kept} of {visual} tokens, at whatever budget the line is ({speed}). A dash:
those results don't have it.
"""


class Cell(NamedTuple):
    """A cell of the table: what it shows, and the number that it is sorted by."""

    text: str
    value: float | None = None


NOTHING = Cell("–", -1)


@dataclass(frozen=True)
class Source:
    """Results of one file: where it lies below `benchmarks`, how it was made, its rows."""

    name: str
    meta: dict[str, Any]
    rows: list[dict[str, Any]]


@cache
def sources() -> tuple[Source, ...]:
    """All results on test splits, entries last."""
    found = []
    for name in EVALUATIONS:
        results = report.read(BENCHMARKS / name / "results.json")
        found.append(Source(name, results["meta"], results["rows"]))
    for path in sorted((BENCHMARKS / "leaderboard").glob(f"*/{ENTRY}")):
        entry = read_entry(path)
        found.append(Source(f"leaderboard/{path.parent.name}", entry["meta"], entry["rows"]))
    return tuple(found)


@cache
def choosing() -> dict[str, Any]:
    """The measurement of selection times."""
    found: dict[str, Any] = json.loads(CHOOSING.read_text(encoding="utf-8"))
    return found


def leaderboard_page() -> str:
    """The page of the site: results are sorted and filtered."""
    script = SCRIPT.read_text(encoding="utf-8")
    head = _head("../benchmarks/leaderboard/README.md")
    use = "Click on a head to sort; choose in the fields to filter."
    return f"{WIDE}{head}{use}\n\n{board()}\n<script>\n{script}</script>\n"


def static_page() -> str:
    """The page of the code host, in Markdown alone."""
    marked = [[f"`{method.text}`", *(cell.text for cell in rest)] for method, *rest in lines()]
    return f"{_head('README.md')}\n{table(COLUMNS, marked)}\n"


def _head(entries: str) -> str:
    """The decision table, what not to prune, and what stands in the table of all results.

    Args:
        entries: path to the page about entries.
    """
    meta = choosing()["meta"]
    return HEAD.format(
        entries=entries,
        target=percent(TARGET),
        decisions=decisions(),
        whole=whole(),
        kept=meta["keep"],
        visual=f"{meta['tokens']:,}",
        speed=f"`{meta['command']}`, {meta['processor']}",
    )


def decisions() -> str:
    """For each kind of question the smallest budget that holds, and the best method there."""
    lines = []
    for words, kinds in KINDS.items():
        measured = _measured(kinds)
        if not measured:
            lines.append([words, "–", "not measured yet", "–", "–", "–"])
        for model, rows in measured:
            lines.append([words, f"`{model}`", *_decision(rows)])
    head = ["questions about", "model", "method", "budget", "holds, %", "all tokens, %"]
    return table(head, lines)


def _measured(kinds: Iterable[tuple[str, str]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """For each model the rows of a kind of question, each with the dense row of its evaluation.

    A budget is that of the first source that has it; later ones add theirs.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for source in sources():
        rows = [row for row in source.rows if (row["suite"], row["question_type"]) in kinds]
        if not rows:
            continue
        dense = next(row for row in rows if row["method"] == "none")
        known = found.setdefault(source.meta["model"], [])
        budgets = {row["keep"] for row in known}
        known += [row | {"dense": dense} for row in rows if row["keep"] not in budgets]
    return list(found.items())


def _decision(rows: list[dict[str, Any]]) -> list[str]:
    """Method, budget, what it holds and what all tokens do, of the rows of one kind."""
    if not _answered(rows):
        return ["keep all", "100 %", "–", _all_tokens(rows[0])]
    holding = _holding(rows)
    if not holding:
        best = _best(rows)
        nearest = f"{_held(best)} with `{best['method']}` at {percent(best['keep'])}"
        return ["none is shown", "100 %", nearest, _all_tokens(best)]
    keep = min(row["keep"] for row in holding)
    level = [row for row in holding if row["keep"] == keep]
    best = _best(level)
    on_top = [row["method"] for row in level if row["accuracy"] == best["accuracy"]]
    if len(on_top) > NAMED:
        name = f"any of {len(on_top)}"
    else:
        name = ", ".join(f"`{method}`" for method in on_top)
    if len(level) > len(on_top):
        name += f" ({len(level) - len(on_top)} more)"
    return [name, percent(keep), _held(best), _all_tokens(best)]


def _answered(rows: list[dict[str, Any]]) -> bool:
    """Tell if the dense model answers enough for a share of it to mean something."""
    return bool(rows[0]["dense"]["accuracy"] >= ANSWERED)


def _all_tokens(row: dict[str, Any]) -> str:
    dense = row["dense"]
    return f"{100 * dense['accuracy']:.0f} (n = {dense['n']})"


def _best(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The row of a method that holds most, of equal ones that of the smallest budget."""
    return max(filter(_is_method, rows), key=lambda row: (row["retention"], -row["keep"]))


def _held(row: dict[str, Any]) -> str:
    return f"{100 * row['retention']:.0f} ({_interval(row, row['dense']['accuracy'])})"


def _is_method(row: dict[str, Any]) -> bool:
    """Tell a method that prunes from the bounds and from all tokens."""
    return row["method"].partition(":")[0] in METHODS and row["method"] != "none"


def _holding(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of methods, no bounds, that hold the target at the lower end of their interval."""
    found = []
    for row in rows:
        if _is_method(row) and row["ci_low"] >= TARGET * row["dense"]["accuracy"]:
            found.append(row)
    return found


def whole() -> str:
    """The kinds of questions that no measured budget holds, and those that nothing is known of."""
    lost = []
    few = []
    unanswered = []
    unmeasured = []
    for words, kinds in KINDS.items():
        measured = _measured(kinds)
        if not measured:
            unmeasured.append(words)
        for model, rows in measured:
            said = f"{words} (`{model}`, n = {rows[0]['dense']['n']})"
            if not _answered(rows):
                unanswered.append(said)
            elif _best(rows)["retention"] < TARGET:
                lost.append(said)
            elif not _holding(rows):
                few.append(said)
    parts = []
    if lost:
        parts.append(f"no measured budget holds {percent(TARGET)} of {_listed(lost)}")
    if few:
        parts.append(
            f"of {_listed(few)} there are too few questions to show that a budget holds "
            f"{percent(TARGET)}, though the best ones may"
        )
    if unanswered:
        parts.append(
            f"with all tokens the model has less than {percent(ANSWERED)} right of "
            f"{_listed(unanswered)}, so that its results say nothing of budgets there"
        )
    if unmeasured:
        parts.append(f"nothing here has measured {_listed(unmeasured)}: measure before you prune")
    return ("; ".join(parts) or "nothing of what was measured") + "."


def _listed(words: list[str]) -> str:
    return " and ".join(words)


def board() -> str:
    """All results as a table that the script sorts and filters."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    body = "\n".join(map(_row, lines()))
    fields = " ".join(FILTERS)
    return (
        f'<div id="board" data-filters="{fields}">\n<table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def lines() -> list[list[Cell]]:
    """A line for each method at each budget of each source."""
    found = []
    for source in sources():
        found += _lines(source)
    return found


def _lines(source: Source) -> list[list[Cell]]:
    filtered = {}
    for row in source.rows:
        if row["question_type"] == BEYOND_RESIZE:
            filtered[row["suite"], row["method"], row["keep"]] = row
    found = []
    for row in source.rows:
        # what reads no image, or is told the answer, is no choice
        if row["question_type"] != "all" or row["method"] in ("blind", "oracle"):
            continue
        beyond = filtered.get((row["suite"], row["method"], row["keep"]))
        found.append(_line(source, row, beyond))
    return found


def _line(source: Source, row: dict[str, Any], beyond: dict[str, Any] | None) -> list[Cell]:
    """A cell for each of `COLUMNS`."""
    accuracy = f"{100 * row['accuracy']:.1f} ({_interval(row)})"
    retention = None if row["retention"] is None else 100 * row["retention"]
    evidence = None if row["evidence_kept"] is None else 100 * row["evidence_kept"]
    return [
        Cell(row["method"]),
        Cell(percent(row["keep"]), row["keep"]),
        Cell(row["suite"]),
        Cell(accuracy, row["accuracy"]),
        _number(retention),
        Cell(source.meta["model"]),
        Cell(str(row["n"]), row["n"]),
        NOTHING if beyond is None else _filter(beyond),
        _number(evidence),
        _number(_select_ms(row["method"])),
        _number(row["kept_tokens"]),
        Cell(source.name),
    ]


def _interval(row: dict[str, Any], of: float = 1.0) -> str:
    """The ends of a row's interval in percent, or in percent of an accuracy, rounded outwards."""
    low = math.floor(100 * row["ci_low"] / of)
    return f"{low}–{math.ceil(100 * row['ci_high'] / of)}"


def _filter(beyond: dict[str, Any]) -> Cell:
    share = 100 * beyond["accuracy"]
    return Cell(f"{share:.0f} (n = {beyond['n']})", share)


def _number(value: float | None) -> Cell:
    return NOTHING if value is None else Cell(f"{value:.1f}", value)


def _row(line: list[Cell]) -> str:
    """A line in HTML, its method as code."""
    method, *others = line
    cells = "".join(map(_html, others))
    return f"<tr><td><code>{html.escape(method.text)}</code></td>{cells}</tr>"


def _html(cell: Cell) -> str:
    sorted_by = "" if cell.value is None else f' data-value="{cell.value:.6g}"'
    return f"<td{sorted_by}>{html.escape(cell.text)}</td>"


def _select_ms(name: str) -> float | None:
    for row in choosing()["rows"]:
        if row["method"] == name:
            found: float = row["median_ms"]
            return found
    return None
