"""Refuse, when a server starts, what vLLM can do and pruning cannot.

Otherwise answers would be silently wrong.
"""

from typing import Any

from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

from adafv.integrations.vllm.architecture import Architecture

__all__ = ["check_config", "check_positions"]


def check_config(vllm_config: Any, architecture: Architecture) -> None:
    """Raise a `ValueError` if a flag of vLLM hides what pruning looks at.

    That is the tower's attention, or something that an encoding depends on.
    """
    multimodal = vllm_config.model_config.multimodal_config
    compilation = vllm_config.compilation_config
    lora = vllm_config.lora_config
    backend = multimodal.mm_encoder_attn_backend
    by_rank = multimodal.mm_encoder_tp_mode == "data"
    several = vllm_config.parallel_config.tensor_parallel_size > 1
    _refuse(
        {
            # words of a question would go through the adapter of whatever the batch holds
            "--enable-lora for embeddings (leave them out with --lora-target-modules)": (
                lora is not None and _adapts_embeddings(lora.target_modules)
            ),
            # its bounds of packed images are in bytes, padded, and those of q, k and v in one
            "--mm-encoder-attn-backend FLASHINFER": getattr(backend, "name", "") == "FLASHINFER",
            # nobody reads what it encodes
            "--mm-encoder-only": multimodal.mm_encoder_only and not _hands_over(vllm_config),
            # hooks on the attention do not run in compiled code and CUDA graphs
            "compile_mm_encoder": compilation.compile_mm_encoder,
            "cudagraph_mm_encoder": compilation.cudagraph_mm_encoder,
            # ranks would wait for each other in its projector, each with images of its own
            "--mm-encoder-tp-mode data": by_rank and several and not architecture.encodes_by_rank,
            # classes of its repository take the place of those that pruning asks
            "--trust-remote-code where transformers has classes of the model": (
                architecture.hub is None and _is_remote(vllm_config.model_config.hf_config)
            ),
            # an encoding depends on the request's adapter, which is not in the image's hash
            "--enable-tower-connector-lora": lora is not None and lora.enable_tower_connector_lora,
        }
    )


def _hands_over(vllm_config: Any) -> bool:
    """Return whether an engine encodes for another one (encoder and language model apart)."""
    transfer = vllm_config.ec_transfer_config
    return transfer is not None and transfer.is_ec_producer


def _is_remote(config: Any) -> bool:
    """Return whether the class of a configuration is code of a repository of the hub."""
    return type(config).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME)


def _adapts_embeddings(target_modules: list[str] | None) -> bool:
    return target_modules is None or any("embed" in name for name in target_modules)


def check_positions(vllm_config: Any) -> None:
    """Raise a `ValueError` if a flag would separate embeddings from their positions (M-RoPE)."""
    parallel = vllm_config.parallel_config
    draft = vllm_config.speculative_config
    multimodal = vllm_config.model_config.multimodal_config
    _refuse(
        {
            # later stages get positions, but no embeddings
            "--pipeline-parallel-size": parallel.pipeline_parallel_size > 1,
            # a draft reads embeddings of images without the channels that hold their positions
            "a draft model that reads images": draft is not None and draft.use_eagle(),
            # half batches run in turns, each with the first columns' coordinates
            "--enable-dbo or --ubatch-size": parallel.use_ubatching,
            # embeddings from a client have no channels that hold positions
            "--enable-prompt-embeds": vllm_config.model_config.enable_prompt_embeds,
            # vLLM's own pruning numbers positions anew
            "--video-pruning-rate": multimodal.is_multimodal_pruning_enabled(),
        }
    )


def _refuse(given: dict[str, bool]) -> None:
    """Raise a `ValueError` for the first flag that is given."""
    for flag, is_given in given.items():
        if is_given:
            raise ValueError(
                f"visual tokens are not pruned with {flag}: leave it out, "
                "or set VLLM_PLUGINS= to serve images unpruned"
            )
