"""Methods beside one another, whatever they are called and answer."""

from dataclasses import replace
from itertools import combinations

import pytest
from conftest import fixtures_of, picture
from matplotlib.colors import to_hex

from adafv import method, viz
from adafv.viz.palette import RIGHT, WRONG

model, processor = fixtures_of("llava")
QUESTION = "what color is the anchor ?"
LONG = "a red knight, and left of it an anchor that is blue but for its ring, which is yellow"
NAMES = ("adafv", "fastervlm", "random", "divprune")


@pytest.fixture(scope="module")
def whats(model, processor):
    pruners = [method(name, keep=0.2) for name in NAMES]
    return viz.explanations(model, processor, picture(60, 40), QUESTION, pruners, 2)


def written(page):
    """The texts of a page, and the boxes that they fill."""
    texts = [text for text in page.texts if text.get_text()]
    return [(text.get_text(), text.get_window_extent()) for text in texts]


def check(page):
    """No text lies on another, or beyond the page."""
    texts = written(page)
    width, height = page.bbox.width, page.bbox.height
    for text, box in texts:
        assert box.x0 >= 0, text
        assert box.x1 <= width, text
        assert 0 <= box.y0 < box.y1 <= height, text
    for (one, a), (other, b) in combinations(texts, 2):
        assert not a.overlaps(b), (one, other)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_names_and_answers_stay_in_their_panels(whats, count):
    """Methods with options and answers of a sentence, in the third panel, too."""
    name = "adafv:reserve=0.1,temperature=0.02,mass=beyond,top=3,center=true,skip=1+2+3"
    told = [
        replace(what, method=name, pruned=replace(what.pruned, answer=LONG), question=f"{LONG}?")
        for what in whats[:count]
    ]
    told[0] = replace(told[0], dense=replace(told[0].dense, answer=LONG))
    check(viz.side_by_side(told))
    check(viz.side_by_side(told, LONG))
    check(viz.side_by_side(whats[:count], "red"))


def test_a_panel_says_how_many_tokens_are_kept(whats):
    kept, count = whats[0].pruned.kept_tokens, whats[0].pruned.visual_tokens
    texts = [text for text, _ in written(viz.side_by_side(whats))]
    assert texts.count(f"{kept:,} of {count:,}") == len(NAMES)


def test_right_and_wrong_have_colours_of_their_own(whats):
    """Those of the palette, on this page and on that of one method."""
    answers = ("red", "blue", "red", "red")
    told = [
        replace(what, pruned=replace(what.pruned, answer=answer), dense=None)
        for what, answer in zip(whats, answers, strict=True)
    ]
    colors = {text.get_text(): text.get_color() for text in viz.side_by_side(told, "red").texts}
    assert (to_hex(colors["✓  red"]), to_hex(colors["✗  blue"])) == (RIGHT, WRONG)
    same = replace(whats[0], pruned=whats[0].dense)
    other = replace(whats[0], pruned=replace(whats[0].dense, answer="nothing like it"))
    for what, verdict, color in ((same, "✓  the same", RIGHT), (other, "✗  another", WRONG)):
        (found,) = [x for x in what.figure().texts if x.get_text().startswith(verdict)]
        assert to_hex(found.get_color()) == color
