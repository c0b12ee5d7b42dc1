"""README.md of the measurement: every figure in it comes from the rows."""

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

from coarse import TILES

from adafv.evaluation.paired import SIGNIFICANT
from adafv.utils.records import distinct, where

__all__ = ["ahead", "readme"]

Row = dict[str, Any]
Group = list[Row]
"""The rows of a comparison, suite by suite."""


def ahead(suites: Sequence[Row]) -> bool:
    """Tell if a comparison is won, given its rows by suite.

    That is: not less accurate on any suite, and more accurate beyond luck on one.
    """
    no_worse = all(row["difference"] >= 0 for row in suites)
    beyond_luck = any(row["p"] < SIGNIFICANT for row in suites)
    return no_worse and beyond_luck


def readme(meta: Row, rows: Group, pairs: Group, keep: float) -> str:
    """Return the findings in words and tables.

    Args:
        meta, rows, pairs: as results.json holds them.
        keep: the budget that all comparisons start from.
    """
    # the first images, and others on which the closest call is asked again
    seed, seed_again = distinct(rows, "seed")
    suites = distinct(rows, "suite")
    clocks = list(meta["tower_share"])
    own, large = clocks
    first = where(rows, seed=seed)
    again = where(rows, seed=seed_again)

    # comparisons at equal time have a clock, those at an equal number of tokens none
    equal = []
    others = []
    for group in _groups(pairs, seed):
        if group[0]["clock"]:
            equal.append(group)
        else:
            others.append(group)
    more = [group for group in _groups(pairs, seed_again) if group[0]["clock"]]

    # what the second images were drawn for
    closest = more[0][0]
    saved = 1 - _time(again, closest["method"], keep, large, keep)
    by_clock = ("clock", "method", "tiles", "keeps", "plain keeps")
    equal_table = _table(by_clock, suites, _labelled(equal, _at_equal_time))
    more_table = _table(by_clock, suites, _labelled(more, _at_equal_time))
    others_table = _table(("method", "against"), suites, _labelled(others, _at_equal_tokens))
    return f"""# Coarse-to-fine: do the thumbnail's tokens know which tiles to encode?

    {meta["command"]}

At {_percent(keep)} kept the vision tower is {_percent(meta["tower_share"][own])} of the embedded \
model's time to the first token,
and {_percent(meta["tower_share"][large])} of `{large}`'s, counted in FLOPs of tower and prefill \
(`adafv.speed.flops`). Models
that read a thumbnail and tiles could encode the thumbnail first, score its tokens as ever, and \
encode only the tiles
with the largest geometric mean of the masses of both lists: the mixture's own rule, with nothing \
to tune. The tower
sees each crop on its own, so a tile that is not encoded is simulated exactly by one of which \
neither scores nor mixture
see a token. What two calls of the tower in turn cost beyond their FLOPs is not counted, in \
favour of coarse-to-fine.

The embedded model answers, in {meta["dtype"]}, {first[0]["n"]} questions of each suite of the \
{meta["split"]} split. On
`{large}`'s clock it keeps the shares of its tokens that the larger model would keep of its own.

**It was measured and left out.** A comparison counts as won where coarse-to-fine is no less \
accurate than plain pruning
at equal time on any suite, and more accurate beyond luck on one: {_won(equal, clocks)}.
With few tiles `scenes-small` pays: what it asks about is too small for the thumbnail, which \
often misses its tile.
{closest["tiles"]} of {TILES} tiles with `{closest["rival"]}` were the closest call. Asked again \
about other images,
{again[0]["n"]} questions of each suite, it won {_won(more, clocks)}.
That is no clear lead for a saving of {_percent(saved)} of `{large}`'s FLOPs, which a second call \
of the tower eats into. The
embedded model's own clock, where nearly all is tower, is not that of a model one would serve.

## At equal time

Points that coarse-to-fine is ahead of plain pruning, with 95 % intervals over images; bold where \
p < {SIGNIFICANT},
not corrected for the number of comparisons. Either plain pruning keeps {_percent(keep)} and \
coarse-to-fine reads more tokens
for the tiles that it saves, or coarse-to-fine keeps {_percent(keep)} and plain pruning reads \
fewer. The latter isn't possible
on the embedded model's own clock: there a tile takes longer than plain pruning's whole prefill.

{equal_table}

The closest call, on other images, {again[0]["n"]} questions of each suite:

{more_table}

## At an equal number of tokens

Points that coarse-to-fine is ahead of plain pruning (which takes longer), of the thumbnail \
alone, and of tiles drawn by
chance (which take as long), all at {_percent(keep)}.

{others_table}

## Accuracy

Time is of tower and prefill, against plain pruning to {_percent(keep)}.

{_accuracies(first, suites, clocks, keep)}
"""


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def _won(groups: Sequence[Group], clocks: Sequence[str]) -> str:
    """Say how many comparisons are won, clock by clock."""
    # a clock is a model that would be served
    texts = []
    for clock in clocks:
        own = [group for group in groups if group[0]["clock"] == clock]
        won = sum(map(ahead, own))
        texts.append(f"{won} of {len(own)} on the clock of `{clock}`")
    return " and ".join(texts)


def _groups(pairs: Group, seed: int) -> list[Group]:
    """Return the comparisons on the images of a seed."""
    key = itemgetter("clock", "method", "keep", "rival", "rival_keep")
    groups: list[Group] = []
    for pair in where(pairs, seed=seed):
        # the suites of a comparison stand one after the other
        if groups and key(groups[-1][0]) == key(pair):
            groups[-1].append(pair)
        else:
            groups.append([pair])
    return groups


def _time(rows: Group, method: str, share: float, clock: str, keep: float) -> float:
    """Return a method's time against plain pruning to `keep`, all tiles encoded."""
    own = where(rows, method=method, keep=share)[0]
    # FLOPs are the same on every suite
    plain = where(rows, tiles=TILES, keep=keep)[0]
    return own[clock] / plain[clock]


def _labelled(
    groups: Iterable[Group], label: Callable[[Row], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], Group]]:
    """Return groups with what stands before them in a table."""
    return [(label(group[0]), group) for group in groups]


def _at_equal_time(row: Row) -> tuple[str, ...]:
    keeps = _percent(row["keep"], digits=1)
    plain_keeps = _percent(row["rival_keep"], digits=1)
    return row["clock"], row["rival"], str(row["tiles"]), keeps, plain_keeps


def _at_equal_tokens(row: Row) -> tuple[str, ...]:
    return row["method"], row["rival"]


def _table(
    head: Sequence[str], suites: Sequence[str], lines: Iterable[tuple[tuple[str, ...], Group]]
) -> str:
    # a line for each comparison, a column for each suite
    body = []
    for label, group in lines:
        body.append([*label, *map(_points, group)])
    return _markdown([*head, *suites], body)


def _points(row: Row) -> str:
    """Return a difference with its interval, in bold if it is beyond luck."""
    low = _signed(row["ci_low"])
    high = _signed(row["ci_high"])
    text = f"{_signed(row['difference'])} [{low}, {high}]"
    return f"**{text}**" if row["p"] < SIGNIFICANT else text


def _signed(share: float) -> str:
    # a minus sign is as wide as a plus sign
    return f"{100 * share:+.1f}".replace("-", "−")


def _accuracies(rows: Group, suites: Sequence[str], clocks: Sequence[str], keep: float) -> str:
    # a line for each configuration, a column for each suite
    lines: dict[tuple[str, float], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row["method"], row["keep"]), {})[row["suite"]] = row

    body = []
    for (method, share), found in lines.items():
        line = ["dense" if method == "none" else method, _percent(share, digits=1)]
        for clock in clocks:
            line.append(f"{_time(rows, method, share, clock, keep):.2f}")
        for suite in suites:
            line.append(_accuracy(found[suite]))
        body.append(line)
    times = [f"time, {clock}" for clock in clocks]
    return _markdown(["method", "kept", *times, *suites], body)


def _accuracy(row: Row) -> str:
    return f"{100 * row['accuracy']:.1f} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    # numbers need no alignment in a README
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
