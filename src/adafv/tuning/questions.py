"""The two halves of a user's own questions."""

import random
from collections.abc import Sequence
from pathlib import Path

from adafv.evaluation.own import ImageFile, read_images
from adafv.utils.checks import checked

__all__ = ["halves", "images_of"]


@checked
def images_of(path: Path) -> list[ImageFile]:
    """Return the questions of a JSONL file by image, at least two.

    Raises:
        ValueError: see `read_images`; a single image.
    """
    images = read_images(path)
    if len({image.checksum for image in images}) < 2:
        # one half chooses, the other reports
        raise ValueError(
            f"{path} asks about one image, which cannot be split into halves: add lines on others"
        )
    return images


@checked
def halves(images: Sequence[ImageFile], seed: int) -> tuple[list[ImageFile], list[ImageFile]]:
    """Draw two halves at random, each in the order of the file; the first has the odd one out."""
    # whole images, and all copies: questions on one image go right or wrong together
    checksums = list(dict.fromkeys(image.checksum for image in images))
    random.Random(seed).shuffle(checksums)
    chosen = set(checksums[: (len(checksums) + 1) // 2])
    first: list[ImageFile] = []
    second: list[ImageFile] = []
    for image in images:
        half = first if image.checksum in chosen else second
        half.append(image)
    return first, second
