"""Other people's ways to the same selection, to be timed beside ours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.pruner import Pruner, Selection, one_of
from adafv.core.visual_tokens import Encoding, VisualTokens
from adafv.families import family_of
from adafv.methods.adafv import AdaFV
from adafv.utils.checks import checked

__all__ = ["PEERS", "Eager", "Listed"]


@checked
@dataclass(kw_only=True)
class Eager(AdaFV):
    """AdaFV as released codes get at its saliency: eager attention, `output_attentions=True`, all
    maps in memory.

    The row of CLS is read off as ever, beside the maps: its cost is below 1 % of theirs. The tower
    ends at the layer of the features, as ours does and those of released codes don't.

    Raises:
        ValueError: a tower without CLS, in `encode`.
    """

    name = "eager"

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Encoding:
        family = family_of(model)
        if family.cls_position(model) is None:
            raise ValueError(
                f"eager takes the row of CLS from attention maps, but the tower of models of the family "
                f"{model.config.model_type!r} has no CLS: choose a LLaVA shape, or leave eager out"
            )
        with _maps(family.tower(model)):
            return super().encode(model, inputs)


@contextmanager
def _maps(tower: PreTrainedModel) -> Iterator[None]:
    """While open, a tower computes and keeps the attention maps of all its layers."""
    module: Any = tower
    before = module.config._attn_implementation
    module.set_attn_implementation("eager")
    module.forward = partial(module.forward, output_attentions=True)
    try:
        yield
    finally:
        del module.forward
        module.set_attn_implementation(before)


@checked
@dataclass(kw_only=True)
class Listed(AdaFV):
    """AdaFV with the mixture built as its authors released it: image by image, read back to the
    host as Python lists.

    Prefix sums of both lists, the product of every split, `.item()` of the best, `.tolist()` of
    what it takes, and a tensor of a Python list. Two things differ from the released code, so that
    the same tokens stay as with AdaFV: sums are fp64, and a token on both lists counts once, for
    which the split is searched again with a larger total. The scores are AdaFV's own, so that only
    the time of the mixture differs.

    Raises:
        ValueError: crops="each", mass="beyond".
    """

    name = "listed"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("crops", self.crops, "global")
        one_of("mass", self.mass, "whole")

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        relevance, saliency = self.attentions(tokens)
        kept = [
            self._union(relevance[i, :count], saliency[i, :count], k)
            for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True))
        ]
        return Selection([torch.tensor(sorted(union), device=relevance.device) for union in kept])

    def _union(self, relevance: Tensor, saliency: Tensor, budget: int) -> set[int]:
        longest = min(2 * budget, len(relevance))  # of a list: at worst every token is on both
        (by_relevance, mass_t), (by_saliency, mass_v) = (
            _ranked(x, longest) for x in (relevance, saliency)
        )
        reserved, total = int(self.reserve * budget), budget
        while True:
            fewest, most = max(reserved, total - longest), min(total - reserved, longest)
            splits = torch.arange(fewest, most + 1, device=relevance.device)
            k_t = int(splits[(mass_t[splits] * mass_v[total - splits]).argmax()].item())
            union = {*by_relevance[:k_t], *by_saliency[: total - k_t]}
            if len(union) == budget:
                return union
            total += budget - len(union)  # the union grows by at most one at a time


def _ranked(scores: Tensor, longest: int) -> tuple[list[int], Tensor]:
    """The first of a list, and the sums of its scores: (longest + 1,), from 0."""
    ranked, order = scores.sort(descending=True, stable=True)
    mass = ranked[:longest].double().cumsum(0)
    return order[:longest].tolist(), torch.cat([mass.new_zeros(1), mass])


PEERS: dict[str, type[Pruner]] = {cls.name: cls for cls in (Eager, Listed)}
