"""Write the panels under the cards: the words of the question, and the answer at other budgets."""

from collections.abc import Sequence
from html import escape

from adafv.app.cards import same
from adafv.app.drawing import Box, figure, heat
from adafv.app.view import View
from adafv.models.ask import Answer
from adafv.utils.checks import checked
from adafv.viz.figure import RELEVANCE

__all__ = ["asking", "budgets", "words"]

SHORT = 8
"""Letters of an answer that is written into a cell of the table."""


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
        f'<div class="map">{whole}</div><p class="list">{" ".join(listed)}</p></section>'
    )


@checked
def asking() -> str:
    """Return what stands in the place of the table while budgets are tried."""
    return (
        '<section class="panel budgets"><h3>The answer at other budgets</h3>'
        '<p class="small">Asking …</p></section>'
    )


@checked
def budgets(shares: Sequence[float], views: Sequence[View]) -> str:
    """Return a table of what each method answers at each budget; empty if nobody was asked.

    Args:
        shares: of the visual tokens, ascending.
        views: one for each share, the last of which may be missing.
    """
    dense = views[0].results[0].answer if views else None
    if dense is None or len(views[0].results) == 1:
        return ""
    head = "".join(f'<th scope="col">{share:.0%}</th>' for share in shares)
    rows = []
    said = []
    for i, result in enumerate(views[0].results[1:], start=1):
        answers = [view.results[i].answer for view in views]
        answers += [None] * (len(shares) - len(views))
        cells = "".join(_cell(answer, dense) for answer in answers)
        rows.append(f'<tr><th scope="row">{escape(result.method)}</th>{cells}</tr>')
        said.append(_from_where(result.method, shares, answers, dense))
    return (
        '<section class="panel budgets"><h3>The answer at other budgets</h3>'
        f'<p class="small">{" ".join(said)}</p>'
        f'<table><thead><tr><th scope="col">kept</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></section>"
    )


def _cell(answer: Answer | None, dense: Answer) -> str:
    """Return a cell: the answer if it is short, and whether it is the dense one."""
    if answer is None:
        return '<td title="not asked, or refused">–</td>'
    kind, mark = ("same", "✓") if same(answer, dense) else ("other", "✗")
    text = " ".join(answer.answer.split()) or "(nothing)"
    shown = f" <span>{escape(text)}</span>" if len(text) <= SHORT else ""
    return f'<td class="{kind}" title="{escape(text)}">{mark}{shown}</td>'


def _from_where(
    method: str, shares: Sequence[float], row: Sequence[Answer | None], dense: Answer
) -> str:
    """Say from which budget on a method answers as all tokens do, of those that were asked."""
    asked = []
    for share, answer in zip(shares, row, strict=True):
        if answer is not None:
            asked.append((share, same(answer, dense)))
    if not asked:
        return f"{escape(method)} has answered at none of these budgets."

    # from the largest down, as long as the answer is the same
    first = None
    largest = asked[-1][0]
    for share, agrees in reversed(asked):
        if not agrees:
            break
        first = share
    if first is None:
        return f"{escape(method)} gives another answer than all tokens, still at {largest:.0%}."
    more = "at more" if largest == shares[-1] else f"at more, up to {largest:.0%}"
    return f"{escape(method)} gives the answer of all tokens at {first:.0%} and {more}."
