"""Protects what a server is refused for: flags with which answers would be silently wrong."""

from types import SimpleNamespace
from typing import Any

import pytest

from adafv.integrations.vllm import config_checks
from adafv.integrations.vllm.architecture import Architecture
from adafv.integrations.vllm.architectures import ARCHITECTURES
from adafv.integrations.vllm.config_checks import check_config, check_positions

LLAMA_4 = ARCHITECTURES["Llama4ForConditionalGeneration"]
ERNIE = ARCHITECTURES["Ernie4_5_VLMoeForConditionalGeneration"]
QWEN = ARCHITECTURES["Qwen2_5_VLForConditionalGeneration"]
PADDLE = ARCHITECTURES["PaddleOCRVLForConditionalGeneration"]
HUB = ARCHITECTURES["InternVLChatModel"]


LORA = {"target_modules": ["q_proj"], "enable_tower_connector_lora": False}
FLASHINFER = {"mm_encoder_attn_backend": SimpleNamespace(name="FLASHINFER")}
BY_RANK = {"multimodal": {"mm_encoder_tp_mode": "data"}, "parallel": {"tensor_parallel_size": 2}}
REMOTE = type("Config", (), {"__module__": "transformers_modules.owner.name"})()
REFUSED: list[tuple[str, dict[str, dict[str, Any]]]] = [
    ("--enable-lora for embeddings", {"lora": LORA | {"target_modules": None}}),
    ("--enable-lora for embeddings", {"lora": LORA | {"target_modules": ["embed_tokens"]}}),
    ("--enable-tower-connector-lora", {"lora": LORA | {"enable_tower_connector_lora": True}}),
    ("--mm-encoder-attn-backend FLASHINFER", {"multimodal": FLASHINFER}),
    ("--mm-encoder-only", {"multimodal": {"mm_encoder_only": True}}),
    (
        "--mm-encoder-only",
        {"multimodal": {"mm_encoder_only": True}, "ec_transfer": {"is_ec_producer": False}},
    ),
    ("compile_mm_encoder", {"compilation": {"compile_mm_encoder": True}}),
    ("cudagraph_mm_encoder", {"compilation": {"cudagraph_mm_encoder": True}}),
    ("--mm-encoder-tp-mode data", BY_RANK),
    ("--trust-remote-code where transformers", {"model": {"hf_config": REMOTE}}),
]
WITH_POSITIONS: list[tuple[str, dict[str, dict[str, Any]]]] = [
    ("--pipeline-parallel-size", {"parallel": {"pipeline_parallel_size": 2}}),
    ("a draft model that reads images", {"speculative": {"use_eagle": lambda: True}}),
    ("--enable-dbo or --ubatch-size", {"parallel": {"use_ubatching": True}}),
    ("--enable-prompt-embeds", {"model": {"enable_prompt_embeds": True}}),
    ("--video-pruning-rate", {"multimodal": {"is_multimodal_pruning_enabled": lambda: True}}),
]


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
        part = getattr(found, f"{name}_config") or SimpleNamespace()
        vars(part).update(options)
        setattr(found, f"{name}_config", part)
    return found


@pytest.mark.parametrize(("flag", "parts"), REFUSED)
def test_what_hides_what_pruning_looks_at(flag, parts):
    """With the way out; Llama 4 is the one that refuses all of it."""
    check_config(config(), LLAMA_4)
    with pytest.raises(ValueError, match=f"not pruned with {flag}.*: leave it out, or set VLLM_PL"):
        check_config(config(**parts), LLAMA_4)


@pytest.mark.parametrize(
    "parts",
    [
        {"lora": LORA},
        {"multimodal": {"mm_encoder_attn_backend": SimpleNamespace(name="FLASH_ATTN")}},
        {"multimodal": {"mm_encoder_only": True}, "ec_transfer": {"is_ec_producer": True}},
    ],
    ids=["adapters of attention", "another backend", "an encoder for others"],
)
def test_what_hides_nothing(parts):
    check_config(config(**parts), QWEN)


@pytest.mark.parametrize(("flag", "parts"), WITH_POSITIONS)
def test_embeddings_and_their_positions_stay_together(flag, parts):
    check_positions(config(speculative={"use_eagle": lambda: False}))
    with pytest.raises(ValueError, match=f"not pruned with {flag}"):
        check_positions(config(**parts))


def test_every_refusal_has_a_row(monkeypatch):
    """Nothing is refused that no test here looks at."""
    flags: list[str] = []
    monkeypatch.setattr(config_checks, "_refuse", flags.extend)
    check_config(config(), QWEN)
    check_positions(config())
    rows = [flag for flag, _ in REFUSED + WITH_POSITIONS]
    assert {flag for flag in flags if not flag.startswith(tuple(rows))} == set()


@pytest.mark.parametrize(
    ("architecture", "ranks", "refused"),
    [
        (LLAMA_4, 2, True),
        (LLAMA_4, 1, False),
        (ERNIE, 2, True),
        (ERNIE, 1, False),
        (QWEN, 2, False),
    ],
)
def test_ranks_that_would_wait_for_each_other(architecture: Architecture, ranks, refused):
    """Projectors of Llama 4 and ERNIE gather from all ranks, each with images of its own."""
    given = config(
        multimodal={"mm_encoder_tp_mode": "data"}, parallel={"tensor_parallel_size": ranks}
    )
    if not refused:
        check_config(given, architecture)
        return
    with pytest.raises(ValueError, match="not pruned with --mm-encoder-tp-mode data: leave it out"):
        check_config(given, architecture)
    check_config(config(parallel={"tensor_parallel_size": ranks}), architecture)


def test_code_of_the_hub_in_place_of_transformers():
    """PaddleOCR-VL has both; InternVL's configuration is read off, which transformers lacks."""
    check_config(config(), PADDLE)
    with pytest.raises(ValueError, match="not pruned with --trust-remote-code where transformers"):
        check_config(config(model={"hf_config": REMOTE}), PADDLE)
    check_config(config(model={"hf_config": REMOTE}), HUB)
