"""Arithmetic and memory traffic of every stage, counted from a model's configuration.

Two FLOPs for each multiplication by a weight, and attention's own: 4 · d for a query and a key that
it sees, d the width of all heads. A causal prompt of L tokens has L (L + 1) / 2 such pairs, each
crop of a tower all of its. Norms, activations, softmax and rotary positions are left out: below 1 %
at these sizes. Bytes are those that must cross the memory bus: weights once, and the KV cache;
activations are taken to stay in the caches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from adafv.utils.checks import checked

__all__ = [
    "Stack",
    "Work",
    "decode",
    "grids_of",
    "kv_bytes",
    "prefill",
    "text_stack",
    "tower_stack",
    "vision",
]

Grid = tuple[int, int]
"""Rows and columns of patches that the tower sees at once."""


@dataclass(frozen=True)
class Work:
    """FLOPs, and bytes to and from memory."""

    flops: float
    bytes: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Stack:
    """Equal transformer layers.

    Attributes:
        layers: how many.
        width: of the hidden states.
        inner: of the MLP.
        matrices: of the MLP: 3 if it is gated, else 2.
        queries, keys: width of all query heads, and of all key heads.
    """

    layers: int
    width: int
    inner: int
    matrices: int
    queries: int
    keys: int

    @property
    def weights(self) -> int:
        """Of one layer's matrices."""
        return 2 * self.width * (self.queries + self.keys) + self.matrices * self.width * self.inner

    def flops(self, tokens: float, pairs: float) -> float:
        """Of one layer, for so many tokens, and pairs of a query and a key."""
        return 2 * self.weights * tokens + 4 * self.queries * pairs


@checked
def text_stack(config: PreTrainedConfig) -> Stack:
    """The language model's layers, all gated."""
    text: Any = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    queries, keys = head * text.num_attention_heads, head * text.num_key_value_heads
    return Stack(text.num_hidden_layers, text.hidden_size, text.intermediate_size, 3, queries, keys)


@checked
def tower_stack(config: PreTrainedConfig, whole: bool = False) -> Stack:
    """The vision tower's layers, up to the one whose features the language model reads; or the
    whole of it.
    """
    tower: Any = config.vision_config
    width, gated = tower.hidden_size, hasattr(tower, "window_size")
    if hasattr(tower, "depth"):
        return Stack(tower.depth, width, tower.intermediate_size, 3 if gated else 2, width, width)
    chosen, depth = config.vision_feature_layer, tower.num_hidden_layers
    last = depth if whole else chosen if chosen >= 0 else depth + 1 + chosen
    return Stack(last, width, tower.intermediate_size, 2, width, width)


@checked
def vision(
    config: PreTrainedConfig,
    grids: Sequence[Grid],
    batch: int = 1,
    size: int = 2,
    whole: bool = False,
) -> Work:
    """The tower and the projector.

    Args:
        grids: what the tower sees of one prompt.
        batch: prompts.
        size: bytes of a number.
        whole: with the layers above the features', which stock models compute for nothing.
    """
    tower, stack = config.vision_config, tower_stack(config, whole)
    patches = sum(rows * columns for rows, columns in grids)
    embedding = 3 * tower.patch_size**2 * getattr(tower, "temporal_patch_size", 1) * stack.width
    if hasattr(tower, "depth"):
        merged, mergers = (
            tower.spatial_merge_size**2,
            1 + len(getattr(tower, "deepstack_visual_indexes", ())),
        )
        projector = stack.width * merged * (stack.width * merged + tower.out_hidden_size) * mergers
        tokens, seen, pairs = patches // merged, patches, _pairs(tower, grids)
    else:
        out = config.get_text_config().hidden_size
        projector, tokens, seen = out * (stack.width + out), patches, patches + len(grids)
        pairs = stack.layers * sum((rows * columns + 1) ** 2 for rows, columns in grids)
    flops = 2 * (embedding * patches + projector * tokens) + stack.layers * stack.flops(
        seen, pairs / stack.layers
    )
    return Work(batch * flops, float(size * (embedding + projector + stack.layers * stack.weights)))


def _pairs(tower: Any, grids: Sequence[Grid]) -> int:
    """Queries and keys that meet in all layers of a tower that takes images of any shape, perhaps
    in windows.
    """
    whole = sum((rows * columns) ** 2 for rows, columns in grids)
    if not hasattr(tower, "window_size"):
        return tower.depth * whole
    full, edge = len(tower.fullatt_block_indexes), tower.window_size // tower.patch_size
    windows = sum(_squares(rows, edge) * _squares(columns, edge) for rows, columns in grids)
    return full * whole + (tower.depth - full) * windows


def _squares(length: int, edge: int) -> int:
    """Sum of the squares of the pieces that a length is cut into."""
    return length // edge * edge**2 + (length % edge) ** 2


@checked
def prefill(
    config: PreTrainedConfig,
    lengths: Sequence[int],
    batch: int = 1,
    size: int = 2,
    causal: bool = True,
) -> Work:
    """The language model up to the first token's logits.

    Args:
        lengths: for each of its layers the tokens of a prompt that it reads.
        causal: count the pairs that count; otherwise all L², as a kernel that doesn't skip the
            masked ones computes.
    """
    stack, head = text_stack(config), _head(config)
    flops = sum(stack.flops(n, n * (n + 1) / 2 if causal else n * n) for n in lengths)
    read = size * (len(lengths) * stack.weights + head)
    return Work(batch * (flops + 2 * head), float(read + batch * kv_bytes(config, lengths, size)))


@checked
def decode(config: PreTrainedConfig, lengths: Sequence[int], batch: int = 1, size: int = 2) -> Work:
    """One more token of each answer, after a prompt of which the layers have read `lengths`."""
    stack, head = text_stack(config), _head(config)
    flops = sum(stack.flops(1, n + 1) for n in lengths)
    read = size * (len(lengths) * stack.weights + head)
    return Work(batch * (flops + 2 * head), float(read + batch * kv_bytes(config, lengths, size)))


@checked
def kv_bytes(config: PreTrainedConfig, lengths: Sequence[int], size: int = 2) -> int:
    """Keys and values of one prompt."""
    return 2 * text_stack(config).keys * size * sum(lengths)


def _head(config: PreTrainedConfig) -> int:
    text: Any = config.get_text_config()
    return text.hidden_size * text.vocab_size


@checked
def grids_of(config: PreTrainedConfig, inputs: Mapping[str, Any]) -> list[Grid]:
    """What the tower sees of the first prompt of a batch of images of one size, one to a prompt."""
    if (grids := inputs.get("image_grid_thw")) is not None:
        return [(int(grids[0, 1]), int(grids[0, 2]))]
    pixels: Tensor = inputs["pixel_values"]
    rows, columns = (n // config.vision_config.patch_size for n in pixels.shape[-2:])
    return [(rows, columns)] * (pixels.shape[1] if pixels.dim() == 5 else 1)
