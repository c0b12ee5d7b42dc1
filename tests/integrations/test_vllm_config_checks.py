"""Protects what a server is refused for: flags with which answers would be silently wrong."""

from types import SimpleNamespace
from typing import Any

import pytest

from adafv.integrations.vllm.architectures import ARCHITECTURES, Architecture
from adafv.integrations.vllm.config_checks import check_config, check_positions

LLAMA_4 = ARCHITECTURES["Llama4ForConditionalGeneration"]
QWEN = ARCHITECTURES["Qwen2_5_VLForConditionalGeneration"]
PADDLE = ARCHITECTURES["PaddleOCRVLForConditionalGeneration"]
HUB = ARCHITECTURES["InternVLChatModel"]


def config(**parts: dict[str, Any]) -> SimpleNamespace:
    """A configuration of vLLM with its defaults, as far as it is looked at."""
    multimodal = SimpleNamespace(
        mm_encoder_attn_backend=None,
        mm_encoder_tp_mode="weights",
        mm_encoder_only=False,
        is_multimodal_pruning_enabled=lambda: False,
    )
    found = SimpleNamespace(
        model_config=SimpleNamespace(
            multimodal_config=multimodal, enable_prompt_embeds=False, hf_config=None
        ),
        compilation_config=SimpleNamespace(compile_mm_encoder=False, cudagraph_mm_encoder=False),
        parallel_config=SimpleNamespace(
            tensor_parallel_size=1, pipeline_parallel_size=1, use_ubatching=False
        ),
        lora_config=None,
        ec_transfer_config=None,
        speculative_config=None,
    )
    vars(multimodal).update(parts.pop("multimodal", {}))
    for name, options in parts.items():
        vars(getattr(found, f"{name}_config")).update(options)
    return found


@pytest.mark.parametrize(
    ("architecture", "ranks", "refused"),
    [(LLAMA_4, 2, True), (LLAMA_4, 1, False), (QWEN, 2, False)],
)
def test_ranks_that_would_wait_for_each_other(architecture: Architecture, ranks, refused):
    """Llama 4's projector gathers from all ranks, of which each would have images of its own."""
    given = config(
        multimodal={"mm_encoder_tp_mode": "data"}, parallel={"tensor_parallel_size": ranks}
    )
    if not refused:
        check_config(given, architecture)
        return
    with pytest.raises(ValueError, match="not pruned with --mm-encoder-tp-mode data: leave it out"):
        check_config(given, architecture)
    check_config(config(parallel={"tensor_parallel_size": ranks}), architecture)


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--enable-prompt-embeds", {"model": {"enable_prompt_embeds": True}}),
        ("--enable-dbo or --ubatch-size", {"parallel": {"use_ubatching": True}}),
        ("--pipeline-parallel-size", {"parallel": {"pipeline_parallel_size": 2}}),
    ],
)
def test_embeddings_and_their_positions_stay_together(flag, parts):
    check_positions(config())
    with pytest.raises(ValueError, match=f"not pruned with {flag}"):
        check_positions(config(**parts))


def test_code_of_the_hub_in_place_of_transformers():
    """PaddleOCR-VL has both; InternVL's configuration is read off, which transformers lacks."""
    remote = type("Config", (), {"__module__": "transformers_modules.owner.name"})
    check_config(config(), PADDLE)
    with pytest.raises(ValueError, match="not pruned with --trust-remote-code where transformers"):
        check_config(config(model={"hf_config": remote()}), PADDLE)
    check_config(config(model={"hf_config": remote()}), HUB)
