"""Training pictures: scenes of the train namespace and easy-vqa's train split, as crops with a
label per patch.
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
"""Suites of the training pictures, in turn by seed."""
NONE = -1
HIDDEN = -2
"""Labels of a patch: an index, NONE (nothing of the kind is there), HIDDEN (too small to tell, not
trained on).
"""


@dataclass
class Scenes:
    """Rendered pictures: `full` (n, 192, 192, 3), `thumb` (n, 96, 96, 3), patch labels (n, g, g,
    4), and the things.
    """

    full: np.ndarray
    thumb: np.ndarray
    full_labels: np.ndarray
    thumb_labels: np.ndarray
    things: list[tuple[Thing, ...]]
    suites: list[str]


def _owners(things: tuple[Thing, ...]) -> np.ndarray:
    """Which thing each pixel belongs to: 0 for the background, else 1 + index."""
    canvas = Image.new("L", SIZE, 0)
    for i, thing in enumerate(things):
        shape = (thing.box[2] - thing.box[0], thing.box[3] - thing.box[1])
        ink = Image.new("L", shape, 255) if thing.text else icon_mask(thing.name, max(shape))
        canvas.paste(i + 1, thing.box[:2], ink.point(lambda v: 255 if v > 90 else 0))
    return np.asarray(canvas)


def _patch_labels(owners: np.ndarray, things: tuple[Thing, ...], cell: int) -> np.ndarray:
    """Per cell of `cell` pixels: noun, colour, text, and 1 where the thing's centre lies."""
    cells = owners.shape[0] // cell
    tiles = owners.reshape(cells, cell, cells, cell).transpose(0, 2, 1, 3).reshape(cells, cells, -1)
    labels = np.full((cells, cells, 4), NONE, np.int8)
    labels[..., 3] = 0
    best = np.zeros((cells, cells), np.int32) + cell * cell // 12
    zoom = PATCH / cell
    for i, thing in enumerate(things):
        ink = (tiles == i + 1).sum(-1)
        mine = ink > best
        best = np.maximum(best, ink)
        side = max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]) * zoom
        noun = NOUNS.index(thing.name) if thing.text or side >= 10 else HIDDEN
        text = NONE if thing.text is None else TEXTS.index(thing.text)
        if thing.text is not None and (thing.box[3] - thing.box[1]) * zoom < 12:
            text = HIDDEN
        labels[mine, :3] = (noun, COLOR_WORDS.index(thing.color), text)
        row, column = (
            ((thing.box[1] + thing.box[3]) // 2) // cell,
            ((thing.box[0] + thing.box[2]) // 2) // cell,
        )
        labels[row, column, 3] = 1
    return labels


def _render(job: tuple[int, int]) -> tuple[Any, ...]:
    out = []
    for seed in range(*job):
        suite = MIX[seed % len(MIX)]
        image, things = compose(stream(seed, split="train", suite=suite, size=SIZE), suite, SIZE)
        owners = _owners(things)
        thumb = image.resize((CROP, CROP), Image.Resampling.BICUBIC)
        out.append((np.asarray(image), np.asarray(thumb), _patch_labels(owners, things, PATCH),
                    _patch_labels(owners, things, 2 * PATCH), things, suite))  # fmt: skip
    return tuple(zip(*out, strict=True))


def render(first: int, count: int, workers: int = 2) -> Scenes:
    """Draw the training scenes of seeds first … first + count − 1."""
    jobs = [(i, min(i + 500, first + count)) for i in range(first, first + count, 500)]
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            parts = pool.map(_render, jobs)
    else:
        parts = [_render(job) for job in jobs]
    full, thumb, full_labels, thumb_labels = (
        np.concatenate([np.stack(p[i]) for p in parts]) for i in range(4)
    )
    things = [t for part in parts for t in part[4]]
    return Scenes(
        full, thumb, full_labels, thumb_labels, things, [s for part in parts for s in part[5]]
    )


def crops_of(full: np.ndarray) -> np.ndarray:
    """(n, 2s, 2s, …) → (n, 4, s, s, …): the crops in the order the model sees them."""
    n, side = full.shape[0], full.shape[1] // 2
    tiles = full.reshape(n, 2, side, 2, side, *full.shape[3:])
    return np.swapaxes(tiles, 2, 3).reshape(n, 4, side, side, *full.shape[3:])


def easy_train() -> tuple[np.ndarray, np.ndarray, list[list[tuple[str, str]]]]:
    """easy-vqa's training pictures whose colour and shape its questions give away.

    Returns the three crops each becomes (n, 3, 96, 96, 3), their patch labels (n, 3, 12, 12, 4),
    and the questions.
    """
    from easy_vqa import get_train_image_paths, get_train_questions

    paths = get_train_image_paths()
    asked: dict[int, list[tuple[str, str]]] = {}
    for question, answer, index in zip(*get_train_questions(), strict=True):
        asked.setdefault(index, []).append((question, answer))
    pictures, labels, questions = [], [], []
    for index, pairs in asked.items():
        known = {w for q, a in pairs for w in [a, *([x for x in re.findall(r"\w+", q)]
                 if (a == "yes") != (" not " in q or " no " in q) else [])]}  # fmt: skip
        shape, color = (
            next((w for w in group if w in known), None) for group in (SHAPES, COLOR_WORDS)
        )
        if shape is None or color is None:
            continue
        with Image.open(paths[index]) as image:
            big = image.convert("RGB").resize((CROP, CROP), Image.Resampling.BICUBIC)
        pixels = np.asarray(big)
        ink = np.abs(pixels.astype(int) - pixels[0, 0].astype(int)).sum(-1) > 150
        share = ink.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3))
        rows, columns = np.nonzero(share)
        label = np.full((GRID, GRID, 4), NONE, np.int8)
        label[..., 3] = 0
        label[share > PATCH * PATCH // 12, :2] = (NOUNS.index(shape), COLOR_WORDS.index(color))
        if len(rows):
            label[(rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2, 3] = 1
        pictures.append(_easy_crops(pixels, 0))
        labels.append(_easy_crops(label, [NONE, NONE, NONE, 0]))
        questions.append(pairs)
    return np.stack(pictures), np.stack(labels), questions


def _easy_crops(square: np.ndarray, fill: Any) -> np.ndarray:
    """A square picture as the processor cuts it: the whole, then two halves of it padded to twice
    its width.
    """
    side = square.shape[0]
    wide = np.empty((side, 2 * side, square.shape[2]), square.dtype)
    wide[:] = fill
    wide[:, side // 2 : side // 2 + side] = square
    return np.stack([square, wide[:, :side], wide[:, side:]])
