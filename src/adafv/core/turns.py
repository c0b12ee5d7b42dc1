"""The turns of a chat in a prompt: which text the user wrote, and where answers begin."""

from bisect import bisect_left
from collections.abc import Sequence

from torch import Tensor

from adafv.core.chat_template import Ids, Template
from adafv.utils.checks import checked

__all__ = ["answer_starts", "user_turns"]


@checked
def user_turns(ids: Tensor, answered: Tensor, template: Template) -> list[tuple[int, int]]:
    """Return the first column of each of the user's turns, and the column behind its last.

    Args:
        ids: (L,) the prompt.
        answered: (L,) true where the caller says that an answer stands.
        template: of its chat. If nothing in the prompt opens a turn as it does, all that is no
            answer is the user's.

    Returns:
        Pairs of columns, in reading order.
    """
    tokens = ids.tolist()
    users = _found(tokens, template.users)
    answers = _found(tokens, template.answers)
    given = _runs(answered)

    # turns open behind an opening; without one, at the start and behind answers
    opens = {end for _, end in users}
    if not opens:
        opens = {0} | {end for _, end in given}

    # they close before whatever comes next
    closes = sorted({start for start, _ in [*users, *answers, *given]} | {len(tokens)})

    turns: list[tuple[int, int]] = []
    for start in sorted(opens):
        end = closes[bisect_left(closes, start)]
        if end > start:
            turns.append((start, end))
    return turns


@checked
def answer_starts(ids: Tensor, answered: Tensor, template: Template) -> list[int]:
    """Return the columns in which the answers of a prompt (L,) begin, in reading order."""
    starts = {end for _, end in _found(ids.tolist(), template.answers)}
    starts.update(start for start, _ in _runs(answered))
    return sorted(starts)


def _found(tokens: list[int], openings: Sequence[Ids]) -> list[tuple[int, int]]:
    """Return the first column of each opening in a prompt, and the column behind; none overlap."""
    first_ids = {opening[0] for opening in openings}
    found: list[tuple[int, int]] = []
    end = 0
    for start, token in enumerate(tokens):
        if token not in first_ids or start < end:
            continue
        for opening in openings:
            if tokens[start : start + len(opening)] == list(opening):
                end = start + len(opening)
                found.append((start, end))
                break
    return found


def _runs(true: Tensor) -> list[tuple[int, int]]:
    """Return the first column of each run of true columns (L,), and the column behind its last."""
    outside = true.new_zeros(1).int()
    edges = true.int().diff(prepend=outside, append=outside)  # (L + 1,)
    starts = (edges == 1).nonzero()[:, 0].tolist()
    ends = (edges == -1).nonzero()[:, 0].tolist()
    return list(zip(starts, ends, strict=True))
