"""Icons of a font, named colours, word cards and textured backgrounds, to draw scenes with.

No asset files: every icon is a glyph of DejaVu Sans as matplotlib ships it.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# glyphs of DejaVu Sans, by the name that questions give them
ICONS: dict[str, str] = {
    "sun": "☀",
    "cloud": "☁",
    "umbrella": "☂",
    "star": "★",
    "phone": "☎",
    "cup": "☕",
    "skull": "☠",
    "face": "☻",
    "knight": "♞",
    "rook": "♜",
    "crown": "♛",
    "pawn": "♟",
    "spade": "♠",
    "club": "♣",
    "heart": "♥",
    "diamond": "♦",
    "note": "♫",
    "flag": "⚑",
    "hammer": "⚒",
    "anchor": "⚓",
    "scale": "⚖",
    "gear": "⚙",
    "bolt": "⚡",
    "flower": "✿",
    "plane": "✈",
    "letter": "✉",
    "pencil": "✎",
    "check": "✔",
    "cross": "✖",
    "snowflake": "❄",
    "house": "⌂",
    "arrow": "➤",
    "scissors": "✂",
    "keyboard": "⌨",
}
THIN = {
    "cup",
    "skull",
    "anchor",
    "scale",
    "bolt",
    "pencil",
    "snowflake",
    "house",
    "scissors",
}
"""Icons of thin lines."""
# far enough apart to be told at 16 pixels
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 25, 30),
    "orange": (255, 140, 0),
    "yellow": (250, 235, 40),
    "green": (20, 140, 40),
    "cyan": (40, 225, 230),
    "blue": (35, 60, 225),
    "purple": (125, 20, 165),
    "pink": (255, 140, 200),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
# short enough for a card that the model can read
WORDS = (
    "open",
    "stop",
    "milk",
    "fish",
    "gold",
    "park",
    "bank",
    "jazz",
    "zoo",
    "cafe",
    "taxi",
    "bus",
    "exit",
    "hotel",
    "menu",
    "rent",
    "west",
    "book",
    "kiwi",
    "lime",
    "yoga",
    "door",
    "up",
    "sale",
)
NUMBERS = tuple(str(n) for n in range(1, 21))
CARD = "card"


def _font_file(name: str) -> str:
    import matplotlib  # takes a second, and not every suite needs it

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


@functools.lru_cache(maxsize=64)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_file(name), size)


@functools.cache
def _glyph(name: str) -> Image.Image:
    """Return the icon as a large mask, cut to its ink."""
    mask = Image.new("L", (400, 400), 0)
    ImageDraw.Draw(mask).text(
        (200, 200), ICONS[name], font=_font("DejaVuSans.ttf", 200), fill=255, anchor="mm"
    )
    # hairlines vanish at 16 px
    if name in THIN:
        mask = mask.filter(ImageFilter.MaxFilter(9))
    return mask.crop(mask.getbbox())


@functools.lru_cache(maxsize=4096)
def icon_mask(name: str, size: int) -> Image.Image:
    """Return the icon `name` as an "L" mask whose longer side is `size` pixels."""
    # from one large drawing, so that an icon has the same form at every size
    glyph = _glyph(name)
    ratio = size / max(glyph.size)
    shape = (max(1, round(glyph.width * ratio)), max(1, round(glyph.height * ratio)))
    # bilinear looks at few pixels: an icon made much smaller would lose lines
    filter_ = Image.Resampling.BOX if ratio < 0.2 else Image.Resampling.BILINEAR
    return glyph.resize(shape, filter_)


@functools.lru_cache(maxsize=4096)
def card_masks(text: str, size: int) -> tuple[Image.Image, Image.Image]:
    """Return masks of a card (its area, its ink) with `text` in capitals of font size `size`."""
    font = _font("DejaVuSans-Bold.ttf", size)
    left, top, right, bottom = font.getbbox(text.upper())
    pad = max(3, size // 3)
    # at least as wide as the letters are high, for single figures
    shape = (max(int(right - left), size) + 2 * pad, int(bottom - top) + 2 * pad)
    area = Image.new("L", shape, 0)
    edges = (0, 0, shape[0] - 1, shape[1] - 1)
    ImageDraw.Draw(area).rounded_rectangle(edges, radius=pad // 2 + 1, fill=255)

    ink = Image.new("L", shape, 0)
    middle = (shape[0] / 2, shape[1] / 2)
    ImageDraw.Draw(ink).text(middle, text.upper(), font=font, fill=255, anchor="mm")
    return area, ink


def ink_color(color: str) -> tuple[int, int, int]:
    """Return black or white, whichever reads better on a card of `color`."""
    red, green, blue = COLORS[color]
    luma = 0.3 * red + 0.59 * green + 0.11 * blue
    return (0, 0, 0) if luma > 110 else (255, 255, 255)


def background(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """Draw a muted texture of middle brightness under fine noise.

    It is a gradient, stripes or soft blobs. The order in which numbers are drawn decides what a
    seed shows.
    """
    width, height = size
    noise = np.random.default_rng(rng.getrandbits(32))

    # a shade near grey
    base = np.array([rng.uniform(120, 175)] * 3) + [rng.uniform(-14, 14) for _ in range(3)]

    # a wave of one of three kinds, at any angle
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)  # (height, width) each
    angle = rng.uniform(0, 2 * np.pi)
    kind = rng.randrange(3)
    depth = rng.uniform(6, 18)
    along = x * np.cos(angle) + y * np.sin(angle)
    wave: Any
    if kind == 0:  # a gradient
        wave = along / max(width, height)
    elif kind == 1:  # stripes
        wave = np.sign(np.sin(along * rng.uniform(0.12, 0.5))) * 0.5
    else:
        # blobs: a few pixels, enlarged
        few = (max(2, height // 24), max(2, width // 24))
        coarse = noise.normal(0, 70, few).clip(-127, 127) + 128
        small = Image.fromarray(coarse.astype(np.uint8))
        blobs = small.resize((width, height), Image.Resampling.BICUBIC)
        wave = (np.asarray(blobs, np.float32) - 128) / 100
    grain = noise.integers(-8, 9, (height, width, 1), dtype=np.int16)
    texture = base + depth * np.asarray(wave)[..., None] + grain  # (height, width, 3)
    return Image.fromarray(texture.clip(0, 255).astype(np.uint8))
