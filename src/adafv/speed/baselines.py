"""Baselines: released ways to the same selection, to be timed beside ours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.visual_tokens import Encoding, VisualTokens
from adafv.families import family_of
from adafv.methods.adafv import AdaFV
from adafv.ops.budget import share_of
from adafv.utils.checks import checked, one_of

__all__ = ["BASELINES", "Eager", "Listed"]


@checked
@dataclass(kw_only=True)
class Eager(AdaFV):
    """AdaFV with the saliency of released codes: `output_attentions=True`, all maps in memory.

    That takes eager attention. The row of CLS is read off as ever, beside the maps: its cost is
    below 1 % of theirs. The tower ends at the layer of the features, as ours does and those of
    released codes don't.

    Raises:
        ValueError: a tower without CLS, in `encode`.
    """

    name = "eager"

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Encoding:
        """Encode images as any pruner does, while the tower keeps all of its attention maps."""
        family = family_of(model)
        if family.cls_position(model) is None:
            raise ValueError(
                f"eager takes the row of CLS from attention maps, but the tower of models of the "
                f"family {model.config.model_type!r} has no CLS: choose a LLaVA shape, or leave "
                "eager out"
            )
        with _maps(family.tower(model)):
            return super().encode(model, inputs)


@contextmanager
def _maps(tower: PreTrainedModel) -> Iterator[None]:
    """Make a tower compute and keep the attention maps of all its layers, while open."""
    module: Any = tower
    before = module.config._attn_implementation
    # only eager attention has maps to return
    module.set_attn_implementation("eager")
    module.forward = partial(module.forward, output_attentions=True)
    try:
        yield
    finally:
        # the instance's own forward goes, and shows that of the class again
        del module.forward
        module.set_attn_implementation(before)


@checked
@dataclass(kw_only=True)
class Listed(AdaFV):
    """AdaFV with the mixture as its authors released it: on the host, as Python lists.

    Image by image: prefix sums of both lists, the product of every split, `.item()` of the best,
    `.tolist()` of what it takes, and a tensor of a Python list. Two things differ from the released
    code, so that the same tokens are kept as with AdaFV: sums are fp64, and a token on both lists
    counts once, for which the split is searched again with a larger total. The scores are AdaFV's
    own, so that only the time of the mixture differs.

    Raises:
        ValueError: crops="each", mass="beyond".
    """

    name = "listed"

    def __post_init__(self) -> None:
        super().__post_init__()
        # what came after the release has no such form
        one_of("crops", self.crops, "global")
        one_of("mass", self.mass, "whole")

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep of each image what the best mixture of both lists takes."""
        relevance, saliency = self.attentions(tokens)  # (I, N) each
        kept = []
        for i, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            union = self._union(relevance[i, :count], saliency[i, :count], k)
            kept.append(torch.tensor(sorted(union), device=relevance.device))  # (K,)
        return Selection(kept)

    def _union(self, relevance: Tensor, saliency: Tensor, budget: int) -> set[int]:
        """Return the tokens that the best split of the budget takes from both lists."""
        # rank both lists; neither needs more than this, even if every token is on both
        longest = min(2 * budget, len(relevance))
        by_relevance, mass_t = _ranked(relevance, longest)
        by_saliency, mass_v = _ranked(saliency, longest)

        # each list is sure of the reserve, as far as it has any mass
        reserved = share_of(budget, self.reserve)
        sure_t = min(reserved, int((relevance > 0).sum()))
        sure_v = min(reserved, int((saliency > 0).sum()))
        total = budget
        while True:
            # the split whose product of masses is largest
            least = max(sure_t, total - longest)
            most = min(total - sure_v, longest)
            splits = torch.arange(least, most + 1, device=relevance.device)
            mass = mass_t[splits] * mass_v[total - splits]
            k_t = int(splits[mass.argmax()].item())

            # a token on both lists counts once: search again with a larger total
            union = {*by_relevance[:k_t], *by_saliency[: total - k_t]}
            if len(union) == budget:
                return union
            total += budget - len(union)  # the union grows by at most one at a time


def _ranked(scores: Tensor, longest: int) -> tuple[list[int], Tensor]:
    """Return the first of a list, and the sums of its scores: (longest + 1,), from 0."""
    ranked, order = scores.sort(descending=True, stable=True)  # (N,) each
    mass = ranked[:longest].double().cumsum(0)  # (longest,)
    return order[:longest].tolist(), torch.cat([mass.new_zeros(1), mass])


BASELINES: dict[str, type[Pruner]] = {Eager.name: Eager, Listed.name: Listed}
