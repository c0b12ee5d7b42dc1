"""Read models in a format of the hub's own as if they were in that of transformers."""

from typing import Any

import transformers
from transformers import PreTrainedConfig, ProcessorMixin

from adafv.integrations.vllm.architectures import Architecture

__all__ = ["Prompts", "PromptsOfLines", "as_transformers"]

TOWER = (
    "hidden_size",
    "image_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "patch_size",
)
"""What both formats call alike."""
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
    if not architecture.config:
        return config
    cls = getattr(transformers, architecture.config)
    options: dict[str, Any] = {}
    if tokenizer is not None:
        options["image_token_id"] = tokenizer.convert_tokens_to_ids(architecture.placeholder)
    found: PreTrainedConfig = cls(
        vision_config={name: getattr(config.vision_config, name) for name in TOWER},
        text_config=dict(TEXT),
        downsample_ratio=config.downsample_ratio,
        vision_feature_layer=config.select_layer,
        **options,
    )
    return found


class Prompts(ProcessorMixin):
    """A tokenizer with a chat template, as a processor: vLLM's own ones have no template.

    Args:
        tokenizer: of the model.
        image_token: what stands for an image in its prompts.
    """

    def __init__(self, tokenizer: Any, image_token: str) -> None:
        self.tokenizer = tokenizer
        self.image_token = image_token
        self.chat_template = tokenizer.chat_template

    def apply_chat_template(self, conversation: Any, *args: Any, **options: Any) -> Any:
        """Render a chat whose messages come in parts."""
        return self.tokenizer.apply_chat_template(conversation, *args, **options)


class PromptsOfLines(Prompts):
    """Such a tokenizer whose template takes the messages of a chat as text."""

    def apply_chat_template(self, conversation: Any, *args: Any, **options: Any) -> Any:
        """Render a chat whose messages come in parts, with a line for each, as vLLM does."""
        messages = []
        for message in conversation:
            lines = [part.get("text", self.image_token) for part in message["content"]]
            messages.append({**message, "content": "\n".join(lines)})
        return super().apply_chat_template(messages, *args, **options)
