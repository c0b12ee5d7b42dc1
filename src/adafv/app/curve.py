"""Draw what methods answer against the budget, as SVG: strings, nothing of Gradio."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log

from adafv.app.cards import same
from adafv.models.ask import Answer
from adafv.utils.checks import checked

__all__ = ["Row", "curve"]

SHORT = 7
"""Letters of an answer that is written under its mark: more would touch the next one's."""
EDGE = 7.0
"""Percent of the width that stay free beside the outermost marks, for half of a text."""
# heights in pixels, so that text is of one size however wide the page is
ROW = 62
RAIL = 33
TICKS = 20
RADIUS = 6


@dataclass(frozen=True)
class Row:
    """The answers of a method at several budgets.

    Attributes:
        method: its name.
        shares: of the visual tokens, ascending.
        answers: one for each share; None: not asked, or refused.
        dense: the answer from all tokens.
    """

    method: str
    shares: Sequence[float]
    answers: Sequence[Answer | None]
    dense: Answer

    def points(self) -> list[tuple[float, Answer | None]]:
        """Return the shares with what is answered there."""
        return list(zip(self.shares, self.answers, strict=True))

    def largest(self) -> float | None:
        """Return the largest share that was asked at; None without any."""
        asked = [share for share, answer in self.points() if answer is not None]
        return max(asked, default=None)

    def holds_from(self) -> float | None:
        """Return the share from which on, up to the largest, the dense answer stays."""
        first = None
        for share, answer in reversed(self.points()):
            if answer is None:
                continue
            if not same(answer, self.dense):
                break
            first = share
        return first

    def says(self, answer: Answer | None) -> str:
        """Say what is answered, and whether all tokens answer so."""
        if answer is None:
            return "not asked, or refused"
        verdict = "the answer of all tokens" if same(answer, self.dense) else "another answer"
        return f"{_line(answer)}, {verdict}"


@checked
def curve(rows: Sequence[Row]) -> str:
    """Return a row of marks for each method, over the budgets on a logarithmic axis.

    A mark is filled where the answer is the dense model's, and hollow where it is another one; a
    bold line reaches as far down as the dense answer stays. It is for eyes alone: the same has to
    be written beside it.
    """
    shares = rows[0].shares
    bottom = ROW * len(rows)
    drawn = [_row(row, ROW * number) for number, row in enumerate(rows)]
    for share in shares:
        x = _x(share, shares)
        drawn.append(f'<text class="tick" x="{x}" y="{bottom + TICKS - 6}">{share:.0%}</text>')
    return (
        f'<svg class="curve" width="100%" height="{bottom + TICKS}" aria-hidden="true">'
        f"{''.join(drawn)}</svg>"
    )


def _x(share: float, shares: Sequence[float]) -> str:
    """Return how far to the right a budget lies, on a logarithmic axis."""
    along = log(share / shares[0]) / log(shares[-1] / shares[0])  # 0 to 1
    return f"{EDGE + (100 - 2 * EDGE) * along:.1f}%"


def _row(row: Row, top: int) -> str:
    """Draw a method: its name, a line from the first budget to the last, and a mark at each."""
    y = top + RAIL
    parts = [
        f'<text class="name" x="0" y="{top + 14}">{escape(row.method)}</text>',
        _rail(row, row.shares[0], row.shares[-1], y, "rail"),
    ]
    first = row.holds_from()
    largest = row.largest()
    if first is not None and largest is not None:
        parts.append(_rail(row, first, largest, y, "holds"))
    for share, answer in row.points():
        parts.append(_mark(row, share, answer, y))
    return "".join(parts)


def _rail(row: Row, first: float, last: float, y: int, kind: str) -> str:
    """Draw a level line between two budgets."""
    start, end = _x(first, row.shares), _x(last, row.shares)
    return f'<line class="{kind}" x1="{start}" x2="{end}" y1="{y}" y2="{y}"/>'


def _mark(row: Row, share: float, answer: Answer | None, y: int) -> str:
    """Draw an answer: a mark that tells it when pointed at, with another answer under it."""
    x = _x(share, row.shares)
    title = f"<title>{escape(row.method)} at {share:.0%}: {escape(row.says(answer))}</title>"
    if answer is None:
        return f'<g class="mark none">{title}<circle cx="{x}" cy="{y}" r="2"/></g>'
    agrees = same(answer, row.dense)
    circle = f'<circle cx="{x}" cy="{y}" r="{RADIUS}"/>'
    text = _line(answer)
    under = ""
    if not agrees and len(text) <= SHORT:
        under = f'<text x="{x}" y="{y + 19}">{escape(text)}</text>'
    return f'<g class="mark {"same" if agrees else "other"}">{title}{circle}{under}</g>'


def _line(answer: Answer) -> str:
    """Return an answer on one line."""
    return " ".join(answer.answer.split()) or "(nothing)"
