"""What the tiny models share: words, a text backbone, images and prompts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from adafv.speed.shapes import with_control_tokens

BASIC = ("<unk>", "<pad>", "<s>", "</s>")
WORDS = (
    *[
        "USER",
        ":",
        "ASSISTANT",
        "what",
        "color",
        "is",
        "the",
        "anchor",
        "knight",
        "left",
        "of",
        "there",
        "a",
    ],
    *["red", "blue", "?", "how", "many", ".", "and", "compare", "with"],
    "\n",
)
ALONG = (
    "input_ids",
    "attention_mask",
    "mm_token_type_ids",
    "moe_mm_token_type_ids",
    "token_type_ids",
)

"""Inputs that run along the sequence."""


@dataclass(frozen=True)
class Tiny:
    """A tiny model, its processor, and what stands for an image in a prompt."""

    model: PreTrainedModel
    processor: ProcessorMixin
    marker: str


ZOO: dict[str, Callable[[], Tiny]] = {}


def family(build: Callable[[], Tiny]) -> Callable[[], Tiny]:
    """Enter a builder under its name, which is the model_type of its model."""
    ZOO[build.__name__] = build
    return build


@cache
def tiny(name: str) -> Tiny:
    torch.manual_seed(0)
    found = ZOO[name]()
    model = found.model.eval()
    assert model.config.model_type == name
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = BASIC.index("<pad>")
    # Ovis2's, which are features, too
    around = getattr(model.config, "visual_indicator_token_ids", [])
    no_answers = [model.config.image_token_id, *around]
    model.get_output_embeddings().weight.data[no_answers] = 0
    return found


def words(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words.

    Args:
        special: control tokens of the family; `token_id` tells their ids.
        named: control tokens that the processor finds as attributes of the tokenizer.
    """
    control = tuple(dict.fromkeys((*special, *named.values())))
    vocabulary = {word: i for i, word in enumerate((*BASIC, *control, *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    return with_control_tokens(backend, named)


def text(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    """Options of a tiny text backbone for a tokenizer."""
    return (
        dict(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=len(tokenizer),
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=1,
            initializer_range=0.5,
        )
        | more
    )


def vision(**more: Any) -> dict[str, Any]:
    """Options of a tiny tower: 6 x 6 patches of a square crop."""
    return (
        dict(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=24,
            patch_size=4,
            initializer_range=0.5,
        )
        | more
    )


def show(width: int = 48, height: int = 48, seed: int = 0) -> Image.Image:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def ask(name: str, *samples: tuple[str, list[Image.Image]]) -> dict[str, Any]:
    """Inputs of a batch of (question, images), the images first in each prompt."""
    found = tiny(name)
    prompts = [
        f"USER : {' '.join([found.marker] * len(p))} {question} ASSISTANT :"
        for question, p in samples
    ]
    pictures = [p for _, p in samples]
    processor: Any = found.processor
    inputs = dict(processor(text=prompts, images=pictures, return_tensors="pt", padding=True))
    inputs.pop("labels", None)  # PaliGemma's, for training
    return inputs
