"""What is not pruned has its reason: every architecture of vLLM that takes images or sound."""

from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

import vllm
from vllm.model_executor.models import registry
from vllm.model_executor.models.interfaces import supports_multimodal

from adafv.integrations.vllm import ARCHITECTURES
from adafv.integrations.vllm.left_out_architectures import (
    LEFT_OUT,
    NO_ANSWERS,
    SOUND,
    by_reason,
    in_brackets,
)

INSTALLED = Path(vllm.__file__).parents[1]
OTHER_LISTS = (
    "_TEXT_GENERATION_MODELS",
    "_EMBEDDING_MODELS",
    "_LATE_INTERACTION_MODELS",
    "_REWARD_MODELS",
    "_TOKEN_CLASSIFICATION_MODELS",
    "_SEQUENCE_CLASSIFICATION_MODELS",
)
"""In which some models take images; drafts (`_SPECULATIVE_DECODING_MODELS`) are of another one."""
BACKEND = ("_TRANSFORMERS_SUPPORTED_MODELS", "_TRANSFORMERS_BACKEND_MODELS")


def path_of(module: str) -> str:
    return module if module.startswith("vllm.") else f"vllm.model_executor.models.{module}"


def source_of(module: str) -> str:
    path = INSTALLED / path_of(module).replace(".", "/")
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return "".join(file.read_text() for file in files)


def takes_more_than_text(module: str, name: str) -> bool:
    if "register_processor" not in source_of(module):
        return False
    if module == "terratorch":
        # needs a package of that name; its images are of satellites
        return True
    found = registry._LazyRegisteredModel(module_name=path_of(module), class_name=name)
    return supports_multimodal(found.load_model_cls())


@pytest.fixture(scope="module")
def multimodal() -> set[str]:
    found = set(registry._MULTIMODAL_MODELS)
    for models in OTHER_LISTS:
        for architecture, (module, name) in getattr(registry, models).items():
            if architecture not in found and takes_more_than_text(module, name):
                found.add(architecture)
    for models in BACKEND:
        for architecture, (_, name) in getattr(registry, models).items():
            if "MultiModal" in name:
                found.add(architecture)
    return found


def test_each_is_pruned_or_has_a_reason(multimodal):
    """None is forgotten, and no reason names one that is pruned or that vLLM does not have."""
    # what runs on its backend for transformers' models it has no class for
    of_vllm = {name for name, one in ARCHITECTURES.items() if one.module != "transformers"}
    parts = (of_vllm, set(LEFT_OUT), SOUND, NO_ANSWERS)
    assert set().union(*parts) == multimodal
    assert sum(map(len, parts)) == len(multimodal)


def test_what_takes_sound_takes_no_images():
    """By the modalities in the source of its class, which may need torchaudio to be imported."""
    for architecture in SOUND:
        module, _ = registry._VLLM_MODELS[architecture]
        # transformers' backend takes whatever a model does
        if module != "transformers":
            assert 'modality="image"' not in source_of(module), architecture
            assert 'modality="video"' not in source_of(module), architecture


def test_a_reason_is_part_of_a_sentence():
    for reason in LEFT_OUT.values():
        assert reason[0].islower() or reason.startswith("vLLM")
        assert not reason.endswith(".")
    assert in_brackets("MiniCPMV") == f" ({LEFT_OUT['MiniCPMV']})"
    assert in_brackets("WhisperForConditionalGeneration") == " (it takes no images)"
    assert in_brackets("ColQwen3") == " (it writes no answer)"
    assert in_brackets("SomethingElse") == ""
    assert set().union(*by_reason().values()) == set(LEFT_OUT)
