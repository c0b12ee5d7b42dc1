"""Refuse images and videos of a request that cannot be pruned, in one sentence each."""

from collections.abc import Mapping
from typing import Any

from vllm.multimodal.parse import DictEmbeddingItems, EmbeddingItems

from adafv.integrations.vllm.architecture import VISION_CHUNK, Architecture
from adafv.integrations.vllm.meta_model import NAMES

EMBEDDINGS = (EmbeddingItems, DictEmbeddingItems)
"""What comes encoded already, in either of vLLM's forms."""

__all__ = [
    "check_items",
    "check_merged_frames",
    "check_structure",
    "check_tiles",
    "check_video_size",
    "refuse_missing",
]


def refuse_missing(items_of: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for an image or a video of which there is but a name.

    Args:
        items_of: of a request, by modality.
    """
    for modality, items in items_of.items():
        if isinstance(items, EMBEDDINGS):
            continue
        if any(item is None for item in items.get_all_items_for_hash()):
            raise ValueError(f"{NAMES[modality]} by its uuid alone is not looked up: send it")


def check_merged_frames(items_of: Mapping[str, Any], architecture: Architecture) -> None:
    """Raise a `ValueError` for a video whose frames do not merge into whole ones.

    vLLM's engine ends with it, whatever is kept.

    Args:
        items_of: of a request, by modality.
        architecture: of the model.
    """
    videos = items_of.get("video")
    if architecture.merged_frames == 1 or videos is None or isinstance(videos, EMBEDDINGS):
        return
    for frames, _ in filter(None, videos.get_all()):
        if len(frames) % architecture.merged_frames:
            raise ValueError(
                f"the video has {len(frames)} frames, of which {architecture.title} merges "
                f"{architecture.merged_frames} into one: send a multiple of that"
            )


def check_items(
    items_of: Mapping[str, Any], architecture: Architecture, *, one_placeholder: bool
) -> None:
    """Raise a `ValueError` for what is not pruned, or is encoded already.

    Where nothing is to be seen, as with sound alone, there is nothing to refuse.

    Args:
        items_of: of a request, by modality.
        architecture: of the model.
        one_placeholder: its prompts have the same one for images and for videos.
    """
    if items_of.keys().isdisjoint(NAMES):
        return
    for modality, items in items_of.items():
        shown = modality
        if modality == VISION_CHUNK and any(chunk["type"] != "image" for chunk in items):
            shown = "video"
        if shown not in architecture.modalities:
            raise ValueError(
                f"{shown}s are not pruned on vLLM: pass adafv_keep=1 with such a request"
            )
        if isinstance(items, EMBEDDINGS):
            raise ValueError(
                f"encoded {modality}s are not pruned: pass {modality}s, or adafv_keep=1"
            )
    if len(items_of) > 1 and one_placeholder:
        raise ValueError(
            f"{architecture.title} has one placeholder for both images and videos, so a "
            "prompt with both is not pruned: pass adafv_keep=1 with such a request"
        )


def check_structure(modality: str, architecture: Architecture, *, embeds_words: bool) -> None:
    """Raise a `ValueError` if text among the visual tokens of an image or a video is in the way.

    Args:
        modality: "image" or "video".
        architecture: of the model.
        embeds_words: the engine has the language model, which embeds that text.
    """
    if not embeds_words:
        raise ValueError(
            f"text among the visual tokens of {NAMES[modality]} cannot be embedded by an "
            "encoder without a language model: pass adafv_keep=1, or ec_role='ec_both'"
        )
    if modality == "image" and not architecture.structure:
        raise ValueError(
            "an image with text among its visual tokens is not pruned in this model: "
            "pass adafv_keep=1 with such a request"
        )


def check_tiles(config: Any, images: Any) -> None:
    """Raise a `ValueError` if it is not known where tiles lie, in a format of the hub's own.

    Args:
        config: of the model, as vLLM has it.
        images: the processor of images, with the options of the request.
    """
    if config.ps_version == "v1":
        raise ValueError(
            "ps_version='v1' hands visual tokens over column by column, which is not pruned: pass "
            "adafv_keep=1, or a model with 'v2'"
        )
    has_tiles = images.dynamic_image_size and images.max_dynamic_patch > 1
    if has_tiles and not images.use_thumbnail:
        raise ValueError(
            "tiles without a thumbnail (use_thumbnail=false) are not pruned: leave the option out, "
            "or pass adafv_keep=1"
        )


def check_video_size(count: int, largest: int) -> None:
    """Raise a `ValueError` for a video that is larger than vLLM's measurement of memory.

    Args:
        count: of its visual tokens.
        largest: how many were measured.
    """
    if count > largest:
        raise ValueError(
            f"the video has {count} visual tokens, more than the {largest} for which "
            "memory is measured: send fewer frames, or smaller ones"
        )
