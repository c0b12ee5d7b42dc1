"""Lines of a batch that show a video."""

import json
from dataclasses import replace

import numpy as np
import pytest
from zoo.families import show, tiny
from zoo.videos import with_template

from adafv import AdaFV, ask
from adafv.batch import hf
from adafv.batch.hf import HuggingFace
from adafv.batch.job import Batch
from adafv.batch.jsonl import read_lines
from adafv.batch.ray import RayEngine
from adafv.evaluation.own import read_images
from adafv.models.images import open_image
from adafv.models.videos import Video

QUESTION = "what color is the anchor ?"


@pytest.fixture
def video() -> Video:
    """Four frames of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
    return Video(pixels, (0, 1, 2, 3), 4, 2.0)


def write(folder, *lines: dict):
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps({"question": QUESTION} | line) + "\n" for line in lines))
    return path


def test_videos_and_images_in_one_file(tmp_path, monkeypatch, video):
    """Each as it is answered by itself, in order; a bad video is an error of its line alone."""
    show(48, 32).save(tmp_path / "a.png")
    source = write(
        tmp_path,
        {"video": "a.mp4", "frames": 4},
        {"image": "a.png"},
        {"video": "missing.mp4"},
        {"video": "a.mp4", "keep": 0.5},
        {"image": "a.png"},
    )
    asked = []

    def opened(path, frames):
        asked.append(frames)
        if "missing" in path:
            raise ValueError(f"{path!r} does not exist: check the path of the video")
        return video

    monkeypatch.setattr(hf, "open_video", opened)
    model, processor = tiny("qwen2_5_vl").model, with_template("qwen2_5_vl")
    pruner = AdaFV(keep=0.3)
    plan = Batch(source=source, out=tmp_path / "out.jsonl", pruner=pruner, max_new_tokens=3)
    plan.run(HuggingFace(model, processor, "tiny"))
    results = [json.loads(line) for line in plan.out.read_text().splitlines()]

    assert asked == [4, 8, 8]
    image = open_image(tmp_path / "a.png")
    half = replace(pruner, keep=0.5)
    for i, shown, method in ((0, video, pruner), (1, image, pruner), (3, video, half)):
        alone = ask(model, processor, shown, QUESTION, method, max_new_tokens=3)
        assert results[i]["error"] is None
        assert results[i]["answer"] == alone.answer
        assert results[i]["kept_tokens"] == alone.kept_tokens
    assert "does not exist: check the path of the video" in results[2]["error"]
    assert results[4]["answer"] == results[1]["answer"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"video": 3}, "video=3 is not a path"),
        ({"video": "a.mp4", "image": "a.png"}, "image and video are both in the line"),
        ({"video": "a.mp4", "frames": True}, "frames=True is not an integer"),
        ({"image": "a.png", "frames": 4}, "frames=4 with an image, which is one"),
        ({"video": "a.mp4", "frame": 4}, "the key 'frame' is unknown: did you mean 'frames'"),
    ],
)
def test_bad_lines(tmp_path, line, said):
    """One sentence, of the line alone."""
    (found,), _ = read_lines(write(tmp_path, line), strict=True)
    assert said in found.error


def test_paths_are_relative_to_the_questions(tmp_path):
    """As those of images are."""
    (found,), _ = read_lines(write(tmp_path, {"video": "clips/a.mp4"}))
    assert found.video == str(tmp_path / "clips" / "a.mp4")
    assert not found.image


def test_a_null_is_left_out(tmp_path):
    """A table with columns for both has a null in one of them."""
    (found,), _ = read_lines(write(tmp_path, {"video": None, "image": "a.png"}), strict=True)
    assert found.error is None
    assert found.image == str(tmp_path / "a.png")
    (found,), _ = read_lines(write(tmp_path, {"video": "a.mp4", "image": None}), strict=True)
    assert found.video == str(tmp_path / "a.mp4")


def test_what_answers_no_videos(tmp_path):
    """Ray's engine says so of the line; `adafv eval` and `adafv tune` of the file."""
    source = write(tmp_path, {"video": "a.mp4", "answer": "red"})
    plan = Batch(source=source, out=tmp_path / "out.jsonl", pruner=AdaFV(keep=0.3))
    (request,) = plan._read[0]
    engine = object.__new__(RayEngine)
    known: dict = {}
    assert not list(plan._requests(engine, [request], known, lambda line: plan.pruner))
    assert "answers no videos: pass --engine vllm, or hf" in known[1]["error"]
    with pytest.raises(ValueError, match="a video is not measured yet"):
        read_images(source)
