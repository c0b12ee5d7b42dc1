"""Is a difference more than luck? The answer has to be right when it is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.evaluation import report
from adafv.evaluation.paired import DRAWS, _signs, compared, paired
from adafv.evaluation.rows import rows_of
from adafv.utils.records import as_csv


def records(
    method: str, right: list[list[bool]], suite: str = "s", keep: float = 0.1
) -> list[dict]:
    """`right`: for each image whether each of its questions was answered rightly."""
    return [
        {
            "suite": suite,
            "id": f"p{i}",
            "question": q,
            "method": method,
            "keep": keep,
            "correct": hit,
        }
        for i, picture in enumerate(right)
        for q, hit in enumerate(picture)
    ]


def answers(
    rng: np.random.Generator, share: float, pictures: int = 200, questions: int = 3
) -> list[list[bool]]:
    return (rng.random((pictures, questions)) < share).tolist()


def test_difference_is_that_of_the_accuracies():
    """The number reported is the one a reader would compute, with an interval around it."""
    rng = np.random.default_rng(0)
    ours, theirs = answers(rng, 0.8), answers(rng, 0.6)
    (row,) = paired(records("adafv", ours) + records("random", theirs), ["adafv"])
    assert row["difference"] == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-6)
    assert (row["suite"], row["keep"], row["method"], row["rival"], row["n"]) == (
        "s",
        0.1,
        "adafv",
        "random",
        600,
    )
    assert row["ci_low"] < row["difference"] < row["ci_high"]
    assert row["p"] < 0.001


def test_p_values_of_no_difference_are_even():
    """Two methods of the same accuracy differ significantly in a twentieth of the comparisons."""
    rng = np.random.default_rng(1)
    found = [
        paired(records("a", answers(rng, 0.7, 60)) + records("b", answers(rng, 0.7, 60)), ["a"])
        for _ in range(60)
    ]
    assert sum(row["p"] < 0.05 for (row,) in found) <= 8


@given(
    images=st.integers(2, 60),
    questions=st.integers(1, 4),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 10_000),
)
def test_interval_and_p_say_the_same(images, questions, shares, seed):
    """Zero lies outside of the interval exactly where p < 0.05, with few images and many."""
    rng = np.random.default_rng(seed)
    ours, theirs = (answers(rng, share, images, questions) for share in shares)
    (row,) = paired(records("a", ours) + records("b", theirs), ["a"])
    outside = not row["ci_low"] <= 0 <= row["ci_high"]
    assert outside == (row["p"] < 0.05)
    assert -1 <= row["ci_low"] <= row["difference"] <= row["ci_high"] <= 1


def test_the_interval_holds_what_the_test_does_not_reject():
    """The same test of the difference d, run as its definition reads: gains less d a question."""
    rng = np.random.default_rng(7)
    sizes = rng.integers(1, 5, 30)
    ours, theirs = ([(rng.random(n) < share).tolist() for n in sizes] for share in (0.8, 0.6))
    (row,) = paired(records("a", ours) + records("b", theirs), ["a"])
    gains = np.array([sum(a) - sum(b) for a, b in zip(ours, theirs, strict=True)], float)
    order = np.argsort([f"p{i}" for i in range(30)])  # images are sorted by name
    signs = _signs(30, 0)

    def p(difference: float) -> float:
        shifted = (gains - difference * sizes)[order]
        return ((abs(signs @ shifted) >= abs(shifted.sum()) - 1e-9).sum() + 1) / (DRAWS + 1)

    for inside, end in ((1e-4, row["ci_low"]), (-1e-4, row["ci_high"])):
        assert p(end + inside) >= 0.05 > p(end - inside)


def test_few_images_exclude_nothing():
    """Of five images no outcome is rejected at 5 %, of ten one is."""
    five = paired(records("a", [[True]] * 5) + records("b", [[False]] * 5), ["a"])[0]
    assert (five["difference"], five["ci_low"], five["ci_high"]) == (1, -1, 1)
    ten = paired(records("a", [[True]] * 10) + records("b", [[False]] * 10), ["a"])[0]
    assert ten["p"] < 0.05
    assert ten["ci_low"] > 0


def test_questions_on_one_picture_are_not_independent():
    """Ten questions that always go together say no more than one."""
    rng = np.random.default_rng(2)
    ours, theirs = (answers(rng, share, 25, 1) for share in (0.75, 0.6))
    single = paired(records("a", ours) + records("b", theirs), ["a"])[0]
    tenfold = paired(
        records("a", [p * 10 for p in ours]) + records("b", [p * 10 for p in theirs]), ["a"]
    )[0]
    assert tenfold["p"] == single["p"]
    assert tenfold["ci_low"] == pytest.approx(single["ci_low"])


def test_equal_answers_have_no_difference():
    """No discordant question: the difference is zero, and so is the interval."""
    same = answers(np.random.default_rng(3), 0.5)
    (row,) = paired(records("a", same) + records("b", same), ["a"])
    assert (row["difference"], row["ci_low"], row["ci_high"], row["p"]) == (0, 0, 0, 1)


def test_one_image_has_no_interval():
    """It says nothing of others; a point would claim to know all about them."""
    rows = paired(records("a", [[True, True]]) + records("b", [[True, False]]), ["a"])
    assert [(row["difference"], row["ci_low"], row["ci_high"]) for row in rows] == [
        (0.5, None, None)
    ]
    assert rows[0]["p"] == 1
    assert as_csv(rows[0], rows).splitlines()[1] == "s,0.1,a,b,2,0.5,,,1.0"


def test_only_what_was_asked_of_both_at_one_budget():
    """Rivals at another budget, on another suite or question are no rivals."""
    few, more = (
        answers(np.random.default_rng(4), 0.5, 20),
        answers(np.random.default_rng(5), 0.5, 30),
    )
    rows = paired(
        records("a", few) + records("b", more) + records("c", more, keep=0.5), ["a", "missing"]
    )
    assert [(row["rival"], row["n"]) for row in rows] == [("b", 60)]


def test_what_others_are_compared_with():
    """Ours where they take part, else the first; what is asked for, unless it has no rivals."""
    methods = ["none", "blind", "mine", "random", "adafv+"]
    assert compared(methods) == ["adafv+"]
    assert compared(methods[:4]) == ["mine"]
    assert compared(methods[:2]) == []
    assert compared(methods, ["random", "mine", "random"]) == ["random", "mine"]
    for name in ("none", "adafv"):
        with pytest.raises(
            ValueError, match=f"{name}, which has no rivals .* mine, random, adafv.$"
        ):
            compared(methods * 2, [name])


def test_the_marks_are_of_the_method_that_was_asked_for():
    """Else of the first that has pairs; without pairs there is nothing to explain."""
    pairs = [{"method": "adafv"}, {"method": "mine"}]
    assert report.reference({}, pairs) == "adafv"
    assert report.reference({"against": ["mine", "adafv"]}, pairs) == "mine"
    assert report.reference({"against": ["gone"]}, pairs) == "adafv"
    assert report.reference({"against": ["mine"]}, []) is None
    assert "than mine by more than luck (p < 0.05" in report.legend("mine")


def test_table_marks_what_is_more_than_luck():
    """A reader sees at once which rivals are better or worse than AdaFV."""
    rng = np.random.default_rng(6)
    shares = {"adafv": 0.7, "worse": 0.4, "better": 0.95}
    rows = [r for name, share in shares.items() for r in records(name, answers(rng, share))]
    rows += records("none", answers(rng, 0.95), keep=1.0)
    extra = {"type": "x", "kept_tokens": 1.0, "visual_tokens": 9, "seconds": 0.1}
    table = report.table(rows_of([r | extra for r in rows]), paired(rows, ["adafv"]))
    marks = {
        name: cell[-1]
        for name, cell in zip(table.columns[2].cells, table.columns[3].cells, strict=True)
    }
    assert (marks["worse"], marks["better"]) == ("▼", "▲")
    assert marks["adafv"].isdigit()
