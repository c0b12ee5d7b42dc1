"""Answer many questions from a file with an engine, and resume an interrupted run."""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, Self

from torch import Tensor
from tqdm import tqdm

from adafv import __version__
from adafv.batch.engine import Engine, EngineError, Request, Response, failed
from adafv.batch.jsonl import Line, Results, read_lines
from adafv.core.config import PruneConfig
from adafv.core.pruner import Pruner
from adafv.methods import from_config
from adafv.models.boilerplate import boilerplate
from adafv.models.prompting import check_question
from adafv.models.saved import options_of
from adafv.utils.checks import checked
from adafv.utils.files import as_jsonl

__all__ = ["Batch"]

SAVE_EVERY = 30.0
"""Seconds after which what a retry has found is written, among the results that are there."""

Record = dict[str, Any]


@checked
@dataclass(frozen=True, kw_only=True)
class Batch:
    """Questions in a JSONL file, to be answered into another.

    A line of the input is `{"image": …, "question": …}`, or has a "video" instead, perhaps with the
    number of its "frames"; with "id" (text or a number; else the line's number, from 1), and
    "method" and "keep" or "tokens" instead of the pruner's where wanted. A key that nobody knows is
    an error of its line. Images and videos are files, relative to the input's folder.
    A result is `{"id", "answer", "method", "visual_tokens", "kept_tokens", "error"}`, in the order
    of the input; a line that cannot be answered has its reason in "error" and null for answer and
    counts.

    Args:
        source: the questions.
        out: the results, with `….settings.json` beside it. Results that are there and were made
            from the same lines (their text; images are taken to be the same) under the same
            settings are kept; lines may have been added at the end. None: `run` has to be told
            where to write.
        pruner: the method at its budget.
        batch_size: questions that the engine has at once; None: what it does best with.
        max_new_tokens: the longest answer.
        retry_failed: lines that failed in an earlier run are answered again.

    Raises:
        ValueError: an input that cannot be read, is empty or has the same id twice, an `out` that
            is the input or no regular file, or a number below 1.
    """

    source: Path
    out: Path | None
    pruner: Pruner
    batch_size: int | None = None
    max_new_tokens: int = 64
    retry_failed: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is too few: pass 1 or more")

        # read the questions now: what is wrong with the file is said before a model is loaded
        if self.out is None:
            _ = self._read
            return
        # a pipe or a device cannot be read back
        if os.path.exists(self.out) and not os.path.isfile(self.out):
            raise ValueError(
                f"{self.out} is not a regular file: pass another OUT, from which a run can resume"
            )
        _ = self._read
        # results over the questions would lose both
        if os.path.exists(self.out) and self.out.samefile(self.source):
            raise ValueError(f"{self.out} holds the questions: pass another OUT for the results")

    @cached_property
    def _read(self) -> tuple[list[Line], list[bytes]]:
        return read_lines(self.source, strict=True, growing=True)

    def with_pruner(self, pruner: Pruner) -> Self:
        """Return the same job with another pruner, of the questions that were read already."""
        # not `replace`, which would read them again: a pipe is empty then
        job = copy(self)
        object.__setattr__(job, "pruner", pruner)
        return job

    @property
    def questions(self) -> list[str]:
        """Return the questions of all lines that have one."""
        return [line.question for line in self._read[0] if line.error is None]

    def run(
        self, engine: Engine, *, progress: bool = False, stream: BinaryIO | None = None
    ) -> dict[str, Any]:
        """Answer the lines that have no result yet.

        Args:
            engine: results are only taken up by a run with the same settings of it, its model among
                them.
            progress: a bar on stderr.
            stream: where results go without an `out`, unbuffered.

        Returns:
            How many results there are now (lines), how many of them were there before (resumed),
            how many failed (failed), and the first reason for that (first_error).

        Raises:
            ValueError: see `Results`; the disk is full; the engine cannot prune so, cannot start or
                has died.
            BrokenPipeError: nobody reads the stream any more.
        """
        engine.check(self.pruner)
        lines, written = self._read
        if self.out is None:
            assert stream is not None
            return self._streamed(engine, stream, progress)
        # what is there already must be of the same questions, settings and weights
        ids = [line.id for line in lines]
        with Results(self.out, self._settings(engine), ids, written) as results:
            # take up an earlier run
            done = len(results.records)
            again = []
            for i, record in enumerate(results.records):
                if self.retry_failed and record["error"] is not None:
                    again.append(i)
            resumed = done - len(again)

            # the bar starts where the earlier run stopped
            bar = _bar(self.out.name, len(lines), progress, resumed)
            with bar:
                # first what has failed, so that the file is in the order of the lines
                self._retry(engine, results, again, bar)
                for new in self._new(engine, lines[done:]):
                    results.append(new)
                    bar.update(len(new))
            return _summary(results.records, resumed)

    def _retry(self, engine: Engine, results: Results, again: list[int], bar: Any) -> None:
        """Answer lines that failed; after an interruption too, what is known replaces them."""
        lines = self._read[0]
        found: dict[int, Record] = {}
        # results come in the order of the lines
        indices = iter(again)
        saved = monotonic()
        try:
            for new in self._new(engine, [lines[i] for i in again]):
                for record in new:
                    found[next(indices)] = record
                bar.update(len(new))
                # a kill loses no more than the last few; the whole file is written each time
                if monotonic() - saved > SAVE_EVERY:
                    results.replace(found)
                    saved = monotonic()
        finally:
            results.replace(found)

    def _streamed(self, engine: Engine, stream: BinaryIO, progress: bool) -> dict[str, Any]:
        """Answer all lines, and write results as they come."""
        lines = self._read[0]
        records: list[Record] = []
        bar = _bar(self.source.name, len(lines), progress, 0)
        with bar:
            for new in self._new(engine, lines):
                _write(stream, as_jsonl(new))
                records += new
                bar.update(len(new))
        return _summary(records, 0)

    def _settings(self, engine: Engine) -> dict[str, Any]:
        """Return what must be the same for results to belong together."""
        query = self.pruner.query
        return {
            "adafv": __version__,
            **engine.settings,
            "max_new_tokens": self.max_new_tokens,
            "method": self.pruner.name,
            **options_of(self.pruner),
            "skip": sorted(self.pruner.skip),
            # as numbers: settings are compared as JSON
            "query": query.tolist() if isinstance(query, Tensor) else query,
        }

    def _new(self, engine: Engine, lines: list[Line]) -> Iterator[list[Record]]:
        """Yield results in the order of the lines; what comes early waits for its turn."""
        if not lines:
            return
        # lines whose results are not written yet, and responses that are known already
        waiting = deque(lines)
        known: dict[int, Response] = {}
        pruners = _Pruners(self.pruner, engine)
        # read as the engine takes them: a file of millions is never prepared at once
        requests = self._requests(engine, lines, known, pruners)
        batch_size = self.batch_size or engine.batch_size
        for responses in engine.responses(requests, batch_size, self.max_new_tokens):
            known |= responses
            new = _ready(waiting, known, pruners.specs, self.pruner.spec)
            if new:
                yield new

        # lines at the end that could not be put to the engine
        new = _ready(waiting, known, pruners.specs, self.pruner.spec)
        if new:
            yield new
        if waiting:
            raise EngineError(
                f"the engine has given no response to line {waiting[0].number}: run it again"
            )

    def _requests(
        self, engine: Engine, lines: list[Line], known: dict[int, Response], pruner_of: "_Pruners"
    ) -> Iterator[Request]:
        """Yield the lines that can be put to an engine; responses to the others become known."""
        for line in lines:
            try:
                if line.error is not None:
                    raise ValueError(line.error)
                if line.video and not engine.reads_videos:
                    raise ValueError("Ray's engine answers no videos: pass --engine vllm, or hf")
                question = check_question(engine.processor, line.question)
                pruner = pruner_of(line)
            except ValueError as error:
                known[line.number] = failed(error)
            else:
                yield Request(line.number, line.image, question, pruner, line.video, line.frames)


class _Pruners:
    """The pruners of lines: one object for one method and budget, as an engine groups by it.

    Args:
        default: that of lines which say nothing.
        engine: that has to be able to prune so.
    """

    def __init__(self, default: Pruner, engine: Engine) -> None:
        self.default = default
        self.engine = engine
        self.specs: dict[int, str] = {}
        self._made: dict[tuple[Any, ...], Pruner] = {}

    def __call__(self, line: Line) -> Pruner:
        wanted = (line.method, line.keep, line.tokens)
        # most lines say nothing
        if wanted == (None, None, None):
            return self.default
        # a result names the method that was asked for, also where there is none
        if line.method is not None:
            self.specs[line.number] = line.method
        if wanted not in self._made:
            pruner = self._of(*wanted)
            self.engine.check(pruner)
            self._made[wanted] = pruner
        self.specs[line.number] = self._made[wanted].spec
        return self._made[wanted]

    def _of(self, method: str | None, keep: float | None, tokens: int | None) -> Pruner:
        """Return a pruner with a line's own method or budget."""
        if method is None:
            return replace(self.default, keep=keep, tokens=tokens)
        # a budget may be part of the name, as in "adafv:keep=0.2"
        config = PruneConfig.from_dict({"method": method, "keep": keep, "tokens": tokens})
        # a method without one has the job's; `none` needs none
        if config.method != "none":
            config = config.over(self.default.config)
        return from_config(config, self._template)

    def _template(self) -> frozenset[int]:
        """Return the ids that `skip=template` stands for."""
        return boilerplate(self.engine.processor)


def _ready(
    waiting: deque[Line], known: dict[int, Response], specs: Mapping[int, str], default: str
) -> list[Record]:
    """Return the results of the first lines that wait, as far as they are known."""
    new = []
    while waiting and waiting[0].number in known:
        # a failed line has nothing but its error, an answered one no error
        line = waiting.popleft()
        record: Record = {
            "id": line.id,
            "answer": None,
            "method": specs.get(line.number, default),
            "visual_tokens": None,
            "kept_tokens": None,
            "error": None,
        }
        new.append(record | known.pop(line.number))
    return new


def _write(stream: BinaryIO, data: bytes) -> None:
    """Write results to an unbuffered stream: whoever reads a pipe has each at once."""
    try:
        while data:
            data = data[stream.write(data) :]
    # the reader has seen enough, as with | head
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ValueError(
            f"the results cannot be written ({error.strerror}): "
            "pass a file as OUT, from which a run can resume"
        ) from error


def _bar(name: str, total: int, progress: bool, done: int) -> Any:
    """Return a bar on stderr."""
    return tqdm(total=total, initial=done, desc=name, unit="line", disable=not progress)


def _summary(records: list[Record], resumed: int) -> dict[str, Any]:
    """Return what became of a job."""
    errors = [record["error"] for record in records if record["error"] is not None]
    first = errors[0] if errors else None
    return {"lines": len(records), "resumed": resumed, "failed": len(errors), "first_error": first}
