"""Models to time: real classes at their real sizes, random weights. Nothing is downloaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    PROCESSOR_MAPPING,
    CLIPImageProcessorPil,
    LlavaNextImageProcessorPil,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2VLImageProcessorPil,
)
from transformers.initialization import no_init_weights

from adafv.models.processors import images_only
from adafv.utils.checks import checked, did_you_mean

__all__ = ["QUESTION", "SHAPES", "Shape", "build", "image", "shape_of", "with_control_tokens"]

SPECIAL = [
    "<unk>",
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<video>",
    "<|vision_start|>",
    "<|vision_end|>",
]
"""Their ids are their indices."""
WORDS = [
    # of the chat template
    "USER",
    "ASSISTANT",
    ":",
    # of the question
    "what",
    "color",
    "is",
    "the",
    "anchor",
    "left",
    "of",
    "a",
    "knight",
    "?",
]
QUESTION = " ".join([*WORDS[3:12] * 5, WORDS[-1]])
CHAT = (
    "{% for m in messages %}"
    "{{ m['role'].upper() }} : "
    "{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}MARKER {% else %}{{ c['text'] }} {% endif %}"
    "{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)
PINPOINTS = ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))
"""Rows and columns of tiles that LLaVA-NeXT may cut an image into."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a vision-language model, and of the image that it is asked about.

    Attributes:
        kind: its `model_type`: llava, llava_next, qwen2_5_vl or qwen3_vl.
        tower, text: arguments of the configurations of its vision tower and its language model.
        side: of the square image, in pixels.
    """

    kind: str
    tower: Mapping[str, Any]
    text: Mapping[str, Any]
    side: int

    def config(self, layers: int | None = None) -> PreTrainedConfig:
        """Return the configuration with the first `layers` layers of the LLM; None: all.

        Raises:
            ValueError: fewer than one layer, or more than there are.
        """
        depth = self.text["num_hidden_layers"]
        if layers is not None and not 1 <= layers <= depth:
            raise ValueError(
                f"layers={layers} of a language model of {depth}: "
                f"pass 1 to {depth}, or leave it out"
            )
        # ids are those of the tokenizer below
        text = {
            **self.text,
            "num_hidden_layers": layers or depth,
            "pad_token_id": SPECIAL.index("<pad>"),
            "bos_token_id": SPECIAL.index("<s>"),
            "eos_token_id": SPECIAL.index("</s>"),
        }
        options: dict[str, Any] = {
            "text_config": text,
            "vision_config": dict(self.tower),
            "image_token_id": SPECIAL.index("<image>"),
            "video_token_id": SPECIAL.index("<video>"),
            "vision_start_token_id": SPECIAL.index("<|vision_start|>"),
            "vision_end_token_id": SPECIAL.index("<|vision_end|>"),
        }
        if self.kind == "llava_next":
            options["image_grid_pinpoints"] = self._grids()
        return CONFIG_MAPPING[self.kind](**options)

    def processor(self) -> ProcessorMixin:
        """Return its own processor, with a vocabulary of a few words."""
        tokenizer = _tokenizer()
        cls: Any = PROCESSOR_MAPPING[CONFIG_MAPPING[self.kind]]

        # Qwen takes images of any shape: the least and the most pixels make it this one
        if self.kind.startswith("qwen"):
            area = self.side**2
            images = Qwen2VLImageProcessorPil(
                patch_size=self.tower["patch_size"],
                merge_size=2,
                size={"shortest_edge": area, "longest_edge": area},
            )
            chat = CHAT.replace("MARKER", "<|vision_start|><image><|vision_end|>")
            return images_only(cls)(images, tokenizer, chat_template=chat)

        # CLIP takes squares of one size, and LLaVA-NeXT cuts an image into several
        edge = self.tower["image_size"]
        crop: dict[str, Any] = {
            "size": {"shortest_edge": edge},
            "crop_size": {"height": edge, "width": edge},
        }
        prepare: Any = CLIPImageProcessorPil
        if self.kind == "llava_next":
            prepare = LlavaNextImageProcessorPil
            crop["image_grid_pinpoints"] = self._grids()
        return cls(
            prepare(**crop),
            tokenizer,
            patch_size=self.tower["patch_size"],
            num_additional_image_tokens=1,  # CLS
            vision_feature_select_strategy="default",
            chat_template=CHAT.replace("MARKER", "<image>"),
        )

    def _grids(self) -> list[list[int]]:
        edge = self.tower["image_size"]
        return [[edge * rows, edge * columns] for rows, columns in PINPOINTS]


def _tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer that knows whole words, and `SPECIAL` first."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return with_control_tokens(backend, {"image_token": "<image>", "video_token": "<video>"})


@checked
def with_control_tokens(
    backend: Tokenizer, named: dict[str, str], **options: Any
) -> PreTrainedTokenizerFast:
    """Return a tokenizer as LLaMA's is: unknown, padding on the left, beginning and end.

    Args:
        named: control tokens that a processor finds as attributes of the tokenizer.
        options: of the tokenizer besides.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=named,
        padding_side="left",
        **options,
    )


@checked
def image(side: int, seed: int) -> Image.Image:
    """Return a square image of noise."""
    # what an image shows doesn't change how long it takes
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@checked
def build(config: PreTrainedConfig, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Build a model of a configuration, in eval mode, on its device at once.

    Its weights are one small draw over and over.
    """
    cls: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    with no_init_weights(), torch.device(device):
        model = cls._from_config(config, dtype=dtype)

    # drawn on the CPU, so that the weights are the same on every device
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2**20, generator=generator).mul_(0.02).to(device, dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # norms are the identity, biases are zero
            if weight.dim() < 2:
                weight.fill_(float(name.endswith("weight")))
            else:
                _tile(weight.view(-1), drawn)

    # no answer ends before its time
    model.generation_config.eos_token_id = None
    return model.eval()


def _tile(flat: Tensor, block: Tensor) -> None:
    """Fill a tensor with copies of a block; the last one may be cut."""
    for part in flat.split(len(block)):
        part.copy_(block[: len(part)])


@checked
def shape_of(name: str) -> Shape:
    """Return one of `SHAPES`.

    Raises:
        ValueError: there is none of this name; it suggests the closest.
    """
    if name in SHAPES:
        return SHAPES[name]
    hint = did_you_mean(name, SHAPES, f"there are {', '.join(SHAPES)}")
    raise ValueError(f"shape {name!r} is unknown: {hint}")


# vision towers


def _clip(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": 336,
        "patch_size": 14,
    }


CLIP_SMALL = _clip(64, 128, 4, 2)
CLIP_LARGE = _clip(1024, 4096, 24, 16)
QWEN2_5_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
QWEN3_TOWER = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "out_hidden_size": 4096,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [8, 16, 24],
}


# language models


def _llama(width: int, inner: int, layers: int, heads: int, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
    }


LLAMA_SMALL = _llama(256, 688, 4, 4, 512)
VICUNA_7B = _llama(4096, 11008, 32, 32, 32064)
VICUNA_13B = _llama(5120, 13824, 40, 40, 32064)
QWEN2_5_TEXT = {
    "model_type": "qwen2_5_vl_text",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [16, 24, 24],
    },
}
QWEN3_TEXT = {
    "model_type": "qwen3_vl_text",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "head_dim": 128,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    },
}


# `tiny` has LLaVA-1.5's 576 visual tokens, and fits a second of one CPU core
SHAPES = {
    "tiny": Shape("llava", CLIP_SMALL, LLAMA_SMALL, 336),
    "llava-1.5-7b": Shape("llava", CLIP_LARGE, VICUNA_7B, 336),
    "llava-1.5-13b": Shape("llava", CLIP_LARGE, VICUNA_13B, 336),
    "llava-next-7b": Shape("llava_next", CLIP_LARGE, VICUNA_7B, 672),
    "qwen2.5-vl-7b": Shape("qwen2_5_vl", QWEN2_5_TOWER, QWEN2_5_TEXT, 1008),
    "qwen3-vl-8b": Shape("qwen3_vl", QWEN3_TOWER, QWEN3_TEXT, 1024),
}
