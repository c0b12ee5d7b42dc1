"""Tables of serving at scale, made of the committed simulation."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from writing import percent, table

from adafv.utils.records import Rows, distinct, where

RESULTS = Path(__file__).parents[2] / "benchmarks" / "simulation" / "results.json"
COLUMNS = {
    "requests_per_s": ("requests/s", 1, 2),
    "ttft_p50_ms": ("TTFT p50, s", 1000, 2),
    "ttft_p95_ms": ("p95, s", 1000, 2),
    "kv_blocks": ("KV blocks", 1, 0),
    "tpot_p50_ms": ("further token, ms", 1, 0),
}
"""Quantity, what it is called, its divisor and digits. Tokens/s are 16 times requests/s."""
STAGES = {
    "front": ("of a request: HTTP, decoding and preparing the image", 1),
    "tower": ("of an image", 1),
    "select": ("of an image, `adafv`", 1),
    "step": ("of a step, whatever is in it", 1),
    "token": ("of a token in a step", 1),
    "write": ("of a token that is written", 1),
    "read": ("of 1,000 tokens in the KV cache, for a token that is written", 1000),
}
"""Stage, what it is of, and how many of them."""
PLACES = {
    "encoder": "on the encoder, which reads no prompt",
    "both": "on an encoder that reads the prompt, too (`ec_both`)",
    "worker": "on the worker",
}

COUNTED = {"kept": "kept tokens", "all": "all tokens"}


@cache
def found() -> dict[str, Any]:
    """The committed results."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def check() -> str:
    """What was measured and what is simulated, with their ratio, row by row."""
    rows = found()["checked"]
    lines = []
    names = ("concurrency", "engine", "keep", "question")
    for key in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        of_row = where(rows, **dict(zip(names, key, strict=True)))
        cells = []
        for quantity in COLUMNS:
            [one] = where(of_row, quantity=quantity)
            cells.append(_compared(one))
        concurrency, engine, keep, question = key
        kept = "stock" if engine == "stock" else percent(keep)
        lines.append([str(concurrency), kept, question, *cells])
    head = ["at once", "kept", "question", *(name for name, *_ in COLUMNS.values())]
    return table(head, lines)


def _compared(one: dict[str, Any]) -> str:
    _, divisor, digits = COLUMNS[one["quantity"]]
    measured = f"{one['measured'] / divisor:.{digits}f}"
    simulated = f"{one['simulated'] / divisor:.{digits}f}"
    ratio = f"{one['ratio']:.2f}"
    if one["calibrated"]:
        ratio = f"*{ratio}*"
    if not one["within"]:
        ratio = f"**{ratio}**"
    return f"{measured} → {simulated}, {ratio}"


def verdicts() -> str:
    """How many rows and numbers are within 15 %."""
    tolerance = percent(found()["meta"]["tolerance"])
    lines = []
    for one in found()["meta"]["verdicts"]:
        lines.append(
            [
                one["about"],
                f"{one['rows_within']} of {one['rows']}",
                f"{one['numbers_within']} of {one['numbers']}",
                f"{one['furthest']:.2f}",
            ]
        )
    head = ["rows", f"within {tolerance}", "their numbers", "ratio furthest from 1"]
    return table(head, lines)


def stages() -> str:
    """What each stage takes."""
    seconds = found()["meta"]["stages"]
    lines = []
    for name, (what, count) in STAGES.items():
        lines.append([name, what, f"{1000 * count * seconds[name]:.1f} ms"])
    return table(["stage", "", "takes"], lines)


def works() -> str:
    """What a request takes of an engine at each budget, and how many encoders that asks for."""
    lines = []
    for row in found()["works"]:
        parts = [row["tower"] + row["select"], row["prompt"], row["answer"]]
        cells = [f"{1000 * part:.0f} ms" for part in parts]
        share = percent(round(parts[0] / sum(parts), 2))
        lines.append([percent(row["keep"]), *cells, share, f"{row['encoders']:.2f}"])
    head = ["kept", "tower and selection", "prompt", "answer", "tower's share", "encoders a worker"]
    return table(head, lines)


def sizes() -> str:
    """Requests a second by size and budget, with shared encoders and with the best others."""
    rows = where(found()["scaled"], hits=0.0, prefix=False)
    sizes = distinct(rows, "size")
    lines = []
    for keep in distinct(rows, "keep"):
        cells = []
        for size in sizes:
            of_size = where(rows, size=size, keep=keep)
            cells += [_shared(of_size), _separate(of_size)] if size > 1 else [_shared(of_size)]
        lines.append([percent(keep), *cells])
    head = ["kept"]
    for size in sizes:
        head += [f"{size} shared", f"{size} separate"] if size > 1 else ["1"]
    return table(head, lines)


def hits() -> str:
    """Requests a second of the largest cluster by the share of images that were encoded before."""
    rows = where(found()["scaled"], size=_largest())
    shares = distinct(rows, "hits")
    lines = []
    for keep in distinct(rows, "keep"):
        for prefix in distinct(where(rows, keep=keep), "prefix"):
            cells = []
            for share in shares:
                of_share = where(rows, keep=keep, prefix=prefix, hits=share)
                cells += [_shared(of_share), _separate(of_share)]
            name = percent(keep)
            lines.append([f"{name}, prefix kept" if prefix else name, *cells])
    head = ["kept"]
    for share in shares:
        head += [f"{percent(share)} hits", "separate"]
    return table(head, lines)


def places() -> str:
    """Requests a second and bytes that travel, by the place of the selection."""
    rows = found()["places"]
    lines = []
    for keep in distinct(rows, "keep"):
        for place, name in PLACES.items():
            of_place = where(rows, keep=keep, select_at=place)
            cells = [_split(row, _largest()) for row in of_place]
            kibibytes = f"{of_place[0]['bytes'] / 1024:,.0f} KiB"
            lines.append([percent(keep), name, *cells, kibibytes])
    shares = [f"{percent(share)} hits" for share in distinct(rows, "hits")]
    return table(["kept", "selection", *shares, "travel for a request"], lines)


def waiting() -> str:
    """What requests wait for at the same load, with shared encoders and with their own."""
    lines = []
    for row in found()["latencies"]:
        times = [f"{row[name] / 1000:.2f} s" for name in ("ttft_p50_ms", "ttft_p95_ms")]
        times += [f"{row[name]:.0f} ms" for name in ("tpot_p50_ms", "tpot_p95_ms")]
        encoders = f"{row['encoders']} separate" if row["encoders"] else "shared"
        rate = f"{row['arrivals_per_s']:.1f}"
        lines.append([percent(row["keep"]), rate, encoders, *times])
    head = ["kept", "requests/s", "encoders", "TTFT p50", "p95", "further token p50", "p95"]
    return table(head, lines)


def bursts() -> str:
    """How soon first tokens come where many ask at once, by what counts of a step's images."""
    rows = found()["bursts"]
    loads = distinct(rows, "load")
    lines = []
    for key in dict.fromkeys((row["at_once"], row["keep"], row["counted"]) for row in rows):
        at_once, keep, counted = key
        cells = []
        for load in loads:
            [row] = where(rows, load=load, at_once=at_once, keep=keep, counted=counted)
            p50, p95 = (f"{row[name] / 1000:.1f}" for name in ("ttft_p50_ms", "ttft_p95_ms"))
            cells.append(f"{p50} (× {row['ttft_speedup']:.1f}), {p95}")
            if row["floor_ms"] is not None:
                cells.append(f"{row['floor_ms'] / 1000:.1f}")
        counts = "all" if keep == 1 else COUNTED[counted]
        lines.append([str(at_once), percent(keep), counts, *cells])
    head = ["at once", "kept", "an image counts", "burst", "floor of its p50"]
    return table([*head, "equal answers", "unequal answers"], lines)


def _shared(rows: Rows) -> str:
    [row] = where(rows, encoders=0)
    return f"{row['requests_per_s']:.2f}"


def _separate(rows: Rows) -> str:
    """The best number of encoders, of those that are no workers."""
    separate = [row for row in rows if row["encoders"]]
    if not separate:
        return ""
    best = max(separate, key=lambda row: row["requests_per_s"])
    return _split(best, best["size"])


def _largest() -> int:
    return max(distinct(found()["scaled"], "size"))


def _split(row: dict[str, Any], size: int) -> str:
    workers = size - row["encoders"]
    return f"{row['requests_per_s']:.2f} ({row['encoders']} + {workers})"
