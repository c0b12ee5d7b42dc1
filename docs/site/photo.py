"""Tables of the photo model, made of the committed measurements of its bridge and of methods."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from writing import percent, table

from adafv.evaluation.paired import SIGNIFICANT
from adafv.utils.records import Rows, distinct, where
from adafv.utils.stats import holm

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BRIDGE = BENCHMARKS / "photo" / "bridge.json"
METHODS = BENCHMARKS / "photo" / "results.json"
EMBEDDED = BENCHMARKS / "accuracy" / "results.json"
COMPARED = 0.05
"""Share of the tokens at which the two models are compared."""
OURS = ("adafv", "adafv+")
UNLIKE = {
    *("visionzip", "prumerge", "prumerge+", "tome", "pool", "resize"),
    *("none", "blind", "random", "uniform", "oracle"),
}
"""What merges tokens, does not look at them, or is told where to look."""
LINES = {"none": "dense, all tokens", "blind": "blind: the text alone"}


def bridge() -> str:
    """What the model answers right with all tokens, by type of question, and without the image."""
    found = json.loads(BRIDGE.read_text(encoding="utf-8"))
    columns = ("seen dense", "seen blind", "unseen dense", "unseen blind")
    types = [type_ for type_ in found["seen dense"] if type_ != "all"]
    rows = []
    for type_ in (*types, "all"):
        cells = [_share(found[column].get(type_)) for column in columns]
        rows.append([f"**{type_}**" if type_ == "all" else type_, *cells])
    head = ["question", "seen pictures", "blind", "unseen pictures", "blind"]
    return table(head, rows)


def methods() -> str:
    """Accuracy of every method on every suite, at every budget, with the evidence kept."""
    rows = where(_rows(METHODS), question_type="all")
    suites = distinct(rows, "suite")
    lines = []
    for method, keep in dict.fromkeys((row["method"], row["keep"]) for row in rows):
        cells = []
        for suite in suites:
            [row] = where(rows, suite=suite, method=method, keep=keep) or [None]
            cells.append(_accuracy(row))
        name = LINES.get(method, f"`{method}`")
        lines.append([name, percent(keep) if 0 < keep < 1 else "", *cells])
    return table(["method", "kept", *(f"`{suite}`" for suite in suites)], lines)


def budgets() -> str:
    """Accuracy of every method on every suite, from the largest budget to the smallest."""
    rows = where(_rows(METHODS), question_type="all")
    suites = distinct(rows, "suite")
    lines = []
    for method in distinct(rows, "method"):
        cells = []
        for suite in suites:
            own = where(rows, suite=suite, method=method)
            own.sort(key=lambda row: -row["keep"])
            cells.append(" · ".join(f"{100 * row['accuracy']:.0f}" for row in own) or "–")
        lines.append([LINES.get(method, f"`{method}`"), *cells])
    return table(["method", *map(_code, suites)], lines)


def differences() -> str:
    """Where `adafv` or `adafv+` differs from a method that chooses single tokens by looking at
    them, p < 0.05.
    """
    pairs = []
    for pair in json.loads(METHODS.read_text(encoding="utf-8"))["pairs"]:
        turned = (pair["method"], pair["rival"]) == OURS[::-1]
        if pair["method"] in OURS and pair["rival"] not in UNLIKE and not turned:
            pairs.append(pair)
    rows = []
    for pair, corrected in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
        if pair["p"] >= SIGNIFICANT:
            continue
        more = f"{100 * pair['difference']:+.1f}"
        ends = f"[{100 * pair['ci_low']:.1f}, {100 * pair['ci_high']:.1f}]"
        names = [f"`{pair[name]}`" for name in ("suite", "method", "rival")]
        chances = [f"{pair['p']:.2g}", f"{corrected:.2g}"]
        rows.append([*names, percent(pair["keep"]), f"{more} {ends}", *chances])
    head = ["suite", "method", "rival", "kept", "more, points", "p"]
    return table([*head, f"corrected for all {len(pairs)}"], rows)


def ours() -> str:
    """What `adafv+` has more than `adafv`, suite by suite, and what both hold on the mean."""
    found = json.loads(METHODS.read_text(encoding="utf-8"))
    rows = where(found["rows"], question_type="all")
    lines = []
    for pair in where(found["pairs"], method="adafv+", rival="adafv"):
        cell = where(rows, suite=pair["suite"], keep=pair["keep"])
        accuracies = {row["method"]: row["accuracy"] for row in cell}
        more = f"{100 * pair['difference']:+.1f}"
        ends = f"[{100 * pair['ci_low']:.1f}, {100 * pair['ci_high']:.1f}]"
        right = [f"{100 * accuracies[name]:.1f}" for name in OURS]
        name = f"`{pair['suite']}`"
        lines.append([name, percent(pair["keep"]), *right, f"{more} {ends}", f"{pair['p']:.2g}"])
    for keep in distinct(where(rows, method="adafv"), "keep"):
        lines.append(["mean share of all tokens'", percent(keep), *_means(rows, keep), "", ""])
    head = ["suite", "kept", *(f"`{name}`, %" for name in OURS)]
    return table([*head, "`adafv+` more, points", "p"], lines)


def orders() -> str:
    """What methods hold of the dense model's accuracy on this model and on the embedded one."""
    photo = where(_rows(METHODS), question_type="all", keep=COMPARED)
    embedded = where(_rows(EMBEDDED), question_type="all", keep=COMPARED)
    suites = distinct(photo, "suite")
    lines = []
    for method in distinct(photo, "method"):
        held = [row["retention"] for row in where(photo, method=method)]
        other = {row["suite"]: row["retention"] for row in where(embedded, method=method)}
        lines.append((sum(held) / len(held), method, held, other))
    lines.sort(key=lambda line: -line[0])
    rows = []
    for mean, method, held, other in lines:
        here = [percent(share) for share in (mean, *held)]
        there = [percent(other[name]) if name in other else "–" for name in _shown(embedded)]
        rows.append([f"`{method}`", *here, *there])
    head = ["method", "mean of the first three"]
    return table([*head, *map(_code, suites), *map(_code, _shown(embedded))], rows)


def _means(rows: Rows, keep: float) -> Iterator[str]:
    """Yield what each of ours holds of the dense model's accuracy, on the mean of the suites."""
    for name in OURS:
        held = [row["retention"] for row in where(rows, method=name, keep=keep)]
        yield f"{100 * sum(held) / len(held):.0f}"


def _shown(embedded: Rows) -> Iterator[str]:
    """Yield the suites of the embedded model that leave room for differences."""
    yield from (suite for suite in distinct(embedded, "suite") if suite != "easy-vqa")


def _code(name: str) -> str:
    return f"`{name}`"


def _rows(path: Path) -> Rows:
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def _share(found: dict[str, Any] | None) -> str:
    """A share with its interval and how many questions it is of."""
    if found is None:
        return "–"
    low, high = (max(0.0, end) for end in found["interval"])
    return f"{100 * found['accuracy']:.0f} % [{100 * low:.0f}, {100 * high:.0f}], n = {found['n']}"


def _accuracy(row: dict[str, Any] | None) -> str:
    """Accuracy with its interval; behind it the share of the tokens asked about that is kept."""
    if row is None:
        return "–"
    text = f"{100 * row['accuracy']:.0f} [{100 * row['ci_low']:.0f}, {100 * row['ci_high']:.0f}]"
    kept = row.get("evidence_kept")
    return text if kept is None or row["method"] in LINES else f"{text}, {percent(kept)}"
