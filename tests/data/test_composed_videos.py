"""The composed clips: deterministic, split by construction, and every answer follows from what is
drawn in the frames.
"""

import numpy as np
import pytest
from oracles import scenes

from adafv.data.canvas import CARD, COLORS, ICONS
from adafv.data.scenes import stream
from adafv.data.suites import SUITES, load_suite, suite_length, suites_of
from adafv.data.videos import FRAMES, SIDE, compose_video, draw_video
from training.embedded.recipe import vocabulary

COUNT = 60
TYPES = {"color", "passes", "exists", "beside", "text", "two"}


@pytest.fixture(scope="module")
def drawn():
    return [draw_video(seed, split="test") for seed in range(COUNT)]


def frame_of(box):
    """Frame 0 … 3 on the contact sheet, in which the whole box lies."""
    left, top, right, bottom = box
    assert left // SIDE == (right - 1) // SIDE
    assert top // SIDE == (bottom - 1) // SIDE
    return 2 * (top // SIDE) + left // SIDE


def follows(question, things):
    """The answer to `question`, worked out again from its words and the things."""
    words = question.text.rstrip("?").split()
    names = [word for word in words if word in ICONS]
    colors = [word for word in words if word in COLORS]
    found = {name: [thing for thing in things if thing.name == name] for name in names}
    if question.type in ("color", "passes"):
        shown = found[names[0]]
        assert (len(shown) == 1) == (question.type == "color")
        assert len({thing.color for thing in shown}) == 1
        return shown[0].color
    if question.type == "exists":
        return "yes" if any(t.color in (colors or [t.color]) for t in found[names[0]]) else "no"
    if question.type == "two":
        (first,), (second,) = (found[name] for name in names)
        return "yes" if first.color == second.color else "no"
    if question.type == "text":
        cards = [thing for thing in things if thing.name == CARD]
        return next(card.text for card in cards if not colors or card.color == colors[0])
    (thing,) = found[names[0]]
    at = frame_of(thing.box)
    (other,) = scenes.beside(thing, words[2], [t for t in things if frame_of(t.box) == at])
    return other.name


def test_answers_follow_from_the_frames(drawn):
    asked = [(q, sample) for sample in drawn for q in sample.questions]
    for question, sample in asked:
        assert follows(question, sample.things) == question.answer, (sample.id, question)
        boxes = {thing.box for thing in sample.things}
        assert all(box in boxes for box in question.boxes)
    assert {question.type for question, _ in asked} == TYPES


def test_things_stand_pass_and_appear_on_one_background():
    """Equal steps of what passes; where nothing is drawn all frames are the same."""
    for seed in range(20):
        frames, tracks = compose_video(stream(seed, split="test", suite="clips", size=(192, 192)))
        assert len(frames) == FRAMES
        covered = np.zeros((SIDE, SIDE), dtype=bool)
        for track in tracks:
            boxes = [box for box in track.boxes if box is not None]
            assert len(boxes) == track.seen >= 1
            for left, top, right, bottom in boxes:
                assert min(left, top) >= 0
                assert max(right, bottom) <= SIDE
                covered[top:bottom, left:right] = True
            steps = np.diff([box[:2] for box in boxes], axis=0)
            assert np.ptp(steps, axis=0).max() <= 1 if len(steps) else True
        pixels = [np.asarray(frame)[~covered] for frame in frames]
        assert all(np.array_equal(pixels[0], other) for other in pixels)
        assert {track.seen for track in tracks} & {2, 3, 4}


def test_a_clip_is_a_function_of_its_seed_and_split(drawn):
    again = draw_video(7, split="test")
    assert again.questions == drawn[7].questions
    assert again.image.tobytes() == drawn[7].image.tobytes()
    test = {sample.image.tobytes() for sample in drawn}
    for split in ("train", "validation"):
        assert not test & {draw_video(seed, split=split).image.tobytes() for seed in range(20)}
    with pytest.raises(ValueError, match="split='dev'"):
        draw_video(0, split="dev")


def test_no_answer_can_be_guessed_from_its_wording(drawn):
    """The best blind guesser, who knows the answers of every wording, stays below one half."""
    table = {}
    for question in (question for sample in drawn for question in sample.questions):
        table.setdefault((question.type, question.text.split()[0]), []).append(question.answer)
    right = sum(max(map(answers.count, answers)) for answers in table.values())
    assert right / sum(map(len, table.values())) <= 0.5


def test_the_suite_is_asked_for_by_name(drawn):
    """In words of the embedded model, but not among the default suites, which are of images."""
    assert "clips" in SUITES
    assert "clips" not in suites_of("test")
    known = set(vocabulary())
    for sample in drawn:
        assert sample.frames == (2, 2)
        for question in sample.questions:
            assert {*question.text.replace("?", " ?").split(), question.answer} <= known
    assert suite_length("clips", 10) == 10
    assert next(load_suite("clips", 10, seed=3)).id == "clips/test/3000000"
