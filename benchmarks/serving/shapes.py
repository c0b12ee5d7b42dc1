"""Models to measure on: configuration, tokenizer and processor from code.

The weights are vLLM's own random ones.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from adafv.speed import flops

__all__ = ["SHAPES", "Shape"]

SPECIAL = ("<unk>", "<pad>", "<s>", "</s>", "<image>", "USER", "ASSISTANT", ":")
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() }} : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """A model of the LLaVA family.

    Attributes:
        tower, text: arguments of transformers' CLIPVisionConfig and LlamaConfig.
        side: of the square images that are asked about, in pixels.
        tiles: how many tiles LLaVA-NeXT cuts such an image into, on a side; 0: LLaVA-1.5, no
            tiles.
    """

    tower: dict[str, Any]
    text: dict[str, Any]
    side: int = 336
    tiles: int = 0
    vocabulary: int = 32064
    words: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "words", tuple(f"w{i}" for i in range(self.vocabulary - len(SPECIAL)))
        )

    @property
    def patches(self) -> int:
        """Visual tokens of an image, LLaVA-NeXT's newlines left out: what a budget is a share of."""
        return (1 + self.tiles**2) * (self.tower["image_size"] // self.tower["patch_size"]) ** 2

    @property
    def parameters(self) -> int:
        """All weights, biases and norms left out."""
        tower, text = self.tower, self.text
        layers = tower["num_hidden_layers"] * (
            4 * tower["hidden_size"] + 2 * tower["intermediate_size"]
        )
        deep = text["num_hidden_layers"] * (4 * text["hidden_size"] + 3 * text["intermediate_size"])
        return layers * tower["hidden_size"] + (deep + 2 * self.vocabulary) * text["hidden_size"]

    def visual_tokens(self, keep: float) -> int:
        """Of an image, as the language model reads it."""
        if keep < 1:
            return max(1, round(keep * self.patches))
        return self.patches + self.tiles * (self.tower["image_size"] // self.tower["patch_size"])

    def save(self, folder: Path) -> Path:
        """Write all that vLLM reads of a model but its weights."""
        config, processor = self._configured()
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        GenerationConfig(bos_token_id=2, eos_token_id=3, pad_token_id=1).save_pretrained(folder)
        return folder

    def flops(self, prompt: int, answer: int) -> dict[str, float]:
        """Of one request, by stage; see `adafv.speed.flops`.

        Args:
            prompt: tokens that the language model reads, visual ones included.
            answer: tokens it writes; the first comes from the prefill.
        """
        config, edge = self._configured()[0], self.tower["image_size"] // self.tower["patch_size"]
        depth = config.text_config.num_hidden_layers
        steps = (
            flops.decode(config, [length] * depth) for length in range(prompt, prompt + answer - 1)
        )
        return {
            "vision": flops.vision(config, [(edge, edge)] * (1 + self.tiles**2)).flops,
            "prefill": flops.prefill(config, [prompt] * depth).flops,
            "decode": sum(step.flops for step in steps),
        }

    def _configured(self) -> tuple[Any, Any]:
        """Configuration and processor."""
        return self._next() if self.tiles else self._llava()

    def _llava(self) -> tuple[Any, Any]:
        side = self.tower["image_size"]
        images = CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
        return LlavaConfig(**self._parts()), LlavaProcessor(images, **self._processing())

    def _next(self) -> tuple[Any, Any]:
        side = self.tower["image_size"]
        grids = [
            [side * rows, side * columns]
            for rows, columns in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))
        ]
        images = LlavaNextImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=grids,
        )
        config = LlavaNextConfig(**self._parts(), image_grid_pinpoints=grids)
        return config, LlavaNextProcessor(images, **self._processing())

    def _parts(self) -> dict[str, Any]:
        return {
            "vision_config": CLIPVisionConfig(**self.tower),
            "text_config": LlamaConfig(
                **self.text, vocab_size=self.vocabulary, max_position_embeddings=4096, bos_token_id=2, eos_token_id=3,
                pad_token_id=1, architectures=["LlamaForCausalLM"],
            ),
            "image_token_id": SPECIAL.index("<image>"),
            "architectures": [f"Llava{'Next' if self.tiles else ''}ForConditionalGeneration"],
        }  # fmt: skip

    def _processing(self) -> dict[str, Any]:
        words = Tokenizer(
            models.WordLevel(
                {w: i for i, w in enumerate((*SPECIAL, *self.words))}, unk_token="<unk>"
            )
        )
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
            extra_special_tokens={"image_token": "<image>"}, padding_side="left",
        )  # fmt: skip
        return {
            "tokenizer": tokenizer, "patch_size": self.tower["patch_size"], "chat_template": CHAT,
            "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1,
        }  # fmt: skip


def _tower(
    width: int, inner: int, layers: int, heads: int, side: int = 336, patch: int = 14
) -> dict[str, Any]:
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
    )
    return dict(zip(names, (width, inner, layers, heads, side, patch), strict=True))


def _text(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return dict(zip(names, (width, inner, layers, heads), strict=True))


LARGE = _tower(1024, 4096, 24, 16)
SHAPES = {
    "tiny": Shape(_tower(32, 64, 3, 2, side=112), _text(64, 128, 2, 2), side=112, vocabulary=512),
    "llava-0.4b": Shape(_tower(384, 1536, 10, 6), _text(1024, 2816, 24, 16)),
    "llava-1.5-7b": Shape(LARGE, _text(4096, 11008, 32, 32)),
    "llava-next-7b": Shape(LARGE, _text(4096, 11008, 32, 32), side=672, tiles=2),
}
"""Of which one can be asked for; `llava-0.4b` has LLaVA-1.5's 576 visual tokens and its ratio of
tower to language model, about 1 to 20."""
