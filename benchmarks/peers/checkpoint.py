"""Write a Qwen2-VL of 2 B parameters with random weights, and a tokenizer of single bytes.

    checkpoint.py FOLDER [--tiny]

Sizes are those of Qwen2-VL-2B-Instruct's configuration; its weights and its tokenizer are not
needed to time it. Its processor of videos, which every engine wants to find, needs torchvision: the
environment of vLLM has it.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from adafv.speed.shapes import build

__all__ = ["write"]

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOWER = {
    "depth": 32,
    "embed_dim": 1280,
    "num_heads": 16,
    "hidden_size": 1536,
    "mlp_ratio": 4,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
TEXT = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
TINY_TOWER = {"depth": 2, "embed_dim": 64, "num_heads": 4, "hidden_size": 256}
TINY_TEXT = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 512,
}


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose words are single bytes, after `SPECIAL`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *letters))}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL[1:]),
    )


def write(folder: Path, tiny: bool = False) -> None:
    """Write configuration, weights in bfloat16, tokenizer and processor.

    Args:
        tiny: two narrow layers each, to try the measurement itself.
    """
    ids = {token: number for number, token in enumerate(SPECIAL)}
    config = Qwen2VLConfig(
        text_config=TEXT | TINY_TEXT if tiny else TEXT,
        vision_config=TOWER | TINY_TOWER if tiny else TOWER,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    config.text_config.eos_token_id = ids["<|im_end|>"]
    model = build(config, torch.device("cpu"), torch.bfloat16)
    model.save_pretrained(folder)
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessorPil(), _tokenizer(), Qwen2VLVideoProcessor(), chat_template=CHAT
    )
    processor.save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]), tiny="--tiny" in sys.argv)
