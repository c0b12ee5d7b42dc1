"""Questions whose boxes are known: the drawn suites, and a user's own images."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from adafv.data.sample import Sample
from adafv.data.scenes import SPLITS
from adafv.data.suites import load_suite, suite_length
from adafv.evaluation.own import (
    check_suite,
    file_of,
    is_own,
    name_of,
    own_samples,
    read_images,
)
from adafv.utils.checks import checked, has_surrogate

__all__ = ["SUITE_QUESTIONS", "Source", "from_boxes", "from_suite"]

SUITE_QUESTIONS = 200
"""Questions of a suite where no limit is given."""

_EXAMPLE = '{"image": "a.png", "question": "what is on the table?", "boxes": [[10, 20, 60, 80]]}'


@dataclass(frozen=True)
class Source:
    """Images with questions.

    Attributes:
        name: of where they come from.
        samples: the images; they can be gone through once.
        questions: how many they make.
        files: that they are read from.
    """

    name: str
    samples: Iterable[Sample]
    questions: int
    files: tuple[Path, ...] = ()


def from_suite(name: str, limit: int, seed: int = 0, split: str = "test") -> Source:
    """Return `limit` questions of a suite, built in or own as `adafv.evaluation` reads them.

    Own ones are asked as they are, whatever seed and split.

    Raises:
        ValueError: an unknown name or split, a limit below 1, a negative seed, or own questions
            that are wrong or without a box.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown: pass one of {', '.join(SPLITS)}")
    if is_own(name):
        check_suite(name)
        return replace(from_boxes(file_of(name), limit), name=name_of(name))
    return Source(name, load_suite(name, limit, seed, split), suite_length(name, limit))


@checked
def from_boxes(path: str | Path, limit: int | None = None) -> Source:
    """Return a user's own questions, with the boxes of what must be looked at to answer them.

    Args:
        path: a JSONL file, see `adafv.evaluation.own.read_images`; a question without boxes is read
            and not measured.
        limit: questions; None: all.

    Raises:
        ValueError: see `read_images`; a limit below 1, a name that is not UTF-8, or a file in which
            no question has boxes.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} asks for no question; use 1 or more, or None for all")
    # it stands on the figures
    if has_surrogate(path.name):
        raise ValueError(f"{str(path)!r} has a name that is not UTF-8: give it another")
    images = read_images(path)
    questions = [question for image in images for question in image.questions]
    if not any(question.boxes for question in questions):
        raise ValueError(f"no question of {path} has boxes: write lines such as {_EXAMPLE}")
    total = len(questions) if limit is None else min(limit, len(questions))
    files = (path, *(Path(image.path) for image in images))
    return Source(path.name, own_samples(images, limit), total, files)
