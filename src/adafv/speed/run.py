"""What to time, in which order, and what of it is there already."""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin, StaticCache

from adafv import __version__
from adafv.core.encode import encode
from adafv.core.layerwise import LayerPruner
from adafv.core.pruner import Pruner
from adafv.methods import from_spec
from adafv.models.compiled import compiled
from adafv.models.prompting import build_batch
from adafv.speed import roofline as ceilings
from adafv.speed.baselines import PEERS
from adafv.speed.flops import grids_of
from adafv.speed.log import Log
from adafv.speed.shapes import QUESTION, Shape, build, image, shape_of
from adafv.speed.stages import Timed, answer, capture_ms, peak_bytes, read_text
from adafv.utils.checks import checked

__all__ = ["DENSE", "Measurement", "Trial", "plan"]

DENSE, DENSE_REPEAT = "none", "none again"
SHORTEST = 16
TRIES = 3
WARM = 3  # answers of a compiled model until it replays: it is compiled, recorded and replayed


@dataclass(frozen=True)
class Trial:
    """One batch of prompts to be answered: a method at a budget, in one repetition."""

    batch: int
    repeat: int
    method: str
    keep: float

    @property
    def name(self) -> tuple[str, float]:
        return self.method, self.keep


def plan(names: Sequence[tuple[str, float]], batch: int, repeats: int) -> Iterator[Trial]:
    """Every repetition visits all rows; the order turns, and back, so that whatever drifts hits all
    of them.
    """
    for repeat in range(repeats):
        turn = repeat // 2 % len(names)
        order = [*names[turn:], *names[:turn]][:: -1 if repeat % 2 else 1]
        yield from (Trial(batch, repeat, *name) for name in order)


@checked
@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What to time. The dense model takes part twice in every repetition: the second time is the
    noise floor.

    Args:
        shape: a name in `adafv.speed.shapes.SHAPES`.
        layers: of the language model; None: all.
        batches: how many prompts at once.
        methods: as `adafv.methods.from_spec` reads them, or a peer, see `adafv.speed.baselines`.
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
        for name, values in (
            ("batch", self.batches),
            ("repeats", [self.repeats]),
            ("answer", [self.answer]),
        ):
            if min(values) < 1:
                raise ValueError(f"{name}={min(values)} is too few: pass 1 or more")
        _ = self.config, self.pruners

    @cached_property
    def sizes(self) -> Shape:
        return shape_of(self.shape)

    @cached_property
    def config(self) -> Any:
        """Of the model, cut to `layers`."""
        return self.sizes.config(self.layers)

    @cached_property
    def pruners(self) -> dict[tuple[str, float], Pruner | None]:
        """By method and keep; None: the dense model."""
        found: dict[tuple[str, float], Pruner | None] = {
            (DENSE, 1.0): None,
            (DENSE_REPEAT, 1.0): None,
        }
        for name in self.methods:
            for keep in self.keeps:
                pruner = None if name == DENSE else _pruner(name, keep)
                if pruner is not None and keep != 1:
                    found[name, float(keep)] = pruner
                if self.compile and isinstance(pruner, LayerPruner):
                    raise ValueError(
                        f"method {name!r} prunes between layers that --compile would join: leave one of the two out"
                    )
        return found

    def run(
        self, device: torch.device, dtype: torch.dtype, out: str | Path, progress: bool = False
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Time what `out` lacks; the lines of its log that this measurement asks for, and the
        settings they share.

        Raises:
            ValueError: see `Log`.
        """
        settings = self.settings(device, dtype)
        with Log(out, settings) as log:
            if any(self.todo(log, batch) for batch in self.batches):
                log.add("ceilings", **asdict(ceilings.measure(device, dtype)))
                model, processor = build(self.config, device, dtype), self.sizes.processor()
                for batch in self.batches:
                    if todo := self.todo(log, batch):
                        self._batch(model, processor, log, batch, todo, progress)
                log.add("ceilings", **asdict(ceilings.measure(device, dtype)))
            return [record for record in log.records if self._asked(record)], settings

    def _asked(self, record: dict[str, Any]) -> bool:
        """Whether a line of the log, which other budgets or methods may have written, is of this
        measurement.
        """
        return (
            record.get("batch", self.batches[0]) in self.batches
            and record.get("repeat", 0) < self.repeats
            and ("method" not in record or (record["method"], record["keep"]) in self.pruners)
        )

    def settings(self, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """What all lines of a folder have in common."""
        versions = {"adafv": __version__, "python": platform.python_version()}
        return {
            **{name: getattr(self, name) for name in ("shape", "layers", "answer", "compile")},
            "of_layers": self.sizes.text["num_hidden_layers"],
            "device": device.type,
            "dtype": str(dtype).removeprefix("torch."),
            "machine": _machine(device),
            "versions": versions
            | {"torch": torch.__version__, "transformers": transformers.__version__},
        }

    def todo(self, log: Log, batch: int) -> list[Trial]:
        """What is neither there nor left out."""
        there = {(r["batch"], r["repeat"], r["method"], r["keep"]) for r in log.of("cell")}
        out = {(r["batch"], r["method"], r["keep"]) for r in log.of("left_out")}
        cells = plan(list(self.pruners), batch, self.repeats)
        return [
            c
            for c in cells
            if (batch, c.repeat, *c.name) not in there and (batch, *c.name) not in out
        ]

    def _batch(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        log: Log,
        batch: int,
        todo: list[Trial],
        progress: bool,
    ) -> None:
        bar = partial(tqdm, disable=not progress, leave=False)
        inputs = self._inputs(model, processor, log, batch)

        def once(
            name: tuple[str, float], room: Callable[[int], StaticCache] | None = None
        ) -> Timed:
            return answer(model, inputs, self.pruners[name], self.answer, room)

        peaks = {(r["method"], r["keep"]) for r in log.of("peak") if r["batch"] == batch}
        refused = set()
        names = dict.fromkeys(cell.name for cell in todo if cell.method != DENSE_REPEAT)
        for name in bar(list(names), desc=f"batch {batch}, warm-up"):
            try:
                if model.device.type != "cpu" or name in peaks:
                    once(name)
                if name not in peaks:
                    peak = peak_bytes(partial(once, name), model.device)
                    log.add("peak", batch=batch, method=name[0], keep=name[1], bytes=peak)
                    if (pruner := self.pruners[name]) is not None:
                        read = capture_ms(model, inputs, pruner)
                        log.add("capture", batch=batch, method=name[0], keep=name[1], ms=read)
            except ValueError as error:
                refused.add(name)
                log.add("left_out", batch=batch, method=name[0], keep=name[1], reason=str(error))
        there = {r["length"] for r in log.of("text") if r["batch"] == batch}
        lengths = [
            n
            for n in _lengths(1 if self.compile else inputs["input_ids"].shape[1])
            if n not in there
        ]
        wanted = [cell for cell in todo if cell.name not in refused]
        with compiled(model) if self.compile else nullcontext():
            room = None
            if self.compile:
                room = cache(
                    partial(StaticCache, model.config)
                )  # graphs are recorded for addresses: one for each length
                for name in bar(
                    [n for n in names if n not in refused] * WARM, desc=f"batch {batch}, compiling"
                ):
                    once(name, room)
            for n in bar(lengths, desc=f"batch {batch}, text"):
                log.add(
                    "text",
                    batch=batch,
                    length=n,
                    ms=min(read_text(model, batch, n) for _ in range(TRIES)),
                )
            for cell in bar(wanted, desc=f"batch {batch}", leave=True):
                log.add("cell", **asdict(cell), **asdict(once(cell.name, room)))

    def _inputs(
        self, model: PreTrainedModel, processor: ProcessorMixin, log: Log, batch: int
    ) -> dict[str, Any]:
        """A batch on the model's device; what it is made of goes to the log, once."""
        images = [image(self.sizes.side, seed) for seed in range(batch)]

        def prepare(count: int) -> dict[str, Any]:
            return build_batch(processor, images[:count], [QUESTION] * count, "cpu", model.dtype)

        def move(inputs: dict[str, Any]) -> dict[str, Any]:
            return {
                name: x.to(model.device) if isinstance(x, torch.Tensor) else x
                for name, x in inputs.items()
            }

        inputs, preprocess = _timed(partial(prepare, batch))
        if all(r["batch"] != batch for r in log.of("batch")):
            with torch.inference_mode():
                visual = encode(model, move(prepare(1)), signals=(), text=False).tokens.counts[0]
            prompt, grids = inputs["input_ids"].shape[1], grids_of(model.config, inputs)
            log.add(
                "batch",
                batch=batch,
                preprocess_ms=preprocess,
                visual_tokens=visual,
                prompt=prompt,
                grids=grids,
            )
        return move(inputs)


def _pruner(name: str, keep: float) -> Pruner:
    return PEERS[name](keep=keep) if name in PEERS else from_spec(name, keep=keep)


def _lengths(longest: int) -> list[int]:
    """1, powers of two, and the longest."""
    lengths, n = [1], SHORTEST
    while n < longest:
        lengths.append(n)
        n *= 2
    return sorted({*lengths, longest})


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the milliseconds that it takes, median."""
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        result = call()
        times.append(1000 * (time.perf_counter() - start))
    return result, median(times)


def _machine(device: torch.device) -> dict[str, Any]:
    """Name; of a CPU with the widest instructions that PyTorch uses there, and the threads."""
    if device.type == "cuda":
        return {"name": torch.cuda.get_device_name(device)}
    name = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        name = next(
            (line.split(": ")[1] for line in info.read_text().splitlines() if "model name" in line),
            name,
        )
    return {
        "name": f"{name}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }
