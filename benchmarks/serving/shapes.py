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
)

from adafv.ops.budget import num_keep
from adafv.speed import flops
from adafv.speed.shapes import PINPOINTS, with_control_tokens

__all__ = ["SHAPES", "Shape"]

SPECIAL = ("<unk>", "<pad>", "<s>", "</s>", "<image>", "USER", "ASSISTANT", ":")
CHAT = (
    "{% for m in messages %}"
    "{{ m['role'].upper() }} : "
    "{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} {% endif %}"
    "{% endfor %}"
    "{% endfor %}"
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
    side: int = 336  # pixels
    tiles: int = 0
    vocabulary: int = 32064
    words: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        words = tuple(f"w{i}" for i in range(self.vocabulary - len(SPECIAL)))
        object.__setattr__(self, "words", words)  # frozen

    @property
    def patches(self) -> int:
        """Visual tokens of an image that a budget is a share of, without LLaVA-NeXT's newlines."""
        return (1 + self.tiles**2) * self.edge**2

    @property
    def edge(self) -> int:
        """Patches along a crop."""
        return self.tower["image_size"] // self.tower["patch_size"]

    @property
    def parameters(self) -> int:
        """All weights, biases and norms left out."""
        tower = self.tower
        text = self.text
        # four matrices of attention, two of the tower's MLP, three of the gated one
        layer = 4 * tower["hidden_size"] + 2 * tower["intermediate_size"]
        deep_layer = 4 * text["hidden_size"] + 3 * text["intermediate_size"]
        layers = tower["num_hidden_layers"] * layer
        deep = text["num_hidden_layers"] * deep_layer
        # and two matrices of the vocabulary: in, and out
        return layers * tower["hidden_size"] + (deep + 2 * self.vocabulary) * text["hidden_size"]

    def visual_tokens(self, keep: float) -> int:
        """Return the tokens of an image that the language model reads."""
        if keep < 1:
            return num_keep(self.patches, keep)
        # a newline ends every row of the tiles
        return self.patches + self.tiles * self.edge

    def save(self, folder: Path) -> Path:
        """Write all that vLLM reads of a model but its weights."""
        # vLLM draws the weights itself
        config, processor = self._configured()
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        GenerationConfig(bos_token_id=2, eos_token_id=3, pad_token_id=1).save_pretrained(folder)
        return folder

    def flops(self, prompt: int, answer: int) -> dict[str, float]:
        """Return those of one request, by stage; see `adafv.speed.flops`.

        Args:
            prompt: tokens that the language model reads, visual ones included.
            answer: tokens it writes; the first comes from the prefill.
        """
        config, _ = self._configured()
        depth = config.text_config.num_hidden_layers
        crops = [(self.edge, self.edge)] * (1 + self.tiles**2)

        # each token reads the prompt and what is written so far
        decode: float = 0
        for length in range(prompt, prompt + answer - 1):
            decode += flops.decode(config, [length] * depth).flops
        return {
            "vision": flops.vision(config, crops).flops,
            "prefill": flops.prefill(config, [prompt] * depth).flops,
            "decode": decode,
        }

    def _configured(self) -> tuple[Any, Any]:
        """Return configuration and processor."""
        return self._next() if self.tiles else self._llava()

    def _llava(self) -> tuple[Any, Any]:
        # one square crop
        side = self.tower["image_size"]
        images = CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
        return LlavaConfig(**self._parts()), LlavaProcessor(images, **self._processing())

    def _next(self) -> tuple[Any, Any]:
        # a thumbnail and tiles
        side = self.tower["image_size"]
        grids = [[side * rows, side * columns] for rows, columns in PINPOINTS]
        images = LlavaNextImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=grids,
        )
        config = LlavaNextConfig(**self._parts(), image_grid_pinpoints=grids)
        return config, LlavaNextProcessor(images, **self._processing())

    def _parts(self) -> dict[str, Any]:
        text = LlamaConfig(
            **self.text,
            vocab_size=self.vocabulary,
            max_position_embeddings=4096,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=1,
            architectures=["LlamaForCausalLM"],
        )
        # vLLM finds its class by this name
        family = "LlavaNext" if self.tiles else "Llava"
        return {
            "vision_config": CLIPVisionConfig(**self.tower),
            "text_config": text,
            "image_token_id": SPECIAL.index("<image>"),
            "architectures": [f"{family}ForConditionalGeneration"],
        }

    def _processing(self) -> dict[str, Any]:
        # a tokenizer that knows entire words, so that a question of 16 of them has 16 tokens
        vocabulary = {word: i for i, word in enumerate((*SPECIAL, *self.words))}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = with_control_tokens(backend, {"image_token": "<image>"})
        return {
            "tokenizer": tokenizer,
            "patch_size": self.tower["patch_size"],
            "chat_template": CHAT,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,  # CLS
        }


def _stack(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def _tower(width: int, inner: int, layers: int, heads: int, side: int = 336) -> dict[str, Any]:
    return {**_stack(width, inner, layers, heads), "image_size": side, "patch_size": 14}


LARGE = _tower(1024, 4096, 24, 16)
VICUNA_7B = _stack(4096, 11008, 32, 32)
SHAPES = {
    "tiny": Shape(
        tower=_tower(32, 64, 3, 2, side=112),
        text=_stack(64, 128, 2, 2),
        side=112,
        vocabulary=512,
    ),
    # LLaVA-1.5's 576 visual tokens, and its ratio of tower to language model, about 1 to 20
    "llava-0.4b": Shape(_tower(384, 1536, 10, 6), _stack(1024, 2816, 24, 16)),
    "llava-1.5-7b": Shape(LARGE, VICUNA_7B),
    "llava-next-7b": Shape(LARGE, VICUNA_7B, side=672, tiles=2),
}
"""One of them can be asked for."""
