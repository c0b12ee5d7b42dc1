"""What the scenes are drawn with: icons of a font, named colours, word cards, textured backgrounds.

No asset files: every icon is a glyph of DejaVu Sans as matplotlib ships it.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

ICONS: dict[str, str] = {
    "sun": "☀", "cloud": "☁", "umbrella": "☂", "star": "★", "phone": "☎", "cup": "☕", "skull": "☠", "face": "☻",
    "knight": "♞", "rook": "♜", "crown": "♛", "pawn": "♟", "spade": "♠", "club": "♣", "heart": "♥", "diamond": "♦",
    "note": "♫", "flag": "⚑", "hammer": "⚒", "anchor": "⚓", "scale": "⚖", "gear": "⚙", "bolt": "⚡", "flower": "✿",
    "plane": "✈", "letter": "✉", "pencil": "✎", "check": "✔", "cross": "✖", "snowflake": "❄", "house": "⌂",
    "arrow": "➤", "scissors": "✂", "keyboard": "⌨",
}  # fmt: skip
THIN = {"cup", "scale", "bolt", "pencil", "house", "scissors", "snowflake", "anchor", "skull"}
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 25, 30), "orange": (255, 140, 0), "yellow": (250, 235, 40), "green": (20, 140, 40),
    "cyan": (40, 225, 230), "blue": (35, 60, 225), "purple": (125, 20, 165), "pink": (255, 140, 200),
    "white": (255, 255, 255), "black": (0, 0, 0),
}  # fmt: skip
WORDS = (
    "open", "stop", "milk", "fish", "gold", "park", "bank", "jazz", "zoo", "cafe", "taxi", "bus",
    "exit", "hotel", "menu", "rent", "west", "book", "kiwi", "lime", "yoga", "door", "up", "sale",
)  # fmt: skip
NUMBERS = tuple(str(n) for n in range(1, 21))
CARD = "card"


def _font_file(name: str) -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


@functools.lru_cache(maxsize=64)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_file(name), size)


@functools.cache
def _glyph(name: str) -> Image.Image:
    """The icon as a large mask, cut to its ink."""
    mask = Image.new("L", (400, 400), 0)
    ImageDraw.Draw(mask).text(
        (200, 200), ICONS[name], font=_font("DejaVuSans.ttf", 200), fill=255, anchor="mm"
    )
    if name in THIN:  # hairlines vanish at 16 px
        mask = mask.filter(ImageFilter.MaxFilter(9))
    return mask.crop(mask.getbbox())


@functools.lru_cache(maxsize=4096)
def icon_mask(name: str, size: int) -> Image.Image:
    """The icon `name` as an "L" mask whose longer side is `size` pixels."""
    glyph = _glyph(name)
    ratio = size / max(glyph.size)
    shape = (max(1, round(glyph.width * ratio)), max(1, round(glyph.height * ratio)))
    return glyph.resize(shape, Image.Resampling.BOX if ratio < 0.2 else Image.Resampling.BILINEAR)


@functools.lru_cache(maxsize=4096)
def card_masks(text: str, size: int) -> tuple[Image.Image, Image.Image]:
    """Masks of a card (its area, its ink) that bears `text` in capitals of font size `size`."""
    font = _font("DejaVuSans-Bold.ttf", size)
    left, top, right, bottom = font.getbbox(text.upper())
    pad = max(3, size // 3)
    shape = (max(int(right - left), size) + 2 * pad, int(bottom - top) + 2 * pad)
    area, ink = Image.new("L", shape, 0), Image.new("L", shape, 0)
    ImageDraw.Draw(area).rounded_rectangle(
        (0, 0, shape[0] - 1, shape[1] - 1), radius=pad // 2 + 1, fill=255
    )
    ImageDraw.Draw(ink).text(
        (shape[0] / 2, shape[1] / 2), text.upper(), font=font, fill=255, anchor="mm"
    )
    return area, ink


def ink_color(color: str) -> tuple[int, int, int]:
    """Black or white, whichever reads better on a card of `color`."""
    red, green, blue = COLORS[color]
    return (0, 0, 0) if 0.3 * red + 0.59 * green + 0.11 * blue > 110 else (255, 255, 255)


def background(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """A muted texture of middle brightness: gradient, stripes or soft blobs, under fine noise."""
    width, height = size
    noise = np.random.default_rng(rng.getrandbits(32))
    base = np.array([rng.uniform(120, 175)] * 3) + [rng.uniform(-14, 14) for _ in range(3)]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, kind, depth = rng.uniform(0, 2 * np.pi), rng.randrange(3), rng.uniform(6, 18)
    along = x * np.cos(angle) + y * np.sin(angle)
    wave: Any
    if kind == 0:
        wave = along / max(width, height)
    elif kind == 1:
        wave = np.sign(np.sin(along * rng.uniform(0.12, 0.5))) * 0.5
    else:
        coarse = (
            noise.normal(0, 70, (max(2, height // 24), max(2, width // 24))).clip(-127, 127) + 128
        )
        blobs = Image.fromarray(coarse.astype(np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        wave = (np.asarray(blobs, np.float32) - 128) / 100
    grain = noise.integers(-8, 9, (height, width, 1), dtype=np.int16)
    picture = base + depth * np.asarray(wave)[..., None] + grain
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))
