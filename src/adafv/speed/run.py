"""What to time and in which order: a measurement, which an interrupted run resumes."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin, StaticCache

from adafv.core.encode import encode
from adafv.core.layerwise import LayerPruner
from adafv.core.pruner import Pruner
from adafv.methods import from_spec
from adafv.models.boilerplate import boilerplate
from adafv.models.compiled import compiled
from adafv.models.prompting import build_batch
from adafv.speed import roofline
from adafv.speed.baselines import BASELINES
from adafv.speed.flops import grids_of
from adafv.speed.log import Log
from adafv.speed.shapes import QUESTION, Shape, build, image, shape_of
from adafv.speed.stages import Timed, answer, capture_ms, peak_bytes, read_text
from adafv.utils.checks import checked
from adafv.utils.machine import machine_of, versions

__all__ = ["DENSE", "Measurement", "Trial", "plan"]

DENSE = "none"
DENSE_REPEAT = "none again"
"""The dense model a second time in every repetition: the noise floor."""

SHORTEST = 16  # tokens of the shortest prompt of text alone but one
TRIES = 3
WARM = 3  # answers of a compiled model until it replays: it is compiled, recorded and replayed

Name = tuple[str, float]
"""A method and its budget."""


@dataclass(frozen=True)
class Trial:
    """One batch of prompts to be answered: a method at a budget, in one repetition."""

    batch: int  # prompts at once
    repeat: int
    method: str
    keep: float

    @property
    def name(self) -> Name:
        """The method and its budget."""
        return self.method, self.keep


def plan(names: Sequence[Name], batch: int, repeats: int) -> Iterator[Trial]:
    """Yield the trials: every repetition visits all rows.

    The order turns, and back, so that whatever drifts hits all of them.
    """
    for repeat in range(repeats):
        turn = repeat // 2 % len(names)
        order = [*names[turn:], *names[:turn]]
        if repeat % 2:
            order.reverse()
        for method, keep in order:
            yield Trial(batch, repeat, method, keep)


@checked
@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A timing of methods; the dense model takes part twice a repetition, for the noise floor.

    Args:
        shape: a name in `adafv.speed.shapes.SHAPES`.
        layers: of the language model; None: all.
        batches: how many prompts at once.
        methods: as `adafv.methods.from_spec` reads them, or one of `adafv.speed.baselines`.
        keeps: shares of the visual tokens, 0 < keep <= 1; 1 is the dense model.
        repeats: of everything.
        answer: tokens of an answer, the first included.
        compile: the language model, see `adafv.models.compiled`. Peaks of memory are those of the
            model as it is.

    Raises:
        ValueError: an unknown name, a keep out of range, a number below 1, or a method that cannot
            be compiled.
    """

    shape: str = "tiny"
    layers: int | None = None
    batches: Sequence[int] = (1,)
    methods: Sequence[str] = ("adafv",)
    keeps: Sequence[float] = (0.25, 0.1, 0.05)
    repeats: int = 10
    answer: int = 8
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("batches", "methods", "keeps"):
            if not getattr(self, name):
                raise ValueError(
                    f"{name} is an empty list: pass at least one, e.g. 1, adafv or 0.1"
                )
        smallest = {"batch": min(self.batches), "repeats": self.repeats, "answer": self.answer}
        for name, value in smallest.items():
            if value < 1:
                raise ValueError(f"{name}={value} is too few: pass 1 or more")
        # unknown names are refused before anything is built
        _ = self.config
        _ = self.pruners

    @cached_property
    def sizes(self) -> Shape:
        """The shape itself."""
        return shape_of(self.shape)

    @cached_property
    def config(self) -> Any:
        """The model's configuration, cut to `layers`."""
        return self.sizes.config(self.layers)

    @cached_property
    def pruners(self) -> dict[Name, Pruner | None]:
        """By method and keep; None: the dense model."""
        found: dict[Name, Pruner | None] = {(DENSE, 1.0): None, (DENSE_REPEAT, 1.0): None}
        for name in self.methods:
            for keep in self.keeps:
                pruner = None if name == DENSE else self._pruner(name, keep)
                # at 1 every method is the dense model, which is there
                if pruner is not None and keep != 1:
                    found[name, float(keep)] = pruner
                if self.compile and isinstance(pruner, LayerPruner):
                    raise ValueError(
                        f"method {name!r} prunes between layers that --compile would join: "
                        "leave one of the two out"
                    )
        return found

    def _pruner(self, name: str, keep: float) -> Pruner:
        if name in BASELINES:
            return BASELINES[name](keep=keep)
        return from_spec(name, lambda: boilerplate(self.sizes.processor()), keep=keep)

    def run(
        self, device: torch.device, dtype: torch.dtype, out: str | Path, progress: bool = False
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Time what `out` lacks.

        What is added to an earlier run is compared with a dense model that is timed beside it,
        never with that of another hour.

        Returns:
            The lines of the log that this measurement asks for, and the settings they share.

        Raises:
            ValueError: see `Log`.
        """
        settings = self.settings(device, dtype)
        with Log(out, settings) as log:
            if any(self.todo(log, batch) for batch in self.batches):
                # the roofline before and after, in case the machine was busy with something else
                log.add("ceilings", **asdict(roofline.measure(device, dtype)))
                model = build(self.config, device, dtype)
                processor = self.sizes.processor()
                for batch in self.batches:
                    if todo := self.todo(log, batch):
                        self._batch(model, processor, log, batch, todo, progress)
                log.add("ceilings", **asdict(roofline.measure(device, dtype)))
            return [record for record in log.records if self._asked(record)], settings

    def _asked(self, record: dict[str, Any]) -> bool:
        """Tell if a line is of this measurement; other budgets or methods may have written it."""
        if "method" in record and (record["method"], record["keep"]) not in self.pruners:
            return False
        # lines of no batch, such as the roofline, are of every measurement
        in_batches = record.get("batch", self.batches[0]) in self.batches
        return in_batches and record.get("repeat", 0) < self.repeats

    def settings(self, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Return what all lines of a folder have in common."""
        # neither methods nor budgets: a folder may collect them run by run
        return {
            "shape": self.shape,
            "layers": self.layers,
            "answer": self.answer,
            "compile": self.compile,
            "of_layers": self.sizes.text["num_hidden_layers"],
            "device": device.type,
            "dtype": str(dtype).removeprefix("torch."),
            "machine": machine_of(device),
            "versions": versions(),
        }

    def todo(self, log: Log, batch: int) -> list[Trial]:
        """Return what is neither in the log nor left out, and dense trials beside it."""
        left_out = _names_of(log, "left_out", batch)
        dense = set()
        for record in log.of("cell"):
            if record["method"] == DENSE:
                dense.add((record["session"], record["batch"], record["repeat"]))
        there = set()
        for record in log.of("cell"):
            # a trial that an interruption left without a dense one beside it is timed again
            if (record["session"], record["batch"], record["repeat"]) in dense:
                values = (record[name] for name in ("batch", "repeat", "method", "keep"))
                there.add(Trial(*values))

        planned = []
        repeats = set()
        for trial in plan(list(self.pruners), batch, self.repeats):
            if trial.name not in left_out:
                planned.append(trial)
                if trial not in there:
                    repeats.add(trial.repeat)

        todo = []
        for trial in planned:
            beside = trial.method in (DENSE, DENSE_REPEAT) and trial.repeat in repeats
            if trial not in there or beside:
                todo.append(trial)
        return todo

    def _batch(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        log: Log,
        batch: int,
        todo: list[Trial],
        progress: bool,
    ) -> None:
        """Time the trials of one number of prompts at once."""
        bar = partial(tqdm, disable=not progress, leave=False)
        inputs = self._inputs(model, processor, log, batch)

        def once(name: Name, room: Callable[[int], StaticCache] | None = None) -> Timed:
            return answer(model, inputs, self.pruners[name], self.answer, room)

        # warm up: every row once, with its peak of memory; what a method refuses shows here
        names = dict.fromkeys(trial.name for trial in todo if trial.method != DENSE_REPEAT)
        refused = set()
        for name in bar(list(names), desc=f"batch {batch}, warm-up"):
            try:
                self._warm_up(model, inputs, log, batch, name, partial(once, name))
            except ValueError as error:
                refused.add(name)
                log.add("left_out", batch=batch, method=name[0], keep=name[1], reason=str(error))

        wanted = [trial for trial in todo if trial.name not in refused]
        session = 1 + max((record["session"] for record in log.of("cell")), default=0)
        with compiled(model) if self.compile else nullcontext():
            # graphs are recorded for addresses: one cache for each length
            room = cache(partial(StaticCache, model.config)) if self.compile else None
            if room:
                known = [name for name in names if name not in refused]
                # a graph is recorded for each row before any of them is timed
                for name in bar(known * WARM, desc=f"batch {batch}, compiling"):
                    once(name, room)

            # prefill by length, for the break-even
            longest = 1 if self.compile else inputs["input_ids"].shape[1]
            lengths = _lengths(longest)
            for record in log.of("text"):
                if record["batch"] == batch and record["length"] in lengths:
                    lengths.remove(record["length"])
            for length in bar(lengths, desc=f"batch {batch}, text"):
                # the best of few: medians are for what is reported
                ms = min(read_text(model, batch, length) for _ in range(TRIES))
                log.add("text", batch=batch, length=length, ms=ms)

            # every line is safe before the next trial starts
            for trial in bar(wanted, desc=f"batch {batch}", leave=True):
                log.add("cell", session=session, **asdict(trial), **asdict(once(trial.name, room)))

    def _warm_up(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        log: Log,
        batch: int,
        name: Name,
        once: Callable[[], Timed],
    ) -> None:
        """Answer once, and measure what does not change from repetition to repetition."""
        method, keep = name
        peaks = _names_of(log, "peak", batch)
        # on a CPU the answer whose memory is watched warms up well enough
        if model.device.type != "cpu" or name in peaks:
            once()
        if name in peaks:
            return

        peak = peak_bytes(once, model.device)
        log.add("peak", batch=batch, method=method, keep=keep, bytes=peak)
        pruner = self.pruners[name]
        if pruner is not None:
            ms = capture_ms(model, inputs, pruner)
            log.add("capture", batch=batch, method=method, keep=keep, ms=ms)

    def _inputs(
        self, model: PreTrainedModel, processor: ProcessorMixin, log: Log, batch: int
    ) -> dict[str, Any]:
        """Return a batch on the model's device; what it is made of goes to the log, once."""
        images = [image(self.sizes.side, seed) for seed in range(batch)]

        def prepare(count: int) -> dict[str, Any]:
            return build_batch(processor, images[:count], [QUESTION] * count, "cpu", model.dtype)

        # the processor is timed on the CPU, where it runs
        inputs, preprocess = _timed(partial(prepare, batch))
        if all(record["batch"] != batch for record in log.of("batch")):
            with torch.inference_mode():
                encoding = encode(model, _moved(prepare(1), model.device), signals=(), text=False)
            log.add(
                "batch",
                batch=batch,
                preprocess_ms=preprocess,
                visual_tokens=encoding.tokens.counts[0],
                prompt=inputs["input_ids"].shape[1],
                grids=grids_of(model.config, inputs),
            )
        return _moved(inputs, model.device)


def _names_of(log: Log, kind: str, batch: int) -> set[Name]:
    """Return the methods and budgets that a batch has lines of some kind of."""
    found = set()
    for record in log.of(kind):
        if record["batch"] == batch:
            found.add((record["method"], record["keep"]))
    return found


def _moved(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    moved = {}
    # sizes of images are no tensors
    for name, value in inputs.items():
        moved[name] = value.to(device) if isinstance(value, torch.Tensor) else value
    return moved


def _lengths(longest: int) -> list[int]:
    """Return 1, powers of two, and the longest."""
    # at 1 nothing but launching kernels takes time
    lengths = [1]
    length = SHORTEST
    while length < longest:
        lengths.append(length)
        length *= 2
    return sorted({*lengths, longest})


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and the milliseconds that it takes, median."""
    times = []
    for _ in range(TRIES):
        # on the host alone, so that no device need be waited for
        start = time.perf_counter()
        result = call()
        times.append(1000 * (time.perf_counter() - start))
    return result, median(times)
