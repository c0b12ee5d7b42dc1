"""Judging: what makes an answer another one, and what doesn't."""

import pytest

from adafv.data.judging import normalised, same_answer
from adafv.data.sample import Question


def test_answers_that_are_the_same():
    """Case, articles, punctuation and the form of numbers make no difference; words do."""
    question = Question("q", "two cats", "", (), ("a pair of cats",))
    for answer in ("Two cats.", "2 cats", " the two  cats", "a pair of cats"):
        assert question.accepts(answer)
    for answer in ("three cats", "two", "cats", ""):
        assert not question.accepts(answer)
    # nothing but an article is an answer of its own
    assert normalised("A") == "a"
    assert normalised("Grey colour") == "gray color"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(
            ("-5", "5"),
            ("1/2", "1.2"),
            ("+", "-"),
            ("+", ""),
            ("C++", "C"),
            ("👍", "👎"),
            ("की", "का"),
        ),
        *(
            (".5", "5"),
            ("\u22125", "5"),
            ("1½", "11 2"),
            ("1½", "11/2"),
            ("½", "1 2"),
            ("10²", "102"),
        ),
        *(("-5cm", "5cm"), (".5kg", "5kg"), ("1.5kg", "15kg"), ("-$5", "$5"), ("1,5", "15")),
        *(("A+", "A-"), ("A+", "A"), ("O-", "O"), ("A, B", "B"), ("B, A, C", "B, C")),
        *(("Gate A", "Gate"), ("the light is on", "the light"), ("Vitamin A test", "Vitamin test")),
        *(
            ("in there", "there"),
            ("yes, there is a cup", "yes"),
            ("no, yes", "no"),
            ("5.0", "50"),
            ("100", "1"),
            ("1.2.0", "1.2"),
            ("1,00", "100"),
            ("1/20", "1/2"),
        ),
    ],
)
def test_answers_that_differ_are_not_the_same(one, other):
    """Signs, fractions, points, marks of other scripts and what holds no letter."""
    assert not same_answer(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("café", "cafe\u0301"), ("ｒｅｄ", "red"), ("3.", "3"), ("It is 3.5", "3.5")),
        *(
            ("1,000", "1000"),
            ("$1,500", "1500"),
            ("12,345,678.50", "12345678.5"),
            ("-1,000", "-1000"),
        ),
        *(("The light is on.", "light is on"), ("left of the cup", "left of cup"), ("an A+", "A+")),
        *(("Yes, there is.", "yes"), ("No, it isn't", "no"), ("no - there are not", "No.")),
        *(("It is on the left", "left"), ("there are two", "2"), ("the x-ray", "x-ray")),
        *((".5", "0.5"), ("-.5", "-0.5"), ("5.0", "5"), ("1.50", "1.5"), ("5.0kg", "5kg")),
        *(("\u22125", "-5"), ("\u20135", "-5"), ("½", "1/2"), ("1½", "1 1/2"), ("-$5", "$-5")),
        *(("2010\u20132015", "2010-2015"), ("…5", "5"), ("1,2,3", "1, 2, 3"), ("m²", "m2")),
    ],
)
def test_answers_that_are_written_otherwise_are_the_same(one, other):
    """Composed or not, of full width, at the end of a sentence; numbers with and without frills."""
    assert same_answer(one, other)
