"""Composed videos: frames in which drawn things stand, pass and appear, and what to ask about them.

A video is a pure function of (split, seed). Its frames are shown on one image, a contact sheet in
reading order, since the embedded model reads images. `benchmarks/clips` says what it can be asked
that way, and what it can't.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from adafv.data.canvas import (
    CARD,
    COLORS,
    ICONS,
    WORDS,
    background,
    card_masks,
    icon_mask,
    ink_color,
)
from adafv.data.sample import Box, Question, Sample, Thing
from adafv.data.scene_questions import ask
from adafv.data.scenes import SPLITS, stream
from adafv.utils.checks import checked

__all__ = ["FRAMES", "SIDE", "VIDEO_SUITE", "Track", "compose_video", "draw_video"]

VIDEO_SUITE = "clips"
GRID = (2, 2)  # rows and columns of frames
FRAMES = GRID[0] * GRID[1]
SIDE = 96
"""Width and height of a frame, in pixels."""
SIZE = (GRID[1] * SIDE, GRID[0] * SIDE)  # of the contact sheet
ICON = (20, 32)  # the longer side of an icon, in pixels
LETTERS = (12, 16)  # of a card
MARGIN = 4  # pixels between things of a frame
PATH = 36  # pixels that a thing passes over at least
TRIES = 40
TOGETHER = ("beside", "text")
"""Types whose question names one thing and asks for another of the same frame."""


@dataclass(frozen=True)
class Track:
    """One thing over time.

    Attributes:
        name: of an icon, or "card".
        color: its name.
        pixels: the icon's longer side, or the font size of a card.
        boxes: where it is in each frame; None where it isn't to be seen.
        text: of a card.
    """

    name: str
    color: str
    pixels: int
    boxes: tuple[Box | None, ...]
    text: str | None = None

    @property
    def seen(self) -> int:
        """Return in how many frames it is to be seen."""
        return sum(box is not None for box in self.boxes)


class _Director:
    """Draws what a video is made of.

    The order in which numbers are drawn decides what a seed shows: it must not change.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        # names, words and colours of cards come once in a video
        self.names = rng.sample(list(ICONS), len(ICONS))
        self.texts = rng.sample(WORDS, len(WORDS))
        self.card_colors = rng.sample(list(COLORS), len(COLORS))
        # else two things would hardly ever share a colour
        self.favourite = rng.choice(list(COLORS))
        self.tracks: list[Track] = []

    def direct(self) -> None:
        """Compose a video: what stands, what passes, and what is there for one frame."""
        rng = self.rng
        if rng.random() < 0.6:
            self.icon(FRAMES)
        for _ in range(rng.randint(1, 2)):
            self.icon(rng.randint(2, 3), PATH)
        for _ in range(rng.randint(2, 4)):
            self.icon(1)
        if rng.random() < 0.6:
            self.card()

    def icon(self, count: int, path: int = 0) -> None:
        """Place an icon in `count` frames that follow one another, moved by at least `path`."""
        rng = self.rng
        name = self.names.pop()
        color = self.favourite if rng.random() < 0.4 else rng.choice(list(COLORS))
        pixels = rng.randint(*ICON)
        boxes = self.place(icon_mask(name, pixels).size, count, path)
        if boxes:
            self.tracks.append(Track(name, color, pixels, boxes))

    def card(self) -> None:
        """Place a card in one frame."""
        text = self.texts.pop()
        pixels = self.rng.randint(*LETTERS)
        boxes = self.place(card_masks(text, pixels)[0].size, 1, 0)
        if boxes:
            self.tracks.append(Track(CARD, self.card_colors.pop(), pixels, boxes, text))

    def place(self, shape: tuple[int, int], count: int, path: int) -> tuple[Box | None, ...]:
        """Return where something is in each frame; nothing where no room was found."""
        for _ in range(TRIES):
            # from one point to another in equal steps, or at rest
            start = self.rng.randint(0, FRAMES - count)
            origin = self.point(shape)
            goal = self.point(shape) if path else origin
            if abs(goal[0] - origin[0]) + abs(goal[1] - origin[1]) < path:
                continue
            boxes: list[Box | None] = [None] * FRAMES
            for step in range(count):
                share = step / max(1, count - 1)
                x = round(origin[0] + share * (goal[0] - origin[0]))
                y = round(origin[1] + share * (goal[1] - origin[1]))
                boxes[start + step] = (x, y, x + shape[0], y + shape[1])
            if self.free(boxes):
                return tuple(boxes)
        return ()

    def point(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Draw a left upper corner inside a frame."""
        x = self.rng.randint(2, SIDE - 2 - shape[0])
        return x, self.rng.randint(2, SIDE - 2 - shape[1])

    def free(self, boxes: list[Box | None]) -> bool:
        """Tell if boxes are away from all that is placed, frame by frame."""
        for track in self.tracks:
            for box, other in zip(boxes, track.boxes, strict=True):
                if box and other and not _clear(box, other):
                    return False
        return True


def _clear(box: Box, other: Box) -> bool:
    """Tell if two boxes are at least `MARGIN` pixels from each other."""
    beside = box[2] + MARGIN <= other[0] or other[2] + MARGIN <= box[0]
    over = box[3] + MARGIN <= other[1] or other[3] + MARGIN <= box[1]
    return beside or over


@checked
def compose_video(rng: random.Random) -> tuple[list[Image.Image], tuple[Track, ...]]:
    """Draw the frames of a video, before one background; return them with all that is on them."""
    director = _Director(rng)
    director.direct()
    behind = background(rng, (SIDE, SIDE))
    frames = []
    for number in range(FRAMES):
        frame = behind.copy()
        for track in director.tracks:
            box = track.boxes[number]
            if box is None:
                continue
            fill = COLORS[track.color]
            # a card in its color, with letters in black or white
            if track.text:
                area, ink = card_masks(track.text, track.pixels)
                frame.paste(fill, box[:2], area)
                frame.paste(ink_color(track.color), box[:2], ink)
            else:
                frame.paste(fill, box[:2], icon_mask(track.name, track.pixels))
        frames.append(frame)
    return frames, tuple(director.tracks)


@checked
def draw_video(seed: int, *, split: str) -> Sample:
    """Draw a video with its questions, as a contact sheet.

    Types of questions: "color" and "two" of what one frame shows, "passes", the color of what
    several show, "exists", and "beside" and "text" of one frame.

    Args:
        seed: of the video.
        split: one of `SPLITS`.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; use one of {', '.join(SPLITS)}")
    rng = stream(seed, split=split, suite=VIDEO_SUITE, size=SIZE)
    # now and then things allow no question: draw on
    while True:
        frames, tracks = compose_video(rng)
        things = _things(tracks)
        questions = _questions(rng, things, tracks)
        if questions:
            image = Image.new("RGB", SIZE)
            for number, frame in enumerate(frames):
                image.paste(frame, _corner(number))
            name = f"{VIDEO_SUITE}/{split}/{seed}"
            return Sample(name, image, tuple(questions), things, GRID)


def _corner(frame: int) -> tuple[int, int]:
    """Return where on the contact sheet a frame begins, in pixels."""
    row, column = divmod(frame, GRID[1])
    return column * SIDE, row * SIDE


def _frame_of(box: Box) -> int:
    """Return the frame in which a box of the contact sheet lies."""
    return box[1] // SIDE * GRID[1] + box[0] // SIDE


def _things(tracks: tuple[Track, ...]) -> tuple[Thing, ...]:
    """Return what is on the contact sheet: each track once for each frame that shows it."""
    found = []
    for track in tracks:
        for number, box in enumerate(track.boxes):
            if box is not None:
                x, y = _corner(number)
                moved = (box[0] + x, box[1] + y, box[2] + x, box[3] + y)
                found.append(Thing(track.name, track.color, moved, track.text))
    return tuple(found)


def _questions(
    rng: random.Random, things: tuple[Thing, ...], tracks: tuple[Track, ...]
) -> list[Question]:
    """Return a question of every type that a video allows."""
    found = []
    for question in ask(rng, things, VIDEO_SUITE, SIZE):
        frames = {_frame_of(box) for box in question.boxes}
        # neighbours on the contact sheet that no frame shows side by side
        if question.type in TOGETHER and len(frames) > 1:
            continue
        found.append(question)
    passes = _passes(rng, things, tracks)
    return found if passes is None else [*found, passes]


def _passes(
    rng: random.Random, things: tuple[Thing, ...], tracks: tuple[Track, ...]
) -> Question | None:
    """Ask for the color of something that several frames show."""
    several = [track for track in tracks if track.seen > 1]
    if not several:
        return None
    track = rng.choice(several)
    boxes = tuple(thing.box for thing in things if thing.name == track.name)
    return Question(f"what color is the {track.name}?", track.color, "passes", boxes)
