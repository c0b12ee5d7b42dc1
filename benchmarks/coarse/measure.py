"""Is coarse-to-fine ahead of plain pruning at equal time? See README.md here, which this writes.

    python benchmarks/coarse/measure.py --out benchmarks/coarse

Takes up an interrupted run where it stopped.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coarse import TILES, Clock, Coarse
from report import readme

from adafv.data.scenes import SCENE_SUITES
from adafv.evaluation import report
from adafv.evaluation.answering import BLIND, Configuration
from adafv.evaluation.evaluate import Evaluation
from adafv.evaluation.paired import paired
from adafv.methods import AdaFV, AdaFVPlus
from adafv.models.load import load
from adafv.speed.shapes import QUESTION, SHAPES
from adafv.utils.files import write_text

KEEP = 0.05
BASES: dict[str, type[AdaFV]] = {cls.name: cls for cls in (AdaFV, AdaFVPlus)}
SHAPE, ASKED = "llava-next-7b", "what color is the anchor?"
CLOSEST = (["adafv+"], [TILES - 1])
"""What was neither ahead nor behind on the first images, and is asked again on others."""
COLUMNS = (
    "method",
    "tiles",
    "keep",
    "kept_tokens",
    "suite",
    "n",
    "accuracy",
    "ci_low",
    "ci_high",
    "retention",
)

Name = tuple[str, float]
"""Method and keep, as records have them."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Evaluation):
    """Plain pruning at `keeps`, and beside it coarse-to-fine.

    Args:
        coarse: tiles, share of all visual tokens, and whether chance chooses the tiles.
        dense: the dense model takes part, which takes longer than all others together.
    """

    coarse: Sequence[tuple[int, float, bool]]
    dense: bool = True

    def _configured(self, template: Callable[[], Iterable[int]] = tuple) -> list[Configuration]:
        left_out = {BLIND} if self.dense else {BLIND, "none"}
        found = [c for c in super()._configured(template) if c.method not in left_out]
        for base in self.methods:
            for tiles, keep, chance in dict.fromkeys(self.coarse):
                pruner = Coarse(fine=BASES[base](keep=keep), tiles=tiles, chance=chance, keep=keep)
                found.append(Configuration(named(base, tiles, chance), keep, pruner))
        return found


def named(base: str, tiles: int, chance: bool = False) -> str:
    """How a configuration is called in the results."""
    return f"{base}, {f'{tiles} of {TILES} tiles' if tiles else 'thumbnail'}{' by chance' if chance else ''}"


def rivals(clock: Clock, whole: int, tiles: Iterable[int]) -> Iterator[tuple[int, float, float]]:
    """Equal times: tiles, the share that coarse keeps, and the share that plain pruning keeps, 0
    where none is short.

    Either plain keeps `KEEP`, and coarse reads more tokens for the tiles it leaves out; or coarse
    keeps `KEEP`, and plain reads fewer. Shares are rounded to tokens of the model that answers,
    which has `whole`.
    """
    for count in tiles:
        more = clock.affords(clock.flops(TILES, KEEP), count)
        fewer = clock.affords(clock.flops(count, KEEP), TILES)
        yield count, round(more * whole) / whole, KEEP
        yield count, KEEP, round(fewer * whole) / whole


def compare(
    records: Iterable[dict[str, Any]], ours: Name, rival: Name, **about: Any
) -> list[dict[str, Any]]:
    """A row for each suite: how much more accurate `ours` is, with interval and p."""
    roles = {ours: "ours", rival: "rival"}
    found = ((roles.get((r["method"], r["keep"])), r) for r in records)
    rows = paired([{**r, "method": role, "keep": 0.0} for role, r in found if role], ["ours"])
    who = {"method": ours[0], "keep": ours[1], "rival": rival[0], "rival_keep": rival[1]}
    return [{**about, **who, **{k: v for k, v in row.items() if k not in who}} for row in rows]


def comparison(
    clocks: Sequence[Clock], methods: Sequence[str], tiles: Sequence[int], **asked: Any
) -> Comparison:
    """Of so many tiles with plain pruning at equal time, with the thumbnail alone and with tiles
    drawn by chance.
    """
    whole = clocks[0].tokens(TILES)
    equal = [rival for clock in clocks for rival in rivals(clock, whole, tiles)]
    return Comparison(
        methods=methods,
        keeps=[keep for keep in dict.fromkeys([KEEP, *(plain for *_, plain in equal)]) if keep],
        coarse=[
            *((count, KEEP, False) for count in (0, *tiles)),
            *((count, keep, False) for count, keep, _ in equal),
            *((count, KEEP, True) for count in tiles if count < TILES - 1),
        ],
        suites=SCENE_SUITES,
        split="validation",
        batch_size=32,
        **asked,
    )


def rows_of(
    records: list[dict[str, Any]], plan: Comparison, clocks: Sequence[Clock]
) -> list[dict[str, Any]]:
    """Accuracy, and GFLOPs by clock, of each configuration on each suite."""
    tiles = {c.method: c.pruner.tiles for c in plan.configurations if isinstance(c.pruner, Coarse)}
    return [
        {name: row.get(name, tiles.get(row["method"], TILES)) for name in COLUMNS}
        | {
            clock.name: round(clock.flops(tiles.get(row["method"], TILES), row["keep"]) / 1e9, 3)
            for clock in clocks
        }
        for row in report.rows_of(records)
        if row["question_type"] == "all"
    ]


def pairs_of(
    records: list[dict[str, Any]], plan: Comparison, clocks: Sequence[Clock]
) -> list[dict[str, Any]]:
    """Coarse against plain pruning at equal time, by clock; then against plain, the thumbnail
    alone, and chance.
    """
    rows, whole = [], clocks[0].tokens(TILES)
    encoded = [tiles for tiles in dict.fromkeys(tiles for tiles, *_ in plan.coarse) if tiles]
    for base in plan.methods:
        for clock in clocks:
            for tiles, keep, plain in rivals(clock, whole, encoded):
                if plain:
                    rows += compare(
                        records,
                        (named(base, tiles), keep),
                        (base, plain),
                        clock=clock.name,
                        tiles=tiles,
                    )
        for tiles in encoded:
            others = [base, named(base, 0)] + [named(base, tiles, True)] * (
                (tiles, KEEP, True) in plan.coarse
            )
            for rival in others:
                rows += compare(
                    records, (named(base, tiles), KEEP), (rival, KEEP), clock=None, tiles=tiles
                )
    return rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--limit", type=int, default=300, metavar="N", help="questions of each suite"
    )
    parser.add_argument(
        "--again", type=int, default=1000, metavar="N", help="the same, for the closest call"
    )
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options, start = parse(arguments), datetime.now(UTC)
    model, processor = load(dtype=options.dtype)
    shape = SHAPES[SHAPE]
    clocks = (
        Clock.of("embedded", model.config, processor, ASKED),
        Clock.of(SHAPE, shape.config(), shape.processor(), QUESTION),
    )
    first = comparison(clocks, list(BASES), range(1, TILES), limit=options.limit)
    again = comparison(clocks, *CLOSEST, limit=options.again, seed=2, dense=False)
    found: dict[str, Any] = {"rows": [], "pairs": []}
    for plan, folder in ((first, options.out), (again, options.out / "again")):
        records = plan.run(model, processor, folder, name="embedded", progress=True)
        found["rows"] += [{"seed": plan.seed, **row} for row in rows_of(records, plan, clocks)]
        found["pairs"] += [{"seed": plan.seed, **pair} for pair in pairs_of(records, plan, clocks)]
    shares = {clock.name: clock.vision(TILES) / clock.flops(TILES, KEEP) for clock in clocks}
    settings = {
        "split": first.split,
        "words": {c.name: c.words for c in clocks},
        "tower_share": shares,
    }
    meta = report.meta_of(model, "embedded", start, **settings)
    meta["command"] = shlex.join(
        ["python", "benchmarks/coarse/measure.py", *(arguments or sys.argv[1:])]
    )
    del meta["wall_seconds"]  # of the last part of an interrupted run
    text = json.dumps({"meta": meta, **found}, indent=1, ensure_ascii=False)
    write_text(options.out / "results.json", text + "\n")
    write_text(options.out / "results.csv", report.as_csv(found["rows"][0], found["rows"]))
    write_text(options.out / "README.md", readme(meta, found["rows"], found["pairs"], KEEP))


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
