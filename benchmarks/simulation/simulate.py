"""Check the simulation against the measurement, and simulate clusters if it holds.

    python benchmarks/simulation/simulate.py            # the check; measures nothing
    python benchmarks/simulation/simulate.py --scale    # results.json, too, for docs/scale.md

See README.md here.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bursts import Burst, bursts
from check import TOLERANCE, Quantity, checked, verdicts
from scale import latencies, places, scale, works
from stages import calibrate, measured

from adafv.utils.records import row_of, write_json

HERE = Path(__file__).parent


def table(quantities: list[Quantity]) -> str:
    """Return what was measured, what is simulated, and their ratio, as text."""
    lines = []
    for one in quantities:
        name = "stock" if one.engine == "stock" else f"{100 * one.keep:.3g} %"
        mark = "calibrated" if one.calibrated else ""
        if not one.within:
            mark = f"{mark} OUTSIDE".strip()
        lines.append(
            f"{one.concurrency:>3} {name:>6} {one.question:<6} {one.quantity:<15}"
            f"{one.measured:>11.2f} {one.simulated:>11.2f} {one.ratio:>6.2f}  {mark}".rstrip()
        )
    return "\n".join(lines)


def burst_table(found: list[Burst]) -> str:
    """Return what requests wait that come at once, as text."""
    lines = []
    for one in found:
        floor = "" if one.floor_ms is None else f"  floor {one.floor_ms / 1000:.2f} s"
        lines.append(
            f"{one.load:<8} {one.at_once:>3} {100 * one.keep:>4.3g} % counting {one.counted:<4}"
            f"{one.requests_per_s:>6.2f}/s, TTFT p50 {one.ttft_p50_ms / 1000:>5.2f} s "
            f"(x {one.ttft_speedup:.2f}), p95 {one.ttft_p95_ms / 1000:>5.2f} s, "
            f"further token {one.tpot_p50_ms:>4.0f} ms{floor}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the check, and write results.json if it is asked for and earned."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", action="store_true", help="simulate clusters, a minute")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR")
    options = parser.parse_args(arguments)

    rows = measured()
    stages = calibrate(rows)
    quantities = list(checked(rows, stages))
    found = verdicts(quantities)
    for name, seconds in asdict(stages).items():
        print(f"{name:<7} {1000 * seconds:10.4f} ms")
    print(table(quantities))
    for verdict in found:
        print(verdict)
    of_bursts = list(bursts(stages))
    print(burst_table(of_bursts))

    if not options.scale:
        return
    if found[0].rows_within < found[0].rows:
        raise ValueError("the simulation does not reproduce the measured table: nothing is scaled")
    scaled = list(scale(stages))
    meta = {
        "command": "python benchmarks/simulation/simulate.py --scale",
        "stages": row_of(stages, 9),
        "tolerance": TOLERANCE,
        "verdicts": [row_of(verdict, 4) for verdict in found],
    }
    content: dict[str, Any] = {"meta": meta}
    content["checked"] = [row_of(one, 6) for one in quantities]
    content["works"] = [row_of(one, 6) for one in works(stages)]
    content["bursts"] = [row_of(one, 3) for one in of_bursts]
    content["scaled"] = [row_of(one, 3) for one in scaled]
    content["places"] = [row_of(one, 3) for one in places(stages)]
    content["latencies"] = [row_of(one, 3) for one in latencies(stages, scaled)]
    write_json(options.out / "results.json", content)


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
