"""Write what was measured: rows, what made them, and a picture."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from adafv.speed.plot import draw
from adafv.speed.rows import COLUMNS, Record
from adafv.speed.run import DENSE, DENSE_REPEAT
from adafv.speed.tables import title
from adafv.utils.checks import checked
from adafv.utils.files import atomic, write_text
from adafv.utils.records import as_csv, command_of, write_json

__all__ = ["meta_of", "noise_of", "write"]


@checked
def noise_of(records: Iterable[Record]) -> dict[str, list[float]]:
    """Return the lowest, median and highest ratio of dense to dense TTFT, for each batch."""
    # the dense model takes part twice in every repetition
    times: dict[tuple[int, int, int], dict[str, float]] = defaultdict(dict)
    for record in records:
        if record["kind"] == "cell" and record["method"] in (DENSE, DENSE_REPEAT):
            at = record["batch"], record["session"], record["repeat"]
            times[at][record["method"]] = record["ttft_ms"]

    ratios: dict[int, list[float]] = defaultdict(list)
    for (batch, *_), pair in sorted(times.items()):
        if len(pair) == 2:
            ratios[batch].append(pair[DENSE] / pair[DENSE_REPEAT])

    # keys of JSON are text
    noise = {}
    for batch, found in ratios.items():
        low = round(min(found), 4)
        middle = round(median(found), 4)
        high = round(max(found), 4)
        noise[str(batch)] = [low, middle, high]
    return noise


@checked
def meta_of(records: Sequence[Record], settings: dict[str, Any], start: datetime) -> dict[str, Any]:
    """Return what made the rows: settings, command, roofline, noise floor, prefills by length."""
    roofline = _lines(records, "ceilings")
    prefills = _lines(records, "text", ("batch", "length", "ms"))
    left_out = _lines(records, "left_out", ("batch", "method", "keep", "reason"))
    return {
        **settings,
        "command": command_of("adafv"),
        "model": settings["shape"],
        "weights": "random",
        "seed": 0,
        "ceilings": roofline,
        "noise_floor": noise_of(records),
        "text_prefill_ms": prefills,
        "left_out": left_out,
        "started": start.isoformat(timespec="seconds"),
        "wall_seconds": round((datetime.now(UTC) - start).total_seconds(), 3),
    }


def _lines(records: Sequence[Record], kind: str, names: Sequence[str] = ()) -> list[Record]:
    """Return the named fields of the lines of a kind; without names all but the kind."""
    found = []
    for record in records:
        if record["kind"] == kind:
            wanted = names or [name for name in record if name != "kind"]
            found.append({name: record[name] for name in wanted})
    return found


@checked
def write(out: str | Path, meta: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write results.json, results.csv and speed.png, each complete or not at all.

    Raises:
        ValueError: the folder cannot be written.
    """
    out = Path(out)
    # the rows first: an image that fails to draw takes nothing with it
    write_json(out / "results.json", {"meta": meta, "rows": rows})
    write_text(out / "results.csv", as_csv(COLUMNS, rows))
    with atomic(out / "speed.png") as temporary:
        draw(rows, title(meta), temporary)
