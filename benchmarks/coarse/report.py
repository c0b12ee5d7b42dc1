"""README.md of the measurement: every figure in it comes from the rows."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from coarse import TILES

from adafv.evaluation.paired import SIGNIFICANT

__all__ = ["ahead", "readme"]

Row = dict[str, Any]


def ahead(suites: Sequence[Row]) -> bool:
    """Whether a comparison is won: not less accurate on any suite, and more accurate beyond luck on
    one.
    """
    return all(r["difference"] >= 0 for r in suites) and any(r["p"] < SIGNIFICANT for r in suites)


def readme(meta: Row, rows: Sequence[Row], pairs: Sequence[Row], keep: float) -> str:
    """The findings in words and tables.

    Args:
        meta, rows, pairs: what results.json holds.
        keep: the budget that all comparisons start from.
    """
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    suites = list(dict.fromkeys(row["suite"] for row in rows))
    own, large = clocks = list(meta["tower_share"])
    first, again = ([row for row in rows if row["seed"] == seed] for seed in seeds)
    equal, more = ([g for g in _groups(pairs, seed) if g[0]["clock"]] for seed in seeds)
    others = [g for g in _groups(pairs, seeds[0]) if not g[0]["clock"]]
    head = ("clock", "method", "tiles", "keeps", "plain keeps")
    tiles = more[0][0]["tiles"]
    saved = 1 - _time(again, more[0][0]["method"], keep, large, keep)
    return f"""# Coarse-to-fine: do the thumbnail's tokens know which tiles to encode?

    {meta["command"]}

At {keep:.0%} kept the vision tower is {meta["tower_share"][own]:.0%} of the embedded model's time to the first token,
and {meta["tower_share"][large]:.0%} of `{large}`'s, counted in FLOPs of tower and prefill (`adafv.speed.flops`). Models
that read a thumbnail and tiles could encode the thumbnail first, score its tokens as ever, and encode only the tiles
with the largest geometric mean of the masses of both lists: the mixture's own rule, with nothing to tune. The tower
sees each crop on its own, so a tile that is not encoded is simulated exactly by one of which neither scores nor mixture
see a token. What two calls of the tower in turn cost beyond their FLOPs is not counted, in favour of coarse-to-fine.

The embedded model answers, in {meta["dtype"]}, {first[0]["n"]} questions of each suite of the {meta["split"]} split. On
`{large}`'s clock it keeps the shares of its tokens that the larger model would keep of its own.

**It was measured and left out.** A comparison counts as won where coarse-to-fine is no less accurate than plain pruning
at equal time on any suite, and more accurate beyond luck on one: {_won(equal, clocks)}.
With few tiles `scenes-small` pays: what it asks about is too small for the thumbnail, which often misses its tile.
{tiles} of {TILES} tiles with `{more[0][0]["rival"]}` were the closest call. Asked again about other images,
{again[0]["n"]} questions of each suite, it won {_won(more, clocks)}.
That is no clear lead for a saving of {saved:.0%} of `{large}`'s FLOPs, which a second call of the tower eats into. The
embedded model's own clock, where nearly all is tower, is not that of a model one would serve.

## At equal time

Points that coarse-to-fine is ahead of plain pruning, with 95 % intervals over images; bold where p < {SIGNIFICANT},
not corrected for the number of comparisons. Either plain pruning keeps {keep:.0%} and coarse-to-fine reads more tokens
for the tiles that it saves, or coarse-to-fine keeps {keep:.0%} and plain pruning reads fewer. The latter isn't possible
on the embedded model's own clock: there a tile takes longer than plain pruning's whole prefill.

{_table(head, suites, [(_equal(group), group) for group in equal])}

The closest call, on other images, {again[0]["n"]} questions of each suite:

{_table(head, suites, [(_equal(group), group) for group in more])}

## At an equal number of tokens

Points that coarse-to-fine is ahead of plain pruning (which takes longer), of the thumbnail alone, and of tiles drawn by
chance (which take as long), all at {keep:.0%}.

{_table(("method", "against"), suites, [((g[0]["method"], g[0]["rival"]), g) for g in others])}

## Accuracy

Time is of tower and prefill, against plain pruning to {keep:.0%}.

{_accuracies(first, suites, clocks, keep)}
"""


def _won(groups: Sequence[Sequence[Row]], clocks: Sequence[str]) -> str:
    by = {
        clock: [ahead(group) for group in groups if group[0]["clock"] == clock] for clock in clocks
    }
    return " and ".join(
        f"{sum(won)} of {len(won)} on the clock of `{clock}`" for clock, won in by.items()
    )


def _groups(pairs: Sequence[Row], seed: int) -> list[list[Row]]:
    """The suites of each comparison."""
    return [
        list(group)
        for _, group in groupby((pair for pair in pairs if pair["seed"] == seed), key=_key)
    ]


def _time(rows: Sequence[Row], method: str, share: float, clock: str, keep: float) -> float:
    """Against plain pruning to `keep`, all tiles encoded."""
    plain = next(row for row in rows if (row["tiles"], row["keep"]) == (TILES, keep))
    return (
        next(row for row in rows if (row["method"], row["keep"]) == (method, share))[clock]
        / plain[clock]
    )


def _key(pair: Row) -> tuple[Any, ...]:
    return tuple(pair[name] for name in ("clock", "method", "keep", "rival", "rival_keep"))


def _equal(group: Sequence[Row]) -> tuple[str, ...]:
    first = group[0]
    return (
        first["clock"],
        first["rival"],
        str(first["tiles"]),
        f"{first['keep']:.1%}",
        f"{first['rival_keep']:.1%}",
    )


def _table(
    head: Sequence[str],
    suites: Sequence[str],
    lines: Iterable[tuple[tuple[str, ...], Sequence[Row]]],
) -> str:
    body = [(*label, *(_points(row) for row in group)) for label, group in lines]
    return _markdown([*head, *suites], body)


def _points(row: Row) -> str:
    text = f"{_signed(row['difference'])} [{_signed(row['ci_low'])}, {_signed(row['ci_high'])}]"
    return f"**{text}**" if row["p"] < SIGNIFICANT else text


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _accuracies(
    rows: Sequence[Row], suites: Sequence[str], clocks: Sequence[str], keep: float
) -> str:
    cells: dict[tuple[str, float], dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["keep"]), {})[row["suite"]] = row
    body = []
    for (method, share), found in cells.items():
        times = (f"{_time(rows, method, share, clock, keep):.2f}" for clock in clocks)
        name = "dense" if method == "none" else method
        body.append((name, f"{share:.1%}", *times, *(_accuracy(found[suite]) for suite in suites)))
    return _markdown(["method", "kept", *(f"time, {clock}" for clock in clocks), *suites], body)


def _accuracy(row: Row) -> str:
    return f"{100 * row['accuracy']:.1f} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
