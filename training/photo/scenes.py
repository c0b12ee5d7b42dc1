"""Compose scenes: a few pictures of things on a background, with their boxes.

Split and number alone decide a scene.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from training.photo.pictures import open_picture, read_index

__all__ = [
    "GRID",
    "PIXELS",
    "Scene",
    "Thing",
    "compose",
    "name_weights",
    "photograph",
    "pictures_by_name",
    "posed",
]

PIXELS = 336
PATCH = 14
GRID = PIXELS // PATCH
# Pixels of a thing's longer side; half the image's area is about 240 x 240.
SMALLEST = 40
LARGEST = 240
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
    """One thing of a scene.

    Attributes:
        name, kind, colour: what it is.
        picture: which one shows it.
        box: left, top, right and bottom in pixels.
    """

    name: str
    kind: str
    colour: str | None
    picture: str
    box: tuple[int, int, int, int]

    @property
    def centre(self) -> tuple[float, float]:
        """Return the horizontal and vertical position of the middle, from 0 to 1."""
        left, top, right, bottom = self.box
        return (left + right) / (2 * PIXELS), (top + bottom) / (2 * PIXELS)


@dataclass(frozen=True)
class Scene:
    """An image of `PIXELS` by `PIXELS`, its things, and which thing each patch shows (-1: none)."""

    image: Image.Image
    things: tuple[Thing, ...]
    owners: np.ndarray  # (GRID, GRID) int8


def compose(split: str, number: int, again: int = 0) -> Scene:
    """Compose one scene of a split.

    "train", "crowd", "seen" and "dull" share pictures but no scene, "unseen" has its own pictures.
    A crowd is eight things: more to learn from for one pass of the tower, each picture in turn.
    Composed again, the pictures of a crowd are the same, their sizes and positions are not. In a
    dull scene the last thing is small, faded and at the border, the others are large.
    """
    seed = [zlib.crc32(split.encode()), number]
    random = np.random.default_rng([*seed, again] if again else seed)
    image = _background(random)
    owners = np.full((GRID, GRID), -1, dtype=np.int8)
    taken = np.zeros((PIXELS, PIXELS), dtype=bool)
    things: list[Thing] = []
    if split == "crowd":
        cast = _crowd(random, number)
    elif split == "dull":
        cast = _dull(random)
    else:
        cast = _cast(random, "unseen" if split == "unseen" else "train")

    for index, (row, side) in enumerate(cast):
        # pose the thing, and lay it where there is room; without room it is left out
        cutout = posed(open_picture(row["id"]), side, random)
        dull = split == "dull" and index == len(cast) - 1
        if dull:
            cutout = _faded(cutout, random)
        position = _free(taken, cutout, random, at_border=dull)
        if position is None:
            continue
        left, top = position
        width, height = cutout.size
        image.paste(cutout, position, cutout)

        # note which pixels and patches it has; a tiny thing has the patch where it is most
        mask = np.zeros((PIXELS, PIXELS), dtype=bool)
        mask[top : top + height, left : left + width] = np.asarray(cutout.getchannel("A")) > 128
        taken |= mask
        share = mask.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))  # (GRID, GRID)
        shown = share >= min(COVERED, share.max())
        owners[shown] = len(things)
        box = (left, top, left + width, top + height)
        things.append(Thing(row["name"], row["kind"], row["colour"], row["id"], box))
    return Scene(image, tuple(things), owners)


def _crowd(random: np.random.Generator, number: int) -> list[tuple[dict, int]]:
    """Return the next `CROWD` pictures of a shuffled list of all, at middling sizes."""
    rows = [row for row in read_index() if row["split"] == "train"]
    # every round has every picture once, in another order
    a_round = len(rows) // CROWD
    order = np.random.default_rng(number // a_round).permutation(len(rows))
    first = number % a_round * CROWD
    sides = random.integers(SMALLEST + 10, 130, CROWD)
    chosen = []
    for index, side in zip(order[first : first + CROWD], sides, strict=True):
        chosen.append((rows[index], int(side)))
    # the largest first, for which room is hardest to find
    return sorted(chosen, key=lambda pair: -pair[1])


def _dull(random: np.random.Generator) -> list[tuple[dict, int]]:
    """Draw two or three large things of strong colours, and a small one of another name, last."""
    by_name = pictures_by_name("train")
    names = sorted(by_name)
    count = int(random.integers(3, 5))
    chosen = []
    for name in random.choice(names, size=count, replace=False, p=name_weights("train")):
        rows = by_name[name]
        side = int(random.integers(120, 160))
        chosen.append((rows[random.integers(len(rows))], side))
    row, _ = chosen.pop()
    return [*chosen, (row, int(random.integers(SMALLEST + 8, 64)))]


def _faded(cutout: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return a picture with little colour and contrast."""
    alpha = cutout.getchannel("A")
    faded = ImageEnhance.Color(cutout).enhance(random.uniform(0.2, 0.5))
    faded = ImageEnhance.Contrast(faded).enhance(random.uniform(0.4, 0.65))
    faded.putalpha(alpha)
    return faded


def _cast(random: np.random.Generator, split: str) -> list[tuple[dict, int]]:
    """Draw the pictures of a scene and the longer side of each, larger ones first."""
    by_name = pictures_by_name(split)
    names = sorted(by_name)
    count = int(random.choice([1, 2, 3, 4, 5], p=[0.2, 0.25, 0.25, 0.2, 0.1]))
    chosen = []
    for name in random.choice(names, size=count, replace=False, p=name_weights(split)):
        rows = by_name[name]
        row = rows[random.integers(len(rows))]
        # seldom several of a kind
        copies = int(random.choice([1, 2, 3, 4], p=[0.8, 0.1, 0.06, 0.04]))
        # a thing alone may be large, and is never tiny; sizes are even on a logarithmic scale
        alone = count == 1 and copies == 1
        largest = LARGEST + 60 if alone else LARGEST / (1 + 0.12 * (count + copies))
        side = int(np.exp(random.uniform(np.log(SMALLEST), np.log(largest))))
        if alone:
            side = max(side, 110)
        for _ in range(copies):
            chosen.append((row, int(side * random.uniform(0.85, 1.1))))
    return sorted(chosen, key=lambda pair: -pair[1])


@lru_cache
def pictures_by_name(split: str) -> dict[str, list[dict]]:
    """Return the pictures of a split by what they show."""
    found: dict[str, list[dict]] = {}
    for row in read_index():
        if row["split"] == split:
            found.setdefault(row["name"], []).append(row)
    return found


@lru_cache
def name_weights(split: str) -> np.ndarray:
    """Return how often each name is drawn: by the root of how many pictures it has."""
    by_name = pictures_by_name(split)
    roots = np.array([len(by_name[name]) for name in sorted(by_name)]) ** 0.5
    return roots / roots.sum()


def posed(cutout: Image.Image, side: int, random: np.random.Generator) -> Image.Image:
    """Return a picture at a size, perhaps mirrored or turned, lighter or darker."""
    if random.random() < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if random.random() < 0.4:
        cutout = cutout.rotate(random.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
    scale = side / max(cutout.size)
    size = (max(8, round(cutout.width * scale)), max(8, round(cutout.height * scale)))
    resampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    cutout = cutout.resize(size, resampling)
    # what is transparent must not become lighter or darker
    alpha = cutout.getchannel("A")
    cutout = ImageEnhance.Brightness(cutout).enhance(random.uniform(0.8, 1.15))
    cutout = ImageEnhance.Contrast(cutout).enhance(random.uniform(0.8, 1.15))
    cutout.putalpha(alpha)
    return cutout


def _free(
    taken: np.ndarray, cutout: Image.Image, random: np.random.Generator, at_border: bool = False
) -> tuple[int, int] | None:
    """Find a position where a cutout covers nothing of what is there already.

    At the border: one that touches it, or nearly.
    """
    width, height = cutout.size
    if width > PIXELS or height > PIXELS:
        return None
    opaque = np.asarray(cutout.getchannel("A")) > 128
    for _ in range(30):
        left = int(random.integers(PIXELS - width + 1))
        top = int(random.integers(PIXELS - height + 1))
        if at_border:
            left, top = _to_border(left, top, PIXELS - width, PIXELS - height, random)
        if not (taken[top : top + height, left : left + width] & opaque).any():
            return left, top
    return None


def _to_border(
    left: int, top: int, last_left: int, last_top: int, random: np.random.Generator
) -> tuple[int, int]:
    """Move a position to one of the four borders, or up to a third of a patch from it."""
    gap = int(random.integers(PATCH // 3))
    moved = (
        (gap, top),
        (max(0, last_left - gap), top),
        (left, gap),
        (left, max(0, last_top - gap)),
    )
    return moved[int(random.integers(4))]


@lru_cache
def _photographs() -> list[Image.Image]:
    """Return the photographs of scikit-image and scikit-learn."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    pictures = list(load_sample_images().images)
    for name in PHOTOGRAPHS:
        try:
            pictures.append(getattr(skimage.data, name)())
        # not part of the wheel, and no network
        except Exception:
            continue
    return [Image.fromarray(pixels).convert("RGB") for pixels in pictures]


def _background(random: np.random.Generator) -> Image.Image:
    """Draw one of four kinds of background."""
    style = random.random()
    if style < 0.3:
        return _patchwork(random)
    if style < 0.65:
        return photograph(random)
    if style < 0.8:
        color = tuple(int(value) for value in random.integers(20, 256, 3))
        return Image.new("RGB", (PIXELS, PIXELS), color)
    return _stripes(random)


def photograph(random: np.random.Generator) -> Image.Image:
    """Draw a crop of a photograph, out of focus: what it shows is no thing of the scene."""
    source = _photographs()[random.integers(len(_photographs()))]
    side = int(min(source.size) * random.uniform(0.15, 0.7))
    left = int(random.integers(source.width - side + 1))
    top = int(random.integers(source.height - side + 1))
    crop = source.crop((left, top, left + side, top + side))
    crop = crop.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
    return crop.filter(ImageFilter.GaussianBlur(float(random.choice([2.0, 5.0, 12.0]))))


def _patchwork(random: np.random.Generator) -> Image.Image:
    """Draw soft noise in one to three colours, coarse or fine."""
    cells = int(random.choice([2, 4, 8, 20, 60]))
    base = random.integers(40, 230, 3)
    noise = random.normal(0, random.uniform(5, 45), (cells, cells, 3))
    noise = noise * random.choice([0.3, 1.0], 3)  # of each channel
    pixels = np.clip(base + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)


def _stripes(random: np.random.Generator) -> Image.Image:
    """Draw two colours in waves of some direction: sky and sea, planks, cloth."""
    angle = random.uniform(0, np.pi)
    length = float(random.choice([12, 30, 80, 300, 700]))  # pixels of a wave
    rows, columns = np.mgrid[:PIXELS, :PIXELS]
    along = columns * np.cos(angle) + rows * np.sin(angle)
    wave = 0.5 + 0.5 * np.sin(along * 2 * np.pi / length + random.uniform(0, 6))

    first, second = random.integers(30, 240, (2, 3))
    noise = random.normal(0, random.uniform(0, 10), (PIXELS, PIXELS, 1))
    pixels = first + (second - first) * wave[..., None] + noise  # (PIXELS, PIXELS, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
