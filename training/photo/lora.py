"""Add low-rank products to linear layers, by hand: y = W x + B A x."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

__all__ = ["LoRA", "add_lora", "lora_parameters", "merge_lora", "without_lora"]

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoRA(nn.Module):
    """A frozen linear layer without bias, plus a product of two thin ones that starts at zero."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / math.sqrt(base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer of x (…, in) plus the product: (…, out)."""
        if not self.enabled:
            return self.base(x)
        return self.base(x) + (x @ self.down.T) @ self.up.T


def add_lora(model: LlamaForCausalLM, rank: int) -> None:
    """Freeze the model and give each linear layer of its decoder layers a `LoRA`."""
    model.requires_grad_(False)
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            # a list, for children are replaced on the way
            for name, child in list(block.named_children()):
                if name in LAYERS:
                    setattr(block, name, LoRA(child, rank))


@torch.no_grad()
def merge_lora(model: LlamaForCausalLM) -> None:
    """Add each product to the layer that it belongs to, and leave that layer alone in its place."""
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, child in list(block.named_children()):
                if isinstance(child, LoRA):
                    child.base.weight += child.up @ child.down  # (out, rank) @ (rank, in)
                    setattr(block, name, child.base)


def lora_parameters(model: LlamaForCausalLM) -> dict[str, Tensor]:
    """Return trained parameters by name: `model.layers.0.self_attn.q_proj.down`, `….up`, ….

    Those of the model itself are frozen.
    """
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


@contextmanager
def without_lora(model: LlamaForCausalLM) -> Iterator[None]:
    """Let the model compute what it did before `add_lora`."""
    products = [module for module in model.modules() if isinstance(module, LoRA)]
    for product in products:
        product.enabled = False
    try:
        yield
    finally:
        for product in products:
            product.enabled = True
