"""Scenes: a few pictures of things on a background, with their boxes.

Split and number alone decide a scene.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from training.photo.pictures import open_picture, read_index

__all__ = ["GRID", "PIXELS", "Scene", "Thing", "compose"]

PIXELS, PATCH = 336, 14
GRID = PIXELS // PATCH
# pixels of a thing's longer side; half the picture's area is about 240 x 240
SMALLEST, LARGEST = 40, 240
CROWD = 8  # things of a crowded scene
COVERED = 0.35  # share of a patch's pixels that must be opaque for the patch to belong to a thing
PHOTOGRAPHS = (
    "astronaut",
    "coffee",
    "chelsea",
    "rocket",
    "brick",
    "grass",
    "gravel",
    "hubble_deep_field",
    "moon",
    "retina",
    "immunohistochemistry",
)


@dataclass(frozen=True)
class Thing:
    """One thing of a scene: what it is, which picture shows it, and its box in pixels (left, top,
    right, bottom).
    """

    name: str
    kind: str
    colour: str | None
    picture: str
    box: tuple[int, int, int, int]

    @property
    def centre(self) -> tuple[float, float]:
        """Horizontal and vertical position of the middle, from 0 to 1."""
        left, top, right, bottom = self.box
        return (left + right) / (2 * PIXELS), (top + bottom) / (2 * PIXELS)


@dataclass(frozen=True)
class Scene:
    """A picture of `PIXELS` by `PIXELS`, its things, and for each patch the thing that it shows
    (-1: none).
    """

    image: Image.Image
    things: tuple[Thing, ...]
    owners: np.ndarray  # (GRID, GRID) int8


def compose(split: str, number: int, again: int = 0) -> Scene:
    """Compose one scene, of a split: "train", "crowd" and "seen" share pictures but no scene,
    "unseen" has its own.

    A crowd is eight things: more to learn from for one pass of the tower, each picture in turn.
    Composed again, the pictures of a crowd are the same, their sizes and places are not.
    """
    seed = [zlib.crc32(split.encode()), number]
    random = np.random.default_rng([*seed, again] if again else seed)
    image = _background(random)
    owners = np.full((GRID, GRID), -1, dtype=np.int8)
    taken = np.zeros((PIXELS, PIXELS), dtype=bool)
    things: list[Thing] = []
    for row, side in (
        _crowd(random, number)
        if split == "crowd"
        else _cast(random, "unseen" if split == "unseen" else "train")
    ):
        cutout = _posed(open_picture(row["id"]), side, random)
        place = _free(taken, cutout, random)
        if place is None:
            continue
        left, top = place
        width, height = cutout.size
        image.paste(cutout, place, cutout)
        mask = np.zeros((PIXELS, PIXELS), dtype=bool)
        mask[top : top + height, left : left + width] = np.asarray(cutout.getchannel("A")) > 128
        taken |= mask
        share = mask.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))  # (GRID, GRID)
        shown = share >= min(COVERED, share.max())
        owners[shown] = len(things)
        things.append(
            Thing(
                row["name"],
                row["kind"],
                row["colour"],
                row["id"],
                (left, top, left + width, top + height),
            )
        )
    return Scene(image, tuple(things), owners)


def _crowd(random: np.random.Generator, number: int) -> list[tuple[dict, int]]:
    """The next `CROWD` pictures of a shuffled list of all, at middling sizes."""
    rows = [row for row in read_index() if row["split"] == "train"]
    a_round = len(rows) // CROWD
    order = np.random.default_rng(number // a_round).permutation(len(rows))
    first = number % a_round * CROWD
    sides = random.integers(SMALLEST + 10, 130, CROWD)
    return sorted(
        (
            (rows[index], int(side))
            for index, side in zip(order[first : first + CROWD], sides, strict=True)
        ),
        key=lambda pair: -pair[1],
    )


def _cast(random: np.random.Generator, split: str) -> list[tuple[dict, int]]:
    """Draw the pictures of a scene and the longer side of each, larger ones first."""
    by_name = _by_name(split)
    names = sorted(by_name)
    count = int(random.choice([1, 2, 3, 4, 5], p=[0.2, 0.25, 0.25, 0.2, 0.1]))
    chosen = []
    for name in random.choice(names, size=count, replace=False, p=_weights(split)):
        rows = by_name[name]
        row = rows[random.integers(len(rows))]
        copies = int(random.choice([1, 2, 3, 4], p=[0.8, 0.1, 0.06, 0.04]))
        largest = (
            LARGEST + 60 if count == 1 and copies == 1 else LARGEST / (1 + 0.12 * (count + copies))
        )
        side = int(np.exp(random.uniform(np.log(SMALLEST), np.log(largest))))
        side = max(side, 110) if count == 1 and copies == 1 else side
        chosen += [(row, int(side * random.uniform(0.85, 1.1))) for _ in range(copies)]
    return sorted(chosen, key=lambda pair: -pair[1])


@lru_cache
def _by_name(split: str) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in read_index():
        if row["split"] == split:
            found.setdefault(row["name"], []).append(row)
    return found


@lru_cache
def _weights(split: str) -> np.ndarray:
    counts = np.array([len(_by_name(split)[name]) for name in sorted(_by_name(split))]) ** 0.5
    return counts / counts.sum()


def _posed(cutout: Image.Image, side: int, random: np.random.Generator) -> Image.Image:
    if random.random() < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if random.random() < 0.4:
        cutout = cutout.rotate(random.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    scale = side / max(cutout.size)
    size = (max(8, round(cutout.width * scale)), max(8, round(cutout.height * scale)))
    cutout = cutout.resize(
        size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    )
    alpha = cutout.getchannel("A")
    cutout = ImageEnhance.Brightness(cutout).enhance(random.uniform(0.8, 1.15))
    cutout = ImageEnhance.Contrast(cutout).enhance(random.uniform(0.8, 1.15))
    cutout.putalpha(alpha)
    return cutout


def _free(
    taken: np.ndarray, cutout: Image.Image, random: np.random.Generator
) -> tuple[int, int] | None:
    """Find a place where a cutout covers next to nothing of what is there already."""
    width, height = cutout.size
    if width > PIXELS or height > PIXELS:
        return None
    opaque = np.asarray(cutout.getchannel("A")) > 128
    for _ in range(30):
        left = int(random.integers(PIXELS - width + 1))
        top = int(random.integers(PIXELS - height + 1))
        if not (taken[top : top + height, left : left + width] & opaque).any():
            return left, top
    return None


@lru_cache
def _photographs() -> list[Image.Image]:
    import skimage.data
    from sklearn.datasets import load_sample_images

    pictures = list(load_sample_images().images)
    for name in PHOTOGRAPHS:
        try:
            pictures.append(getattr(skimage.data, name)())
        except Exception:  # not part of the wheel, and no network
            continue
    return [Image.fromarray(pixels).convert("RGB") for pixels in pictures]


def _background(random: np.random.Generator) -> Image.Image:
    style = random.random()
    if style < 0.3:
        return _patchwork(random)
    if style < 0.65:
        return _photograph(random)
    if style < 0.8:
        return Image.new(
            "RGB", (PIXELS, PIXELS), tuple(int(value) for value in random.integers(20, 256, 3))
        )
    return _stripes(random)


def _photograph(random: np.random.Generator) -> Image.Image:
    """A crop of a photograph, out of focus, so that what it shows is a ground and not one more
    thing.
    """
    source = _photographs()[random.integers(len(_photographs()))]
    side = int(min(source.size) * random.uniform(0.15, 0.7))
    left = int(random.integers(source.width - side + 1))
    top = int(random.integers(source.height - side + 1))
    crop = source.crop((left, top, left + side, top + side)).resize(
        (PIXELS, PIXELS), Image.Resampling.BICUBIC
    )
    return crop.filter(ImageFilter.GaussianBlur(float(random.choice([2.0, 5.0, 12.0]))))


def _patchwork(random: np.random.Generator) -> Image.Image:
    """Soft noise in one to three colours, coarse or fine."""
    cells = int(random.choice([2, 4, 8, 20, 60]))
    base = random.integers(40, 230, 3)
    noise = random.normal(0, random.uniform(5, 45), (cells, cells, 3)) * random.choice(
        [0.3, 1.0], 3
    )
    pixels = np.clip(base + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)


def _stripes(random: np.random.Generator) -> Image.Image:
    """Two colours in waves of some direction: sky and sea, planks, cloth."""
    angle, length = random.uniform(0, np.pi), float(random.choice([12, 30, 80, 300, 700]))
    rows, columns = np.mgrid[:PIXELS, :PIXELS]
    wave = 0.5 + 0.5 * np.sin(
        (columns * np.cos(angle) + rows * np.sin(angle)) * 2 * np.pi / length + random.uniform(0, 6)
    )
    first, second = random.integers(30, 240, (2, 3))
    pixels = (
        first
        + (second - first) * wave[..., None]
        + random.normal(0, random.uniform(0, 10), (PIXELS, PIXELS, 1))
    )
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
