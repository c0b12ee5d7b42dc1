"""Many questions from a file, answered in batches; takes up an interrupted run where it stopped."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from adafv import __version__
from adafv.ask import check_question
from adafv.images import open_image
from adafv.load import fingerprint
from adafv.pruner import Pruner
from adafv.serving.hf import Asked, answers
from adafv.serving.jsonl import Line, Results, read_lines

__all__ = ["Batch"]

LONGEST_ERROR = 400


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
        batch_size: lines that are answered, and written, at once. Questions about the same picture share its encoding.
        max_new_tokens: the longest answer.

    Raises:
        ValueError: an input that cannot be read, is empty or has the same id twice, an `out` that is the input or no
            regular file, or a number below 1.
    """

    source: Path
    out: Path
    pruner: Pruner
    batch_size: int = 8
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value} is too few: pass 1 or more")
        if os.path.exists(self.out) and not os.path.isfile(self.out):
            raise ValueError(f"{self.out} is not a regular file: pass another OUT, which can be gone on with")
        _ = self._read
        if os.path.exists(self.out) and self.out.samefile(self.source):
            raise ValueError(f"{self.out} holds the questions: pass another OUT for the results")

    @cached_property
    def _read(self) -> tuple[list[Line], str]:
        return read_lines(self.source)

    def run(
        self, model: PreTrainedModel, processor: ProcessorMixin, *, name: str, progress: bool = False
    ) -> dict[str, Any]:
        """Answer the lines that have no result yet.

        Args:
            name: of the model; results are only taken up by a run of the same model and dtype.
            progress: a bar on stderr.

        Returns:
            How many results there are now (lines), how many of them were there before (resumed) and failed, and the
            first reason for that (first_error).

        Raises:
            ValueError: see `Results`; the disk is full.
        """
        lines = self._read[0]
        with Results(self.out, self._settings(model, name), [line.id for line in lines]) as results:
            resumed = len(results.records)
            with tqdm(total=len(lines), initial=resumed, desc=self.out.name, unit="line", disable=not progress) as bar:
                for start in range(resumed, len(lines), self.batch_size):
                    batch = lines[start : start + self.batch_size]
                    results.append(self._results(model, processor, batch))
                    bar.update(len(batch))
            errors = [record["error"] for record in results.records if record["error"] is not None]
        first = errors[0] if errors else None
        return {"lines": len(lines), "resumed": resumed, "failed": len(errors), "first_error": first}

    def _settings(self, model: PreTrainedModel, name: str) -> dict[str, Any]:
        options = {f.name: getattr(self.pruner, f.name) for f in fields(self.pruner) if f.name != "tokenizer"}
        options |= {"skip": sorted(self.pruner.skip)}
        if isinstance(query := self.pruner.query, Tensor):
            options["query"] = query.tolist()
        return {
            "adafv": __version__,
            "input": self._read[1],
            "model": name,
            "weights": fingerprint(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "max_new_tokens": self.max_new_tokens,
            "method": self.pruner.name,
            **options,
        }

    def _results(self, model: PreTrainedModel, processor: ProcessorMixin, lines: list[Line]) -> list[dict[str, Any]]:
        opened = cache(open_image)
        outcomes: dict[int, dict[str, Any]] = {}
        groups: dict[float | None, list[Asked]] = {}
        for line in lines:
            try:
                if line.error is not None:
                    raise ValueError(line.error)
                question = check_question(processor, line.question)
                pruner = self.pruner if line.keep is None else replace(self.pruner, keep=line.keep, tokens=None)
                asked = Asked(line.number, opened(line.image), question, pruner)
                groups.setdefault(line.keep, []).append(asked)
            except ValueError as error:
                outcomes[line.number] = _failed(error)
        for group in groups.values():
            found = self._outcomes(model, processor, group)
            outcomes |= zip((asked.number for asked in group), found, strict=True)
        return [self._result(line) | outcomes[line.number] for line in lines]

    def _result(self, line: Line) -> dict[str, Any]:
        empty = dict.fromkeys(("answer", "method", "visual_tokens", "kept_tokens", "error"))
        return {"id": line.id, **empty, "method": self.pruner.name}

    def _outcomes(
        self, model: PreTrainedModel, processor: ProcessorMixin, group: Sequence[Asked]
    ) -> list[dict[str, Any]]:
        """Answers to questions at one budget; of those that cannot be answered together, half by half."""
        try:
            return answers(model, processor, group, self.max_new_tokens)
        except torch.OutOfMemoryError:
            failure = ValueError("the memory of the device is too small for this picture: pass a smaller --keep")
        except ValueError as error:
            failure = error
        if len(group) == 1:
            return [_failed(failure)]
        half = len(group) // 2
        return [x for part in (group[:half], group[half:]) for x in self._outcomes(model, processor, part)]


def _failed(error: ValueError) -> dict[str, str]:
    sentence = " ".join(str(error).split())
    if len(sentence) > LONGEST_ERROR:
        sentence = f"{sentence[: LONGEST_ERROR // 2]} … {sentence[-LONGEST_ERROR // 2 :]}"
    return {"error": sentence}
