"""Other people's ways to the same selection, to be timed beside ours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from adafv.encoding import Encoding
from adafv.families import family_of
from adafv.methods.adafv import AdaFV

__all__ = ["Eager"]


@dataclass(kw_only=True)
class Eager(AdaFV):
    """AdaFV as released codes get at its saliency: eager attention, `output_attentions=True`, all maps in memory.

    The row of CLS is read off as ever, beside the maps: its cost is below 1 % of theirs. The tower ends at the layer of
    the features, as ours does and those of released codes don't.

    Raises:
        ValueError: a tower without CLS, in `encode`.
    """

    name = "eager"

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Encoding:
        family = family_of(model)
        if family.cls_place(model) is None:
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
