"""The tables of benchmarks/ablation, made of the committed measurements."""

from pathlib import Path
from typing import Any

from writing import percent, table

from adafv.evaluation import report
from adafv.evaluation.paired import SIGNIFICANT
from adafv.utils.records import Rows, distinct, where

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KEEP = 0.05
CHANGES = {
    "skip=template": "without the template's and function words",
    "center=true": "both centred before the cosine",
    "top=3": "mean of the three strongest words",
    "reserve=0": "no reserve",
    "reserve=0.5": "half for each list",
    "crops=each": "a budget for every crop",
    "positions=original": "position ids of the whole prompt",
    "newlines=rows": "newlines of rows that keep a token, beyond the budget",
    "distinct=false": "nothing taken off for what better tokens say",
    "spread=0.02": "hardly any nearness: what is named itself",
    "spread=0.1": "half the nearness",
    "spread=0.4": "twice the nearness",
    "spread=100": "everything as near: saliency and the discount alone",
    "temperature=0.25": "more peaked",
    "temperature=1": "less peaked",
}
SALIENCIES = {
    "fastervlm": "attention of CLS, the layer of the features",
    "fastervlm:saliency=received": "attention received, the layer of the features",
    "fastervlm:saliency=received:heads=max": "the same, the strongest head in place of the mean",
    "fastervlm:saliency=received:depth=0.5": "attention received, a middle layer",
    "fastervlm:saliency=received:depth=0": "attention received, the first layer",
    "fastervlm:saliency=distinctness": "how much a visual token differs from the others",
    "random": "chance",
}


def ablation(method: str) -> str:
    """Accuracy of a method, and what each change of it gains, in points, with its interval."""
    found = report.read(BENCHMARKS / "ablation" / "results.json")
    rows = where(found["rows"], question_type="all", keep=KEEP)
    suites = distinct(rows, "suite")
    own = [percent(_accuracy(rows, method, suite)) for suite in suites]
    lines = [[f"accuracy of `{method}`", *own]]
    for changed in distinct(rows, "method"):
        if not changed.startswith(f"{method}:"):
            continue
        change = changed.removeprefix(f"{method}:")
        cells = [f"`{change}`: {CHANGES[change]}"]
        for suite in suites:
            wanted = {"suite": suite, "keep": KEEP, "method": method, "rival": changed}
            [pair] = where(found["pairs"], **wanted)
            cells.append(_gain(pair))
        lines.append(cells)
    return table([f"`{method}`, at {percent(KEEP)} kept", *suites], lines)


def saliencies() -> str:
    """Accuracy of each saliency alone."""
    found = report.read(BENCHMARKS / "ablation" / "results.json")
    rows = where(found["rows"], question_type="all", keep=KEEP)
    suites = distinct(rows, "suite")
    lines = []
    for method, what in SALIENCIES.items():
        shares = [percent(_accuracy(rows, method, suite)) for suite in suites]
        lines.append([f"{what} (`{method}`)", *shares])
    return table([f"saliency alone, at {percent(KEEP)} kept", *suites], lines)


def _accuracy(rows: Rows, method: str, suite: str) -> float:
    """Return the share of right answers of a method on a suite."""
    [row] = where(rows, method=method, suite=suite)
    share: float = row["accuracy"]
    return share


def _gain(pair: dict[str, Any]) -> str:
    """Return what the rival of a pair has more, in points; bold beyond luck."""
    low, high = sorted((-pair["ci_low"], -pair["ci_high"]))
    text = f"{_points(-pair['difference'])} [{_points(low)}, {_points(high)}]"
    return f"**{text}**" if pair["p"] < SIGNIFICANT else text


def _points(difference: float) -> str:
    """Return a difference in points, zero without a minus."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}".replace("-", "−")
