"""Images from files: what people really have on their disks is shown upright and whole, the rest
is refused.
"""

import re
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import picture, prompt, tiny_processor
from PIL import Image, ImageFile

from adafv import AdaFV
from adafv.models.images import (
    MAX_ASPECT,
    TINY,
    FirstFrameWarning,
    TinyImageWarning,
    check_image,
    first_frame,
    open_image,
    tiny_image,
    to_rgb,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def refused(path: object, *words: str) -> None:
    """One sentence that names the file and holds the words."""
    with pytest.raises(ValueError) as info:
        open_image(path)  # type: ignore[arg-type]
    message = str(info.value)
    assert "\n" not in message
    assert Path(str(path)).name in message
    assert ": " in message
    for word in words:
        assert word in message


def test_plain_files_keep_their_pixels(tmp_path):
    """The image the model sees is the image in the file."""
    image = picture(7, 5)
    opened = open_image(saved(image, tmp_path / "a.png"))
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), np.asarray(image))


def test_exif_rotation_is_honoured(tmp_path):
    """A phone photo held sideways: left of and above mean what the person sees."""
    image = Image.new("RGB", (20, 10), BLUE)
    image.paste(RED, (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = open_image(saved(image, tmp_path / "a.png", exif=exif))
    assert opened.size == (10, 20)
    assert opened.getpixel((5, 2)) == RED
    assert opened.getpixel((5, 17)) == BLUE
    # an image that a program opened itself, too
    own = to_rgb(Image.open(tmp_path / "a.png"))
    assert np.array_equal(np.asarray(own), np.asarray(opened))
    assert to_rgb(own).size == (10, 20)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_as_exif_says(tmp_path, mode, orientation):
    """From a file as from memory; Pillow maps an uncompressed file of some modes into memory."""
    plain = picture(7, 5)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257)
    else:
        image = plain.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(image, tmp_path / "a.tiff", exif=exif)
    opened = open_image(path)
    assert opened.size == ((7, 5) if orientation < 5 else (5, 7))
    assert np.array_equal(np.asarray(opened), np.asarray(open_image(path.read_bytes())))


def test_damaged_exif_does_not_hide_the_picture(tmp_path):
    """Metadata is no reason to refuse sound pixels."""
    path = saved(
        Image.new("RGB", (8, 8), RED),
        tmp_path / "a.jpg",
        exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01",
    )
    assert open_image(path).size == (8, 8)


def test_16_bits_are_scaled_not_clipped(tmp_path):
    """Pillow's own conversion clips at 255 and makes every 16-bit image white."""
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    for name in ("a.png", "a.tiff"):
        opened = np.asarray(open_image(saved(Image.fromarray(ramp), tmp_path / name)))
        assert np.abs(opened[0, :, 0].astype(int) - np.arange(256)).max() <= 1
        dark = np.asarray(open_image(saved(Image.fromarray(ramp // 10), tmp_path / name)))
        assert dark.max() == 25  # a dark image stays dark


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_are_scaled_over_their_range(tmp_path, dtype):
    """Scientific TIFFs have no agreed white."""
    values = np.array([[-100_000, 0, 100_000]], dtype=dtype)
    opened = np.asarray(open_image(saved(Image.fromarray(values), tmp_path / "a.tiff")))
    assert opened[0, :, 0].tolist() == [0, 128, 255]


def test_print_colours_become_rgb(tmp_path):
    """CMYK from a print workflow is not shown inverted."""
    opened = open_image(saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), tmp_path / "a.jpg"))
    red, green, blue = opened.getpixel((1, 1))
    assert red > 200
    assert green < 60
    assert blue < 60


def test_transparency_is_laid_on_white(tmp_path):
    """What is invisible in a viewer must not come up as black or as hidden colours."""
    image = Image.new("RGBA", (4, 4), (0, 0, 255, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    opened = open_image(saved(image, tmp_path / "a.png"))
    assert opened.getpixel((0, 0)) == RED
    assert opened.getpixel((3, 3)) == (255, 255, 255)
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 255, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    opened = open_image(saved(palette, tmp_path / "p.png", transparency=0))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 0)) == RED


@pytest.mark.parametrize(
    ("bits", "color", "row", "transparent"),
    [
        (1, 0, b"\x40", b"\0\1"),
        (2, 0, b"\x10", b"\0\1"),
        (4, 0, b"\x07", b"\0\7"),
        (8, 0, b"\0\7", b"\0\7"),
        (16, 0, b"\0\0\3\xe8", b"\3\xe8"),
        (8, 2, b"\0\0\0\1\2\3", b"\0\1\0\2\0\3"),
        (16, 2, b"\0\0\0\0\0\0\1\2\3\4\5\6", b"\1\2\3\4\5\6"),
    ],
)
def test_a_transparent_value_of_a_png_is_white(bits, color, row, transparent):
    """Of gray and of colour, of any depth; the pixel beside it is black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, color, 0, 0, 0)),
            chunk(b"tRNS", transparent),
            chunk(b"IDAT", zlib.compress(b"\0" + row)),
            chunk(b"IEND", b""),
        )
    )
    assert np.asarray(open_image(png))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGBA", "RGBa", "RGBX", "YCbCr", "HSV", "I", "F"]
)
def test_every_mode_becomes_rgb(mode):
    """Whatever Pillow hands out works."""
    source = picture(6, 4)
    if mode in ("La", "PA", "RGBa"):
        source = source.convert({"La": "LA", "PA": "P", "RGBa": "RGBA"}[mode])
    assert to_rgb(source.convert(mode)).mode == "RGB"


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("photo.heic", HEIC, "pip install pillow-heif"),
        ("page.pdf", b"%PDF-1.7\n" + bytes(100), "export the page as PNG"),
        (
            "logo.svg",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "SVG drawing, not pixels: export it as PNG",
        ),
        ("logo.png", b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<svg/>", "SVG drawing"),
        ("page.xml", b"<?xml version='1.0'?><page/>", "is not an image"),
    ],
)
def test_formats_that_pillow_does_not_read(tmp_path, monkeypatch, name, content, words):
    """What it is, whatever its name, and what to do about it; from memory as from a file."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    path = tmp_path / name
    path.write_bytes(content)
    for source, named in ((path, str(path)), (content, "the image")):
        with pytest.raises(ValueError) as info:
            open_image(source)
        assert words in str(info.value)
        assert str(info.value).startswith(named)


def test_heic_is_read_where_its_reader_is_installed(tmp_path, monkeypatch):
    """A stand-in for pillow-heif, which enters itself with Pillow when it is asked to."""

    class Photo(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._size, self._mode = (3, 2), "RGB"

        def load(self):
            return Image.new("RGB", self.size, "red").load()

        def convert(self, mode):
            return Image.new(mode, self.size, "red")

    register = lambda: Image.register_open("HEIF", Photo, lambda head: head[4:12] == b"ftypheic")  # noqa: E731
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr("importlib.util.find_spec", lambda module: True)
    monkeypatch.setattr(Image, "ID", [*Image.ID])
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    path = tmp_path / "photo.heic"
    path.write_bytes(HEIC)
    assert open_image(path).size == (3, 2)


def test_pages_and_frames_are_named(tmp_path):
    """A GIF has frames, a TIFF pages; a single image has nothing to say."""
    one, two = picture(8, 8), picture(8, 8, seed=1)
    for name, words in (("a.gif", "is an animation"), ("a.tiff", "has several pages")):
        one.save(tmp_path / name, save_all=True, append_images=[two])
        with pytest.warns(FirstFrameWarning, match=words):
            assert words in first_frame(open_image(tmp_path / name), name)
    one.save(tmp_path / "a.png")
    assert first_frame(open_image(tmp_path / "a.png")) == ""


@pytest.mark.parametrize("size", [(1, 1), (TINY - 1, 2), (TINY, 1), (1, TINY)])
def test_an_image_smaller_than_a_patch_is_read_with_a_warning(tmp_path, size):
    """It is answered, as a batch has to be, and whoever asked is told what that is worth."""
    path = saved(Image.new("RGB", size), tmp_path / "dot.png")
    said = f"{path} is {size[0]}×{size[1]} pixels, smaller than one patch"
    if max(size) < TINY:
        with pytest.warns(TinyImageWarning, match=re.escape(said)):
            assert tiny_image(open_image(path), str(path)).startswith(said)
    else:
        assert tiny_image(open_image(path)) == ""


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations_show_their_first_frame(tmp_path, suffix):
    """An animation is its first frame."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    path = saved(
        frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True
    )
    assert open_image(path).getpixel((4, 4)) == RED


def test_missing_empty_and_foreign_files(tmp_path):
    """What is no image is said to be none, with the file's name."""
    empty, text, half = tmp_path / "empty.png", tmp_path / "text.png", tmp_path / "half.png"
    empty.touch()
    text.write_text("not an image")
    whole = saved(picture(64, 64), tmp_path / "whole.png").read_bytes()
    half.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "nowhere.png", "does not exist")
    refused(tmp_path / ("n" * 300 + ".png"))
    refused(tmp_path, "folder")
    refused("/dev/null", "not a regular file")
    refused(empty, "empty")
    refused(text, "not an image")
    refused(half, "cannot be read")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tiff"])
def test_truncated_files_are_refused_in_every_format(tmp_path, suffix):
    """Half an image must not be answered about as if it were whole."""
    path = saved(picture(64, 64), tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path)


@pytest.mark.parametrize(
    "address", ["https://example.org/cat.png", "http://example.org/cat.png", "file:///tmp/cat.png"]
)
def test_addresses_are_not_fetched(address):
    """Nothing is downloaded behind the user's back."""
    refused(address, "download")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bombs_are_refused(tmp_path, side):
    """100 million pixels (where Pillow only warns) and 3.6 billion are both an error, before they
    fill the memory.
    """
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    )
    refused(path, "pixels", "smaller")


def test_programs_are_not_run(tmp_path):
    """Pillow hands EPS to Ghostscript; an image file must not start a program."""
    path = tmp_path / "a.eps"
    path.write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    )
    refused(path, "program")


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, MAX_ASPECT), (3 * MAX_ASPECT, 3), (640, 480)])
def test_extreme_shapes_work(model, processor, size):
    """From one pixel to the longest shape that is let through, the processor and the pruner agree
    on the tokens.
    """
    image = picture(*size)
    check_image(image)
    inputs = processor(text=prompt(), images=[image], return_tensors="pt")
    short = AdaFV(keep=0.1)(model, inputs)
    assert model(**short).logits.isfinite().all()


@pytest.mark.parametrize("size", [(20_000, 3), (3, 20_000), (MAX_ASPECT + 1, 1)])
def test_longer_shapes_say_why(tmp_path, size):
    """20,000×3 would be scaled to 2.2 million columns by LLaVA-1.5's processor, gigabytes, to look
    at 3×3 of them.
    """
    refused(
        saved(Image.new("RGB", size), tmp_path / "long.png"),
        f"{size[0]}×{size[1]}",
        f"{MAX_ASPECT}:1",
        "crop",
    )


def test_shapes_agree_with_the_processor_over_a_sweep():
    """LLaVA-NeXT's unpadding rounds; the model and the processor must count the same tokens for any
    shape let in.
    """
    from conftest import tiny_model

    model, tools = tiny_model("llava_next"), tiny_processor("llava_next")
    rng = np.random.default_rng(0)
    for _ in range(60):
        short, ratio = int(rng.integers(1, 60)), float(rng.uniform(1, MAX_ASPECT))
        size = (short, int(short * ratio)) if rng.random() < 0.5 else (int(short * ratio), short)
        inputs = tools(text=prompt(), images=[Image.new("RGB", size)], return_tensors="pt")
        AdaFV(keep=0.1)(model, inputs)
