"""The scenes: deterministic, split by construction, and every answer follows from the
things drawn.
"""

import itertools

import numpy as np
import pytest
from oracles import scenes

from adafv.data.canvas import CARD, COLORS, ICONS
from adafv.data.scenes import SCENE_SUITES, draw, stream
from adafv.data.suites import SUITES, load_suite, suite_length, suites_of
from training.embedded.recipe import vocabulary

EVERY_TYPE = {"color", "exists", "count", "relation", "beside", "text", "two"}


def some(suite, count=60, **options):
    return [draw(seed, split="test", suite=suite, **options) for seed in range(count)]


def follows(question, things):
    """The answer to `question`, worked out again from its words and the things."""
    words = question.text.rstrip("?").split()
    by_name = {t.name: t for t in things}
    names = [w for w in words if w in ICONS]
    colors = [w for w in words if w in COLORS]
    if question.type == "color":
        return by_name[names[0]].color
    if question.type == "exists":
        return (
            "yes"
            if any(t.name == names[0] and t.color in (colors or [t.color]) for t in things)
            else "no"
        )
    if question.type == "count":
        singular = [n for n in ICONS if scenes.plural(n) == words[2]]
        return str(sum(t.name == singular[0] for t in things) if singular else len(things))
    if question.type == "two":
        return "yes" if by_name[names[0]].color == by_name[names[1]].color else "no"
    if question.type == "text":
        if colors:
            (card,) = [t for t in things if t.name == CARD and t.color == colors[0]]
        else:
            cards = [t for t in things if t.name == CARD]
            card = min(cards, key=lambda c: scenes.gap(by_name[names[0]].box, c.box))
        return card.text
    first, second = by_name[names[0]], by_name.get(names[-1])
    if question.type == "beside":
        (found,) = scenes.beside(first, words[2], things)
        return found.name
    (ax, ay), (bx, by) = scenes.middle(first.box), scenes.middle(second.box)
    is_on = {"left": ax < bx, "right": ax > bx, "above": ay < by, "below": ay > by}
    if words[0] == "where":
        assert is_on[question.answer]
        return question.answer
    return "yes" if next(on for side, on in is_on.items() if side in words) else "no"


@pytest.mark.parametrize("suite", SCENE_SUITES)
def test_answers_follow_from_the_things(suite):
    types = set()
    for sample in some(suite):
        for question in sample.questions:
            assert follows(question, sample.things) == question.answer, (sample.id, question)
            types.add(question.type)
    assert (
        types
        == {
            "scenes": EVERY_TYPE,
            "scenes-small": {"color", "exists", "two"},
            "scenes-text": {"text"},
        }[suite]
    )


@pytest.mark.parametrize("suite", SCENE_SUITES)
def test_same_seed_same_scene(suite):
    for seed in range(5):
        one, two = (draw(seed, split="test", suite=suite) for _ in range(2))
        assert (one.questions, one.things, one.id) == (two.questions, two.things, two.id)
        assert np.array_equal(np.asarray(one.image), np.asarray(two.image))


def test_training_and_test_never_meet():
    states = {
        (split, suite, seed): stream(seed, split=split, suite=suite, size=(192, 192)).getrandbits(
            256
        )
        for split in ("train", "test")
        for suite in SCENE_SUITES
        for seed in range(300)
    }
    assert len(set(states.values())) == len(states)
    pictures = {
        split: {draw(seed, split=split).image.tobytes() for seed in range(40)}
        for split in ("train", "test")
    }
    assert not pictures["train"] & pictures["test"]
    assert all(
        sample.id.split("/")[1] == "test" for name in SUITES for sample in load_suite(name, 3)
    )


@pytest.mark.parametrize("size", [(192, 192), (288, 160), (120, 300)])
def test_boxes_lie_inside_and_apart(size):
    for sample in some("scenes", 30, size=size):
        assert sample.image.size == size
        assert sample.image.mode == "RGB"
        for left, top, right, bottom in (t.box for t in sample.things):
            assert 0 <= left < right <= size[0]
            assert 0 <= top < bottom <= size[1]
        for a, b in itertools.combinations([t.box for t in sample.things], 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        boxes = {t.box for t in sample.things}
        assert all(box in boxes for question in sample.questions for box in question.boxes)


def test_small_suite_asks_about_the_small():
    for sample in some("scenes-small"):
        largest = max(scenes.longer_side(t.box) for t in sample.things)
        for question in sample.questions:
            assert all(2 * scenes.longer_side(box) <= largest for box in question.boxes), (
                sample.id,
                question,
            )


@pytest.mark.slow
def test_every_word_is_in_the_vocabulary():
    known = set(vocabulary())
    for name in suites_of("test"):
        for sample in load_suite(name, 1000):
            for question in sample.questions:
                assert {*question.text.lower().replace("?", " ?").split(), question.answer} <= known


@pytest.mark.slow
def test_the_scenes_can_not_be_guessed():
    """The best blind guesser, who knows the answers of every wording, stays below one half."""
    for suite in SCENE_SUITES:
        table = {}
        for sample in some(suite, 300):
            for question in sample.questions:
                kind = (question.type, question.text.split()[0])
                table.setdefault(kind, []).append(question.answer)
        right = sum(max(answers.count(a) for a in set(answers)) for answers in table.values())
        assert right / sum(map(len, table.values())) <= 0.5


def test_easy_vqa_is_the_public_test_split():
    from easy_vqa import get_test_questions

    questions, answers, _ = get_test_questions()
    assert suite_length("easy-vqa") == len(questions) == 9673
    asked = [(q.text, q.answer) for sample in load_suite("easy-vqa") for q in sample.questions]
    assert sorted(asked) == sorted(zip(questions, answers, strict=True))
    sample = next(load_suite("easy-vqa"))
    assert sample.image.size == (64, 64)
    assert sample.things == ()
    assert sample.questions[0].boxes == ()
    assert {q.type for s in load_suite("easy-vqa", 200) for q in s.questions} == {
        "color",
        "exists",
        "shape",
    }


def test_limits_and_names():
    for name in SUITES:
        assert sum(len(s.questions) for s in load_suite(name, 23)) == 23 == suite_length(name, 23)
    assert suite_length("scenes") == 2000
    first, other = (next(load_suite("scenes", 5, seed)).image.tobytes() for seed in (0, 1))
    assert first != other
    with pytest.raises(ValueError, match="scenes-small"):
        load_suite("scene")
    for wrong in (
        {"split": "dev"},
        {"split": "test", "suite": "easy-vqa"},
        {"split": "test", "size": (50, 192)},
    ):
        with pytest.raises(ValueError):
            draw(0, **wrong)
