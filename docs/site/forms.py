"""The tables of what `adafv+` could be instead, made of the committed measurements."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from writing import percent, table

from adafv.evaluation.paired import SIGNIFICANT
from adafv.utils.records import Rows, distinct, where
from adafv.utils.stats import holm

ABLATION = Path(__file__).parents[2] / "benchmarks" / "ablation"
OURS = "form"
"""The method as it was, in the measurements."""
CHANGES = {
    "form": "as it was",
    "form:scales=within": "discount within a scale alone",
    "form:scales=across": "discount between the scales alone",
    "form:scales=place": "a place that the other scale has shown counts as said",
    "form:clear=entropy": "fewer words where a_t is spread out, by its entropy",
    "form:clear=null": "fewer words where the strongest token is no further up than by chance",
    "form:words=telling": "words weighted by the deviation of their cosines in this image",
    "form:words=peaked": "words weighted by how far up their strongest token is",
    "form:words=whole": "sub-words averaged to words",
    "form:power=2": "discount squared",
    "form:power=0.5": "root of the discount",
    "form:cover=leverage": "ridge leverage, weighted by the score",
    "form:cover=facility": "coverage added, in the order of the score",
    "form:centred=true": "discount of features less their mean",
    "form:shortlist=100": "100 K in place of 8 K tokens take part",
    "form:peak=0.5": "root of the saliency",
    "form:direct=0.3": "0.3 a_t added to the score",
    "form:direct=1": "a_t added to the score",
    "form:itself=true": "a_t beside the nearness",
    "form:scales=within:itself=true": "within a scale, and a_t beside the nearness",
    "form:tail=0.2": "a fifth of the tokens evenly over the rest",
    "form:local=0.05": "mean of two widths of nearness",
}
BELOW = {0: "none", 1: "1 or 2", 3: "3 to 5", 6: "6 and more"}
FACTS = {
    "evidence": "{:.1f}",
    "evidence_share": "{:.0%}",
    "points_at_it": "{:.0%}",
    "relevance_on_it": "{:.0%}",
    "artefacts": "{:.1%}",
    "doubles": "{:.0%}",
}


@cache
def rows_of(run: str) -> Rows:
    """The rows of one run."""
    return where(_read("forms"), run=run)


def forms(run: str) -> str:
    """What each form has more than the method as it was, and the evidence that it keeps."""
    rows = rows_of(run)
    cells = [(row["suite"], row["keep"]) for row in where(rows, method=OURS)]
    beyond = _beyond_luck(rows)
    lines = []
    for method in distinct(rows, "method"):
        if method in ("none", "blind"):
            continue
        what = CHANGES.get(method)
        name = f"`{method}`: {what}" if what else f"`{method}`"
        line = [name]
        for suite, keep in cells:
            found = where(rows, suite=suite, keep=keep, method=method)
            [whole] = where(rows, suite=suite, keep=keep, method=OURS)
            line.append(_cell(found[0], whole["n"], beyond) if found else "–")
        lines.append(line)
    head = [f"`{suite}`, {percent(keep)}" for suite, keep in cells]
    return table(["form", *head], lines)


def types() -> str:
    """Right answers by type of question, of the method as it was and of its next form."""
    rows = rows_of("second")
    lines = []
    for own in where(rows, method=OURS):
        [new] = where(rows, suite=own["suite"], keep=own["keep"], method="form:scales=within")
        right = [f"`{name}` {own['right'][name]} → {_right(new, name)}" for name in own["right"]]
        lines.append([f"`{own['suite']}` {percent(own['keep'])}", ", ".join(right)])
    return table(["suite, kept", "right before → now"], lines)


def causes() -> str:
    """What lost and held answers have in common."""
    lines = []
    for name in ("embedded", "photo"):
        for row in _read(f"causes-{name}"):
            line = [f"`{row['suite']}` {percent(row['keep'])}", f"{row['lost']['n']} of {row['n']}"]
            for fact, form in FACTS.items():
                pair = [row[group][fact] for group in ("lost", "held")]
                line.append(" / ".join("–" if one is None else form.format(one) for one in pair))
            lines.append(line)
    head = [
        *("suite, kept", "lost", "tokens in the boxes", "evidence kept"),
        *("most relevant token in them", "relevance in them"),
        *("kept artefacts", "kept doubles"),
    ]
    return table(head, lines)


def few() -> str:
    """The share of answers that is lost, by how many tokens lie in the boxes of what is asked."""
    lines = []
    for name in ("embedded", "photo"):
        for row in _read(f"causes-{name}"):
            line = [f"`{row['suite']}` {percent(row['keep'])}"]
            line += [f"{group['lost']} of {group['n']}" for group in row["by_evidence"]]
            lines.append(line)
    return table(["suite, kept", *BELOW.values()], lines)


@cache
def _read(name: str) -> Rows:
    rows: Rows = json.loads((ABLATION / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    return rows


def _right(row: dict[str, Any], type_: str) -> str:
    right: str = row["right"][type_].split("/")[0]
    return right


def _cell(row: dict[str, Any], whole: int, beyond: set[tuple[str, float, str]]) -> str:
    """Return a difference in points with its interval, and the evidence kept; n where fewer."""
    evidence = percent(row["evidence_kept"])
    asked = "" if row["n"] == whole else f", n = {row['n']}"
    if "difference" not in row:
        return f"{100 * row['accuracy']:.1f} %; {evidence} (n = {row['n']})"
    low, high = 100 * row["ci_low"], 100 * row["ci_high"]
    more = f"{100 * row['difference']:+.1f} [{low:.1f}, {high:.1f}]"
    star = " \\*" if (row["suite"], row["keep"], row["method"]) in beyond else ""
    more = f"**{more}**{star}" if row["p"] < SIGNIFICANT else more
    return f"{more}; {evidence}{asked}"


def _beyond_luck(rows: Rows) -> set[tuple[str, float, str]]:
    """Return the differences of forms that hold after Holm's correction for all of a run."""
    found = [row for row in rows if "difference" in row and row["method"] in CHANGES]
    corrected = holm([row["p"] for row in found])
    keys = [(row["suite"], row["keep"], row["method"]) for row in found]
    return {key for key, p in zip(keys, corrected, strict=True) if p < SIGNIFICANT}
