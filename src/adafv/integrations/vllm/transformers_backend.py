"""Models that vLLM has no class of its own for, and runs with the modules of transformers."""

from types import SimpleNamespace

from transformers import PreTrainedConfig
from vllm.config import CompilationMode, set_current_vllm_config

from adafv.integrations.vllm.meta_model import MetaModel

__all__ = ["meta_model_of"]


def meta_model_of(config: PreTrainedConfig) -> MetaModel:
    """Return a model without weights, of classes that may be those of a model that is served.

    vLLM compiles such a language model by changing transformers' class of it, which then asks for
    a configuration of vLLM, whoever calls it.

    Args:
        config: of the model, as transformers has it.
    """
    uncompiled = SimpleNamespace(
        model_config=SimpleNamespace(hf_config=config),
        compilation_config=SimpleNamespace(mode=CompilationMode.NONE),
    )
    with set_current_vllm_config(uncompiled):
        return MetaModel(config)
