"""The suites by name: drawn scenes, pages, videos, and the test split of easy-vqa."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from PIL import Image

from adafv.data.pages import draw_page
from adafv.data.sample import Question, Sample
from adafv.data.scenes import SCENE_SUITES, draw
from adafv.data.videos import VIDEO_SUITE, draw_video

PAGES = "pages"
SUITES: tuple[str, ...] = (*SCENE_SUITES, "easy-vqa", PAGES, VIDEO_SUITE)
"""All of them. What the embedded model's words can ask of images, see `suites_of`, is the default.
"""
DRAWN_QUESTIONS = 2_000
"""Questions of a drawn suite where no limit is given."""
_SEEDS = 1_000_000
"""Images that a seed of `load_suite` has for itself."""


def load_suite(
    name: str, limit: int | None = None, seed: int = 0, split: str = "test"
) -> Iterator[Sample]:
    """Return samples of a suite with `limit` questions in all; the last sample is cut to fit.

    Args:
        name: of the suite.
        limit: questions; None: all.
        seed: chooses the images of a drawn suite; easy-vqa has one order.
        split: easy-vqa has a test split alone.

    Raises:
        ValueError: an unknown name, a limit below 1, a negative seed, or a split that the suite
            lacks.
    """
    # bad arguments are refused here, not when the first sample is drawn
    total = suite_length(name, limit)
    if seed < 0:
        raise ValueError(f"seed={seed} is negative; use 0 or more")
    if name == "easy-vqa" and split != "test":
        raise ValueError(f"split={split!r} of easy-vqa is not to be had: leave the suite out")
    samples = _easy_vqa() if name == "easy-vqa" else _drawn(name, seed, split)
    return _cut(samples, total)


def suites_of(split: str) -> tuple[str, ...]:
    """Return the suites of images that have this split and ask in words of the embedded model."""
    return (*SCENE_SUITES, "easy-vqa") if split == "test" else SCENE_SUITES


def suite_length(name: str, limit: int | None = None) -> int:
    """Return how many questions `load_suite(name, limit)` asks."""
    if name not in SUITES:
        raise ValueError(f"suite {name!r} is unknown; known: {', '.join(SUITES)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} asks for no question; use 1 or more, or None for all")

    # drawn suites have no end
    if name != "easy-vqa":
        return DRAWN_QUESTIONS if limit is None else limit
    count = len(_easy_questions()[0])
    return count if limit is None else min(limit, count)


def _cut(samples: Iterator[Sample], total: int) -> Iterator[Sample]:
    """Yield samples up to `total` questions."""
    for sample in samples:
        # the last one is cut to fit
        if len(sample.questions) >= total:
            yield replace(sample, questions=sample.questions[:total])
            return
        total -= len(sample.questions)
        yield sample


def _drawn(name: str, seed: int, split: str) -> Iterator[Sample]:
    # no two seeds share an image
    for index in count(seed * _SEEDS):
        if name == PAGES:
            yield draw_page(index, split=split)
        elif name == VIDEO_SUITE:
            yield draw_video(index, split=split)
        else:
            yield draw(index, split=split, suite=name)


@functools.cache
def _easy_questions() -> tuple[list[str], list[str], list[int]]:
    """Return questions, answers and indices of images of the test split."""
    from easy_vqa import get_test_questions  # reads its files when it is imported

    questions, answers, images = get_test_questions()
    return questions, answers, images


def _easy_vqa() -> Iterator[Sample]:
    from easy_vqa import get_test_image_paths

    # the questions on an image stand anywhere in the file
    paths = get_test_image_paths()
    asked: dict[int, list[Question]] = {}
    for text, answer, image in zip(*_easy_questions(), strict=True):
        asked.setdefault(image, []).append(Question(text, answer, _easy_type(answer), ()))
    for index, questions in asked.items():
        with Image.open(paths[index]) as opened:
            pixels = opened.convert("RGB")
        # nobody has said what is on them, hence no things
        yield Sample(f"easy-vqa/test/{index}", pixels, tuple(questions), ())


def _easy_type(answer: str) -> str:
    """Return the type of a question, which its answer tells."""
    if answer in ("yes", "no"):
        return "exists"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "color"
