"""Is coarse-to-fine ahead of plain pruning at equal time? See README.md here, which this writes.

    python benchmarks/coarse/measure.py --out benchmarks/coarse

Resumes an interrupted run.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
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
from adafv.evaluation.rows import rows_of as accuracy_rows
from adafv.methods import AdaFV, AdaFVPlus
from adafv.models.load import load
from adafv.speed.shapes import QUESTION, SHAPES
from adafv.utils.files import write_text
from adafv.utils.records import as_csv, columns_of, command_of, where, write_json

KEEP = 0.05
# `adafv+` in the form that was measured
BASES: dict[str, Callable[..., AdaFV | AdaFVPlus]] = {"adafv": AdaFV, "adafv+": AdaFVPlus}
SHAPE = "llava-next-7b"
ASKED = "what color is the anchor?"
CLOSEST = (["adafv+"], [TILES - 1])
"""These were neither ahead nor behind on the first images, and are asked again on others."""

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
        # beside plain pruning
        for base in self.methods:
            for tiles, keep, chance in dict.fromkeys(self.coarse):
                pruner = Coarse(fine=BASES[base](keep=keep), tiles=tiles, chance=chance, keep=keep)
                found.append(Configuration(named(base, tiles, chance), keep, pruner))
        return found


def named(base: str, tiles: int, chance: bool = False) -> str:
    """Return what a configuration is called in the results."""
    shown = f"{tiles} of {TILES} tiles" if tiles else "thumbnail"
    by_chance = " by chance" if chance else ""
    return f"{base}, {shown}{by_chance}"


def rivals(clock: Clock, every: int, tiles: Iterable[int]) -> Iterator[tuple[int, float, float]]:
    """Yield what takes equal time: tiles, the share coarse keeps, the share plain pruning keeps.

    Either plain keeps `KEEP`, and coarse reads more tokens for the tiles it leaves out; or coarse
    keeps `KEEP`, and plain reads fewer, 0 where it is never as fast.

    Args:
        clock: by which times are equal.
        every: tokens of the model that answers; shares are rounded to them.
        tiles: how many of them coarse encodes.
    """
    for count in tiles:
        more = clock.affords(clock.flops(TILES, KEEP), count)
        fewer = clock.affords(clock.flops(count, KEEP), TILES)
        yield count, round(more * every) / every, KEEP
        yield count, KEEP, round(fewer * every) / every


def compare(
    records: Iterable[dict[str, Any]], ours: Name, rival: Name, **about: Any
) -> list[dict[str, Any]]:
    """Return a row for each suite: how much more accurate `ours` is, with interval and p."""
    # `paired` compares at one budget: give both the same
    roles = {ours: "ours", rival: "rival"}
    found = []
    for record in records:
        role = roles.get((record["method"], record["keep"]))
        if role:
            found.append({**record, "method": role, "keep": 0.0})

    who = {"method": ours[0], "keep": ours[1], "rival": rival[0], "rival_keep": rival[1]}
    rows = []
    for row in paired(found, ["ours"]):
        # the budgets that they really have
        rows.append({**about, **who, **row, **who})
    return rows


def comparison(
    clocks: Sequence[Clock], methods: Sequence[str], tiles: Sequence[int], **asked: Any
) -> Comparison:
    """Return what compares so many tiles with all that they have to be better than.

    That is plain pruning at equal time, the thumbnail alone, and tiles drawn by chance.
    """
    # the thumbnail alone, and the tiles
    coarse = [(count, KEEP, False) for count in (0, *tiles)]

    # at equal time, by each clock
    every = clocks[0].tokens(TILES)
    keeps = [KEEP]
    for clock in clocks:
        for count, keep, plain in rivals(clock, every, tiles):
            coarse.append((count, keep, False))
            if plain:
                keeps.append(plain)

    # by chance; to leave out one tile of four is a matter of chance anyway
    for count in tiles:
        if count < TILES - 1:
            coarse.append((count, KEEP, True))
    return Comparison(
        methods=methods,
        keeps=list(dict.fromkeys(keeps)),
        coarse=coarse,
        suites=SCENE_SUITES,
        split="validation",
        batch_size=32,
        **asked,
    )


@dataclass(frozen=True)
class Row:
    """Accuracy of a configuration on a suite; GFLOPs by clock come after it."""

    method: str
    tiles: int
    keep: float
    kept_tokens: float
    suite: str
    n: int
    accuracy: float
    ci_low: float
    ci_high: float
    retention: float | None


def rows_of(
    records: list[dict[str, Any]], plan: Comparison, clocks: Sequence[Clock]
) -> list[dict[str, Any]]:
    """Return accuracy, and GFLOPs by clock, of each configuration on each suite."""
    # plain pruning has all tiles encoded
    encoded = {}
    for c in plan.configurations:
        if isinstance(c.pruner, Coarse):
            encoded[c.method] = c.pruner.tiles

    # all types of question together
    rows = []
    for found in where(accuracy_rows(records), question_type="all"):
        tiles = encoded.get(found["method"], TILES)
        row = {}
        for name in columns_of(Row):
            row[name] = tiles if name == "tiles" else found[name]
        # counted, not measured
        gflops = {}
        for clock in clocks:
            gflops[clock.name] = round(clock.flops(tiles, row["keep"]) / 1e9, 3)
        rows.append(asdict(Row(**row)) | gflops)
    return rows


def pairs_of(
    records: list[dict[str, Any]], plan: Comparison, clocks: Sequence[Clock]
) -> list[dict[str, Any]]:
    """Compare coarse with plain pruning, the thumbnail alone, and chance.

    At equal time with plain pruning, by clock; then at the same budget with all of them.
    """
    # shares are rounded to tokens of the model that answers
    every = clocks[0].tokens(TILES)
    # the thumbnail alone is a rival
    encoded = list(dict.fromkeys(tiles for tiles, _, _ in plan.coarse if tiles))
    rows = []
    for base in plan.methods:
        # at equal time
        for clock in clocks:
            for tiles, keep, plain in rivals(clock, every, encoded):
                ours = (named(base, tiles), keep)
                if plain:
                    about = {"clock": clock.name, "tiles": tiles}
                    rows += compare(records, ours, (base, plain), **about)

        # at the same budget
        for tiles in encoded:
            ours = (named(base, tiles), KEEP)
            others = [base, named(base, 0)]
            if (tiles, KEEP, True) in plan.coarse:
                others.append(named(base, tiles, True))
            for rival in others:
                rows += compare(records, ours, (rival, KEEP), clock=None, tiles=tiles)
    return rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
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
    """Measure, and write the results and README.md."""
    options = parse(arguments)
    start = datetime.now(UTC)
    # it answers, whichever clock counts
    model, processor = load(dtype=options.dtype)
    shape = SHAPES[SHAPE]

    # the model that answers, and one that is worth serving
    clocks = (
        Clock.of("embedded", model.config, processor, ASKED),
        Clock.of(SHAPE, shape.config(), shape.processor(), QUESTION),
    )
    # everything on the first images, the closest call on others
    first = comparison(clocks, list(BASES), range(1, TILES), limit=options.limit)
    again = comparison(clocks, *CLOSEST, limit=options.again, seed=2, dense=False)
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for plan, folder in ((first, options.out), (again, options.out / "again")):
        records = plan.run(model, processor, folder, name="embedded", progress=True).records
        for row in rows_of(records, plan, clocks):
            rows.append({"seed": plan.seed, **row})
        for pair in pairs_of(records, plan, clocks):
            pairs.append({"seed": plan.seed, **pair})

    # how much of the time a tile can save
    words = {}
    shares = {}
    for clock in clocks:
        words[clock.name] = clock.words
        shares[clock.name] = clock.vision(TILES) / clock.flops(TILES, KEEP)
    settings = {"split": first.split, "words": words, "tower_share": shares}
    meta = report.meta_of(model, "embedded", start, **settings)
    # not the command line of `adafv`
    meta["command"] = command_of("python", "benchmarks/coarse/measure.py", arguments=arguments)
    del meta["wall_seconds"]  # of the last part of an interrupted run
    write_json(options.out / "results.json", {"meta": meta, "rows": rows, "pairs": pairs})
    write_text(options.out / "results.csv", as_csv(rows[0], rows))
    write_text(options.out / "README.md", readme(meta, rows, pairs, KEEP))


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
