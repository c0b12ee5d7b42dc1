"""Compose clips of photographed things on contact sheets, and ask what passes.

A clip is four frames before one photograph. Each of its things stands, passes or is there for one
frame. The photo model reads images, so the frames lie on one, two by two.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from adafv.data.sample import Box
from training.photo.names import called_alike, with_article
from training.photo.pictures import open_picture
from training.photo.questions import Question, questions
from training.photo.scenes import PIXELS, Thing, name_weights, photograph, pictures_by_name, posed

__all__ = ["FRAMES", "FRAME_GRID", "Clip", "ask", "ask_over_time", "compose_clip"]

FRAME_GRID = (2, 2)  # rows and columns of frames
FRAMES = FRAME_GRID[0] * FRAME_GRID[1]
SIDE = PIXELS // FRAME_GRID[0]  # pixels of a frame
SIZES = (52, 84)  # the longer side of a thing, in pixels
PATH = 60  # pixels that a thing passes over at least
TRIES = 40
ROLES = ("stands", "passes", "appears")
# Types that are asked as of an image.
OF_IMAGES = ("exists", "either", "kind", "colour")

Position = tuple[int, int]
"""left and top in a frame, in pixels"""


@dataclass(frozen=True)
class Clip:
    """A contact sheet with what it shows.

    Attributes:
        image: (PIXELS, PIXELS), its frames in reading order.
        things: each where it is first seen.
        paths: of each thing the positions, a frame each; None: it isn't there.
        boxes: of each thing those of all frames that show it, on the image.
    """

    image: Image.Image
    things: tuple[Thing, ...]
    paths: tuple[tuple[Position | None, ...], ...]
    boxes: tuple[tuple[Box, ...], ...]


def compose_clip(number: int) -> Clip:
    """Compose a clip of pictures that the bridge was trained on; its number alone decides it."""
    random = np.random.default_rng([zlib.crc32(b"clip"), number])
    background = photograph(random).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    frames = [background.copy() for _ in range(FRAMES)]
    taken = np.zeros((FRAMES, SIDE, SIDE), dtype=bool)
    things = []
    paths = []
    boxes = []
    pictures = pictures_by_name("train")
    names = random.choice(
        sorted(pictures), size=random.integers(2, 4), replace=False, p=name_weights("train")
    )
    for name in names:
        row = pictures[name][random.integers(len(pictures[name]))]
        cutout = posed(open_picture(row["id"]), int(random.integers(*SIZES)), random)
        path = _free_path(taken, cutout, random)
        if path is None:
            continue
        own = []
        opaque = np.asarray(cutout.getchannel("A")) > 128
        for frame, position in enumerate(path):
            if position is None:
                continue
            left, top = position
            frames[frame].paste(cutout, position, cutout)
            taken[frame, top : top + cutout.height, left : left + cutout.width] |= opaque
            own.append(_on_image(frame, position, cutout.size))
        things.append(Thing(row["name"], row["kind"], row["colour"], row["id"], own[0]))
        paths.append(path)
        boxes.append(tuple(own))

    image = Image.new("RGB", (PIXELS, PIXELS))
    for frame, picture in enumerate(frames):
        image.paste(picture, (frame % FRAME_GRID[1] * SIDE, frame // FRAME_GRID[1] * SIDE))
    return Clip(image, tuple(things), tuple(paths), tuple(boxes))


def _free_path(
    taken: np.ndarray, cutout: Image.Image, random: np.random.Generator
) -> tuple[Position | None, ...] | None:
    """Find positions, a frame each, where a thing covers nothing; None: there is no room."""
    opaque = np.asarray(cutout.getchannel("A")) > 128
    width, height = cutout.size
    if max(width, height) >= SIDE:
        return None
    for _ in range(TRIES):
        path = _path(SIDE - width, SIDE - height, random)
        free = True
        for frame, position in enumerate(path):
            if position is not None:
                left, top = position
                covered = taken[frame, top : top + height, left : left + width] & opaque
                free &= not covered.any()
        if free:
            return path
    return None


def _path(
    last_left: int, last_top: int, random: np.random.Generator
) -> tuple[Position | None, ...]:
    """Draw where a thing is in each frame."""
    role = ROLES[int(random.integers(len(ROLES)))]
    left = int(random.integers(last_left + 1))
    top = int(random.integers(last_top + 1))
    if role == "appears":
        shown = int(random.integers(FRAMES))
        return tuple((left, top) if frame == shown else None for frame in range(FRAMES))
    if role == "stands" or last_left < PATH:
        return ((left, top),) * FRAMES
    # in equal steps from one side to the other
    start = int(random.integers(last_left - PATH + 1))
    end = int(random.integers(start + PATH, last_left + 1))
    if random.random() < 0.5:
        start, end = end, start
    steps = np.linspace(start, end, FRAMES).round().astype(int).tolist()
    return tuple((step, top) for step in steps)


def _on_image(frame: int, position: Position, size: tuple[int, int]) -> Box:
    """Return the box of a thing of a frame, on the image."""
    left = frame % FRAME_GRID[1] * SIDE + position[0]
    top = frame // FRAME_GRID[1] * SIDE + position[1]
    return left, top, left + size[0], top + size[1]


def ask(clip: Clip, random: np.random.Generator) -> list[Question]:
    """Ask what is to be seen in any frame, one question of a type."""
    found: dict[str, Question] = {}
    for question in questions(clip.things, random, 8, OF_IMAGES):
        found.setdefault(question.type, question)
    return list(found.values())


def ask_over_time(clip: Clip, random: np.random.Generator) -> list[Question]:
    """Ask which way things go, how often and in which order they come."""
    made = (_way(clip, random), _times(clip, random), _order(clip, random))
    return [question for question in made if question is not None]


def _way(clip: Clip, random: np.random.Generator) -> Question | None:
    passing = []
    for index, path in enumerate(clip.paths):
        first, last = path[0], path[-1]
        if first is not None and last is not None and first != last:
            passing.append((index, "right" if last[0] > first[0] else "left"))
    if not passing:
        return None
    index, way = passing[int(random.integers(len(passing)))]
    text = f"Does the {clip.things[index].name} move to the left or to the right?"
    return Question(text, f"To the {way}", "way", (index,), (way,))


def _times(clip: Clip, random: np.random.Generator) -> Question:
    index = int(random.integers(len(clip.things)))
    text = f"In how many of the four pictures is there {with_article(clip.things[index].name)}?"
    return Question(text, str(len(clip.boxes[index])), "times", (index,))


def _order(clip: Clip, random: np.random.Generator) -> Question | None:
    once = []
    for index, path in enumerate(clip.paths):
        shown = [frame for frame, position in enumerate(path) if position is not None]
        if len(shown) == 1:
            once.append((shown[0], index))
    once.sort()
    if len(once) < 2 or once[0][0] == once[1][0]:
        return None
    first, second = clip.things[once[0][1]].name, clip.things[once[1][1]].name
    if called_alike(first, second):
        return None
    named = [with_article(first), with_article(second)]
    random.shuffle(named)
    text = f"Which comes first, {named[0]} or {named[1]}?"
    return Question(text, with_article(first), "order", (once[0][1], once[1][1]))
