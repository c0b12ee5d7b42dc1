"""What vLLM can do and pruning cannot go along with: refused when the server starts, never silently
wrong.
"""

from typing import Any

__all__ = ["check_config", "check_positions"]


def check_config(vllm_config: Any) -> None:
    """Raise a `ValueError` if a flag of vLLM hides the tower's attention, or what an encoding
    depends on.
    """
    multimodal, compilation = (
        vllm_config.model_config.multimodal_config,
        vllm_config.compilation_config,
    )
    lora = vllm_config.lora_config
    _refuse(
        {
            "--mm-encoder-tp-mode data": multimodal.mm_encoder_tp_mode == "data",
            "--mm-encoder-only": multimodal.mm_encoder_only,
            "compile_mm_encoder": compilation.compile_mm_encoder,
            "cudagraph_mm_encoder": compilation.cudagraph_mm_encoder,
            "--enable-tower-connector-lora": lora is not None and lora.enable_tower_connector_lora,
        }
    )


def check_positions(vllm_config: Any) -> None:
    """As `check_config`, for models with M-RoPE: what would part embeddings from the positions they
    go with.
    """
    parallel, multimodal = vllm_config.parallel_config, vllm_config.model_config.multimodal_config
    _refuse(
        {
            "--pipeline-parallel-size": parallel.pipeline_parallel_size > 1,
            "--enable-dbo": parallel.enable_dbo,
            "--video-pruning-rate": multimodal.is_multimodal_pruning_enabled(),
        }
    )


def _refuse(given: dict[str, bool]) -> None:
    if wrong := [flag for flag, is_given in given.items() if is_given]:
        raise ValueError(
            f"visual tokens are not pruned with {wrong[0]}: leave it out, or set VLLM_PLUGINS= to serve whole images"
        )
