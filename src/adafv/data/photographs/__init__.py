"""Photographs in the public domain or under CC0, and what is asked about them."""

import json
from functools import cache
from pathlib import Path

from PIL import Image

from adafv.data.sample import Question, Sample

__all__ = ["FOLDER", "photographs"]

FOLDER = Path(__file__).resolve().parent
PROPOSED = 3
"""Questions of a photograph that a page proposes: the first ones of the file."""


@cache
def photographs() -> tuple[Sample, ...]:
    """Return the photographs by name, each with questions that one can check by looking."""
    asked: dict[str, list[Question]] = {}
    for line in (FOLDER / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        question = Question(row["question"], answers[0], row["type"], (), tuple(answers[1:]))
        asked.setdefault(row["image"], []).append(question)

    samples = []
    for name in sorted(asked):
        with Image.open(FOLDER / name) as opened:
            pixels = opened.convert("RGB")
        # nobody has said what else is on them, hence no things
        samples.append(Sample(f"photographs/{name}", pixels, tuple(asked[name][:PROPOSED]), ()))
    return tuple(samples)
