"""One meaning a colour, and each read by whoever sees little."""

import colorsys
import re
from importlib.resources import files

import pytest
from matplotlib.colors import to_rgb

from adafv.viz import palette

STYLE = files("adafv.app").joinpath("style.css").read_text(encoding="utf-8")
WHITE, DARK = "#ffffff", "#1f2937"
"""Of pages: the darker one is the lightest surface of Gradio's dark theme that text lies on."""


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def hue(color: str) -> float:
    """Degrees on the circle of hues."""
    return 360 * colorsys.rgb_to_hsv(*to_rgb(color))[0]


def custom_property(name: str) -> list[str]:
    """Values of a property in the playground's style: on light pages, on dark ones."""
    return re.findall(rf"--{name}: (#[0-9a-f]{{6}});", STYLE)


@pytest.mark.parametrize("name", ["RIGHT", "WRONG"])
def test_right_and_wrong_are_read_on_light_and_dark_pages(name):
    """WCAG's AA: 4.5 : 1."""
    light, dark = getattr(palette, name), getattr(palette, f"{name}_ON_DARK")
    assert contrast(light, WHITE) >= 4.5
    assert contrast(dark, DARK) >= 4.5
    assert custom_property(name.lower()) == [light, dark]


def test_right_and_wrong_are_no_colour_of_a_signal():
    """Neither the same one nor a shade of it."""
    for answer in (palette.RIGHT, palette.WRONG, palette.RIGHT_ON_DARK, palette.WRONG_ON_DARK):
        for signal in (palette.SALIENCY, palette.RELEVANCE, palette.PLAIN):
            between = abs(hue(answer) - hue(signal))
            assert min(between, 360 - between) > 20, (answer, signal)


def test_the_playground_has_no_colours_of_signals_for_anything_else():
    """What is not a signal is of the theme, or right, or wrong."""
    for color in (palette.SALIENCY, palette.RELEVANCE, palette.PLAIN):
        assert color not in STYLE


def test_a_method_has_its_colour_whoever_stands_beside_it():
    """And nobody else has it."""
    alone = palette.colors_of(["scope"])["scope"]
    beside = palette.colors_of(["fastv", "visionzip", "scope", "dart", "adafv+", "scope"])
    assert beside["scope"] == alone
    assert len(set(beside.values())) == len(beside) == 5
    # a chart of options of one method
    options = palette.colors_of(["adafv", "adafv:top=1", "adafv:top=2"])
    assert len(set(options.values())) == 3
