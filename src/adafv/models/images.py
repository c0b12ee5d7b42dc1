"""Read images from files as a viewer shows them, in 8-bit RGB, or say in one sentence why not."""

import importlib.util
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from adafv.utils.checks import checked

__all__ = [
    "MAX_ASPECT",
    "FirstFrameWarning",
    "TinyImageWarning",
    "check_file",
    "check_image",
    "first_frame",
    "is_still",
    "open_image",
    "tiny_image",
    "to_rgb",
]

MAX_ASPECT = 100
"""Longer side over shorter side.

Beyond it a processor that scales the shorter side to 336 pixels would make millions of columns
(20,000 × 3: 2.2 million) and then look at a square of them.
"""

TINY = 14
"""Pixels of a side of a patch, of which CLIP's tower makes one token."""

# An address instead of a path: a scheme, or a data URL.
_URL = re.compile(r"[a-z][a-z0-9+.-]*://|data:", re.IGNORECASE)
_INTERPRETED = {"EPS", "WMF"}  # formats that Pillow hands to an external program
# Pillow's modes of more than 8 bits; the letter after "16" is the byte order.
_INTEGER_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
# Pillow's names for grays of 2 and 4 bits in a PNG, and their distance in 8 bits.
_GRAY_STEPS = {"L;2": 85, "L;4": 17}
# Formats with several images in a file, and what one of them is called.
_SEVERAL = {"GIF": "frame", "PNG": "frame", "WEBP": "frame", "AVIF": "frame", "TIFF": "page"}
# The first brands of an ISO media file that holds HEVC-coded stills.
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_HEAD = 65_536  # bytes that tell a format
WHITE = 65535.0  # of 16 bits
ROWS = 256
_FIRST = "adafv_first"  # where an image notes what it is the first of


class FirstFrameWarning(UserWarning):
    """An image is the first of several in its file."""


class TinyImageWarning(UserWarning):
    """An image is smaller than a patch of a vision tower."""


@checked
def open_image(path: str | Path | bytes) -> Image.Image:
    """Read an image as RGB.

    EXIF rotation is honoured, CMYK, palette and grayscale are converted, 16 bits are scaled to 8,
    transparency is laid on white, and of an animation the first frame is taken, with a
    `FirstFrameWarning`. One that is smaller than a patch is read with a `TinyImageWarning`.
    HEIC, the format of phones, is read where pillow-heif is installed.

    Args:
        path: a local file in any format that Pillow reads, or what such a file holds. Addresses are
            not fetched.

    Raises:
        ValueError: the file is missing, unreadable, empty, truncated or no image, is larger than
            Pillow's limit (`PIL.Image.MAX_IMAGE_PIXELS`), or has a shape that `check_image`
            refuses.
    """
    # name the source for errors, and refuse what Pillow would explain badly
    source: str | bytes
    if isinstance(path, bytes):
        name = "the image"
        source = path
        if not path:
            raise ValueError(
                "the image is empty (0 bytes): pipe one in, e.g. adafv ask - QUESTION < image.png"
            )
    else:
        name = str(path)
        check_file(name)
        source = name

    kind = None  # what the image is the first of, where its file holds several
    try:
        with warnings.catch_warnings():
            # Remarks on metadata are of no use here, but a decompression bomb must stop the read.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with _opened(source) as image:
                if image.format in _INTERPRETED:
                    raise ValueError(f"{image.format} is a program, not pixels")
                # asked of the file, before its first frame is all that is left
                if getattr(image, "is_animated", False):
                    kind = _SEVERAL.get(image.format or "")
                _scale_transparency(image)
                image.load()
                rgb = to_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise ValueError(
            f"{name} has more than {limit} pixels, Pillow's limit: make it smaller first"
        ) from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} {_what_it_is(_head(source))}") from None
    # Decoders raise whatever a broken file makes of them: struct.error, EOFError, …
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{name} cannot be read as an image ({reason}): save it again as PNG or JPEG"
        ) from None

    check_image(rgb, name)
    if kind is not None:
        rgb.info[_FIRST] = kind
        warnings.warn(first_frame(rgb, name), FirstFrameWarning, stacklevel=2)
    tiny = tiny_image(rgb, name)
    if tiny:
        warnings.warn(tiny, TinyImageWarning, stacklevel=2)
    return rgb


def _scale_transparency(image: Image.Image) -> None:
    """Bring the transparent value of a PNG to 8 bits, as its pixels are; Pillow leaves it as is."""
    value = image.info.get("transparency")
    if value is None or not isinstance(image, PngImageFile):
        return
    raw = image.tile[0][3]
    if raw in _GRAY_STEPS:
        image.info["transparency"] = value * _GRAY_STEPS[raw]
    elif raw == "RGB;16B":
        image.info["transparency"] = tuple(channel >> 8 for channel in value)


@checked
def first_frame(image: Image.Image, name: str = "the image") -> str:
    """Say in a sentence that an image is the first of several frames or pages.

    Args:
        image: as `open_image` returns it, which notes there what it is the first of.
        name: of the file.

    Returns:
        The sentence; empty for an image that is all there is.
    """
    kind = image.info.get(_FIRST)
    if kind is None:
        return ""
    what = "is an animation" if kind == "frame" else "has several pages"
    return f"{name} {what}, of which the first {kind} is taken"


@checked
def tiny_image(image: Image.Image, name: str = "the image") -> str:
    """Say in a sentence that an image is smaller than a patch; empty for any other.

    Args:
        name: of the file.
    """
    width, height = image.size
    if max(width, height) >= TINY:
        return ""
    return (
        f"{name} is {width}×{height} pixels, smaller than one patch of {TINY}×{TINY} that a vision "
        "tower looks at: the answer need not mean anything; pass a larger image"
    )


@contextmanager
def _opened(source: str | bytes) -> Iterator[Image.Image]:
    """Open an image lazily; HEIC through pillow-heif, where that is installed."""
    # Pillow gets a stream: of a path it maps some TIFFs into memory, and then turns them wrongly
    with _stream(source) as stream:
        try:
            image = Image.open(stream)
        except UnidentifiedImageError:
            if not _is_heic(_head(source)) or importlib.util.find_spec("pillow_heif") is None:
                raise
            # registered only when it is needed: it is asked first about every image from then on
            import pillow_heif

            pillow_heif.register_heif_opener()
            image = Image.open(stream)
        with image:
            yield image


def _stream(source: str | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _head(source: str | bytes) -> bytes:
    with _stream(source) as stream:
        return stream.read(_HEAD)


@checked
def is_still(head: bytes) -> bool:
    """Return whether a file begins as an image in the container of videos: HEIC or AVIF."""
    return _is_heic(head) or head[4:11] == b"ftypavi"


def _is_heic(head: bytes) -> bool:
    """Return whether a file is an ISO media file whose brand, or a compatible one, is of HEIC."""
    if head[4:8] != b"ftyp" or head[8:11] == b"avi":
        # AVIF, which Pillow may read, has the same container and lists some of the same brands
        return False
    return any(brand in head[8:64] for brand in _HEIC_BRANDS)


def _what_it_is(head: bytes) -> str:
    """Say what a file is that Pillow does not read, and what to do about it."""
    # a byte-order mark and blanks may precede the first word
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if _is_heic(head):
        return "is a HEIC photo: pip install pillow-heif, with which it is read, or save it as JPEG"
    if text.startswith(b"%pdf"):
        return (
            "is a PDF, not an image: export the page as PNG, "
            "e.g. pdftoppm -png -r 150 FILE.pdf page"
        )
    if text.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text:
        return (
            "is an SVG drawing, not pixels: export it as PNG, "
            "e.g. rsvg-convert -o image.png FILE.svg"
        )
    return "is not an image: pass a PNG, JPEG, WebP or another file that Pillow reads"


@checked
def check_image(image: Image.Image, name: str = "the image") -> None:
    """Refuse shapes that no processor turns into something to see.

    1×1 and up work; LLaVA-1.5 looks at the middle square, LLaVA-NeXT at all of it. The limit is
    `MAX_ASPECT`.

    Raises:
        ValueError: no pixels, or longer than `MAX_ASPECT` times its width (or wider than that times
            its height).
    """
    width, height = image.size
    if min(width, height) < 1:
        raise ValueError(f"{name} is {width}×{height}, it has no pixels: pass an image with some")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"{name} is {width}×{height} pixels, longer than {MAX_ASPECT}:1, "
            "of which a model sees next to nothing: crop it or cut it into pieces"
        )


@checked
def check_file(name: str, what: str = "image") -> None:
    """Raise a `ValueError` if there is no file of a name that can be opened and holds anything.

    Args:
        what: it should be.
    """
    if _URL.match(name):
        raise ValueError(f"{name} is an address, not a file: download the {what} and pass its path")
    path = Path(name)
    try:
        if not path.exists():
            raise ValueError(f"{name!r} does not exist: check the path of the {what}")
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise ValueError(f"{name} is {kind}: pass one {what} file")
        if path.stat().st_size == 0:
            raise ValueError(f"{name} is empty (0 bytes): save or download it again")
        # opening tells whether it may be read, which `stat` does not
        with path.open("rb"):
            pass
    except OSError as error:
        raise ValueError(
            f"{name} cannot be opened ({error.strerror}): check the path and its permissions"
        ) from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        # without a turn it would be a copy
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except Exception:
        # a damaged EXIF block is no reason to refuse sound pixels
        return image


@checked
def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as 8-bit RGB, upright: 16 bits are scaled, transparency is laid on white."""
    image = _upright(image)
    if image.mode in (*_INTEGER_MODES, "F"):
        pixels = np.asarray(image)  # (height, width)
        gray = _to_8_bit(pixels, image.mode)
        # one value of a PNG may stand for all that is transparent
        if "transparency" in image.info:
            gray[pixels == image.info["transparency"]] = 255
        return Image.fromarray(gray).convert("RGB")
    # premultiplied alpha ("La") converts to no mode but the plain one
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Scale pixels to 8 bits: 16-bit integers over their full range, other numbers over their own.

    For 32-bit integers and floats no white is agreed.
    """
    # some rows at a time: in float64 a large image would take eight times its memory
    starts = range(0, len(pixels), ROWS)
    low = min(_numbers(pixels[start : start + ROWS]).min() for start in starts)
    high = max(_numbers(pixels[start : start + ROWS]).max() for start in starts)
    if mode != "F" and low >= 0 and high <= WHITE:
        low = 0.0
        high = WHITE
    scaled = np.empty(pixels.shape, dtype=np.uint8)
    for start in starts:
        values = _numbers(pixels[start : start + ROWS])
        # the lower bound keeps an image of one value from dividing by zero
        scaled[start : start + ROWS] = np.round((values - low) * (255 / max(high - low, 1e-12)))
    return scaled


def _numbers(pixels: np.ndarray) -> np.ndarray:
    """Return pixels in float64, 0 where one is no number."""
    return np.nan_to_num(pixels.astype(np.float64), posinf=0, neginf=0)
