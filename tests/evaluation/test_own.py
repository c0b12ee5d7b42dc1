"""A user's own questions: read, asked, judged, and beside them what a smaller image answers."""

import json
import os
import shutil
import sys

import pytest
from conftest import picture, tiny_model, tiny_processor

from adafv.cli import main
from adafv.data.sample import Question
from adafv.evaluation.beyond_resize import BEYOND_RESIZE
from adafv.evaluation.evaluate import Evaluation
from adafv.evaluation.own import is_own, name_of, own_images, own_samples
from adafv.evaluation.paired import paired
from adafv.evaluation.report import read, table
from adafv.evaluation.rows import rows_of
from adafv.utils.stats import wilson

QUESTION = "what color is the anchor ?"
FIRST = {"image": "a.png", "question": QUESTION, "answer": ["red", "crimson"], "type": "color"}


@pytest.fixture
def write(tmp_path):
    """Write lines beside two images; the path of their file."""
    for name in ("a", "b"):
        picture(24, 24, seed=ord(name)).save(tmp_path / f"{name}.png")

    def call(*lines: dict):
        path = tmp_path / "own.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return call


def test_what_a_file_says(write):
    """Answers that are as right, a type, regions; a folder with such a file is the same."""
    second = {"image": "b.png", "question": "is there a ball ?", "answer": "no"}
    path = write(FIRST | {"boxes": [[0, 0, 12, 24]]}, second)
    first, other = own_images(str(path))
    assert first.questions == (Question(QUESTION, "red", "color", ((0, 0, 12, 24),), ("crimson",)),)
    assert other.questions == (Question("is there a ball ?", "no", "", ()),)
    path.rename(path.with_name("questions.jsonl"))
    assert is_own(str(path.parent))
    assert own_images(str(path.parent)) == [first, other]


def test_an_image_is_another_when_its_questions_or_its_file_change(write, tmp_path):
    """So that no answer is taken for one to a new question, or about another image."""
    [before] = own_samples(own_images(str(write(FIRST))))
    [same] = own_samples(own_images(str(write(FIRST))), limit=1)
    [changed] = own_samples(own_images(str(write(FIRST | {"answer": "blue"}))))
    picture(24, 24, seed=3).save(tmp_path / "a.png")
    [redrawn] = own_samples(own_images(str(write(FIRST))))
    assert before.id == same.id
    assert len({before.id, changed.id, redrawn.id}) == 3


def test_copies_of_a_file_are_one_picture(write, tmp_path):
    """Under other names they are no further images, in intervals and in comparisons."""
    lines = []
    for name in "ab":
        for copy in range(5):
            shutil.copy(tmp_path / f"{name}.png", tmp_path / f"{name}{copy}.png")
            lines.append(FIRST | {"image": f"{name}{copy}.png"})
    records = []
    for sample in own_samples(own_images(str(write(*lines)))):
        own = {"suite": "own", "id": sample.id, "question": 0, "type": "", "keep": 0.5}
        own |= {"kept_tokens": 1, "visual_tokens": 2, "seconds": 0.0}
        right = sample.id.startswith("a")
        records.append(own | {"method": "uniform", "correct": True})
        records.append(own | {"method": "random", "correct": right})
    row = rows_of(records)[0]
    assert (row["n"], row["ci_low"]) == (10, pytest.approx(wilson([[True] * 5] * 2)[0], abs=1e-6))
    [pair] = paired(records, ["uniform"])
    # of two images nothing is known
    assert (pair["ci_low"], pair["ci_high"]) == (-1, 1)


def test_what_answered_other_questions_leaves_the_table(write, tmp_path, capsys):
    """A corrected line: methods of earlier runs are not compared with new ones on another truth."""
    path = write(FIRST)
    out = tmp_path / "out"
    command = ["eval", "--suite", str(path), "--keep", "0.5", "--out", str(out)]
    assert main([*command, "--methods", "uniform"]) == 0
    assert main([*command, "--methods", "random"]) == 0
    assert {row["method"] for row in read(out / "results.json")["rows"]} > {"uniform", "random"}
    capsys.readouterr()

    write(FIRST | {"answer": "blue", "type": "colour"})
    assert main([*command, "--methods", "random"]) == 0
    assert "the questions of 'own' have changed: uniform answered" in capsys.readouterr().err
    rows = read(out / "results.json")["rows"]
    assert {row["method"] for row in rows} == {"none", "blind", "random"}
    assert {row["question_type"] for row in rows} == {"all", "colour"}


def test_the_oracle_answers_all_questions_or_none(write, tmp_path):
    """Where some images have boxes: its accuracy is of the same questions as the others'."""
    path = write(
        FIRST | {"boxes": [[0, 0, 12, 24]]},
        {"image": "b.png", "question": QUESTION, "answer": "blue"},
    )
    plan = Evaluation(
        methods=["oracle"], keeps=[0.25], suites=[str(path)], max_new_tokens=2, batch_size=1
    )
    records = plan.run(
        tiny_model("llava"), tiny_processor("llava"), tmp_path / "out", name="tiny"
    ).records
    assert sum(record["method"] == "oracle" for record in records) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"answer": None}, "has no answer"),
        ({"answer": ["red", " "]}, "is not text"),
        ({"type": 3}, "type=3 is not text"),
        ({"type": "a\ud800"}, "holds half a character"),
        ({"type": "all"}, "a name for groups of all types"),
        ({"type": "beyond resize"}, "a name for groups of all types"),
        ({"boxes": 5}, "are no regions"),
        ({"boxes": True}, "are no regions"),
        ({"boxes": [1, 2, 3, 4]}, "box 1 is not four numbers"),
        ({"boxes": [[0, 0, 12]]}, "is not four numbers"),
        ({"boxes": [[1, 2, 3, "4"]]}, "is not four numbers"),
        ({"boxes": [[1, 2, 3, float("nan")]]}, "is not four numbers"),
        ({"boxes": [[5, 0, 5, 9]]}, "has no area"),
        ({"boxes": [[0, 0, 99, 9]]}, "leaves the image, which is"),
        ({"boxes": [[-1, 0, 4, 3]]}, "leaves the image"),
        ({"frame_grid": 4}, "frame_grid=4 is not two numbers"),
        ({"frame_grid": [2, 0]}, "is not two numbers"),
        ({"frame_grid": [2, True]}, "is not two numbers"),
        ({"image": "c.png"}, "c.png"),
        ({"answers": ["red"]}, "the key 'answers' is unknown: did you mean 'answer'"),
        ({"foo": 1}, "the key 'foo' is unknown: a line has id, image"),
    ],
)
def test_a_bad_line_is_named(write, line, words):
    with pytest.raises(ValueError, match=words) as error:
        Evaluation(methods=["adafv"], keeps=[0.25], suites=[str(write(FIRST | line))])
    assert "line 1 " in str(error.value)


def test_a_question_that_cannot_be_asked_is_named_before_any_is_answered(write, tmp_path):
    """With its line, rather than once those before it have cost their time."""
    path = write(FIRST, FIRST | {"question": "what <image> is it?"})
    plan = Evaluation(methods=["adafv"], keeps=[0.25], suites=[str(path)])
    with pytest.raises(ValueError, match=f"line 2 of {path}: the question contains '<image>'"):
        plan.run(tiny_model("llava"), tiny_processor("llava"), tmp_path / "out", name="tiny")
    assert not (tmp_path / "out" / "answers.jsonl").exists()


def test_a_folder_is_called_as_it_was_named(tmp_path, monkeypatch):
    """By a link's own name, and the working folder by its name, too."""
    folder = tmp_path / "asked"
    folder.mkdir()
    (tmp_path / "linked").symlink_to(folder)
    assert name_of(str(tmp_path / "linked")) == "linked"
    monkeypatch.chdir(folder)
    assert name_of(".") == "asked"


def test_the_name_of_a_built_in_suite_is_that_suite(write, tmp_path, monkeypatch):
    """Whatever lies in the working folder; own questions under such a name are refused."""
    path = write(FIRST)
    folder = tmp_path / "scenes"
    folder.mkdir()
    picture().save(folder / "a.png")
    (folder / "questions.jsonl").write_text(path.read_text())
    monkeypatch.chdir(tmp_path)
    assert not is_own("scenes")
    assert is_own("./scenes")
    plan = Evaluation(methods=["adafv"], keeps=[0.25], suites=["scenes"], limit=7)
    assert not plan.own
    assert plan.counts == {"scenes": 7}
    for own in ("./scenes", str(folder), str(path.rename(tmp_path / "easy-vqa.jsonl"))):
        with pytest.raises(ValueError, match="give its file or folder another name"):
            Evaluation(methods=["adafv"], keeps=[0.25], suites=[own])


def test_images_that_are_asked_about_are_not_overwritten(write, tmp_path, capsys):
    """By a figure of the same name."""
    picture().save(tmp_path / "accuracy.png")
    path = write(FIRST | {"image": "accuracy.png"})
    before = (tmp_path / "accuracy.png").read_bytes()
    assert main(["eval", "--suite", str(path), "--out", str(tmp_path)]) == 2
    assert "accuracy.png is read here" in capsys.readouterr().err
    assert (tmp_path / "accuracy.png").read_bytes() == before


def test_a_folder_whose_name_is_not_utf8(write, tmp_path, capsys, monkeypatch):
    """Results say what made them, the folder's name included."""
    out = tmp_path / os.fsdecode(b"out\xff")
    command = ["eval", "--suite", str(write(FIRST)), "--keep", "0.5", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["adafv", *command])
    assert main([*command, "--methods", "uniform"]) == 0
    assert out.name in read(out / "results.json")["meta"]["command"]
    capsys.readouterr()
    assert main([*command, "--methods", "uniform", "--json"]) == 0
    assert out.name in json.loads(capsys.readouterr().out)["meta"]["command"]


def test_a_suite_whose_name_is_not_utf8_is_refused(write, tmp_path):
    """Before anything is answered: no font could write it on the figure."""
    path = write(FIRST).rename(tmp_path / os.fsdecode(b"own\xff.jsonl"))
    with pytest.raises(ValueError, match="a name that is not UTF-8: give it another"):
        Evaluation(methods=["adafv"], keeps=[0.25], suites=[str(path)])


def test_two_files_of_one_name_are_refused(write, tmp_path):
    path = write(FIRST)
    (tmp_path / "more").mkdir()
    picture().save(tmp_path / "more" / "a.png")
    other = tmp_path / "more" / path.name
    other.write_text(path.read_text())
    with pytest.raises(ValueError, match="two suites are called 'own'"):
        Evaluation(methods=["adafv"], keeps=[0.25], suites=[str(path), str(other)])


def test_evidence_and_questions_beyond_a_smaller_image(write, tmp_path):
    """Of a box of half the image half of an even choice stays; dense keeps all of it."""
    path = write(
        FIRST | {"boxes": [[0, 0, 12, 24]]},
        {"image": "b.png", "question": QUESTION, "answer": "blue", "boxes": [[0, 0, 24, 24]]},
    )
    plan = Evaluation(
        methods=["uniform", "resize", "pool"],
        keeps=[0.25],
        suites=[str(path)],
        max_new_tokens=2,
    )
    records = plan.run(
        tiny_model("llava"), tiny_processor("llava"), tmp_path / "out", name="tiny"
    ).records
    shares = {}
    for record in records:
        assert record["suite"] == "own"
        shares.setdefault(record["method"], []).append(record["evidence_kept"])
    assert shares["none"] == [1, 1]
    # 9 of 36 tokens: 3 columns, one of which lies on either side of the middle
    assert shares["uniform"][1] == 0.25
    assert 0 < shares["uniform"][0] < 0.5
    # shrunk and merged tokens are no patches of their own
    assert shares["resize"] == shares["pool"] == shares["blind"] == [None, None]

    # as if all tokens were right, and a smaller image on the second question
    for record in records:
        second = record["id"].startswith("b.png")
        record["correct"] = record["method"] == "none" or (record["method"] == "resize" and second)
    rows = [row for row in rows_of(records) if row["question_type"] == BEYOND_RESIZE]
    assert {(row["method"], row["n"], row["accuracy"]) for row in rows} == {
        ("uniform", 1, 0.0),
        ("resize", 1, 0.0),
        ("pool", 1, 0.0),
    }
    assert table(rows, question_type=BEYOND_RESIZE).row_count == 3
    with pytest.raises(ValueError, match="pass one of"):
        table(rows, question_type="color")

    # a method's options stand behind its name
    for record in records:
        if record["method"] == "resize":
            record["method"] = "resize:question=chat"
    spelled = [row for row in rows_of(records) if row["question_type"] == BEYOND_RESIZE]
    assert [row["n"] for row in spelled] == [1, 1, 1]


def test_words_that_the_embedded_model_does_not_know_are_named(write, tmp_path, capsys):
    """Before it answers a thousand of them; questions in its own words are no news."""
    known = {"image": "a.png", "question": "what color is the anchor?", "answer": "red"}
    path = write(known, {"image": "b.png", "question": "who painted this?", "answer": "nobody"})
    command = ["eval", "--methods", "uniform", "--keep", "0.5", "--out", str(tmp_path / "out")]
    assert main([*command, "--suite", str(path)]) == 0
    complaint = capsys.readouterr().err
    assert "'who', 'painted'" in complaint
    assert "'anchor'" not in complaint


def test_an_image_has_one_grid_of_frames(write):
    other = FIRST | {"question": "is there a ball ?", "frame_grid": [2, 2]}
    with pytest.raises(ValueError, match=r"line 2 .*an earlier line has another one"):
        own_images(str(write(FIRST, other)))


def test_a_contact_sheet_is_seen_as_frames(write):
    """As the clips of the built-in suite; its answers are not those to the image as one."""
    [image] = own_images(str(write(FIRST)))
    [sheet] = own_images(str(write(FIRST | {"frame_grid": [2, 3]})))
    assert image.sample().frames == (1, 1)
    assert sheet.sample().frames == (2, 3)
    assert sheet.sample().id != image.sample().id
