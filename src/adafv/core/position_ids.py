"""Number the tokens of full prompts as the model does: the positions of M-RoPE.

What positions the tokens have that stay is in `adafv.core.shorter_prompt`; the same for vLLM is in
`adafv.integrations.vllm.mrope`.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.prompt import Prompt
from adafv.families.base import base_of

__all__ = ["full_positions", "numbering_inputs"]


def numbering_inputs(model: PreTrainedModel) -> frozenset[str]:
    """Return the names of the inputs from which a model with M-RoPE numbers its tokens."""
    number = getattr(base_of(model), "get_rope_index", None)
    if number is None:
        return frozenset()
    return frozenset(inspect.signature(number).parameters)


def full_positions(
    model: PreTrainedModel, host: dict[str, Any], prompt: Prompt, device: torch.device
) -> Tensor | None:
    """Return the position ids (3 or more, B, L) of the full prompts, for models with M-RoPE.

    None: a model without it.

    Args:
        host: the model's inputs, those that describe images on the host.
        device: of the result; it is worked out on the host.

    Raises:
        ValueError: inputs that the model cannot number.
    """
    numbering = numbering_inputs(model)
    if not numbering:
        return None

    given = host.get("position_ids")
    if given is not None:
        # text alone: all three axes are the same
        given = given.expand(3, *prompt.ids.shape) if given.dim() == 2 else given
        return _to(given, device)

    if "mm_token_type_ids" in numbering and "mm_token_type_ids" not in host:
        raise ValueError(
            "the inputs lack mm_token_type_ids, from which models of the family "
            f"{model.config.model_type!r} number their visual tokens: pass on everything that the "
            "processor returns, and return_mm_token_type_ids=True to a processor that leaves them "
            "out"
        )
    try:
        return _to(_numbered(model, host | {"attention_mask": prompt.mask.long()}), device)
    except (RuntimeError, IndexError, StopIteration) as error:
        raise ValueError(
            "the prompt's placeholders don't fit the images: pass both through the processor of "
            f"this {model.config.model_type!r} model together, without truncation"
        ) from error


def _numbered(model: PreTrainedModel, host: dict[str, Any]) -> Tensor:
    """Return the position ids (3 or more, B, L) as the model itself numbers its tokens."""
    prepare = getattr(model, "_prepare_position_ids_for_generation", None)
    positions: Tensor
    if prepare is not None:
        positions = prepare(host["input_ids"], host)
        return positions
    # a model without a head doesn't generate
    numbering = numbering_inputs(model)
    known = {name: x for name, x in host.items() if name in numbering}
    positions, _ = base_of(model).get_rope_index(**known)
    return positions


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)
