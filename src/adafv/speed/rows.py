"""Sum up measured times in rows, beside what the arithmetic allows."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from adafv.core.config import PruneConfig
from adafv.core.downsample import grid_within
from adafv.methods.resize import Resize
from adafv.models.load import DTYPES
from adafv.ops.budget import num_keep
from adafv.speed import flops
from adafv.speed.flops import Work
from adafv.speed.roofline import Roofline
from adafv.speed.run import DENSE, DENSE_REPEAT
from adafv.speed.stages import STAGES
from adafv.utils.checks import checked
from adafv.utils.records import columns_of, row_of

__all__ = ["COLUMNS", "REQUIRED", "Record", "Row", "break_even", "rows_of"]

OVERHEAD = ("vision", "select", "rebuild")
"""The stages in which pruning costs time; prefill is where it saves."""

Record = dict[str, Any]
"""A line of the log."""


@dataclass(frozen=True)
class Row:
    """A row of `adafv speed`: a method at a budget, for one number of prompts at once.

    Times are medians over repetitions, in milliseconds for a whole batch.

    Attributes:
        vision_ms, select_ms, prefill_ms, rebuild_ms: the stages that add up to `ttft_ms`.
        ttft_ms: from inputs on the device to the first token; without `preprocess_ms`, which is
            the processor, on the CPU.
        kv_bytes, peak_bytes: of the whole batch; the peak is beyond the weights.
        speedup: the ratio of medians; `speedup_low` and `speedup_high` are those of single
            repetitions.
        ideal_speedup, prefill_ideal: ratios of FLOPs.
        bound, prefill_bound: the longest of compute, memory and launch.
        least_ms: the time that arithmetic or traffic take at the roofline, whichever is longer;
            `share_of_ceiling` is its share of TTFT.
        break_even: visual tokens from which on pruning pays; None where it doesn't at the image's
            own number of tokens, and for methods that prune between layers.
        capture_ms: the part of `vision_ms` in which attention is read off the tower, by the
            profiler; of eager, whose maps the tower itself computes, only the rest.
    """

    # what was run
    method: str
    keep: float
    batch: int
    visual_tokens: int
    kept_tokens: int
    # times
    vision_ms: float
    select_ms: float
    prefill_ms: float
    decode_ms_per_token: float | None
    ttft_ms: float
    ttft_p95_ms: float
    kv_bytes: int
    # against the dense model, and against what FLOPs allow
    speedup: float
    ideal_speedup: float
    share_of_ideal: float
    prefill_speedup: float
    prefill_ideal: float
    prefill_share: float
    # came later, hence behind
    rebuild_ms: float
    preprocess_ms: float
    prompt_tokens: int
    peak_bytes: int | None
    speedup_low: float
    speedup_high: float
    repeats: int
    bound: str
    prefill_bound: str
    share_of_ceiling: float
    break_even: int | None
    capture_ms: float | None
    least_ms: float


COLUMNS = columns_of(Row)
NEW = ("least_ms",)
"""Columns that results of earlier versions lack."""
REQUIRED = tuple(name for name in COLUMNS if name not in NEW)


@checked
def rows_of(
    records: Iterable[Record], settings: dict[str, Any], config: PreTrainedConfig
) -> list[dict[str, Any]]:
    """Return a `Row` for each batch, method and keep, the dense model first."""
    kinds: dict[str, dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        kinds[record["kind"]][record.get("batch", 0)].append(record)

    # the roofline is measured before and after: the machine can do the better of the two
    measured = kinds["ceilings"][0]
    fastest = max(record["flops"] for record in measured)
    widest = max(record["bytes"] for record in measured)
    roofline = Roofline(fastest, widest)
    size = DTYPES[settings["dtype"]].itemsize

    # each number of prompts is a comparison of its own
    rows = []
    for batch in sorted(kinds["cell"]):
        found = {kind: by_batch[batch] for kind, by_batch in kinds.items()}
        rows += _Batch(batch, found, roofline, config, size).rows()

    rounded = []
    for row in rows:
        # digits of its own: on a GPU it may be a millionth of TTFT
        rounded.append(row_of(row, 4) | {"least_ms": float(f"{row.least_ms:.6g}")})
    return rounded


class _Batch:
    """The rows of one number of prompts at once.

    Args:
        batch: how many prompts.
        found: lines of the log by their kind.
        roofline: of the machine.
        config: of the model.
        size: bytes of a number.
    """

    def __init__(
        self,
        batch: int,
        found: dict[str, list[Record]],
        roofline: Roofline,
        config: PreTrainedConfig,
        size: int,
    ) -> None:
        # what all rows share
        self.batch = batch
        self.roofline = roofline
        self.config = config
        self.size = size
        self.facts = found["batch"][-1]

        # measured once for each method and budget
        self.peaks = _by_name(found.get("peak", ()), "bytes")
        self.captures = _by_name(found.get("capture", ()), "ms")

        # measured in every repetition
        self.dense: dict[tuple[int, int], Record] = {}
        for trial in found["cell"]:
            if trial["method"] == DENSE:
                self.dense[_turn(trial)] = trial
        # a trial counts beside the dense one of its turn, which an interruption may have left out
        self.trials: dict[tuple[str, float], list[Record]] = defaultdict(list)
        for trial in found["cell"]:
            if _turn(trial) in self.dense:
                self.trials[trial["method"], trial["keep"]].append(trial)

        # the tower: pruning stops at the features' layer, the stock model goes on to the last
        grids = self.facts["grids"]  # rows and columns of each crop
        self.vision = flops.vision(config, grids, batch, size, all_layers=False)
        self.stock = flops.vision(config, grids, batch, size, all_layers=True)

        # launching kernels: what a prompt of one token takes beyond its arithmetic
        self.text = {r["length"]: r["ms"] for r in found["text"]}
        one = self._prefill([1] * len(found["cell"][0]["lengths"]))
        self.launch = max(0.0, self.text[1] - roofline.at_least_ms(one.flops, one.bytes))

    def rows(self) -> list[Row]:
        """Return the rows, the dense model first, then by falling budget."""
        order = sorted(self.trials, key=lambda name: (name[0] != DENSE, -name[1]))
        # the repeated dense model is for the noise floor alone
        return [self._row(name) for name in order if name[0] != DENSE_REPEAT]

    def _row(self, name: tuple[str, float]) -> Row:
        trials = self.trials[name]
        dense = [self.dense[_turn(trial)] for trial in trials]
        lengths = trials[0]["lengths"]
        kept = trials[0]["kept"]
        visual = self.facts["visual_tokens"]

        # times: medians over repetitions
        stages = {stage: _median(trials, stage) for stage in STAGES}
        ttft = [trial["ttft_ms"] for trial in trials]
        later = [trial["decode_ms"] for trial in trials if trial["decode_ms"] is not None]

        # work: the tower, and the prompt as each layer reads it
        prefill = self._prefill(lengths)
        dense_prefill = self._prefill(dense[0]["lengths"])
        both = self._tower(name) + prefill
        least = self.roofline.at_least_ms(both.flops, both.bytes)

        # speed-ups: reached, and ideal
        speedup = median(trial["ttft_ms"] for trial in dense) / median(ttft)
        ideal = (self.stock + dense_prefill).flops / both.flops
        prefill_speedup = _median(dense, "prefill") / stages["prefill"]
        prefill_ideal = dense_prefill.flops / prefill.flops
        ratios = _speedups(trials, dense)

        return Row(
            method=name[0],
            keep=name[1],
            batch=self.batch,
            visual_tokens=visual,
            kept_tokens=visual if kept is None else round(kept),
            vision_ms=stages["vision"],
            select_ms=stages["select"],
            prefill_ms=stages["prefill"],
            decode_ms_per_token=median(later) if later else None,
            ttft_ms=median(ttft),
            ttft_p95_ms=float(np.percentile(ttft, 95)),
            kv_bytes=trials[0]["kv_bytes"],
            speedup=speedup,
            ideal_speedup=ideal,
            share_of_ideal=speedup / ideal,
            prefill_speedup=prefill_speedup,
            prefill_ideal=prefill_ideal,
            prefill_share=prefill_speedup / prefill_ideal,
            rebuild_ms=stages["rebuild"],
            preprocess_ms=self.facts["preprocess_ms"],
            prompt_tokens=max(lengths),
            peak_bytes=self.peaks.get(name),
            speedup_low=min(ratios),
            speedup_high=max(ratios),
            repeats=len(trials),
            bound=self._bound(both, self._launch_with_tower()),
            prefill_bound=self._bound(prefill, self.launch),
            share_of_ceiling=least / median(ttft),
            break_even=self._break_even(name[1], trials, dense),
            capture_ms=self.captures.get(name),
            least_ms=least,
        )

    def _tower(self, name: tuple[str, float]) -> Work:
        """Return the work of the vision tower for a method at a budget."""
        if name[0] == DENSE:
            return self.stock
        # a method may have options: resize:question=chat
        if PruneConfig.from_spec(name[0]).method != Resize.name:
            return self.vision
        # the tower of a smaller image works less
        rows, columns = self.facts["grids"][0]
        small = grid_within(rows, columns, num_keep(rows * columns, name[1]))
        return flops.vision(self.config, [small], self.batch, self.size, all_layers=False)

    def _prefill(self, lengths: Sequence[int]) -> Work:
        return flops.prefill(self.config, lengths, self.batch, self.size)

    def _bound(self, work: Work, launch: float) -> str:
        """Name what takes longest: compute, memory or launch."""
        times = {
            "compute": self.roofline.compute_ms(work.flops),
            "memory": self.roofline.memory_ms(work.bytes),
            "launch": launch,
        }
        return max(times, key=lambda name: times[name])

    def _launch_with_tower(self) -> float:
        """Return the milliseconds of launching kernels where the tower's layers do it, too."""
        layers = flops.text_stack(self.config).layers
        all_layers = layers + flops.tower_stack(self.config).layers
        return self.launch * all_layers / layers

    def _break_even(self, keep: float, trials: list[Record], dense: list[Record]) -> int | None:
        """Return the visual tokens from which on a method pays, None where that is not known."""
        # layers of several lengths: the method prunes between them, at no point of the prompt
        between_layers = len(set(trials[0]["lengths"])) > 1
        if trials[0]["kept"] is None or between_layers:
            return None

        # the overhead: what comes before the prefill, less the dense model's own tower
        overheads = []
        for trial, beside in zip(trials, dense, strict=True):
            spent = sum(trial["stages"][stage] for stage in OVERHEAD)
            overheads.append(spent - beside["stages"]["vision"])

        # prefill by length: prompts of text alone, and the dense prompt itself
        times = self.text | {dense[0]["lengths"][0]: _median(dense, "prefill")}
        visual = self.facts["visual_tokens"]
        text = self.facts["prompt"] - visual
        return break_even(times, text, visual, keep, median(overheads))


def _speedups(trials: list[Record], dense: list[Record]) -> list[float]:
    """Return the speed-up of each repetition over the dense trial of the same turn."""
    ratios = []
    for trial, beside in zip(trials, dense, strict=True):
        ratios.append(beside["ttft_ms"] / trial["ttft_ms"])
    return ratios


def _turn(trial: Record) -> tuple[int, int]:
    """Return the session and repetition of a trial, within which the machine is the same."""
    return trial["session"], trial["repeat"]


@checked
def break_even(
    times: dict[int, float], text: int, visual: int, keep: float, overhead: float
) -> int | None:
    """Return the number of visual tokens from which on pruning pays.

    Args:
        times: milliseconds of the prefill by length of the prompt; straight lines between.
        text: tokens of the prompt that are not visual.
        visual: the most visual tokens to look at.
        keep: share of them that is kept.
        overhead: milliseconds that selecting them costs; taken to be the same for fewer.

    Returns:
        The smallest number from which up to `visual` all of them save more than they cost; None if
        `visual` doesn't.
    """
    # noise aside, no prompt is read faster than a shorter one
    lengths = sorted(times)
    ms = np.maximum.accumulate([times[length] for length in lengths])

    counts = np.arange(1, visual + 1)  # (N,)
    kept = np.maximum(1, np.floor(keep * counts + 0.5))  # (N,)
    dense = np.interp(text + counts, lengths, ms)
    pruned = np.interp(text + kept, lengths, ms)

    # the count after the last one at which pruning loses
    loses = np.flatnonzero(dense - pruned <= max(0.0, overhead))
    first = int(loses[-1]) + 2 if len(loses) else 1
    return first if first <= visual else None


def _by_name(records: Iterable[Record], field: str) -> dict[tuple[str, float], Any]:
    """Return a field of records by method and budget."""
    return {(record["method"], record["keep"]): record[field] for record in records}


def _median(trials: Sequence[Record], stage: str) -> float:
    return float(median(trial["stages"][stage] for trial in trials))
