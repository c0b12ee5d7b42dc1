"""Find the questions that need more than a smaller image.

The filter of VTC-Bench (arXiv 2510.07143): where an image shrunk to the same budget answers, nobody
needs a method.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from adafv.utils.checks import checked

__all__ = ["BEYOND_RESIZE", "beyond_resize", "question_of"]

RESIZE = "resize"  # the method; its class would import PyTorch
BEYOND_RESIZE = "beyond resize"
"""The type of questions that all tokens answer, and an image shrunk to the same budget does not."""


@checked
def beyond_resize(
    groups: Mapping[tuple[str, str, float], Mapping[str, Iterable[dict[str, Any]]]],
) -> set[Hashable]:
    """Return the questions that all tokens answer and an image shrunk to the same budget does not.

    Returns:
        Suite, image, question and budget of each.
    """
    right = set()
    for (_, name, keep), types in groups.items():
        if name == "none" and keep == 1:
            for answer in types["all"]:
                if answer["correct"]:
                    right.add(question_of(answer))

    found: set[Hashable] = set()
    for (_, name, keep), types in groups.items():
        # with options or without
        if name.partition(":")[0] == RESIZE:
            for answer in types["all"]:
                if not answer["correct"] and question_of(answer) in right:
                    found.add(question_of(answer, keep))
    return found


@checked
def question_of(answer: Mapping[str, Any], *more: float) -> tuple[Hashable, ...]:
    """Return what tells a question from others, and `more` behind it."""
    return (answer["suite"], answer["id"], answer["question"], *more)
