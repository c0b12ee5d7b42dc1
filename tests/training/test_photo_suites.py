"""The photo model's suites: what a question is about is there to be looked at, and only there."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw

from adafv.evaluation.own import own_images
from training.photo import clips, pictures, scenes, suites
from training.photo.clips import FRAMES
from training.photo.names import NOUNS

NAMES = sorted(NOUNS)[:40]


@pytest.fixture
def drawings(monkeypatch):
    """Two drawn pictures of each of some nouns, one of them for tests alone."""
    rows = []
    for number, name in enumerate(NAMES):
        for split in ("train", "unseen"):
            row = {"id": f"{name}-{split}", "name": name, "kind": NOUNS[name].kind, "colour": None}
            rows.append({**row, "split": split, "cluster": f"{number}-{split}"})

    def draw(name: str) -> Image.Image:
        random = np.random.default_rng(len(name))
        image = Image.new("RGBA", (100, 90))
        color = (*(int(x) for x in random.integers(0, 256, 3)), 255)
        ImageDraw.Draw(image).ellipse((4, 4, 96, 86), fill=color)
        return image

    for module in (scenes, pictures):
        monkeypatch.setattr(module, "read_index", lambda: rows)
    for module in (scenes, clips):
        monkeypatch.setattr(module, "open_picture", draw)
    monkeypatch.setattr(scenes, "_photographs", lambda: [Image.new("RGB", (200, 200), "gray")])
    for cached in (scenes.pictures_by_name, scenes.name_weights):
        cached.cache_clear()
    yield
    for cached in (scenes.pictures_by_name, scenes.name_weights):
        cached.cache_clear()


def test_a_dull_thing_is_small_at_the_border_and_asked_about_alone(drawings):
    found = 0
    for number in range(12):
        scene, questions = suites.asked("photos-dull", number)
        for question in questions:
            found += 1
            assert question.about == (len(scene.things) - 1,)
            left, top, right, bottom = scene.things[-1].box
            assert max(right - left, bottom - top) < 90
            gaps = (left, top, scenes.PIXELS - right, scenes.PIXELS - bottom)
            assert min(gaps) <= scenes.PATCH // 3
            others = [thing.box for thing in scene.things[:-1]]
            assert all(max(box[2] - box[0], box[3] - box[1]) > 90 for box in others)
    assert found > 12


def test_polls_are_balanced_and_true(drawings):
    """As often there as not, of each form of the question; what is absent is nowhere."""
    kinds = Counter()
    for number in range(40):
        scene, questions = suites.asked("photos-polling", number)
        shown = {thing.name for thing in scene.things}
        there = 0
        for question in questions:
            name = question.text.removeprefix("Is there ").rstrip("?")
            name = name.removeprefix("no ").removeprefix("an ").removeprefix("a ")
            present = name in shown
            there += present
            assert present == bool(question.about)
            assert (question.answer == "yes") == (
                present != question.text.startswith("Is there no")
            )
            kinds[question.type, question.answer] += 1
        assert 2 * there == len(questions)
    assert len(kinds) == 4


def test_unseen_pictures_are_in_their_suite_alone(drawings):
    for number in range(8):
        for name in ("photos", "photos-unseen", "photos-dull", "photos-polling"):
            scene, _ = suites.asked(name, number)
            unseen = {thing.picture.endswith("unseen") for thing in scene.things}
            assert unseen <= {name == "photos-unseen"}
        pictures_of_clip = {thing.picture for thing in clips.compose_clip(number).things}
        assert not any(picture.endswith("unseen") for picture in pictures_of_clip)


def test_what_is_written_is_a_suite(drawings, tmp_path):
    """As `adafv eval` reads it, the same at every time."""
    count = suites.write("photos", 9, tmp_path)
    images = own_images(str(tmp_path / "photos"))
    assert sum(len(image.questions) for image in images) == count >= 9
    lines = (tmp_path / "photos" / "questions.jsonl").read_text()
    assert {tuple(json.loads(line)) for line in lines.splitlines()} == {
        ("image", "question", "answer", "type", "boxes")
    }
    suites.write("photos", 9, tmp_path / "again")
    assert (tmp_path / "again" / "photos" / "questions.jsonl").read_text() == lines


def test_a_clip_shows_what_is_asked_about_it(drawings, tmp_path):
    """Things differ from the background in their boxes alone; ways, times and order are those of
    their paths, and methods see four frames.
    """
    types = Counter()
    for number in range(30):
        clip = clips.compose_clip(number)
        pixels = np.asarray(clip.image)
        changed = (pixels != pixels[0, 0]).any(-1)
        for boxes, path in zip(clip.boxes, clip.paths, strict=True):
            assert len(boxes) == sum(position is not None for position in path)
            for left, top, right, bottom in boxes:
                assert changed[top:bottom, left:right].any()
                changed[top:bottom, left:right] = False
        assert not changed.any()
        if not clip.things:
            continue
        random = np.random.default_rng(number)
        for question in (*clips.ask(clip, random), *clips.ask_over_time(clip, random)):
            types[question.type] += 1
            path = clip.paths[question.about[0]] if question.about else ()
            if question.type == "way":
                assert question.answer == f"To the {'right' if path[0] < path[-1] else 'left'}"
            if question.type == "times":
                assert int(question.answer) == FRAMES - path.count(None)
            if question.type == "order":
                first, second = (clip.paths[index] for index in question.about)
                assert first.index(max(filter(None, first))) < second.index(
                    max(filter(None, second))
                )
    assert {"exists", "either", "way", "times", "order"} <= types.keys()

    suites.write("photos-clips", 9, tmp_path)
    images = own_images(str(tmp_path / "photos-clips"))
    assert {image.sample().frames for image in images} == {clips.FRAME_GRID}
