"""What was asked of speed, what was reached, and where it was missed."""

import json
from pathlib import Path
from typing import Any

from writing import percent, table

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OF_IDEAL = 0.9
"""Of what pruning can shorten, once the time to decode is taken as it is."""


def crops() -> str:
    """How many of an image's crops are copies of another one."""
    found = _rows("speed/repeated_crops")
    shares = [row["copies"] / row["crops"] for row in found]
    most = max(range(len(found)), key=shares.__getitem__)
    row = found[most]
    others = max(shares[:most] + shares[most + 1 :])
    return (
        f"Encoding equal crops once would hardly help: at most {100 * others:.1f} % of them "
        f"[are copies](../benchmarks/speed/repeated_crops/README.md),\n"
        f"except where {row['processor']} enlarges {row['images']} to "
        f"{row['crops'] / row['count']:.0f} crops each, of which {percent(shares[most])} are. "
        "The library encodes all of them."
    )


def choosing() -> str:
    """Which methods choose as fast as was asked, in a sentence each."""
    found = _rows("speed/choosing")
    times = {row["method"]: row["median_ms"] for row in found}
    ours = times["adafv+"]
    behind = []
    near = []
    for name, ms in times.items():
        if name in ("adafv", "adafv+", "adafv_released", "t2i"):
            continue
        (behind if ms >= 3 * ours else near).append(name)
    greedy = ("scope", "mmtok", "cdpruner", "divprune")
    said = ", ".join(f"`{name}` {times[name]:.0f} ms" for name in greedy)
    late = [name for name in greedy if times[name] > 200]
    return "\n".join(
        [
            f"- Greedy methods in 200 ms, 144 of 2,880 tokens on one core: {said}. "
            f"{_missed_by(late)}",
            f"- `adafv` and `adafv+` three times as fast as every rival: from `{behind[0]}` on, "
            f"{len(behind)} methods. Not against {', '.join(f'`{name}`' for name in near)}.",
        ]
    )


def decoded() -> str:
    """How much of the possible speed-up a server reaches, with the decoding's time as it is."""
    first = {}
    for row in _rows("serving"):
        alone = row["concurrency"] == 1 and row["question"] == "new"
        if alone and row["engine"] == "adafv" and row["keep"] < 1:
            first[row["keep"]] = row["speedup"] / row["ideal_as_decoded"]
    later = {}
    for row in _rows("serving/stages"):
        if row["keep"] < 1:
            later[row["keep"]] = row["speedup"] / row["ideal"]
    lines = []
    for name, folder, shares in (
        ("the first measurement", "", first),
        ("by stages", "stages/", later),
    ):
        dtype = _meta(f"serving/{folder}")["dtype"]
        missed = [keep for keep, share in shares.items() if share < OF_IDEAL]
        holds = f"missed at {', '.join(map(percent, missed))}" if missed else "holds"
        link = f"[{name}](../benchmarks/serving/{folder}README.md), {dtype}"
        lines.append([link, *(f"{100 * share:.1f} %" for share in shares.values()), holds])
    head = ["of the possible speed-up", *map(percent, first), f"at least {percent(OF_IDEAL)}"]
    return table(head, lines)


def _missed_by(names: list[str]) -> str:
    """Return that a bar holds, or who misses it."""
    if not names:
        return "It holds."
    verb = "misses" if len(names) == 1 else "miss"
    return f"{', '.join(f'`{name}`' for name in names)} {verb} it."


def _rows(folder: str) -> list[dict[str, Any]]:
    return _results(folder)["rows"]


def _meta(folder: str) -> dict[str, Any]:
    return _results(folder)["meta"]


def _results(folder: str) -> dict[str, Any]:
    return json.loads((BENCHMARKS / folder / "results.json").read_text(encoding="utf-8"))
