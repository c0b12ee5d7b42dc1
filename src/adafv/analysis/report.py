"""The files of an analysis: an image and a table for each figure, and analysis.json."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from adafv.analysis import captions, figures, tables
from adafv.analysis.findings import Findings
from adafv.utils.checks import checked
from adafv.utils.files import atomic, write_text
from adafv.utils.records import Rows, as_csv, write_json
from adafv.viz.fonts import covering

__all__ = ["FILES", "INTERVAL", "NO_SCORES", "Drawing", "drawings_of", "notes_of", "write"]

FILES = (
    "analysis.json",
    *("fig1.png", "fig2.png", "fig3.png", "fig4.png"),
    *("fig1.csv", "fig2.csv", "fig3.csv", "fig4.csv"),
)
INTERVAL = (
    "95 %, percentile bootstrap over images, each with all its questions; "
    "fig1: that of the evaluation"
)
NO_SCORES = "fig1 needs scores: run `adafv eval --out DIR`, then pass --results DIR/results.json"


@dataclass(frozen=True)
class Drawing:
    """A figure: the name of its files, its rows, its caption, and how to draw it."""

    name: str
    rows: Rows
    caption: captions.Caption
    draw: Callable[[Rows, str], Figure]


@checked
def drawings_of(findings: Findings, results: Rows | None, seed: int = 0) -> list[Drawing]:
    """Return figures 1 (where `results` of an evaluation are given) to 4.

    Args:
        findings: what was measured.
        results: see `tables.read_results`.
        seed: of the bootstrap.
    """
    made = []
    if results is not None:
        scores = tables.score_rows(results)
        made.append(("fig1", scores, captions.score_caption, figures.draw_scores))

    measured = findings.questions
    aucs = tables.auc_rows(measured, seed)
    made.append(("fig2", aucs, captions.auc_caption, figures.draw_auc))
    similarities = tables.similarity_rows(measured)
    made.append(("fig3", similarities, captions.similarity_caption, figures.draw_similarity))
    hits = tables.first_hit_rows(measured)
    made.append(("fig4", hits, captions.first_hit_caption, figures.draw_first_hit))

    # a caption has numbers of the rows in it
    drawings = []
    for name, rows, caption, draw in made:
        drawings.append(Drawing(name, rows, caption(rows), draw))
    return drawings


@checked
def notes_of(findings: Findings, results: Rows | None) -> list[str]:
    """Return what was left out, each in a sentence."""
    notes = [] if results is not None else [NO_SCORES]
    measured = {finding.suite for finding in findings.questions}
    # reasons are counted suite by suite
    for suite, reasons in findings.left_out.items():
        for reason, count in reasons.items():
            notes.append(f"{suite}: {count:,} questions left out, {reason}")
        if suite not in measured:
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
    """Write a PNG and a CSV for each figure and analysis.json, each file complete or not at all.

    Returns:
        The content of analysis.json: meta, figures (by name: png, csv, caption, rows), left_out and
        notes.

    Raises:
        ValueError: the folder cannot be written.
    """
    out = Path(out)
    described = {}
    for drawing in drawings:
        png = f"{drawing.name}.png"
        table = f"{drawing.name}.csv"
        write_text(out / table, as_csv(drawing.rows[0], drawing.rows))

        # names of suites may be in any script: fonts must cover them
        texts = [str(drawing.caption)]
        for row in drawing.rows:
            texts += map(str, row.values())
        with covering(texts), atomic(out / png) as temporary:
            drawing.draw(drawing.rows, drawing.caption.shows).savefig(temporary, format="png")
        described[drawing.name] = {
            "png": png,
            "csv": table,
            "caption": str(drawing.caption),
            "rows": drawing.rows,
        }

    content = {
        "meta": meta,
        "figures": described,
        "left_out": {suite: dict(reasons) for suite, reasons in findings.left_out.items()},
        "notes": list(notes),
    }
    write_json(out / "analysis.json", content)
    return content
