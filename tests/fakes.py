"""Tiny checkpoints on disk and a tiny suite of questions."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import picture, tiny_model, tiny_processor

from adafv.data.sample import Question, Sample

TEXTS = ("what color is the anchor ?", "is there a knight", "how many red . left of the anchor ?")


def fake_samples(count: int) -> list[Sample]:
    """Images of several shapes, with one to three questions each."""
    shapes = ((48, 48), (30, 60), (72, 24), (24, 24))
    samples = []
    for i in range(count):
        answer = "red" if i % 2 else "blue"
        questions = [Question(TEXTS[j], answer, "ABC"[j], ()) for j in range(1 + i % 3)]
        samples.append(Sample(f"p{i}", picture(*shapes[i % 4], seed=i), tuple(questions), ()))
    return samples


class FakeSuites:
    """Stands in for `adafv.data.suites`; its limit counts images."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int = 5) -> None:
        from adafv.data import suites

        self.samples = fake_samples(count)
        monkeypatch.setattr(suites, "SUITES", ("shapes", "more"))
        monkeypatch.setattr(suites, "suites_of", lambda split: suites.SUITES)
        monkeypatch.setattr(suites, "load_suite", self.load_suite)
        monkeypatch.setattr(suites, "suite_length", self.suite_length)

    def load_suite(
        self, name: str, limit: int | None = None, seed: int = 0, split: str = "test"
    ) -> Iterator[Sample]:
        yield from self.samples[:limit]

    def suite_length(self, name: str, limit: int | None = None) -> int:
        return sum(len(sample.questions) for sample in self.samples[:limit])

    @property
    def questions(self) -> int:
        return sum(len(sample.questions) for sample in self.samples)


def save_tiny(folder: Path, family: str = "llava_next") -> Path:
    """A checkpoint folder as the hub has them."""
    tiny_model(family).save_pretrained(folder)
    tiny_processor(family).save_pretrained(folder)
    return folder


def checkpoint_of(family: str):
    """A fixture `checkpoint`: the folder of a tiny model."""

    @pytest.fixture(scope="module")
    def checkpoint(tmp_path_factory) -> str:
        return str(save_tiny(tmp_path_factory.mktemp("model"), family))

    return checkpoint
