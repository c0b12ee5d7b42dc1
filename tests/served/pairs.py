"""An engine and the library, of one tiny checkpoint of any architecture that is pruned."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from checkpoints import FAMILIES, MARKER, save
from engine import Engine, Library, Request, Said, engine
from on_a_cpu import as_on_a_gpu
from stock import not_compiled
from wide import MODELS, OF_HUB, STATELESS, as_served, register, save_wide
from zoo.videos import VIDEOS

from adafv.core.chat_template import remember
from adafv.families import FAMILIES as KNOWN
from adafv.integrations.vllm import ARCHITECTURES, models

COLOR, KNIGHT = "what color is the anchor ?", "is there a knight"
APART = " and what color is the anchor there with the one of "
SEVERAL = [
    Request(COLOR),
    Request(KNIGHT, keep=0.6),
    Request(COLOR, (1,), keep=0.1),
    Request(KNIGHT, (2,), method="fastervlm"),
    Request(KNIGHT, (0, 1, 2), between=APART),
    Request(COLOR, (3, 3), keep=0.5, between=APART, method="adafv+"),
    Request(COLOR, keep=1.0),
    Request(COLOR, ()),
]
PLAIN_ROTATION = {"custom_ops": ["-rotary_embedding"]}
"""Where that kernel rotates only some tokens of a language model on a CPU, or takes none."""
OPTIONS = {
    "lfm2_vl": {"compilation_config": PLAIN_ROTATION},
    "kimi_k25": {
        "compilation_config": PLAIN_ROTATION,
        "limit_mm_per_prompt": {"vision_chunk": 4},
    },
    # neither vLLM nor transformers has a class for its configuration
    "internvl_chat": {"trust_remote_code": True},
    # nor does that kernel take what it is handed of this one
    "ernie4_5_vl_moe": {"trust_remote_code": True, "compilation_config": PLAIN_ROTATION},
    # vLLM keeps states with prefixes, of which the tiny models have none
    **{name: {"enable_prefix_caching": False} for name in STATELESS},
    # room for images of several sizes in one step
    "gemma4": {"max_num_batched_tokens": 2048},
    # no image is read in parts, as vLLM makes sure of on a GPU
    "gemma3": {"disable_chunked_mm_input": True},
    "gemma4_both_ways": {
        "disable_chunked_mm_input": True,
        "limit_mm_per_prompt": {"image": 4, "video": 0},
        "long_prefill_token_threshold": 96,
    },
}
"""Of engines."""
BOTH_WAYS = ("gemma3", "gemma4_both_ways")
"""Whose visual tokens see each other."""
TIMES = ("<0.2", "<1.2", "<2.2", "seconds>", "0", "1", "2", "3")
"""What stands between frames, in the vocabulary, so that a wrong one is noticed."""
STRETCHED = "paddleocr_vl"
"""Whose learned positions transformers 5.19 stretches over an image from corner to corner."""


def save_tiny(family: str, architecture: str, folder: Path) -> None:
    """Save a tiny checkpoint, with its family's processor of videos where they are pruned."""
    if family in FAMILIES:
        save(family, folder)
        return
    if not ARCHITECTURES[architecture].videos:
        MARKER[family] = save_wide(family, architecture, folder)
        return
    prepared = VIDEOS[family]
    module = f"transformers.models.{prepared.module}.video_processing_{prepared.module}"
    # vLLM normalizes clips as images; on the hub both are normalized alike
    images = MODELS[family]().processor.image_processor
    alike = {"image_mean": images.image_mean, "image_std": images.image_std}
    prepare = getattr(importlib.import_module(module), prepared.kind)
    prepared_alike = prepare(**prepared.options | alike)
    MARKER[family] = save_wide(family, architecture, folder, TIMES, prepared_alike)


def positions_of(library: Library) -> Any:
    """The part of PaddleOCR-VL's tower that fits learned positions to an image."""
    return library.model.model.visual.vision_model.embeddings


@contextmanager
def pair(
    architecture: str, family: str, folder: Path, **given: Any
) -> Iterator[tuple[Engine, Library]]:
    """Save a checkpoint in an empty folder, and start an engine with it beside the library.

    Args:
        given: options of the engine.
    """
    register(architecture)
    save_tiny(family, architecture, folder)
    if family in OF_HUB:
        library = Library(family, folder, backend="pil")
        # its folder is about to change
        remember(library.model, library.processor)
    else:
        library = Library(family, folder)
    if family == STRETCHED:
        # as its authors, vLLM and transformers 5.23 do
        positions_of(library).interpolation_align_corners = False
    MARKER[family] = as_served(family, folder, MARKER[family])
    options = OPTIONS.get(family, {})
    # two clips in a prompt, or one where images have the same placeholder, or none
    clips = 0
    if ARCHITECTURES[architecture].videos:
        clips = 1 if KNOWN[family].video_as_images else 2
        options = options | {"limit_mm_per_prompt": {"image": 4, "video": clips}}
    with (
        as_on_a_gpu(both_ways=family in BOTH_WAYS),
        not_compiled(library.model.get_decoder()),
        engine(family, folder, **given | options) as made,
    ):
        made.clips = clips
        yield made, library


@contextmanager
def noted() -> Iterator[dict[str, list[int]]]:
    """Collect what is kept of each image that is pruned, by its hash."""
    found: dict[str, list[int]] = {}
    select = models.select

    def noting(specs: Any, *rest: Any, **options: Any) -> Any:
        images = select(specs, *rest, **options)
        for spec, image in zip(specs, images, strict=True):
            if not spec.dense:
                found[spec.hash] = image.kept.tolist()
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "select", noting)
        yield found


def check(said: list[Said], library: Library, asked: list[Request]) -> list[list[int]]:
    """Compare answers with the library's, and return which indices it keeps."""
    kept = []
    for one, of in zip(said, asked, strict=True):
        expected = library.says(of)
        assert (one.ids, one.length) == (expected.ids, expected.length), of
        kept += expected.kept
    return kept
