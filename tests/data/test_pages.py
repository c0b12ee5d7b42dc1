"""Pages: the same everywhere, each answer drawn in its box, and asked about once."""

import numpy as np
import pytest

from adafv.data.pages import KINDS, QUESTIONS, SIZE, _Page, draw_page
from adafv.data.suites import SUITES, load_suite, suites_of

COUNT = 60


@pytest.fixture(scope="module")
def pages():
    return [draw_page(seed) for seed in range(COUNT)]


def test_a_page_is_a_function_of_its_seed_and_split(pages):
    again = draw_page(7)
    assert again.questions == pages[7].questions
    assert np.array_equal(np.asarray(again.image), np.asarray(pages[7].image))
    assert draw_page(7, split="validation").questions != pages[7].questions


def test_every_kind_is_asked_about(pages):
    """In turns; the types of the questions are the kinds."""
    types = [question.type for page in pages for question in page.questions]
    assert {*types} == {*KINDS}
    assert all(2 <= len(page.questions) <= QUESTIONS for page in pages)


def test_answers_stand_in_their_boxes(pages):
    """There is ink in each box, inside the page."""
    for page in pages:
        pixels = np.asarray(page.image, dtype=int)
        for question in page.questions:
            [(left, top, right, bottom)] = question.boxes
            assert 0 <= left < right <= SIZE[0]
            assert 0 <= top < bottom <= SIZE[1]
            inside = pixels[top:bottom, left:right]
            assert np.ptp(inside.reshape(-1, 3), axis=0).max() > 60, question


def test_a_question_has_one_answer(pages):
    """No page asks the same twice."""
    for page in pages:
        texts = [question.text for question in page.questions]
        assert len(texts) == len({*texts})
        assert all(question.accepts(question.answer) for question in page.questions)


def test_what_is_written_stands_once_and_apart(monkeypatch):
    """No two texts of a page are the same, and one pixel around each is of one color: what was
    there before it.
    """
    written, write = [], _Page.write

    def spy(page, x, y, text, *args, **options):
        box = write(page, x, y, text, *args, **options)
        written.append((text, box))
        return box

    monkeypatch.setattr(_Page, "write", spy)
    for seed in range(COUNT):
        written.clear()
        pixels = np.asarray(draw_page(seed).image, dtype=int)
        texts = [text for text, _ in written]
        assert len(texts) == len({*texts}), texts
        for text, (left, top, right, bottom) in written:
            framed = pixels[top - 1 : bottom + 1, left - 1 : right + 1]
            edge = np.concatenate([framed[0], framed[-1], framed[:, 0], framed[:, -1]])
            assert np.ptp(edge, axis=0).max() == 0, (seed, text)


def test_the_suite_is_asked_for_by_name():
    """The embedded model knows none of its words, so it is not among the defaults."""
    assert "pages" in SUITES
    assert "pages" not in suites_of("test")
    samples = list(load_suite("pages", 10, seed=3))
    assert sum(len(sample.questions) for sample in samples) == 10
    assert samples[0].id == "pages/test/3000000"
