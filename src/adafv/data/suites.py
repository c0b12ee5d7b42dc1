"""The suites by name: three drawn by code, and the public test split of the PyPI package easy-vqa."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from PIL import Image

from adafv.data.sample import Question, Sample
from adafv.data.scenes import SCENE_SUITES, draw

SUITES: tuple[str, ...] = (*SCENE_SUITES, "easy-vqa")
DRAWN_QUESTIONS = 2_000
"""Questions of a drawn suite where no limit is given."""
_SEEDS = 1_000_000
"""Pictures a seed of `load_suite` has for itself."""


def load_suite(
    name: str, limit: int | None = None, seed: int = 0, split: str = "test"
) -> Iterator[Sample]:
    """Samples of suite `name` with `limit` questions in all; the last sample is cut to fit.

    `seed` chooses the pictures of a drawn suite; easy-vqa has one order, and a test split alone.
    Raises ValueError for an unknown name, a limit below 1, a negative seed, or a split that the
    suite lacks.
    """
    total = suite_length(name, limit)
    if seed < 0:
        raise ValueError(f"seed={seed} is negative; use 0 or more")
    if name == "easy-vqa" and split != "test":
        raise ValueError(f"split={split!r} of easy-vqa is not to be had: leave the suite out")
    return _cut(_easy_vqa() if name == "easy-vqa" else _drawn(name, seed, split), total)


def suites_of(split: str) -> tuple[str, ...]:
    """The suites that have this split."""
    return SUITES if split == "test" else SCENE_SUITES


def suite_length(name: str, limit: int | None = None) -> int:
    """How many questions `load_suite(name, limit)` asks."""
    if name not in SUITES:
        raise ValueError(f"suite {name!r} is unknown; known: {', '.join(SUITES)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} asks for no question; use 1 or more, or None for all")
    whole = len(_easy_questions()[0]) if name == "easy-vqa" else DRAWN_QUESTIONS
    return whole if limit is None else min(limit, whole) if name == "easy-vqa" else limit


def _cut(samples: Iterator[Sample], total: int) -> Iterator[Sample]:
    for sample in samples:
        if len(sample.questions) >= total:
            yield replace(sample, questions=sample.questions[:total])
            return
        total -= len(sample.questions)
        yield sample


def _drawn(name: str, seed: int, split: str) -> Iterator[Sample]:
    for index in count(seed * _SEEDS):
        yield draw(index, split=split, suite=name)


@functools.cache
def _easy_questions() -> tuple[list[str], list[str], list[int]]:
    from easy_vqa import get_test_questions

    questions, answers, images = get_test_questions()
    return questions, answers, images


def _easy_vqa() -> Iterator[Sample]:
    from easy_vqa import get_test_image_paths

    paths = get_test_image_paths()
    asked: dict[int, list[Question]] = {}
    for text, answer, image in zip(*_easy_questions(), strict=True):
        asked.setdefault(image, []).append(Question(text, answer, _easy_type(answer), ()))
    for index, questions in asked.items():
        with Image.open(paths[index]) as picture:
            yield Sample(f"easy-vqa/test/{index}", picture.convert("RGB"), tuple(questions), ())


def _easy_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "exists"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "color"
