"""Protects the engine from what comes encoded already, in either of vLLM's forms."""

import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from vllm.model_executor.models.qwen2_vl import Qwen2VLMultiModalDataParser
from vllm.multimodal.parse import MultiModalDataParser

from adafv.integrations.vllm import ARCHITECTURES
from adafv.integrations.vllm.item_checks import check_items, refuse_missing

QWEN = ARCHITECTURES["Qwen2_5_VLForConditionalGeneration"]
GRID = torch.tensor([[1, 4, 4]])


@pytest.mark.parametrize("modality", ["image", "video"])
def test_encoded_images_and_clips_are_refused(modality):
    given = {f"{modality}_embeds": torch.zeros(4, 8), f"{modality}_grid_thw": GRID}
    parsers = [(Qwen2VLMultiModalDataParser(spatial_merge_size=2), given)]
    if modality == "image":
        parsers.append((MultiModalDataParser(), torch.zeros(1, 4, 8)))
    for parser, data in parsers:
        items = parser.parse_mm_data({modality: data})
        refuse_missing(items)
        with pytest.raises(
            ValueError, match=f"encoded {modality}s are not pruned: pass {modality}s"
        ):
            check_items(items, QWEN, one_placeholder=False)


def test_sound_alone_is_not_our_business():
    """There is nothing to prune; beside an image it is named."""
    check_items({"audio": object()}, QWEN, one_placeholder=False)
    with pytest.raises(ValueError, match="audios are not pruned"):
        check_items({"image": object(), "audio": object()}, QWEN, one_placeholder=False)
