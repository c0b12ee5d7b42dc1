"""Read models in a format of the hub's own as if they were in that of transformers."""

from typing import Any

import transformers
from transformers import PreTrainedConfig, ProcessorMixin

from adafv.integrations.vllm.architecture import Architecture

__all__ = ["Prompts", "PromptsOfLines", "as_transformers", "check_format"]

TOWER = (
    "hidden_size",
    "image_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "patch_size",
)
"""What both formats of InternVL call alike."""
ERNIE_TOWER = ("depth", "hidden_size", "num_heads", "patch_size", "spatial_merge_size")
"""What both formats of ERNIE call alike."""
ERNIE_IDS = (
    "image_start_token_id",
    "image_end_token_id",
    "video_start_token_id",
    "video_end_token_id",
    "video_token_id",
)
"""Ids that the hub's configuration of ERNIE may name; else they are transformers' defaults."""
TEXT = {"model_type": "qwen2", "num_hidden_layers": 1}
"""In place of the language model, which transformers may not have, and nobody asks about."""


def as_transformers(
    config: PreTrainedConfig, architecture: Architecture, tokenizer: Any = None
) -> PreTrainedConfig:
    """Return a model's configuration as transformers has it, but for its language model.

    One that is in the format of transformers is returned unchanged.

    Args:
        config: as vLLM has it.
        architecture: of the model.
        tokenizer: which names the placeholder. None: its id is not asked for.
    """
    hub = architecture.hub
    if hub is None:
        return config
    cls = getattr(transformers, hub.config)
    options = READERS[hub.reader](config)
    if tokenizer is not None:
        options["image_token_id"] = tokenizer.convert_tokens_to_ids(hub.placeholder)
    found: PreTrainedConfig = cls(**options)
    return found


def check_format(config: PreTrainedConfig, architecture: Architecture) -> None:
    """Raise a `ValueError` if vLLM does not read a model in the format that it is in."""
    try:
        as_transformers(config, architecture)
    # the format of transformers says the same by other names
    except AttributeError:
        raise ValueError(
            f"vLLM reads {architecture.title} in the hub's own format alone: pass such a "
            "checkpoint to `adafv serve`, or answer files with `adafv batch --engine hf`"
        ) from None


def _of_internvl(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what the configuration of an InternVL or a Qianfan-OCR says."""
    return {
        "vision_config": {name: getattr(config.vision_config, name) for name in TOWER},
        "text_config": dict(TEXT),
        "downsample_ratio": config.downsample_ratio,
        "vision_feature_layer": config.select_layer,
    }


def _of_ernie(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what the configuration of an ERNIE says."""
    tower = {name: getattr(config.vision_config, name) for name in ERNIE_TOWER}
    return {
        "vision_config": tower | {"temporal_merge_size": config.temporal_conv_size},
        "text_config": {"num_hidden_layers": 1},
        **{name: getattr(config, name) for name in ERNIE_IDS if hasattr(config, name)},
    }


READERS = {"internvl": _of_internvl, "ernie": _of_ernie}
"""What each format says, as options of transformers' configuration."""


class Prompts(ProcessorMixin):
    """A tokenizer with a chat template, as a processor: vLLM's own ones have no template.

    Args:
        tokenizer: of the model.
        image_token: what stands for an image in its prompts.
        markers: texts of several tokens that its template writes in the place of that token.
    """

    def __init__(self, tokenizer: Any, image_token: str, markers: tuple[str, ...] = ()) -> None:
        self.tokenizer = tokenizer
        self.image_token = image_token
        self.markers = markers
        self.chat_template = tokenizer.chat_template

    def apply_chat_template(self, conversation: Any, *args: Any, **options: Any) -> Any:
        """Render a chat whose messages come in parts."""
        chat = self.tokenizer.apply_chat_template(conversation, *args, **options)
        # what stands for an image is no text, of however many tokens
        for marker in self.markers:
            chat = chat.replace(marker, self.image_token)
        return chat


class PromptsOfLines(Prompts):
    """Such a tokenizer whose template takes the messages of a chat as text."""

    def apply_chat_template(self, conversation: Any, *args: Any, **options: Any) -> Any:
        """Render a chat whose messages come in parts, with a line for each, as vLLM does."""
        messages = []
        for message in conversation:
            lines = [part.get("text", self.image_token) for part in message["content"]]
            messages.append({**message, "content": "\n".join(lines)})
        return self.tokenizer.apply_chat_template(messages, *args, **options)
