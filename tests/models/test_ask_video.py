"""Questions about a video: through the processor's own part for videos, or one sentence."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLProcessor
from zoo.families import tiny
from zoo.videos import clip, with_template

from adafv import AdaFV, ask
from adafv.cli import main
from adafv.methods import NoPruning
from adafv.models import processors
from adafv.models.prompting import build_inputs, check_question, prompt_for
from adafv.models.videos import Video

QUESTION = "what color is the anchor ?"


@pytest.fixture
def video() -> Video:
    """Four frames of noise, of a video of two seconds."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
    return Video(pixels, (0, 1, 2, 3), 4, 2.0)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "glm4v", "llava_onevision"])
def test_a_video_is_asked_about(name, video):
    """From its budget; with all tokens the model says what it says by itself."""
    model, processor = tiny(name).model, with_template(name)
    answer = ask(model, processor, video, QUESTION, AdaFV(keep=0.3), max_new_tokens=3)
    assert 0 < answer.kept_tokens == round(0.3 * answer.visual_tokens)
    whole = ask(model, processor, video, QUESTION, NoPruning(), max_new_tokens=3)
    inputs = build_inputs(processor, video, QUESTION)
    plain = model.generate(**inputs, do_sample=False, max_new_tokens=3)
    said = processor.batch_decode(plain[:, inputs["input_ids"].shape[1] :])[0]
    assert whole.answer == said.strip()


@pytest.mark.parametrize("name", ["internvl", "smolvlm"])
def test_frames_are_asked_about_as_images(name, video):
    """Each from its own budget, where a processor makes images of a clip's frames."""
    if name == "smolvlm":
        pytest.importorskip("num2words", reason="its processor writes how many frames there are")
    answer = ask(
        tiny(name).model, with_template(name), video, QUESTION, AdaFV(keep=0.3), max_new_tokens=3
    )
    assert (answer.visual_tokens, answer.kept_tokens) == (4 * 9, 4 * 3)


def test_pixels_have_the_models_dtype_and_times_keep_theirs(video):
    """Seconds in bfloat16 would move frames."""
    inputs = build_inputs(with_template("qwen2_5_vl"), video, QUESTION, "cpu", torch.bfloat16)
    assert inputs["pixel_values_videos"].dtype == torch.bfloat16
    assert inputs["second_per_grid_ts"].dtype == torch.float32
    assert "video_metadata" not in inputs


def test_frames_are_read_as_they_were_sampled(video):
    """The processor leaves out none, and gets their true times: one frame of three a second."""
    processor = with_template("qwen2_5_vl")
    slow = replace(video, indices=(0, 30, 60, 90), total=120, fps=10.0)
    inputs = build_inputs(processor, slow, QUESTION)
    assert inputs["video_grid_thw"][0, 0] == 2  # two frames make a step
    assert inputs["second_per_grid_ts"].tolist() == pytest.approx([2 * 12 / 4])


def test_the_prompt_has_one_placeholder(video):
    """Of a video; and a question may not bring another."""
    processor = with_template("llava_onevision")
    prompt = prompt_for(processor, QUESTION, video=True)
    assert prompt == f"USER : <video> {QUESTION} ASSISTANT :"
    processor.chat_template = None
    assert prompt_for(processor, QUESTION, video=True) == f"USER: <video>\n{QUESTION} ASSISTANT:"
    with pytest.raises(ValueError, match="the question contains '<video>'"):
        check_question(processor, "is <video> a word ?")


def test_a_processor_that_reads_no_videos(video):
    """Torchvision is asked for where it would help, another model where it wouldn't."""
    with pytest.raises(ValueError, match=r"torchvision, which is not installed: install it"):
        ask(tiny("qwen2_vl").model, tiny("qwen2_vl").processor, video, QUESTION, AdaFV(keep=0.3))
    with pytest.raises(ValueError, match=r"reads images, no videos: pass a model that reads them"):
        ask(tiny("llava").model, tiny("llava").processor, video, QUESTION, AdaFV(keep=0.3))


def test_a_family_whose_videos_are_not_pruned(monkeypatch, video):
    """Refused, rather than answered from all tokens."""
    found = tiny("kimi_k25")
    frames = [Image.fromarray(frame) for frame in video.frames]
    inputs = clip("qwen2_vl", frames, QUESTION)
    monkeypatch.setattr("adafv.models.ask.build_inputs", lambda *_: inputs)
    with pytest.raises(ValueError, match=r"videos are not pruned in models of the family 'kimi"):
        ask(found.model, found.processor, video, QUESTION, AdaFV(keep=0.3))


def test_the_part_for_videos_is_not_asked_for_pillow(monkeypatch, tmp_path):
    """With torchvision a model that reads videos loads: its images by Pillow, its videos not."""
    asked = []

    def images(kind, source, *args, **options):
        assert options["backend"] == "pil"
        return ["images", "words", None]

    class Videos:
        @staticmethod
        def from_pretrained(source, **options):
            asked.append((source, options))
            return "videos"

    whole = processors.with_videos(Qwen2VLProcessor)
    assert whole.__name__ == "Qwen2VLProcessor"
    only = processors.images_only(Qwen2VLProcessor)
    monkeypatch.setattr(only, "_get_arguments_from_pretrained", classmethod(images))
    monkeypatch.setattr(processors, "AutoVideoProcessor", Videos)
    parts = whole._get_arguments_from_pretrained("folder", backend="pil", revision="main")
    assert parts == ["images", "words", "videos"]
    assert asked == [("folder", {"revision": "main"})]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a.mp4", QUESTION), "the built-in model reads images alone: pass --model"),
        (("a.mp4", " "), "the question is empty: ask something about the video"),
        (("a.png", QUESTION, "--frames", "4"), "--frames 4 with an image, which is one"),
        (("a.mp4", QUESTION, "--frames", "0", "--model", "."), "frames=0 of a video"),
        (
            ("b.mp4", QUESTION, "--model", "."),
            "'b.mp4' does not exist: check the path of the video",
        ),
        (("g.mp4", QUESTION, "--model", "."), "g.mp4 is a GIF, whose frames are no video"),
    ],
)
def test_bad_input_of_the_command(tmp_path, monkeypatch, capsys, arguments, said):
    """One line on stderr and exit status 2, before a model is loaded."""
    monkeypatch.chdir(tmp_path)
    for name, content in (("a.mp4", b"\0\0\0\x18ftypisom"), ("g.mp4", b"GIF89a"), ("a.png", b"x")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text("{}")
    assert main(["ask", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert said in err
    assert len(err.splitlines()) == 1


def test_the_command(tmp_path, monkeypatch, capsys, video):
    """`adafv ask a.mp4 …`: the answer, in JSON."""
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    (tmp_path / "config.json").write_text("{}")
    read = []
    monkeypatch.setattr(
        "adafv.models.videos.open_video", lambda path, frames: read.append(frames) or video
    )
    found = (tiny("qwen2_5_vl").model, with_template("qwen2_5_vl"))
    monkeypatch.setattr("adafv.models.load.load", lambda *_: found)
    arguments = [str(tmp_path / "a.mp4"), QUESTION, "--model", str(tmp_path), "--keep", "0.3"]
    for more, frames in (((), 8), (("--frames", "4"), 4)):
        assert main(["ask", *arguments, *more, "--json", "--max-new-tokens", "2"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["kept_tokens"] == round(0.3 * answer["visual_tokens"]) > 0
        assert read.pop() == frames
