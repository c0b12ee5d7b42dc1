"""Many questions from a file, answered by an engine; takes up an interrupted run where it stopped."""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor
from tqdm import tqdm

from adafv import __version__
from adafv.batch.engine import Engine, Request, Response, failed
from adafv.batch.jsonl import Line, Results, read_lines
from adafv.core.pruner import Pruner
from adafv.core.spec import without_budget
from adafv.methods import from_spec
from adafv.models.boilerplate import boilerplate
from adafv.models.prompting import check_question
from adafv.models.saved import options_of
from adafv.utils.checks import checked
from adafv.utils.files import as_jsonl

__all__ = ["Batch"]

Record = dict[str, Any]


@checked
@dataclass(frozen=True, kw_only=True)
class Batch:
    """Questions in a JSONL file, to be answered into another.

    A line of the input is `{"image": …, "question": …}`, with "id" (text or a number; else the
    line's number, from 1), and "method" and "keep" or "tokens" in place of the pruner's where
    wanted. A key that nobody knows is an error of its line. Images are files, relative to the
    input's folder. A result is `{"id", "answer", "method", "visual_tokens", "kept_tokens",
    "error"}`, in the order of the input; a line that cannot be answered has its reason in "error"
    and null in place of answer and counts.

    Args:
        source: the questions.
        out: the results, with `….settings.json` beside it. Results that are there and were made
            from the same lines (their text; images are taken to be the same) under the same
            settings are kept; lines may have come on at the end. None: `run` has to be given where
            to write.
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
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} is too few: pass 1 or more")
        if self.out is None:
            _ = self._read
            return
        if os.path.exists(self.out) and not os.path.isfile(self.out):
            raise ValueError(
                f"{self.out} is not a regular file: pass another OUT, which can be gone on with"
            )
        _ = self._read
        if os.path.exists(self.out) and self.out.samefile(self.source):
            raise ValueError(f"{self.out} holds the questions: pass another OUT for the results")

    @cached_property
    def _read(self) -> tuple[list[Line], list[bytes]]:
        return read_lines(self.source, strict=True)

    @property
    def questions(self) -> list[str]:
        """The questions of all lines that have one."""
        return [line.question for line in self._read[0] if line.error is None]

    def run(
        self, engine: Engine, *, progress: bool = False, stream: BinaryIO | None = None
    ) -> dict[str, Any]:
        """Answer the lines that have no result yet.

        Args:
            engine: results are only taken up by a run with the same settings of it, its model among
                them.
            progress: a bar on stderr.
            stream: where results go without an `out`.

        Returns:
            How many results there are now (lines), how many of them were there before (resumed) and
            failed, and the
            first reason for that (first_error).

        Raises:
            ValueError: see `Results`; the disk is full; the engine cannot prune so, cannot start or
                has died.
        """
        engine.check(self.pruner)
        lines, written = self._read
        if self.out is None:
            assert stream is not None
            return self._streamed(engine, stream, progress)
        with Results(
            self.out, self._settings(engine), [line.id for line in lines], written
        ) as results:
            there = len(results.records)
            again = [
                i
                for i, record in enumerate(results.records)
                if self.retry_failed and record["error"] is not None
            ]
            resumed = there - len(again)
            with tqdm(
                total=len(lines),
                initial=resumed,
                desc=self.out.name,
                unit="line",
                disable=not progress,
            ) as bar:
                self._retry(engine, results, again, bar)
                for new in self._new(engine, lines[there:]):
                    results.append(new)
                    bar.update(len(new))
            return _summary(results.records, resumed)

    def _retry(self, engine: Engine, results: Results, again: list[int], bar: Any) -> None:
        """Answer lines that failed; what is known by the time of an interruption takes their place."""
        lines, found = self._read[0], dict[int, Record]()
        try:
            for new in self._new(engine, [lines[i] for i in again]):
                found |= zip(again[len(found) :], new, strict=False)
                bar.update(len(new))
        finally:
            results.replace(found)

    def _streamed(self, engine: Engine, stream: BinaryIO, progress: bool) -> dict[str, Any]:
        lines, records = self._read[0], list[Record]()
        with tqdm(
            total=len(lines), desc=self.source.name, unit="line", disable=not progress
        ) as bar:
            for new in self._new(engine, lines):
                stream.write(as_jsonl(new))
                stream.flush()
                records += new
                bar.update(len(new))
        return _summary(records, 0)

    def _settings(self, engine: Engine) -> dict[str, Any]:
        query = self.pruner.query
        return {
            "adafv": __version__,
            **engine.settings,
            "max_new_tokens": self.max_new_tokens,
            "method": self.pruner.name,
            **options_of(self.pruner),
            "query": query.tolist() if isinstance(query, Tensor) else query,
        }

    def _new(self, engine: Engine, lines: list[Line]) -> Iterator[list[Record]]:
        """Results in the order of the lines, as many at once as there are; what comes early waits
        for its turn.
        """
        if not lines:
            return
        waiting, known = deque(lines), dict[int, Response]()
        pruners = _Pruners(self.pruner, engine)
        asked = self._asked(engine, lines, known, pruners)
        for outcomes in engine.outcomes(
            asked, self.batch_size or engine.batch_size, self.max_new_tokens
        ):
            known |= outcomes
            if new := _ready(waiting, known, pruners.specs, self.pruner.spec):
                yield new
        if new := _ready(waiting, known, pruners.specs, self.pruner.spec):
            yield new

    def _asked(
        self, engine: Engine, lines: list[Line], known: dict[int, Response], pruner_of: "_Pruners"
    ) -> Iterator[Request]:
        """The lines that can be put to an engine; the outcomes of the others become known."""
        for line in lines:
            try:
                if line.error is not None:
                    raise ValueError(line.error)
                question = check_question(engine.processor, line.question)
                pruner = pruner_of(line)
            except ValueError as error:
                known[line.number] = failed(error)
            else:
                yield Request(line.number, line.image, question, pruner)


class _Pruners:
    """The pruners of lines: the same object for the same method and budget, which is what an engine
    groups by.

    Args:
        default: that of lines which say nothing.
        engine: that has to be able to prune so.
    """

    def __init__(self, default: Pruner, engine: Engine) -> None:
        self.default, self.engine = default, engine
        self.specs: dict[int, str] = {}
        self._made: dict[tuple[Any, ...], Pruner] = {}

    def __call__(self, line: Line) -> Pruner:
        wanted = line.method, line.keep, line.tokens
        if wanted == (None, None, None):
            return self.default
        if wanted not in self._made:
            pruner = self._of(*wanted)
            self.engine.check(pruner)
            self._made[wanted] = pruner
        self.specs[line.number] = self._made[wanted].spec
        return self._made[wanted]

    def _of(self, method: str | None, keep: float | None, tokens: int | None) -> Pruner:
        if method is None:
            return replace(self.default, keep=keep, tokens=tokens)
        spec, own = without_budget(method)
        if not own and keep is None and tokens is None and spec.partition(":")[0] != "none":
            keep, tokens = self.default.keep, self.default.tokens
        return from_spec(method, self._template, keep=keep, tokens=tokens)

    def _template(self) -> frozenset[int]:
        return boilerplate(self.engine.processor)


def _ready(
    waiting: deque[Line], known: dict[int, Response], specs: Mapping[int, str], default: str
) -> list[Record]:
    """The results of the first lines that wait, as far as they are known."""
    new = []
    while waiting and waiting[0].number in known:
        line = waiting.popleft()
        empty = dict.fromkeys(("answer", "method", "visual_tokens", "kept_tokens", "error"))
        new.append(
            {"id": line.id, **empty, "method": specs.get(line.number, default)}
            | known.pop(line.number)
        )
    return new


def _summary(records: list[Record], resumed: int) -> dict[str, Any]:
    errors = [record["error"] for record in records if record["error"] is not None]
    first = errors[0] if errors else None
    return {"lines": len(records), "resumed": resumed, "failed": len(errors), "first_error": first}
