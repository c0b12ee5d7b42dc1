"""Many questions from a file, answered by an engine; takes up an interrupted run where it stopped."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from adafv import __version__
from adafv.ask import check_question
from adafv.pruner import Pruner
from adafv.saved import options_of
from adafv.serving.engine import Asked, Engine, Outcome, failed
from adafv.serving.jsonl import Line, Results, read_lines

__all__ = ["Batch"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Questions in a JSONL file, to be answered into another.

    A line of the input is `{"image": …, "question": …}`, with "id" (text or a number; else the line's number, from 1)
    and "keep" (a share, in place of the pruner's budget) where wanted. Pictures are files, relative to the input's
    folder. A result is `{"id", "answer", "method", "visual_tokens", "kept_tokens", "error"}`, in the order of the
    input; a line that cannot be answered has its reason in "error" and null in place of answer and counts.

    Args:
        source: the questions.
        out: the results, with `….settings.json` beside it. Results that are there and were made from the same input
            (its text; pictures are taken to be the same) under the same settings are kept, failed lines included.
        pruner: the method at its budget.
        batch_size: questions that the engine has at once; None: what it does best with.
        max_new_tokens: the longest answer.

    Raises:
        ValueError: an input that cannot be read, is empty or has the same id twice, an `out` that is the input or no
            regular file, or a number below 1.
    """

    source: Path
    out: Path
    pruner: Pruner
    batch_size: int | None = None
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} is too few: pass 1 or more")
        if os.path.exists(self.out) and not os.path.isfile(self.out):
            raise ValueError(f"{self.out} is not a regular file: pass another OUT, which can be gone on with")
        _ = self._read
        if os.path.exists(self.out) and self.out.samefile(self.source):
            raise ValueError(f"{self.out} holds the questions: pass another OUT for the results")

    @cached_property
    def _read(self) -> tuple[list[Line], str]:
        return read_lines(self.source)

    def run(self, engine: Engine, *, progress: bool = False) -> dict[str, Any]:
        """Answer the lines that have no result yet.

        Args:
            engine: results are only taken up by a run with the same settings of it, its model among them.
            progress: a bar on stderr.

        Returns:
            How many results there are now (lines), how many of them were there before (resumed) and failed, and the
            first reason for that (first_error).

        Raises:
            ValueError: see `Results`; the disk is full; the engine cannot prune so, cannot start or has died.
        """
        engine.check(self.pruner)
        lines = self._read[0]
        with Results(self.out, self._settings(engine), [line.id for line in lines]) as results:
            resumed = len(results.records)
            with tqdm(total=len(lines), initial=resumed, desc=self.out.name, unit="line", disable=not progress) as bar:
                for new in self._new(engine, lines[resumed:]):
                    results.append(new)
                    bar.update(len(new))
            errors = [record["error"] for record in results.records if record["error"] is not None]
        first = errors[0] if errors else None
        return {"lines": len(lines), "resumed": resumed, "failed": len(errors), "first_error": first}

    def _settings(self, engine: Engine) -> dict[str, Any]:
        query = self.pruner.query
        return {
            "adafv": __version__,
            "input": self._read[1],
            **engine.settings,
            "max_new_tokens": self.max_new_tokens,
            "method": self.pruner.name,
            **options_of(self.pruner),
            "query": query.tolist() if isinstance(query, Tensor) else query,
        }

    def _new(self, engine: Engine, lines: list[Line]) -> Iterator[list[dict[str, Any]]]:
        """Results in the order of the lines, as many at once as there are; what comes early waits for its turn."""
        waiting, known = deque(lines), dict[int, Outcome]()
        asked = self._asked(engine, lines, known)
        for outcomes in engine.outcomes(asked, self.batch_size or engine.batch_size, self.max_new_tokens):
            known |= outcomes
            if new := self._ready(waiting, known):
                yield new
        if new := self._ready(waiting, known):
            yield new

    def _asked(self, engine: Engine, lines: list[Line], known: dict[int, Outcome]) -> Iterator[Asked]:
        """The lines that can be put to an engine; the outcomes of the others become known."""
        for line in lines:
            try:
                if line.error is not None:
                    raise ValueError(line.error)
                question = check_question(engine.processor, line.question)
                pruner = self.pruner if line.keep is None else replace(self.pruner, keep=line.keep, tokens=None)
            except ValueError as error:
                known[line.number] = failed(error)
            else:
                yield Asked(line.number, line.image, question, pruner)

    def _ready(self, waiting: deque[Line], known: dict[int, Outcome]) -> list[dict[str, Any]]:
        new = []
        while waiting and waiting[0].number in known:
            line = waiting.popleft()
            empty = dict.fromkeys(("answer", "method", "visual_tokens", "kept_tokens", "error"))
            new.append({"id": line.id, **empty, "method": self.pruner.name} | known.pop(line.number))
        return new
