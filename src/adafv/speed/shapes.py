"""Models to time: real classes at their real sizes, random weights. Nothing is downloaded."""

import difflib
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
from adafv.utils.checks import checked

__all__ = ["QUESTION", "SHAPES", "Shape", "build", "image", "shape_of"]

SPECIAL = (
    "<unk>",
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<video>",
    "<|vision_start|>",
    "<|vision_end|>",
)
WORDS = (
    "USER",
    "ASSISTANT",
    ":",
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
)
QUESTION = " ".join((*WORDS[3:12],) * 5 + WORDS[-1:])
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() }} : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}MARKER {% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)
PINPOINTS = ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))


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
        """The configuration, with the first `layers` layers of the language model; None: all.

        Raises:
            ValueError: fewer than one layer, or more than there are.
        """
        depth = self.text["num_hidden_layers"]
        if layers is not None and not 1 <= layers <= depth:
            raise ValueError(
                f"layers={layers} of a language model of {depth}: pass 1 to {depth}, or leave it out"
            )
        text = {
            **self.text,
            "num_hidden_layers": layers or depth,
            "bos_token_id": 2,
            "eos_token_id": 3,
        }
        options: dict[str, Any] = {
            "text_config": {**text, "pad_token_id": 1},
            "vision_config": dict(self.tower),
        }
        for name, token in (("image", 4), ("video", 5), ("vision_start", 6), ("vision_end", 7)):
            options[f"{name}_token_id"] = token
        if self.kind == "llava_next":
            options["image_grid_pinpoints"] = self._grids()
        return CONFIG_MAPPING[self.kind](**options)

    def processor(self) -> ProcessorMixin:
        """Its own processor, with a vocabulary of a few words."""
        vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
            extra_special_tokens={"image_token": "<image>", "video_token": "<video>"}, padding_side="left",
        )  # fmt: skip
        cls: Any = PROCESSOR_MAPPING[CONFIG_MAPPING[self.kind]]
        if self.kind.startswith("qwen"):
            marker, edge = "<|vision_start|><image><|vision_end|>", self.side**2
            size = {"shortest_edge": edge, "longest_edge": edge}
            images = Qwen2VLImageProcessorPil(
                patch_size=self.tower["patch_size"], merge_size=2, size=size
            )
            return images_only(cls)(images, tokenizer, chat_template=CHAT.replace("MARKER", marker))
        edge = self.tower["image_size"]
        crop = {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}}
        nested = {"image_grid_pinpoints": self._grids()} if self.kind == "llava_next" else {}
        prepare: Any = LlavaNextImageProcessorPil if nested else CLIPImageProcessorPil
        return cls(
            prepare(**crop, **nested), tokenizer, patch_size=self.tower["patch_size"], num_additional_image_tokens=1,
            vision_feature_select_strategy="default", chat_template=CHAT.replace("MARKER", "<image>"),
        )  # fmt: skip

    def _grids(self) -> list[list[int]]:
        return [
            [self.tower["image_size"] * rows, self.tower["image_size"] * columns]
            for rows, columns in PINPOINTS
        ]


@checked
def image(side: int, seed: int) -> Image.Image:
    """A square image of noise."""
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    )


@checked
def build(config: PreTrainedConfig, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """A model of a configuration, in eval mode, on its device at once, its weights one small draw
    over and over.
    """
    cls: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    with no_init_weights(), torch.device(device):
        model = cls._from_config(config, dtype=dtype)
    drawn = (
        torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(device, dtype)
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                weight.fill_(float(name.endswith("weight")))
            else:
                _tile(weight.view(-1), drawn)
    model.generation_config.eos_token_id = None
    return model.eval()


def _tile(flat: Tensor, block: Tensor) -> None:
    for part in flat.split(len(block)):
        part.copy_(block[: len(part)])


@checked
def shape_of(name: str) -> Shape:
    """One of `SHAPES`. Raises a `ValueError` that suggests the closest, if there is none of this
    name.
    """
    if name in SHAPES:
        return SHAPES[name]
    close = difflib.get_close_matches(name, SHAPES, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(SHAPES)}"
    raise ValueError(f"shape {name!r} is unknown: {hint}")


def _clip(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model", "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "image_size": 336, "patch_size": 14,
    }  # fmt: skip


def _text(
    kind: str, width: int, inner: int, layers: int, heads: int, keys: int, words: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": kind, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": keys, "vocab_size": words,
        "max_position_embeddings": 32768, **more,
    }  # fmt: skip


LARGE = _clip(1024, 4096, 24, 16)
VICUNA = _text("llama", 4096, 11008, 32, 32, 32, 32064)
QWEN2_5 = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
    "patch_size": 14, "spatial_merge_size": 2, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
QWEN3 = {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
    "patch_size": 16, "spatial_merge_size": 2, "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
}  # fmt: skip


def _rope(theta: float, sections: list[int], **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "mrope_section": sections, **more}


SHAPES = {
    "tiny": Shape("llava", _clip(64, 128, 4, 2), _text("llama", 256, 688, 4, 4, 4, 512), 336),
    "llava-1.5-7b": Shape("llava", LARGE, VICUNA, 336),
    "llava-1.5-13b": Shape("llava", LARGE, _text("llama", 5120, 13824, 40, 40, 40, 32064), 336),
    "llava-next-7b": Shape("llava_next", LARGE, VICUNA, 672),
    "qwen2.5-vl-7b": Shape(
        "qwen2_5_vl", QWEN2_5,
        _text("qwen2_5_vl_text", 3584, 18944, 28, 28, 4, 152064, rope_parameters=_rope(1e6, [16, 24, 24])), 1008,
    ),
    "qwen3-vl-8b": Shape(
        "qwen3_vl", QWEN3,
        _text(
            "qwen3_vl_text", 4096, 12288, 36, 32, 8, 151936, head_dim=128,
            rope_parameters=_rope(5e6, [24, 20, 20], mrope_interleaved=True),
        ), 1024,
    ),
}  # fmt: skip
"""`tiny` has LLaVA-1.5's 576 visual tokens, and fits a second of one CPU core."""
