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

from adafv.evaluation import report
from adafv.evaluation.evaluate import Configuration, Evaluation
from adafv.evaluation.paired import paired
from adafv.evaluation.scenes import SCENE_SUITES
from adafv.files import write_text
from adafv.load import load
from adafv.methods import AdaFV, AdaFVPlus
from adafv.speed.shapes import QUESTION, SHAPES

KEEP = 0.05
BASES: dict[str, type[AdaFV]] = {cls.name: cls for cls in (AdaFV, AdaFVPlus)}
SHAPE, ASKED = "llava-next-7b", "what color is the anchor?"
COLUMNS = ("method", "tiles", "keep", "kept_tokens", "suite", "n", "accuracy", "ci_low", "ci_high", "retention")

Name = tuple[str, float]
"""Method and keep, as records have them."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Evaluation):
    """Plain pruning at `keeps`, and beside it coarse-to-fine.

    Args:
        coarse: tiles, share of all visual tokens, and whether chance chooses the tiles.
    """

    coarse: Sequence[tuple[int, float, bool]]

    def _configured(self, template: Callable[[], Iterable[int]] = tuple) -> list[Configuration]:
        found = [c for c in super()._configured(template) if c.pruner]  # without the blind model
        for base in self.methods:
            for tiles, keep, chance in dict.fromkeys(self.coarse):
                pruner = Coarse(fine=BASES[base](keep=keep), tiles=tiles, chance=chance, keep=keep)
                found.append(Configuration(named(base, tiles, chance), keep, pruner))
        return found


def named(base: str, tiles: int, chance: bool = False) -> str:
    """How a configuration is called in the results."""
    return f"{base}, {f'{tiles} of {TILES} tiles' if tiles else 'thumbnail'}{' by chance' if chance else ''}"


def rivals(clock: Clock, whole: int) -> Iterator[tuple[int, float, float]]:
    """Equal times: tiles, the share that coarse keeps, and the share that plain pruning keeps, 0 where none is short.

    Either plain keeps `KEEP`, and coarse reads more tokens for the tiles it leaves out; or coarse keeps `KEEP`, and
    plain reads fewer. Shares are rounded to tokens of the model that answers, which has `whole`.
    """
    for tiles in range(1, TILES):
        more = clock.affords(clock.flops(TILES, KEEP), tiles)
        fewer = clock.affords(clock.flops(tiles, KEEP), TILES)
        yield tiles, round(more * whole) / whole, KEEP
        yield tiles, KEEP, round(fewer * whole) / whole


def compare(records: Iterable[dict[str, Any]], ours: Name, rival: Name, **about: Any) -> list[dict[str, Any]]:
    """A row for each suite: how much more accurate `ours` is, with interval and p."""
    roles = {ours: "ours", rival: "rival"}
    found = ((roles.get((r["method"], r["keep"])), r) for r in records)
    rows = paired([{**r, "method": role, "keep": 0.0} for role, r in found if role], ["ours"])
    who = {"method": ours[0], "keep": ours[1], "rival": rival[0], "rival_keep": rival[1]}
    return [{**about, **who, **{k: v for k, v in row.items() if k not in who}} for row in rows]


def pairs_of(records: list[dict[str, Any]], clocks: Sequence[Clock], whole: int) -> list[dict[str, Any]]:
    """Coarse against plain pruning at equal time on each clock, against chance, the thumbnail alone and plain."""
    rows = []
    for base in BASES:
        for clock in clocks:
            for tiles, keep, plain in rivals(clock, whole):
                if plain:
                    rows += compare(records, (named(base, tiles), keep), (base, plain), clock=clock.name, tiles=tiles)
        for tiles in range(1, TILES):
            others = [(base, KEEP), (named(base, 0), KEEP)]
            others += [(named(base, tiles, True), KEEP)] if tiles < TILES - 1 else []
            for rival in others:
                rows += compare(records, (named(base, tiles), KEEP), rival, clock=None, tiles=tiles)
    return rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--limit", type=int, default=300, metavar="N", help="questions of each suite")
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
    whole = clocks[0].tokens(TILES)
    equal = [rival for clock in clocks for rival in rivals(clock, whole)]
    plan = Comparison(
        methods=list(BASES),
        keeps=[keep for keep in dict.fromkeys([KEEP, *(plain for *_, plain in equal)]) if keep],
        coarse=[
            *((tiles, KEEP, False) for tiles in range(TILES)),
            *((tiles, keep, False) for tiles, keep, _ in equal),
            *((tiles, KEEP, True) for tiles in range(1, TILES - 1)),
        ],
        suites=SCENE_SUITES,
        limit=options.limit,
        split="validation",
        batch_size=32,
    )
    records = plan.run(model, processor, options.out, name="embedded", progress=True)
    tiles = {c.method: c.pruner.tiles for c in plan.configurations if isinstance(c.pruner, Coarse)}
    rows = [
        {name: row.get(name, tiles.get(row["method"], TILES)) for name in COLUMNS}
        | {clock.name: round(clock.flops(tiles.get(row["method"], TILES), row["keep"]) / 1e9, 3) for clock in clocks}
        for row in report.rows_of(records)
        if row["question_type"] == "all"
    ]
    pairs = pairs_of(records, clocks, whole)
    command = shlex.join(["python", "benchmarks/coarse/measure.py", *(arguments or sys.argv[1:])])
    settings = {name: getattr(plan, name) for name in ("seed", "split", "limit")} | {
        "clocks": {c.name: {"words": c.words, "share": c.vision(TILES) / c.flops(TILES, KEEP)} for c in clocks}
    }
    meta = report.meta_of(model, "embedded", start, **settings) | {"command": command}
    del meta["wall_seconds"]  # of the last part of an interrupted run
    whole_text = json.dumps({"meta": meta, "rows": rows, "pairs": pairs}, indent=1, ensure_ascii=False)
    write_text(options.out / "results.json", whole_text + "\n")
    write_text(options.out / "results.csv", report.as_csv(rows[0], rows))
    write_text(options.out / "README.md", readme(meta, rows, pairs, KEEP))


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
