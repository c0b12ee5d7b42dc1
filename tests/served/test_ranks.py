"""Two tensor-parallel ranks choose as one would, in one architecture of each kind."""

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from pairs import SEVERAL, check, pair

from adafv.integrations.vllm import ARCHITECTURES

pytestmark = pytest.mark.engines

SHARED = {
    "llava_next": "LlavaNextForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    # deeper layers read features of their own
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    # structure between tokens
    "mistral3": "Mistral3ForConditionalGeneration",
    # a tower of transformers
    "gemma4": "Gemma4ForConditionalGeneration",
    # the hub's format
    "internvl_chat": "InternVLChatModel",
}
"""What is tried with the tower's weights shared out."""
BY_RANK = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "glm4v": "Glm4vForConditionalGeneration",
}
"""What is tried with its images shared out."""


def each(checkpoints: dict[str, str]) -> pytest.MarkDecorator:
    tried = [pytest.param((name, family), id=family) for family, name in checkpoints.items()]
    return pytest.mark.parametrize("tried", tried)


@pytest.fixture
def two_ranks(monkeypatch) -> dict[str, int]:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    return {"tensor_parallel_size": 2}


@each(SHARED)
@pytest.mark.proves("ranks")
def test_two_ranks(tried, two_ranks, tmp_path):
    """Each rank sees half of the heads."""
    with pair(*tried, tmp_path, **two_ranks) as (made, library):
        check(made.say(*SEVERAL), library, SEVERAL)


@each(BY_RANK)
@pytest.mark.proves("by rank")
def test_two_ranks_share_out_images(tried, two_ranks, tmp_path):
    """With `--mm-encoder-tp-mode data` each rank encodes whole images, and sends what it saw."""
    assert ARCHITECTURES[tried[0]].encodes_by_rank
    with pair(*tried, tmp_path, **two_ranks, mm_encoder_tp_mode="data") as (made, library):
        check(made.say(*SEVERAL), library, SEVERAL)
