"""Write the panels under the cards: the words of the question, and the answer at other budgets."""

from collections.abc import Sequence
from html import escape

from adafv.app.curve import Row, curve
from adafv.app.drawing import Box, figure, heat
from adafv.app.view import View
from adafv.utils.checks import checked
from adafv.viz.figure import RELEVANCE

__all__ = ["asking", "budgets", "words"]

KEY = (
    '<p class="small key" aria-hidden="true"><b class="same">●</b> the answer of all tokens '
    '<b class="other">○</b> another answer</p>'
)


@checked
def words(view: View) -> str:
    """Return the words of the question, each with the map of what it resembles in the image."""
    explanation = view.results[0].explanation
    if explanation is None or not explanation.scales or not view.words:
        return ""
    size = view.image.size
    # the finest grid alone: its thumbnail says the same, coarser
    scale = explanation.scales[0]
    box: Box = explanation.view

    listed = []
    # punctuation is read, too, but nobody wants to see where it points
    for word in (w for w in view.words if any(c.isalnum() for c in w.text)):
        map_ = figure(size, heat(scale, box, word.attention, RELEVANCE), f"map of {word.text}")
        listed.append(f'<button type="button" class="word">{escape(word.text)}{map_}</button>')
    whole = figure(size, heat(scale, box, view.relevance, RELEVANCE), "map of all words")
    return (
        '<section class="panel words"><h3>What a word resembles</h3>'
        '<p class="small">Point at a word. Each map is as strong as its own peak.</p>'
        f'<div class="maps"><div class="map">{whole}</div>'
        f'<p class="list">{" ".join(listed)}</p></div></section>'
    )


@checked
def asking() -> str:
    """Return what stands in the place of the curve while budgets are tried."""
    return (
        '<section class="panel budgets"><h3>The answer at other budgets</h3>'
        '<p class="small">Asking …</p></section>'
    )


@checked
def budgets(shares: Sequence[float], views: Sequence[View]) -> str:
    """Return what each method answers at each budget, drawn; empty if nobody was asked.

    Args:
        shares: of the visual tokens, ascending.
        views: one for each share, the last of which may be missing.
    """
    dense = views[0].results[0].answer if views else None
    if dense is None or len(views[0].results) == 1:
        return ""
    rows = []
    for i, result in enumerate(views[0].results[1:], start=1):
        answers = [view.results[i].answer for view in views]
        answers += [None] * (len(shares) - len(views))
        rows.append(Row(result.method, shares, answers, dense))
    said = " ".join(_from_where(row) for row in rows)
    return (
        '<section class="panel budgets"><h3>The answer at other budgets</h3>'
        f'<p class="small">{said}</p>{KEY}{curve(rows)}{_table(rows)}</section>'
    )


def _table(rows: Sequence[Row]) -> str:
    """Return what the curve shows as a table, which is read aloud and not seen."""
    head = "".join(f'<th scope="col">{share:.0%}</th>' for share in rows[0].shares)
    body = []
    for row in rows:
        cells = "".join(f"<td>{escape(row.says(answer))}</td>" for answer in row.answers)
        body.append(f'<tr><th scope="row">{escape(row.method)}</th>{cells}</tr>')
    return (
        f'<div class="spoken"><table><thead><tr><th scope="col">kept</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _from_where(row: Row) -> str:
    """Say from which budget on a method answers as all tokens do, of those that were asked."""
    method = escape(row.method)
    largest = row.largest()
    if largest is None:
        return f"{method} has answered at none of these budgets."
    first = row.holds_from()
    if first is None:
        return f"{method} gives another answer than all tokens, still at {largest:.0%}."
    more = "at more" if largest == row.shares[-1] else f"at more, up to {largest:.0%}"
    return f"{method} gives the answer of all tokens at {first:.0%} and {more}."
