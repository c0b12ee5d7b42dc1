"""README.md of the measurement: every figure in it comes from the rows."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from adafv.evaluation.paired import SIGNIFICANT

__all__ = ["ahead", "readme"]

Row = dict[str, Any]


def ahead(suites: Sequence[Row]) -> bool:
    """Whether a comparison is won: not less accurate on any suite, and more accurate beyond luck on one."""
    return all(r["difference"] >= 0 for r in suites) and any(r["p"] < SIGNIFICANT for r in suites)


def readme(meta: Row, rows: Sequence[Row], pairs: Sequence[Row], keep: float) -> str:
    """The findings in words and tables.

    Args:
        meta, rows, pairs: what results.json holds.
        keep: the budget that all comparisons start from.
    """
    suites = list(dict.fromkeys(row["suite"] for row in rows))
    clocks: dict[str, Row] = meta["clocks"]
    own, large = clocks
    equal = [list(group) for _, group in groupby((p for p in pairs if p["clock"]), key=_key)]
    others = [list(group) for _, group in groupby((p for p in pairs if not p["clock"]), key=_key)]
    return f"""# Coarse-to-fine: do the thumbnail's tokens know which tiles to encode?

    {meta["command"]}

At {keep:.0%} kept the vision tower is {clocks[own]["share"]:.0%} of the embedded model's time to the first token, and
{clocks[large]["share"]:.0%} of `{large}`'s, counted in FLOPs of tower and prefill (`adafv.speed.flops`). Models that
read a thumbnail and tiles could encode the thumbnail first, score its tokens as ever, and encode only the tiles with
the largest geometric mean of the masses of both lists: the mixture's own rule, with nothing to tune. The tower sees
each crop on its own, so a tile that is not encoded is simulated exactly by one of which neither scores nor mixture see
a token. What two calls of the tower in turn cost beyond their FLOPs is not counted, in favour of coarse-to-fine.

The embedded model answers, in {meta["dtype"]}, {meta["limit"]} questions of each suite of the {meta["split"]} split. On
`{large}`'s clock it keeps the shares of its tokens that the larger model would keep of its own.

{_verdict(equal, list(clocks))}

## At equal time

Points that coarse-to-fine is ahead of plain pruning, with 95 % intervals over pictures; bold where p < {SIGNIFICANT},
not corrected for the number of comparisons. Either plain pruning keeps {keep:.0%} and coarse-to-fine reads more tokens
for the tiles that it saves, or coarse-to-fine keeps {keep:.0%} and plain pruning reads fewer. The latter isn't possible
on the embedded model's own clock: there a tile takes longer than plain pruning's whole prefill.

{_table(("clock", "method", "tiles", "keeps", "plain keeps"), suites, [(_equal(group), group) for group in equal])}

## At an equal number of tokens

Points that coarse-to-fine is ahead of plain pruning (which takes longer), of the thumbnail alone, and of tiles drawn by
chance (which take as long), all at {keep:.0%}.

{_table(("method", "against"), suites, [((g[0]["method"], g[0]["rival"]), g) for g in others])}

## Accuracy

Time is of tower and prefill, against plain pruning to {keep:.0%}.

{_accuracies(rows, suites, list(clocks), keep)}
"""


def _verdict(equal: Sequence[Sequence[Row]], clocks: Sequence[str]) -> str:
    won = {clock: [g for g in equal if g[0]["clock"] == clock and ahead(g)] for clock in clocks}
    total = {clock: sum(g[0]["clock"] == clock for g in equal) for clock in clocks}
    found = "; ".join(f"{len(won[clock])} of {total[clock]} on the clock of `{clock}`" for clock in clocks)
    kept = "It was ahead on both clocks." if all(won.values()) else "**It was measured and left out.**"
    return (
        f"{kept} Ahead of plain pruning at equal time means: no less accurate on any suite, and more\n"
        f"accurate beyond luck on one. Comparisons won: {found}."
    )


def _key(pair: Row) -> tuple[Any, ...]:
    return tuple(pair[name] for name in ("clock", "method", "keep", "rival", "rival_keep"))


def _equal(group: Sequence[Row]) -> tuple[str, ...]:
    first = group[0]
    return first["clock"], first["rival"], str(first["tiles"]), f"{first['keep']:.1%}", f"{first['rival_keep']:.1%}"


def _table(head: Sequence[str], suites: Sequence[str], lines: Iterable[tuple[tuple[str, ...], Sequence[Row]]]) -> str:
    body = [(*label, *(_points(row) for row in group)) for label, group in lines]
    return _markdown([*head, *suites], body)


def _points(row: Row) -> str:
    text = f"{_signed(row['difference'])} [{_signed(row['ci_low'])}, {_signed(row['ci_high'])}]"
    return f"**{text}**" if row["p"] < SIGNIFICANT else text


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _accuracies(rows: Sequence[Row], suites: Sequence[str], clocks: Sequence[str], keep: float) -> str:
    plain = next(row for row in rows if (row["method"], row["keep"]) == ("adafv", keep))
    cells: dict[tuple[str, float], dict[str, Row]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["keep"]), {})[row["suite"]] = row
    body = []
    for (method, share), found in cells.items():
        first = found[suites[0]]
        times = (f"{first[clock] / plain[clock]:.2f}" for clock in clocks)
        name = "dense" if method == "none" else method
        body.append((name, f"{share:.1%}", *times, *(_accuracy(found[suite]) for suite in suites)))
    return _markdown(["method", "kept", *(f"time, {clock}" for clock in clocks), *suites], body)


def _accuracy(row: Row) -> str:
    return f"{100 * row['accuracy']:.1f} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
