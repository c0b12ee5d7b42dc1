"""Fonts for text that matplotlib's own has no glyphs for: Chinese, Japanese, Korean, emoji."""

import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from adafv.utils.checks import checked

__all__ = ["MissingGlyphWarning", "covering", "drawable", "families_for", "warn_of"]

BASE = "DejaVu Sans"
PREFERRED = ("Noto Sans CJK", "Noto Sans", "Symbola", "Noto Emoji")
UNKNOWN = "�"  # drawn for what no font has
NAMED = 12  # characters that a warning names


class MissingGlyphWarning(UserWarning):
    """Text was to be drawn that no installed font has glyphs for."""


@checked
def families_for(text: str) -> list[str]:
    """Return the font families to draw a text with, matplotlib's own first."""
    families = [BASE]
    for c in text:
        family = _family_with(c) if _lacking(c) else None
        if family is not None and family not in families:
            families.append(family)
    return families


@checked
def drawable(text: str) -> tuple[str, str]:
    """Return a text as it can be drawn, and the characters that no installed font has.

    `UNKNOWN` stands for every run of those. What has no width (joiners, variants of emoji) is left
    out where it has no glyph.
    """
    drawn: list[str] = []
    missing: list[str] = []
    for c in text:
        if not _lacking(c) or _family_with(c):
            drawn.append(c)
        elif unicodedata.category(c) not in ("Cf", "Mn", "Cc"):
            missing.append(c)
            if drawn[-1:] != [UNKNOWN]:
                drawn.append(UNKNOWN)
    return "".join(drawn), "".join(missing)


@checked
def warn_of(missing: str) -> None:
    """Warn in one sentence of characters without a glyph, and say which font to install."""
    if not missing:
        return

    # every character once, and the packages that have them
    found = list(dict.fromkeys(missing))
    named = "".join(found[:NAMED])
    if len(found) > NAMED:
        named += "…"
    packages = ", ".join(dict.fromkeys(map(_package, found)))
    warnings.warn(
        f"no installed font has glyphs for {named}, drawn as {UNKNOWN}: "
        f"install {packages} (Debian's names) and draw again",
        MissingGlyphWarning,
        stacklevel=3,
    )


@contextmanager
def covering(texts: Iterable[str]) -> Iterator[None]:
    """Draw figures with fonts that have the glyphs of some texts."""
    from matplotlib import rc_context

    text = "".join(texts)
    warn_of(drawable(text)[1])
    with rc_context({"font.family": families_for(text)}):
        yield


def _package(character: str) -> str:
    """Name the Debian package whose font has a character."""
    name = unicodedata.name(character, "")
    if name.startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "FULLWIDTH", "IDEOGRAPHIC")):
        return "fonts-noto-cjk"
    return "fonts-symbola" if unicodedata.category(character) == "So" else "fonts-noto-core"


def _lacking(character: str) -> bool:
    """Say whether matplotlib's own font has no glyph."""
    return not character.isascii() and ord(character) not in _characters(_own())


@cache
def _own() -> str:
    """Return the file of matplotlib's own font."""
    from matplotlib.font_manager import FontProperties, findfont

    return findfont(FontProperties(family=BASE))


@cache
def _family_with(character: str) -> str | None:
    """Return an installed family that has a glyph, None if no family has it."""
    for name, path in _installed():
        if ord(character) in _characters(path):
            return name
    return None


@cache
def _installed() -> list[tuple[str, str]]:
    """Return families and their files, those for many scripts first."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    # also what was installed since matplotlib last looked
    known = {entry.fname for entry in fontManager.ttflist}
    for path in findSystemFonts():
        if path not in known:
            with suppress(Exception):  # whatever FreeType makes of a file that is no font
                fontManager.addfont(path)

    entries = set()
    for entry in fontManager.ttflist:
        useless = "Last" in entry.name or entry.name == "cmex10"  # boxes, and parts of formulas
        if not useless and Path(entry.fname).is_file():
            entries.add((entry.name, entry.fname))
    return sorted(entries, key=_rank)


def _rank(entry: tuple[str, str]) -> tuple[int, str]:
    """Order families: the preferred ones first, then by name."""
    name, _ = entry
    for i, start in enumerate(PREFERRED):
        if name.startswith(start):
            return i, name
    return len(PREFERRED), name


@cache
def _characters(path: str) -> frozenset[int]:
    """Return the code points that a font has outlines for."""
    from matplotlib.ft2font import FT2Font

    with suppress(Exception):  # images in place of outlines (colour emoji), or no font at all
        font = FT2Font(path)
        if font.scalable:
            return frozenset(font.get_charmap())
    return frozenset()
