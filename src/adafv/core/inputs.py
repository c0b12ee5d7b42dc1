"""Inputs of a model as tensors, and what they hold: images, and the ids that stand for them."""

from collections.abc import Mapping
from inspect import signature
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel

from adafv.utils.checks import checked

__all__ = [
    "ARGUMENTS",
    "BESIDE_EMBEDS",
    "PIXELS",
    "PIXEL_NAMES",
    "as_tensors",
    "has_images",
    "inferred_pad_id",
    "option_of",
    "placeholders",
    "question_ids",
    "video_bounds",
]

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
"""Names of the inputs that hold pixels, by modality."""
PIXEL_NAMES = {
    "image": (PIXELS["image"], "pixel_values_images", "image_patches"),
    "video": (PIXELS["video"],),
}
"""All names that processors have for the pixels of a modality."""
OPTIONS = frozenset({*vars(GenerationConfig()), "vision_feature_layer", "vision_feature_layers"})
"""Inputs that are lists of numbers and no tensors."""
ARGUMENTS = frozenset(signature(GenerationMixin.generate).parameters)
"""Arguments of `generate` itself; ids among them are prompts of their own."""
BESIDE_EMBEDS = "images beside inputs_embeds cannot be pruned: pass input_ids alone"
NARROW = (torch.int8, torch.int16, torch.uint8, torch.uint16, torch.uint32)
"""Integers too small to index with."""


@checked
def as_tensors(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return inputs with lists and arrays of numbers as tensors on a device.

    Ids and narrow integers become int64.

    Raises:
        ValueError: no ids, or embeddings beside them; something that is no rectangle of numbers.
    """
    out: dict[str, Any] = {}
    for name, value in inputs.items():
        out[name] = value
        is_list = type(value) in (list, tuple, np.ndarray) and len(value) and name not in OPTIONS
        if is_list:
            out[name] = _tensor(name, value, device)
        elif isinstance(value, Tensor) and not name.startswith("pixel_values"):
            out[name] = value.long() if value.dtype in NARROW else value

    ids = out.get("input_ids")
    if not isinstance(ids, Tensor):
        raise ValueError(
            "the inputs lack input_ids, by which visual tokens are found in the prompt: pass what "
            "the model's processor returned, not inputs_embeds"
        )
    if out.get("inputs_embeds") is not None:
        raise ValueError(BESIDE_EMBEDS)
    if ids.is_floating_point() or ids.is_complex():
        raise ValueError(f"input_ids are {ids.dtype}: pass token ids, whole numbers")
    out["input_ids"] = ids.long()
    return out


@checked
def question_ids(query: Tensor) -> Tensor:
    """Return token ids of a question as (M,) int64 on the host.

    Args:
        query: (M,), or (1, M) as a tokenizer returns them.

    Raises:
        ValueError: another shape, or numbers that are no ids.
    """
    ids = query[0] if query.dim() == 2 and len(query) == 1 else query
    if ids.dim() != 1 or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(
            f"query is {tuple(query.shape)} of {query.dtype}: pass text with tokenizer=processor, "
            "or token ids (M,), whole numbers"
        )
    return ids.cpu().long()


@checked
def option_of(model: PreTrainedModel, inputs: Mapping[str, Any], name: str) -> Any:
    """Return an option of generation: from the call, its configuration or the model's.

    Args:
        inputs: the arguments of the call.
    """
    if inputs.get(name) is not None:
        return inputs[name]
    for config in (inputs.get("generation_config"), getattr(model, "generation_config", None)):
        value = getattr(config, name, None)
        if value is not None:
            return value
    return None


@checked
def inferred_pad_id(model: PreTrainedModel, inputs: Mapping[str, Any]) -> int | None:
    """Return the id that `generate` takes for padding where there is no mask, None for no id.

    Args:
        inputs: the arguments of the call.
    """
    pad = option_of(model, inputs, "pad_token_id")
    eos = option_of(model, inputs, "eos_token_id")
    ends = eos if isinstance(eos, list | tuple | Tensor) else [eos]
    # an end of a sequence may be a token of the prompt
    return None if pad is None or pad in ends else int(pad)


@checked
def has_images(inputs: Mapping[str, Any]) -> bool:
    """Return whether there is an image or a video among the inputs of a model."""
    names = chain.from_iterable(PIXEL_NAMES.values())
    return any(inputs.get(name) is not None for name in names)


@checked
def placeholders(config: PreTrainedConfig) -> dict[str, int]:
    """Return the ids that stand for a visual token in the prompts of a model, by modality."""
    found: dict[str, int] = {}
    for modality in PIXELS:
        for name in (f"{modality}_token_id", f"{modality}_token_index"):
            token = getattr(config, name, None)
            if token is not None:
                found.setdefault(modality, token)
    if "image" not in found:
        raise ValueError(
            f"the configuration of {config.model_type!r} names no image_token_id: add it to "
            "config.json"
        )
    return found


@checked
def video_bounds(config: PreTrainedConfig) -> tuple[int, int] | None:
    """Return the ids that open and close a video in the prompts of a model, None for no such."""
    for name in ("video", "vision"):
        opening = getattr(config, f"{name}_start_token_id", None)
        closing = getattr(config, f"{name}_end_token_id", None)
        if opening is not None and closing is not None:
            return opening, closing
    return None


def _tensor(name: str, value: Any, device: torch.device) -> Any:
    """Return numbers as a tensor; what holds tensors or text is returned unchanged."""
    if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
        return value
    try:
        numbers = np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name} is a list of unequal parts: call the processor with return_tensors='pt', and "
            "padding=True"
        ) from None
    if numbers.dtype.kind not in "biuf":
        return value
    dtype = torch.get_default_dtype() if numbers.dtype.kind == "f" else None
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(device=device, dtype=dtype)
