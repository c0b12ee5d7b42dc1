"""Protects the measurement of second questions: large pictures, and each question's own times."""

import importlib
from base64 import b64decode
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "benchmarks" / "serving"


@pytest.fixture
def second_question(monkeypatch):
    """The script, imported as when it runs."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("second_question")


def test_pictures_are_large_and_new(second_question):
    draw = np.random.default_rng(0)
    one, other = second_question.photograph(draw), second_question.photograph(draw)
    assert one != other
    assert Image.open(BytesIO(b64decode(one.split(",")[1]))).size == second_question.SIZE


def test_each_question_has_its_times(second_question, monkeypatch):
    """The first round warms up, a server that keeps nothing is another one."""
    started = []

    class Fake:
        def post(self, path, request, timeout):
            return 200, {}

    @contextmanager
    def serving(*flags):
        started.append(flags[:4])
        yield Fake()

    monkeypatch.setattr(second_question, "serving", serving)
    monkeypatch.setattr(second_question, "photograph", lambda draw: "data:")
    rows = second_question.measured(2, quiet=True)
    assert [(row.cache, row.question) for row in rows] == [
        ("0", "first"),
        ("0", "second"),
        ("default", "first"),
        ("default", "second"),
    ]
    assert started[0] == ("--keep", "0.1", "--image-cache-mb", "0")
    assert "--image-cache-mb" not in started[1]


def test_a_refusal_is_no_time(second_question):
    class Refusing:
        def post(self, path, request, timeout):
            return 400, {"error": "no"}

    with pytest.raises(ValueError, match="answers 400"):
        second_question.asked(Refusing(), "data:", "what is it?")
