"""Make training images, as crops with a label for every patch.

They are scenes of the train namespace, and easy-vqa's train split.
"""

from __future__ import annotations

import multiprocessing
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from adafv.data.canvas import icon_mask
from adafv.data.scenes import Thing, compose, stream
from training.embedded.recipe import COLOR_WORDS, CROP, GRID, NOUNS, PATCH, SHAPES, TEXTS

SIZE = (2 * CROP, 2 * CROP)
MIX = ("scenes", "scenes-small", "scenes", "scenes-text")
"""Suites of the training images, in turn by seed."""
# Labels of a patch that are no index: nothing of the kind is there; too small to tell, and so not
# trained on.
NONE = -1
HIDDEN = -2


@dataclass
class Scenes:
    """Rendered images, I of them.

    Attributes:
        full: (I, 192, 192, 3) uint8.
        thumb: (I, 96, 96, 3) uint8.
        full_labels: (I, 24, 24, 4) of the patches: noun, colour, text, and 1 where a centre is.
        thumb_labels: (I, 12, 12, 4), the same of the thumbnail's.
        things: in each image.
        suites: each image's.
    """

    full: np.ndarray
    thumb: np.ndarray
    full_labels: np.ndarray
    thumb_labels: np.ndarray
    things: list[tuple[Thing, ...]]
    suites: list[str]


def _owners(things: tuple[Thing, ...]) -> np.ndarray:
    """Return which thing each pixel belongs to: 0 for the background, else 1 + index."""
    canvas = Image.new("L", SIZE, 0)
    for i, thing in enumerate(things):
        shape = (thing.box[2] - thing.box[0], thing.box[3] - thing.box[1])
        # a card with text is a full rectangle, an icon has a shape of its own
        ink = Image.new("L", shape, 255) if thing.text else icon_mask(thing.name, max(shape))
        canvas.paste(i + 1, thing.box[:2], ink.point(lambda v: 255 if v > 90 else 0))
    return np.asarray(canvas)


def _patch_labels(owners: np.ndarray, things: tuple[Thing, ...], cell: int) -> np.ndarray:
    """Return for each cell of `cell` pixels: noun, colour, text, 1 where a thing's centre lies."""
    # (192, 192) → (cells, cells, pixels of a cell)
    cells = owners.shape[0] // cell
    tiles = owners.reshape(cells, cell, cells, cell).transpose(0, 2, 1, 3).reshape(cells, cells, -1)
    labels = np.full((cells, cells, 4), NONE, np.int8)
    labels[..., 3] = 0
    # a cell belongs to the thing with the most ink in it, if that is a twelfth of it
    best = np.zeros((cells, cells), np.int32) + cell * cell // 12
    zoom = PATCH / cell  # of a thing, as the tower sees it
    for i, thing in enumerate(things):
        ink = (tiles == i + 1).sum(-1)
        mine = ink > best
        best = np.maximum(best, ink)
        # what is too small to tell is not trained on
        side = max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]) * zoom
        noun = NOUNS.index(thing.name) if thing.text or side >= 10 else HIDDEN
        text = NONE if thing.text is None else TEXTS.index(thing.text)
        if thing.text is not None and (thing.box[3] - thing.box[1]) * zoom < 12:
            text = HIDDEN
        labels[mine, :3] = (noun, COLOR_WORDS.index(thing.color), text)
        row = (thing.box[1] + thing.box[3]) // 2 // cell
        column = (thing.box[0] + thing.box[2]) // 2 // cell
        labels[row, column, 3] = 1
    return labels


def _render(job: tuple[int, int]) -> tuple[Any, ...]:
    """Draw the scenes of some seeds; returns a column for each attribute of `Scenes`."""
    out = []
    for seed in range(*job):
        suite = MIX[seed % len(MIX)]
        image, things = compose(stream(seed, split="train", suite=suite, size=SIZE), suite, SIZE)
        owners = _owners(things)
        thumb = image.resize((CROP, CROP), Image.Resampling.BICUBIC)
        # a patch of the thumbnail is two by two patches of the full image
        full_labels = _patch_labels(owners, things, PATCH)
        thumb_labels = _patch_labels(owners, things, 2 * PATCH)
        pixels = (np.asarray(image), np.asarray(thumb))
        out.append((*pixels, full_labels, thumb_labels, things, suite))
    return tuple(zip(*out, strict=True))


def render(first: int, count: int, workers: int = 2) -> Scenes:
    """Draw the training scenes of seeds first … first + count − 1."""
    end = first + count
    jobs = [(i, min(i + 500, end)) for i in range(first, end, 500)]
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            parts = pool.map(_render, jobs)
    else:
        parts = [_render(job) for job in jobs]

    # put the jobs' columns together
    things: list[tuple[Thing, ...]] = []
    suites: list[str] = []
    for part in parts:
        things += part[4]
        suites += part[5]
    return Scenes(
        full=_joined(parts, 0),
        thumb=_joined(parts, 1),
        full_labels=_joined(parts, 2),
        thumb_labels=_joined(parts, 3),
        things=things,
        suites=suites,
    )


def _joined(parts: list[tuple[Any, ...]], column: int) -> np.ndarray:
    """Return one column of all jobs as an array (I, …)."""
    return np.concatenate([np.stack(part[column]) for part in parts])


def crops_of(full: np.ndarray) -> np.ndarray:
    """Cut images (I, 2s, 2s, …) into crops (I, 4, s, s, …), in the order the model sees them."""
    count = full.shape[0]
    side = full.shape[1] // 2
    # (I, 2, s, 2, s, …) → (I, 2, 2, s, s, …)
    tiles = full.reshape(count, 2, side, 2, side, *full.shape[3:])
    return np.swapaxes(tiles, 2, 3).reshape(count, 4, side, side, *full.shape[3:])


def easy_train() -> tuple[np.ndarray, np.ndarray, list[list[tuple[str, str]]]]:
    """Return easy-vqa's training images whose colour and shape its questions give away.

    Returns:
        The three crops that each becomes (I, 3, 96, 96, 3), their patch labels (I, 3, 12, 12, 4),
        and the questions.
    """
    from easy_vqa import get_train_image_paths, get_train_questions

    paths = get_train_image_paths()
    by_image: dict[int, list[tuple[str, str]]] = {}
    for question, answer, index in zip(*get_train_questions(), strict=True):
        by_image.setdefault(index, []).append((question, answer))

    crops = []
    labels = []
    questions = []
    for index, pairs in by_image.items():
        known = _given_away(pairs)
        shape = next((word for word in SHAPES if word in known), None)
        color = next((word for word in COLOR_WORDS if word in known), None)
        if shape is None or color is None:
            continue

        # the shape is what differs from the background, which the first pixel is of
        with Image.open(paths[index]) as image:
            big = image.convert("RGB").resize((CROP, CROP), Image.Resampling.BICUBIC)
        pixels = np.asarray(big)
        ink = np.abs(pixels.astype(int) - pixels[0, 0].astype(int)).sum(-1) > 150
        # ink of each patch: (96, 96) → (12, 12)
        share = ink.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3))
        rows, columns = np.nonzero(share)
        label = np.full((GRID, GRID, 4), NONE, np.int8)
        label[..., 3] = 0
        label[share > PATCH * PATCH // 12, :2] = (NOUNS.index(shape), COLOR_WORDS.index(color))
        if len(rows):
            label[(rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2, 3] = 1
        crops.append(_easy_crops(pixels, 0))
        labels.append(_easy_crops(label, [NONE, NONE, NONE, 0]))
        questions.append(pairs)
    return np.stack(crops), np.stack(labels), questions


def _given_away(pairs: list[tuple[str, str]]) -> set[str]:
    """Return words that hold of an image by its questions and answers."""
    known = set()
    for question, answer in pairs:
        known.add(answer)
        # "is there a red shape? yes", or "is there not …? no"
        negated = " not " in question or " no " in question
        if (answer == "yes") != negated:
            known.update(re.findall(r"\w+", question))
    return known


def _easy_crops(square: np.ndarray, fill: Any) -> np.ndarray:
    """Cut a square image as the processor does: all of it, then both halves of it padded.

    Args:
        square: (s, s, C).
        fill: of what is padded to twice the width.

    Returns:
        (3, s, s, C)
    """
    side = square.shape[0]
    wide = np.empty((side, 2 * side, square.shape[2]), square.dtype)
    wide[:] = fill
    wide[:, side // 2 : side // 2 + side] = square
    return np.stack([square, wide[:, :side], wide[:, side:]])
