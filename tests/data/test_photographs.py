"""The photographs that ship: small, each with its origin, and with questions to try."""

import pytest

from adafv.data.photographs import FOLDER, photographs
from adafv.evaluation.own import own_images

LARGEST = 60_000
"""Bytes of a photograph, all of which are in every wheel."""


def test_photographs_are_small_and_credited():
    credits = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    files = sorted(FOLDER.glob("*.jpg"))
    assert [sample.id for sample in photographs()] == [f"photographs/{f.name}" for f in files]
    for file in files:
        assert file.stat().st_size <= LARGEST
        (row,) = [line for line in credits if f"| `{file.name}` |" in line]
        assert row.endswith(("public domain |", "CC0 |"))


@pytest.mark.parametrize("sample", photographs(), ids=lambda sample: sample.id)
def test_questions_are_those_of_the_suite(sample):
    """The first three of each image, with every answer that is right."""
    suite = own_images(str(FOLDER / "questions.jsonl"))
    (own,) = [image for image in suite if f"photographs/{image.id}" == sample.id]
    assert sample.questions == own.questions[:3]
    assert sample.image.tobytes() == own.sample().image.convert("RGB").tobytes()
