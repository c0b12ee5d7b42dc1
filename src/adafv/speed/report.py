"""What was timed against what the arithmetic allows: rows, files, a table and an image."""

import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from adafv.evaluation.report import as_csv
from adafv.models.load import DTYPES
from adafv.speed import flops
from adafv.speed.flops import Work
from adafv.speed.plot import draw
from adafv.speed.roofline import Ceilings
from adafv.speed.run import DENSE, DENSE_REPEAT
from adafv.speed.stages import STAGES
from adafv.speed.tables import title
from adafv.utils.checks import checked
from adafv.utils.files import atomic, write_text

__all__ = ["COLUMNS", "break_even", "meta_of", "rows_of", "write"]

COLUMNS = (
    "method", "keep", "batch", "visual_tokens", "kept_tokens", "vision_ms", "select_ms", "prefill_ms",
    "decode_ms_per_token", "ttft_ms", "ttft_p95_ms", "kv_bytes", "speedup", "ideal_speedup", "share_of_ideal",
    "prefill_speedup", "prefill_ideal", "prefill_share",
    "rebuild_ms", "preprocess_ms", "prompt_tokens", "peak_bytes", "speedup_low", "speedup_high", "repeats",
    "bound", "prefill_bound", "share_of_ceiling", "break_even", "capture_ms",
)  # fmt: skip


@checked
def rows_of(
    records: Iterable[dict[str, Any]], settings: dict[str, Any], config: PreTrainedConfig
) -> list[dict[str, Any]]:
    """One row for each batch, method and keep, the dense model first.

    Times are medians over repetitions, in milliseconds for a whole batch; ttft_ms is from inputs on
    the device to the first token, the sum of vision, select, rebuild and prefill, without
    preprocess_ms (the processor, on the CPU). speedup is the ratio of medians, speedup_low and
    speedup_high those of single repetitions. peak_bytes is beyond the weights. share_of_ceiling is
    the time that the arithmetic or the traffic takes at the ceilings, whichever is longer, as a
    share of TTFT. break_even is None where pruning doesn't pay at the image's own number of
    tokens, and for methods that prune between layers. capture_ms is the part of vision_ms in which
    attention is read off the tower, by the profiler; of eager, whose maps the tower itself
    computes, only the rest.
    """
    kinds: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        kinds[record["kind"]][record.get("batch", 0)].append(record)
    best = kinds["ceilings"][0]
    limits = Ceilings(max(c["flops"] for c in best), max(c["bytes"] for c in best))
    size = DTYPES[settings["dtype"]].itemsize
    return [
        row
        for batch in sorted(kinds["cell"])
        for row in _Batch(
            batch, {kind: by[batch] for kind, by in kinds.items()}, limits, config, size
        ).rows()
    ]


class _Batch:
    """The rows of one number of prompts at once."""

    def __init__(
        self,
        batch: int,
        found: dict[str, list[dict[str, Any]]],
        limits: Ceilings,
        config: PreTrainedConfig,
        size: int,
    ) -> None:
        self.batch, self.limits, self.config, self.size = batch, limits, config, size
        self.facts = found["batch"][-1]
        self.peaks = {(r["method"], r["keep"]): r["bytes"] for r in found.get("peak", ())}
        self.captures = {(r["method"], r["keep"]): r["ms"] for r in found.get("capture", ())}
        self.text = {r["length"]: r["ms"] for r in found["text"]}
        self.cells: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
        for cell in found["cell"]:
            self.cells[cell["method"], cell["keep"]].append(cell)
        self.dense = self.cells[DENSE, 1.0]
        grids = [(a, b) for a, b in self.facts["grids"]]
        self.vision, self.stock = (
            flops.vision(config, grids, batch, size, whole) for whole in (False, True)
        )
        one = self._prefill([1] * len(self.dense[0]["lengths"]))
        self.launch = max(
            0.0, self.text[1] - max(limits.compute_ms(one.flops), limits.memory_ms(one.bytes))
        )

    def rows(self) -> list[dict[str, Any]]:
        order = sorted(
            (name for name in self.cells if name[0] != DENSE_REPEAT),
            key=lambda name: (name[0] != DENSE, -name[1]),
        )
        return [self._row(name) for name in order]

    def _row(self, name: tuple[str, float]) -> dict[str, Any]:
        cells, dense = self.cells[name], self.dense
        ms = {stage: _median(cells, stage) for stage in STAGES}
        ttft = [cell["ttft_ms"] for cell in cells]
        ours, theirs = self._prefill(cells[0]["lengths"]), self._prefill(dense[0]["lengths"])
        both = (self.stock if name[0] == DENSE else self.vision) + ours
        ideal = (self.stock + theirs).flops / both.flops
        reached = median(c["ttft_ms"] for c in dense) / median(ttft)
        prefill_ideal, prefill_reached = (
            theirs.flops / ours.flops,
            _median(dense, "prefill") / ms["prefill"],
        )
        first = {cell["repeat"]: cell["ttft_ms"] for cell in dense}
        ratios = [first[c["repeat"]] / c["ttft_ms"] for c in cells if c["repeat"] in first]
        depth = flops.text_stack(self.config).layers
        deep = depth + flops.tower_stack(self.config).layers
        floor = max(self.limits.compute_ms(both.flops), self.limits.memory_ms(both.bytes))
        visual, kept = self.facts["visual_tokens"], cells[0]["kept"]
        values = (
            name[0], name[1], self.batch, visual, visual if kept is None else round(kept), ms["vision"], ms["select"],
            ms["prefill"], median(c["decode_ms"] for c in cells), median(ttft), float(np.percentile(ttft, 95)),
            cells[0]["kv_bytes"], reached, ideal, reached / ideal, prefill_reached, prefill_ideal,
            prefill_reached / prefill_ideal, ms["rebuild"], self.facts["preprocess_ms"], max(cells[0]["lengths"]),
            self.peaks.get(name), min(ratios, default=None), max(ratios, default=None), len(cells),
            self._bound(both, self.launch * deep / depth), self._bound(ours, self.launch), floor / median(ttft),
            None if kept is None or len(set(cells[0]["lengths"])) > 1 else self._pays(name[1], cells),
            self.captures.get(name),
        )  # fmt: skip
        return {
            c: round(v, 4) if isinstance(v, float) else v
            for c, v in zip(COLUMNS, values, strict=True)
        }

    def _prefill(self, lengths: Sequence[int]) -> Work:
        return flops.prefill(self.config, lengths, self.batch, self.size)

    def _bound(self, work: Work, launch: float) -> str:
        times = {
            "compute": self.limits.compute_ms(work.flops),
            "memory": self.limits.memory_ms(work.bytes),
            "launch": launch,
        }
        return max(times, key=lambda name: times[name])

    def _pays(self, keep: float, cells: list[dict[str, Any]]) -> int | None:
        before = {cell["repeat"]: cell["stages"]["vision"] for cell in self.dense}
        chosen = [
            (c["repeat"], sum(c["stages"][s] for s in ("vision", "select", "rebuild")))
            for c in cells
        ]
        overhead = median(ms - before[repeat] for repeat, ms in chosen if repeat in before)
        times = {self.dense[0]["lengths"][0]: _median(self.dense, "prefill")} | self.text
        words = self.facts["prompt"] - self.facts["visual_tokens"]
        return break_even(times, words, self.facts["visual_tokens"], keep, overhead)


@checked
def break_even(
    times: dict[int, float], words: int, visual: int, keep: float, overhead: float
) -> int | None:
    """The number of visual tokens from which on pruning pays.

    Args:
        times: milliseconds of the prefill by length of the prompt; straight lines between.
        words: tokens of the prompt that are not visual.
        visual: the most visual tokens to look at.
        keep: share of them that stays.
        overhead: milliseconds that choosing them costs; taken to be the same for fewer.

    Returns:
        The smallest number from which up to `visual` all of them save more than they cost; None if
        `visual` doesn't.
    """
    lengths = sorted(times)
    ms = np.maximum.accumulate([times[n] for n in lengths])
    counts = np.arange(1, visual + 1)
    whole, short = (
        np.interp(words + n, lengths, ms)
        for n in (counts, np.maximum(1, np.floor(keep * counts + 0.5)))
    )
    loses = np.flatnonzero(whole - short <= max(0.0, overhead))
    first = int(loses[-1]) + 2 if len(loses) else 1
    return first if first <= visual else None


def noise_of(records: Iterable[dict[str, Any]]) -> dict[str, list[float]]:
    """For each batch the lowest, the median and the highest TTFT of dense over that of dense in the
    same repetition.
    """
    times: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    for r in records:
        if r["kind"] == "cell" and r["method"] in (DENSE, DENSE_REPEAT):
            times[r["batch"], r["repeat"]][r["method"]] = r["ttft_ms"]
    ratios: dict[int, list[float]] = defaultdict(list)
    for (batch, _), pair in sorted(times.items()):
        if len(pair) == 2:
            ratios[batch].append(pair[DENSE] / pair[DENSE_REPEAT])
    return {
        str(b): [round(x, 4) for x in (min(found), median(found), max(found))]
        for b, found in ratios.items()
    }


@checked
def meta_of(
    records: Sequence[dict[str, Any]], settings: dict[str, Any], start: datetime
) -> dict[str, Any]:
    """What made the rows: settings, command, the ceilings, the noise floor, the cost of prefills by
    length.
    """
    kept = ("batch", "method", "keep", "reason")
    return {
        **settings,
        "command": shlex.join(["adafv", *sys.argv[1:]]),
        "model": settings["shape"],
        "weights": "random",
        "seed": 0,
        "ceilings": [
            {k: v for k, v in r.items() if k != "kind"} for r in records if r["kind"] == "ceilings"
        ],
        "noise_floor": noise_of(records),
        "text_prefill_ms": [
            {k: r[k] for k in ("batch", "length", "ms")} for r in records if r["kind"] == "text"
        ],
        "left_out": [{name: r[name] for name in kept} for r in records if r["kind"] == "left_out"],
        "started": start.isoformat(timespec="seconds"),
        "wall_seconds": round((datetime.now(UTC) - start).total_seconds(), 3),
    }


@checked
def write(out: str | Path, meta: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write results.json, results.csv and speed.png, each whole or not at all.

    Raises:
        ValueError: the folder cannot be written.
    """
    out = Path(out)
    text = json.dumps({"meta": meta, "rows": rows}, indent=1, ensure_ascii=False)
    write_text(out / "results.json", text + "\n")
    write_text(out / "results.csv", as_csv(COLUMNS, rows))
    with atomic(out / "speed.png") as temporary:
        draw(rows, title(meta), temporary)


def _median(cells: Sequence[dict[str, Any]], stage: str) -> float:
    return median(cell["stages"][stage] for cell in cells)
