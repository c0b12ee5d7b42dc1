"""Tables of how long the first steps take, made of the committed measurement."""

import json
from pathlib import Path
from typing import Any

from writing import table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "start" / "first_steps" / "results.json"
MINUTES = {"answer": 5, "server": 10}
"""What was asked for."""


def of(way: str) -> str:
    """Seconds of each step of a way, their sum, what was asked for, and where it was measured."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = [row for row in found["rows"] if row["way"] == way]
    lines = [[row["step"], f"`{row['command']}`", _seconds(row), _cores(row)] for row in rows]
    total = sum(row["seconds"] for row in rows)
    lines.append(["**in all**", "", f"**{total / 60:.1f} min**", ""])
    holds = "reached" if total <= 60 * MINUTES[way] else "missed"
    loads = [row["load"] for row in rows]
    where = found["meta"]
    said = (
        f"Asked for: {MINUTES[way]} minutes, {holds}. "
        f"{where['processor']}, {where['cores']} cores, {_beside(loads)}. {where['note']}."
    )
    head = ["step", "command", "until it ends", "cores' time"]
    return f"{table(head, lines)}\n\n{said}"


def _beside(loads: list[float]) -> str:
    """Say what ran beside the steps."""
    # a step may well keep both cores busy itself
    if max(loads) < 2.5:
        return "with nothing else to do"
    return (
        f"for which {min(loads):.0f} to {max(loads):.0f} programs asked at once, these steps among "
        "them: where a step takes several times its cores' time, it waited for a core, or for the "
        "network"
    )


def _seconds(row: dict[str, Any]) -> str:
    return f"{row['seconds']:.0f} s"


def _cores(row: dict[str, Any]) -> str:
    return "not measured" if row["cpu_seconds"] is None else f"{row['cpu_seconds']:.0f} s"
