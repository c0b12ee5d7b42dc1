"""How long a command takes from nothing to its end: every time in a process of its own.

    python benchmarks/start/start_times.py --out benchmarks/start

Files are in the system's cache, as on the second start of a day; commands take turns.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from adafv.utils.files import writable_folder
from adafv.utils.machine import cpu, versions
from adafv.utils.records import command_of, write_report

ROOT = Path(__file__).parents[2]
RESULTS = "benchmarks/accuracy/results.json"
ASK = ("ask", "docs/drawings/scene.png", "what color is the umbrella?", "--keep", "0.05")
NOTHING = "python -c pass"
COMMANDS = {
    NOTHING: ("-c", "pass"),
    "import torch": ("-c", "import torch"),
    "from transformers import PreTrainedModel": ("-c", "from transformers import PreTrainedModel"),
    "import adafv": ("-c", "import adafv"),
    "adafv methods": ("-m", "adafv", "methods"),
    "adafv table": ("-m", "adafv", "table", RESULTS),
    "adafv ask": ("-m", "adafv", *ASK),
}
"""What is started, beside what others' imports alone take."""
IMPORTS = "from transformers import PreTrainedModel"
BARS = {"import adafv": 0.05, "adafv methods": 1.0, "adafv table": 1.0, "adafv ask": 3.5}
"""Seconds that were asked for: an import's of its own, a command's in all."""


@dataclass(frozen=True)
class Row:
    """Seconds of a command.

    Attributes:
        wall_s, wall_p95_s: until it ends, median and 95th percentile.
        cpu_s: of all cores together, median.
        own_s: of `wall_s`, without what Python itself takes.
    """

    command: str
    wall_s: float
    wall_p95_s: float
    cpu_s: float
    own_s: float


def once(words: tuple[str, ...]) -> tuple[float, float]:
    """Run Python with these words, and return seconds until its end and of its cores."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, cwd=ROOT)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measured(repeats: int, *, quiet: bool) -> list[Row]:
    """Return a row for each command; the first round warms the cache and does not count."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for turn in tqdm(range(repeats + 1), desc="started", file=sys.stderr, disable=quiet):
        for name, words in COMMANDS.items():
            spent = once(words)
            if turn:
                times[name].append(spent)
    python = median(wall for wall, _ in times[NOTHING])
    rows = []
    for name, spent_each in times.items():
        walls = [wall for wall, _ in spent_each]
        row = Row(
            command=name,
            wall_s=median(walls),
            wall_p95_s=float(np.percentile(walls, 95)),
            cpu_s=median(cpu for _, cpu in spent_each),
            own_s=median(walls) - python,
        )
        rows.append(row)
    return rows


def page(meta: dict[str, Any], rows: list[Row]) -> str:
    """Return the text of README.md."""
    lines = [
        "# How long a start takes",
        "",
        f"    {meta['command']}",
        "",
        f"Seconds from a new process to its end, {meta['repeats']} rounds in which commands take "
        "turns, files in the system's cache.",
        f"{meta['processor']}, {meta['cores']} cores. *Own* is without what Python itself takes; "
        "`adafv ask` is a question to the model in the package, answer included.",
        "",
        "| | median | p95 | cores' time | own |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| `{row.command}` | {row.wall_s:.2f} s | {row.wall_p95_s:.2f} s | {row.cpu_s:.2f} s "
            f"| {row.own_s:.3f} s |"
        )
    return "\n".join([*lines, *_bars({row.command: row for row in rows})]) + "\n"


def _bars(rows: dict[str, Row]) -> list[str]:
    """Return what was asked for, whether it holds, and what a miss is made of."""
    if not BARS.keys() <= rows.keys():
        return []
    lines = ["", "| | asked for | reached | holds |", "|---|---|---|---|"]
    for name, bar in BARS.items():
        row = rows[name]
        reached = row.own_s if name.startswith("import") else row.wall_s
        holds = "yes" if reached <= bar else "no"
        lines.append(f"| `{name}` | {bar:.3g} s | {reached:.3g} s | {holds} |")
    asked, imports = rows["adafv ask"], rows[IMPORTS]
    if asked.wall_s > BARS["adafv ask"]:
        lines += [
            "",
            f"`adafv ask` misses its bar. {imports.wall_s:.2f} s of its {asked.wall_s:.2f} s are "
            "what PyTorch and the base class of transformers' models take to import,",
            f"and none of this library's; the other {asked.wall_s - imports.wall_s:.2f} s are the "
            "model's own classes, its weights, the image and the answer.",
        ]
        if imports.wall_s > BARS["adafv ask"]:
            lines.append("Those imports alone are beyond the bar.")
    return lines


def written(folder: Path) -> str:
    """Return the text of README.md from the results in a folder."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return page(found["meta"], [Row(**row) for row in found["rows"]])


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write results.json, results.csv and README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=10, metavar="N")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options = parser.parse_args(arguments)
    out = writable_folder(options.out)
    rows = measured(options.repeats, quiet=options.quiet)

    command = command_of("python", "benchmarks/start/start_times.py", arguments=arguments)
    meta: dict[str, Any] = {"command": command, "repeats": options.repeats}
    meta |= cpu() | {"versions": versions()}
    write_report(out, meta, rows, page(meta, rows))


if __name__ == "__main__":
    main()
