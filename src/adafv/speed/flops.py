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

from adafv.families.base import hidden_index
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
    width: int  # D
    inner: int
    matrices: int
    queries: int
    keys: int

    @property
    def weights(self) -> int:
        """Weights of one layer's matrices."""
        # queries and output are as wide as all query heads, keys and values as all key heads
        attention = 2 * self.width * (self.queries + self.keys)
        return attention + self.matrices * self.width * self.inner

    def flops(self, tokens: float, pairs: float) -> float:
        """Return those of one layer, for so many tokens, and pairs of a query and a key."""
        # a product with the keys, and one with the values, two FLOPs for each
        return 2 * self.weights * tokens + 4 * self.queries * pairs


@checked
def text_stack(config: PreTrainedConfig) -> Stack:
    """Return the language model's layers, all gated."""
    text: Any = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Stack(
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        inner=text.intermediate_size,
        matrices=3,
        queries=head * text.num_attention_heads,
        keys=head * text.num_key_value_heads,
    )


@checked
def tower_stack(config: PreTrainedConfig, all_layers: bool = False) -> Stack:
    """Return the vision tower's layers, up to the one of the features, or all of them."""
    tower: Any = config.vision_config
    width = tower.hidden_size

    # Qwen's towers are read at their end; that of Qwen2.5 has windows and gated MLPs
    if hasattr(tower, "depth"):
        matrices = 3 if hasattr(tower, "window_size") else 2
        return Stack(tower.depth, width, tower.intermediate_size, matrices, width, width)

    # CLIP's is read before its end; layer 0 is the embedding, -1 the last layer
    layers = tower.num_hidden_layers
    if not all_layers:
        chosen = config.vision_feature_layer
        several = chosen if isinstance(chosen, Sequence) else [chosen]
        layers = max(hidden_index(layer, layers) for layer in several)
    # DINOv2 has a ratio to its width
    inner = getattr(tower, "intermediate_size", None) or round(tower.mlp_ratio * width)
    return Stack(layers, width, inner, 2, width, width)


@checked
def vision(
    config: PreTrainedConfig,
    grids: Sequence[Grid],
    batch: int = 1,
    size: int = 2,
    all_layers: bool = False,
) -> Work:
    """Return the work of the tower and the projector.

    Args:
        grids: what the tower sees of one prompt.
        batch: prompts.
        size: bytes of a number.
        all_layers: with those above the features', which stock models compute for nothing.
    """
    tower: Any = config.vision_config
    stack = tower_stack(config, all_layers)
    patches = sum(rows * columns for rows, columns in grids)
    # three colours; Qwen sees every image as two equal frames
    embedding = 3 * tower.patch_size**2 * getattr(tower, "temporal_patch_size", 1) * stack.width

    if hasattr(tower, "depth"):
        # patches are merged before the projector, and once more for each deepstack layer
        merged = tower.spatial_merge_size**2
        mergers = 1 + len(getattr(tower, "deepstack_visual_indexes", ()))
        wide = stack.width * merged
        projector = wide * (wide + tower.out_hidden_size) * mergers
        tokens = patches // merged
        seen = patches
        pairs = _pairs(tower, grids)
    else:
        # each crop has a CLS of its own, which the projector does not read
        out = config.get_text_config().hidden_size
        projector = out * (stack.width + out)
        tokens = patches
        seen = patches + len(grids)
        pairs = stack.layers * sum((rows * columns + 1) ** 2 for rows, columns in grids)

    layers = stack.layers * stack.flops(seen, pairs / stack.layers)
    arithmetic = 2 * (embedding * patches + projector * tokens) + layers
    weights = embedding + projector + stack.layers * stack.weights
    return Work(batch * arithmetic, float(size * weights))


def _pairs(tower: Any, grids: Sequence[Grid]) -> int:
    """Count the queries and keys that meet in all layers of a tower without CLS.

    It takes images of any shape; some layers may see windows of them only.
    """
    everywhere = sum((rows * columns) ** 2 for rows, columns in grids)
    if not hasattr(tower, "window_size"):
        return tower.depth * everywhere
    # a few layers see everything, the others windows cut off at the edges
    full = len(tower.fullatt_block_indexes)
    edge = tower.window_size // tower.patch_size
    windows = sum(_squares(rows, edge) * _squares(columns, edge) for rows, columns in grids)
    return full * everywhere + (tower.depth - full) * windows


def _squares(length: int, edge: int) -> int:
    """Return the sum of the squares of the pieces that a length is cut into."""
    return length // edge * edge**2 + (length % edge) ** 2


@checked
def prefill(
    config: PreTrainedConfig,
    lengths: Sequence[int],
    batch: int = 1,
    size: int = 2,
    causal: bool = True,
) -> Work:
    """Return the work of the language model up to the first token's logits.

    Args:
        lengths: for each of its layers the tokens of a prompt that it reads.
        causal: count the pairs that count; otherwise all L², as a kernel that doesn't skip the
            masked ones computes.
    """
    stack = text_stack(config)
    head = _head(config)

    # layers that read fewer tokens do less; the head reads the last one alone
    flops: float = 0
    for length in lengths:
        pairs = length * (length + 1) / 2 if causal else length * length
        flops += stack.flops(length, pairs)

    # weights cross the bus once for the whole batch, keys and values for each prompt
    read = size * (len(lengths) * stack.weights + head)
    return Work(batch * (flops + 2 * head), float(read + batch * kv_bytes(config, lengths, size)))


@checked
def decode(config: PreTrainedConfig, lengths: Sequence[int], batch: int = 1, size: int = 2) -> Work:
    """Return the work of one more token, after a prompt of which the layers read `lengths`."""
    stack = text_stack(config)
    head = _head(config)
    # the new token sees the prompt and itself
    flops = sum(stack.flops(1, length + 1) for length in lengths)
    read = size * (len(lengths) * stack.weights + head)
    return Work(batch * (flops + 2 * head), float(read + batch * kv_bytes(config, lengths, size)))


@checked
def kv_bytes(config: PreTrainedConfig, lengths: Sequence[int], size: int = 2) -> int:
    """Return the bytes of one prompt's keys and values."""
    return 2 * text_stack(config).keys * size * sum(lengths)


def _head(config: PreTrainedConfig) -> int:
    # weights of the matrix that makes logits
    text: Any = config.get_text_config()
    return text.hidden_size * text.vocab_size


@checked
def grids_of(config: PreTrainedConfig, inputs: Mapping[str, Any]) -> list[Grid]:
    """Return what the tower sees of the first prompt of a batch, one image of one size each."""
    if (grids := inputs.get("image_grid_thw")) is not None:  # (I, 3)
        return [(int(grids[0, 1]), int(grids[0, 2]))]

    # (I, 3, height, width), or (I, crops, 3, height, width)
    pixels: Tensor = inputs["pixel_values"]
    crops = pixels.shape[1] if pixels.dim() == 5 else 1
    rows = pixels.shape[-2] // config.vision_config.patch_size
    columns = pixels.shape[-1] // config.vision_config.patch_size
    return [(rows, columns)] * crops
