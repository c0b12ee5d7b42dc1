"""Whether a model can be asked what a file asks, before any of it is answered."""

from collections.abc import Sequence
from pathlib import Path

from transformers import ProcessorMixin

from adafv.evaluation.own import ImageFile
from adafv.models.prompting import check_question
from adafv.utils.checks import checked

__all__ = ["check_questions"]


@checked
def check_questions(
    images: Sequence[ImageFile], path: str | Path, processor: ProcessorMixin
) -> None:
    """Raise a `ValueError` that names the line of a question that a model cannot be asked."""
    for image in images:
        for question, line in zip(image.questions, image.lines, strict=True):
            try:
                check_question(processor, question.text)
            except ValueError as error:
                raise ValueError(f"line {line} of {path}: {error}") from None
