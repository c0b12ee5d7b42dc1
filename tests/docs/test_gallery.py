"""The gallery's rule, and its notebook: it runs, and shows what the rule finds."""

from pathlib import Path

import nbformat
import pytest
from conftest import BEFORE, picture
from nbclient import NotebookClient

from adafv import method, viz
from adafv.data.scenes import draw
from adafv.evaluation.disagreement import disagreements
from adafv.models.ask import ask, ask_encoded
from adafv.viz import compare as beside
from adafv.viz import explained_answer

pytestmark = pytest.mark.slow

NOTEBOOK = Path(__file__).parents[2] / "docs" / "gallery.ipynb"
METHODS = ("one", "two", "three", "four")


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    def short(function):
        return lambda *given, max_new_tokens: function(*given, max_new_tokens=3)

    monkeypatch.setattr(explained_answer, "ask", short(ask))
    monkeypatch.setattr(beside, "ask_encoded", short(ask_encoded))


def records(rows: list[tuple[str, int, str, str]], dense: str = "yes") -> list[dict]:
    """What an evaluation gives for rows of suite, seed, type and a mark for each method, + where it
    is right.
    """
    out = []
    for suite, seed, kind, marks in rows:
        answers = {"none": (1.0, dense), "blind": (0.0, "no")}
        answers |= {
            m: (0.05, "yes" if mark == "+" else "no")
            for m, mark in zip(METHODS, marks, strict=True)
        }
        for name, (keep, answer) in answers.items():
            place = {
                "suite": suite,
                "id": f"{suite}/validation/{seed}",
                "question": 0,
                "type": kind,
            }
            said = {
                "method": name,
                "keep": keep,
                "answer": answer,
                "truth": "yes",
                "correct": answer == "yes",
            }
            out.append(place | said)
    return out


def found(rows: list[tuple[str, int, str, str]], count: int = 5) -> list[tuple[str, int]]:
    return [(case.suite, case.number) for case in disagreements(records(rows), count)]


def test_the_most_divided_question_comes_first():
    """One against three is less of a quarrel than two against two, whoever is right."""
    rows = [("a", 0, "color", "+---"), ("a", 1, "count", "++--"), ("a", 2, "text", "+++-")]
    assert found(rows) == [("a", 1), ("a", 0), ("a", 2)]
    assert found(rows, count=1) == [("a", 1)]


def test_one_question_of_each_type():
    """The most divided one of its type."""
    rows = [("a", 0, "color", "+---"), ("a", 1, "color", "++--"), ("a", 2, "color", "--++")]
    assert found(rows) == [("a", 1)]


def test_ties_go_to_the_lower_number_then_to_the_first_suite():
    """Otherwise the first suite would take every place."""
    rows = [
        ("a", 0, "color", "++++"),
        ("a", 1, "color", "++--"),
        ("b", 0, "text", "++--"),
        ("b", 1, "two", "++--"),
    ]
    assert found(rows) == [("b", 0), ("a", 1), ("b", 1)]


def test_where_nobody_differs_or_the_model_is_wrong_there_is_nothing_to_see():
    """Pruning isn't to blame for what all tokens get wrong."""
    assert found([("a", 0, "color", "++++"), ("a", 1, "text", "----")]) == []
    assert disagreements(records([("a", 0, "color", "++--")], dense="no"), 5) == []


def test_a_case_knows_its_methods_and_its_picture():
    """Neither the dense nor the blind model is a method that could part from the others."""
    (case,) = disagreements(records([("scenes", 3, "color", "+-+-")]), 5)
    assert case.right == ["one", "three"]
    assert set(case.answers) == set(METHODS)
    sample, question = case.load()
    assert sample.id == "scenes/validation/3"
    assert question == draw(3, split="validation").questions[0]


def test_one_pass_of_the_tower_explains_what_each_method_does_alone(model, processor):
    """The answer and the kept tokens of every method that has a page."""
    image, question = picture(60, 40), "what color is the anchor ?"
    pruners = [method(name) if name == "none" else method(name, keep=0.2) for name in BEFORE]
    for pruner, what in zip(
        pruners, viz.explanations(model, processor, image, question, pruners), strict=True
    ):
        alone = viz.explanation(model, processor, image, question, pruner)
        assert what.kept.tolist() == alone.kept.tolist(), pruner.name
        assert (what.pruned.answer, what.dense.answer) == (
            alone.pruned.answer,
            alone.dense.answer,
        ), pruner.name


@pytest.mark.parametrize("number", [1, 2, 4])
def test_methods_are_drawn_beside_one_another(model, processor, number):
    """Any number, in rows of three."""
    pruners = [method(name, keep=0.2) for name in ("adafv", "tome", "random", "divprune")[:number]]
    whats = viz.explanations(
        model, processor, picture(60, 40), "what color is the anchor ?", pruners
    )
    drawn = viz.side_by_side(whats, "red")
    texts = {text.get_text() for text in drawn.texts}
    assert {"the truth", "red", *(what.method for what in whats)} <= texts
    assert "the truth" not in {text.get_text() for text in viz.side_by_side(whats).texts}


def test_the_notebook_runs_and_shows_the_cases_that_the_rule_finds():
    """From an empty kernel, in the order of its cells."""
    committed = nbformat.read(NOTEBOOK, as_version=4)
    executed = NotebookClient(nbformat.read(NOTEBOOK, as_version=4), timeout=300).execute()
    assert printed(executed) == printed(committed)
    assert len(printed(committed).splitlines()) == 5
    kinds = [
        kind
        for cell in executed.cells
        for output in cell.get("outputs", ())
        for kind in output.get("data", ())
    ]
    assert kinds.count("image/jpeg") == 6  # five cases and a page
    assert NOTEBOOK.stat().st_size < 700_000
    assert not [
        output
        for cell in committed.cells
        for output in cell.get("outputs", ())
        if output.get("name") == "stderr"
    ]


def printed(notebook: nbformat.NotebookNode) -> str:
    """What the cell that finds the cases says."""
    (cell,) = [cell for cell in notebook.cells if "cases" in cell.metadata.get("tags", ())]
    return "".join(output["text"] for output in cell.outputs if output.get("name") == "stdout")
