"""Clips on vLLM: kept indices and greedy answers are the library's, one engine an architecture."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import FAMILIES, MARKER, save
from engine import Engine, Library, Request, engine
from test_architectures import APART, COLOR, KNIGHT, check, kept
from vllm import ModelRegistry
from vllm.plugins import load_general_plugins
from wide import save_wide
from zoo.videos import VIDEOS

from adafv.families import FAMILIES as KNOWN
from adafv.integrations.vllm import ARCHITECTURES, models

__all__ = ["kept"]  # a fixture

PRUNED = {name: one.family for name, one in ARCHITECTURES.items() if one.videos}
TIMES = ("<0.2", "<1.2", "<2.2", "seconds>", "0", "1", "2", "3")
"""What stands between frames, in the vocabulary, so that a wrong one is noticed."""


def save_with_videos(family: str, architecture: str, folder: Any) -> None:
    """Save a tiny checkpoint with its family's processor of videos."""
    if family in FAMILIES:
        save(family, folder)
        return
    prepared = VIDEOS[family]
    module = f"transformers.models.{prepared.module}.video_processing_{prepared.module}"
    videos = getattr(importlib.import_module(module), prepared.kind)(**prepared.options)
    MARKER[family] = save_wide(family, architecture, folder, TIMES, videos)


@pytest.fixture(scope="module", params=PRUNED.items(), ids="-".join)
def both(request, tmp_path_factory) -> Iterator[tuple[Engine, Library]]:
    """An engine, which reads prompts in chunks, and the library, of one checkpoint."""
    architecture, family = request.param
    # a class that is registered is not looked at in a process of its own, which takes longer
    load_general_plugins()
    pruned = getattr(models, ARCHITECTURES[architecture].name)
    ModelRegistry.register_model(architecture, pruned)

    folder = tmp_path_factory.mktemp(family)
    save_with_videos(family, architecture, folder)
    library = Library(family, folder)
    clips = 1 if KNOWN[family].video_as_images else 2
    limits = {"image": 2, "video": clips}
    options = dict(long_prefill_token_threshold=24, limit_mm_per_prompt=limits)
    with engine(family, folder, **options) as made:
        made.clips = clips
        yield made, library


def readable(made: Engine, *asked: Request) -> list[Request]:
    """Return the questions that a model takes: GLM reads one clip, and no image beside it."""
    return [one for one in asked if len(one.clips) + bool(one.images) <= made.clips]


def test_one_by_one(both, kept):
    """Exactly the library's indices: a clip, two of them, and an image beside one."""
    made, library = both
    for asked in readable(
        made,
        Request(KNIGHT, (), clips=(1,)),
        Request(COLOR, (), keep=0.2, between=APART, clips=(3, 4)),
        Request(KNIGHT, (5,), keep=0.4, between=APART, clips=(6,)),
    ):
        kept.clear()
        expected = check(made.say(asked), library, [asked])
        assert sorted(kept.values()) == sorted(expected)
