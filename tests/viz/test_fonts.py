"""Writing of every script: glyphs where an installed font has them, a sentence where none has,
never boxes.
"""

import warnings

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from adafv.viz import fonts
from adafv.viz.figure import PixelFigure, wrapped
from adafv.viz.fonts import MissingGlyphWarning, covering, drawable, families_for, warn_of

TEXT = "the 猫 is 🐉"


@pytest.fixture(autouse=True)
def no_fonts(monkeypatch):
    """A machine that has matplotlib's own fonts alone."""
    own = [entry for entry in font_manager.fontManager.ttflist if "matplotlib" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    for remembered in (fonts._installed, fonts._family_with):
        remembered.cache_clear()
    yield
    for remembered in (fonts._installed, fonts._family_with):
        remembered.cache_clear()


def a_font(path, characters: str) -> str:
    """A font with a filled square for each character."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(point)
    pen.closePath()
    names = [".notdef", *(f"u{ord(c):X}" for c in characters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"u{ord(c):X}" for c in characters})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


def test_a_font_that_has_them_is_used(tmp_path, monkeypatch):
    """Also one that was installed after matplotlib last looked; nothing is warned of."""
    path = a_font(tmp_path / "squares.ttf", "猫🐉")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [path])
    assert families_for(TEXT) == ["DejaVu Sans", "Squares"]
    assert drawable(TEXT) == (TEXT, "")
    sheet = PixelFigure(200, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sheet.text(10, 10, TEXT, 12, "black")
        sheet.finished().canvas.draw()
        with covering([TEXT]):
            assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "Squares"]


def test_without_one_a_sentence_names_what_to_install():
    """Once for a page; matplotlib's own complaint about boxes doesn't come."""
    assert drawable(TEXT) == ("the � is �", "猫🐉")
    assert families_for(TEXT) == ["DejaVu Sans"]
    sheet = PixelFigure(200, 100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sheet.text(10, 10, TEXT, 12, "black")
        sheet.finished().canvas.draw()
    (warning,) = caught
    assert warning.category is MissingGlyphWarning
    assert "猫🐉" in str(warning.message)
    assert "fonts-noto-cjk, fonts-symbola" in str(warning.message)


def test_what_has_no_width_is_left_out():
    """Joiners and variants of emoji are no characters that a reader misses."""
    assert drawable("a\ufe0f\u200db\x01")[1] == ""
    assert drawable("é ✓ ü") == ("é ✓ ü", "")
    warn_of("")


@pytest.mark.parametrize(
    ("text", "room", "most", "lines"),
    [
        ("what color is it", 20, 2, ["what color is it"]),
        ("what color is it", 10, 2, ["what color", "is it"]),
        ("what color is it", 6, 2, ["what", "colo …"]),
        ("猫は何色ですか", 6, 3, ["猫は何", "色です", "か"]),
        ("is 猫 a cat", 8, 2, ["is 猫 a", "cat"]),
        ("abcdefghij", 4, 3, ["abcd", "efgh", "ij"]),
        ("", 4, 3, [""]),
    ],
)
def test_lines_break_between_words_and_wide_characters(text, room, most, lines):
    """Wide ones count as two; what is too much ends in an ellipsis."""
    assert wrapped(text, room, most) == lines
