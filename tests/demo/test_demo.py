import pytest
from conftest import tiny_model, tiny_processor
from PIL import Image

from adafv.demo import library as demo

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(
        demo, "load", lambda: (tiny_model("llava_next"), tiny_processor("llava_next"))
    )
    monkeypatch.setattr(demo, "ask", lambda *arguments: demo_ask(*arguments, max_new_tokens=2))
    monkeypatch.setattr(demo, "REPEATS", 1)


demo_ask = demo.ask


@pytest.mark.usefixtures("tiny")
def test_the_demo_prints_its_tables_and_draws_its_pages(tmp_path, capsys):
    assert demo.main(["--out", str(tmp_path / "demo")]) == 0
    printed = capsys.readouterr().out
    for text in (
        "100%",
        "25%",
        "10%",
        "5%",
        "illustration",
        "adafv eval --methods",
        "explain.png",
        "questions.png",
    ):
        assert text in printed
    assert "✗" in printed
    assert "fastervlm" in printed
    for case in demo.CASES:
        assert case.load()[1].answer in printed
    for name in ("explain.png", "questions.png"):
        with Image.open(tmp_path / "demo" / name) as page:
            assert min(page.size) > 500
    assert len(list((tmp_path / "demo").iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "load", lambda: pytest.fail("loaded a model first"))
    (tmp_path / "file").touch()
    assert demo.main(["--out", str(tmp_path / "file" / "demo")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "cannot be written" in captured.err


def test_cases_are_the_same_every_time_and_say_why():
    for case in demo.CASES:
        (sample, question), (again, same) = case.load(), case.load()
        assert sample.image.tobytes() == again.image.tobytes()
        assert question == same
        assert case.why
        assert question.text
        assert question.answer
