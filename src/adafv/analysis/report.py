"""The files of an analysis: an image and a table for each figure, and analysis.json."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from adafv.analysis import captions, figures, tables
from adafv.analysis.measure import Findings
from adafv.analysis.tables import Rows
from adafv.evaluation.report import as_csv
from adafv.utils.checks import checked
from adafv.utils.files import atomic, write_text
from adafv.viz.fonts import covering

__all__ = ["INTERVAL", "NO_SCORES", "Drawing", "drawings_of", "notes_of", "write"]

INTERVAL = "95 %, percentile bootstrap over images, each with all its questions; fig1: that of the evaluation"
NO_SCORES = "fig1 needs scores: run `adafv eval --out DIR`, then pass --results DIR/results.json"


@dataclass(frozen=True)
class Drawing:
    """A figure: the name of its files, its rows, its caption, and how to draw it."""

    name: str
    rows: Rows
    caption: str
    draw: Callable[[Rows, str], Figure]


@checked
def drawings_of(findings: Findings, results: Rows | None, seed: int = 0) -> list[Drawing]:
    """Figures 1 (where `results` of an evaluation are given) to 4.

    Args:
        findings: what was measured.
        results: see `tables.read_results`.
        seed: of the bootstrap.
    """
    measured = findings.questions
    made = [
        ("fig2", tables.auc_rows(measured, seed), captions.auc_caption, figures.draw_auc),
        (
            "fig3",
            tables.similarity_rows(measured),
            captions.similarity_caption,
            figures.draw_similarity,
        ),
        ("fig4", tables.fewest_rows(measured), captions.fewest_caption, figures.draw_fewest),
    ]
    if results is not None:
        made.insert(
            0, ("fig1", tables.score_rows(results), captions.score_caption, figures.draw_scores)
        )
    return [Drawing(name, rows, caption(rows), draw) for name, rows, caption, draw in made]


@checked
def notes_of(findings: Findings, results: Rows | None) -> list[str]:
    """What was left out, each in a sentence."""
    notes = [] if results is not None else [NO_SCORES]
    for suite, reasons in findings.left_out.items():
        notes += [f"{suite}: {n:,} questions left out, {reason}" for reason, n in reasons.items()]
        if not any(finding.suite == suite for finding in findings.questions):
            notes.append(f"{suite}: nothing to measure, the suite is in no figure")
    return notes


@checked
def write(
    out: str | Path,
    meta: dict[str, Any],
    drawings: Sequence[Drawing],
    findings: Findings,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Write a PNG and a CSV for each figure and analysis.json, each file whole or not at all.

    Returns:
        What analysis.json holds: meta, figures (by name: png, csv, caption, rows), left_out and
            notes.

    Raises:
        ValueError: the folder cannot be written.
    """
    out = Path(out)
    for drawing in drawings:
        write_text(out / f"{drawing.name}.csv", as_csv(drawing.rows[0], drawing.rows))
        texts = [drawing.caption, *(str(value) for row in drawing.rows for value in row.values())]
        with covering(texts), atomic(out / f"{drawing.name}.png") as temporary:
            drawing.draw(drawing.rows, drawing.caption).savefig(temporary, format="png")
    whole = {
        "meta": meta,
        "figures": {
            d.name: {
                "png": f"{d.name}.png",
                "csv": f"{d.name}.csv",
                "caption": d.caption,
                "rows": d.rows,
            }
            for d in drawings
        },
        "left_out": {suite: dict(reasons) for suite, reasons in findings.left_out.items()},
        "notes": list(notes),
    }
    write_text(out / "analysis.json", json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    return whole
