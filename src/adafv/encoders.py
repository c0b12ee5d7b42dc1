"""A model's own encoders, watched while they run."""

import inspect
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from adafv.capture import Signal, capture
from adafv.encoding import Returned
from adafv.families.base import Family, Layout, base_of
from adafv.layout import ImageSpan, Prompt

__all__ = ["Part", "run"]


@dataclass(frozen=True)
class Part:
    """What one of a model's encoders made of the images, or of the clips, of a batch."""

    features: list[Tensor]
    layouts: list[Layout]
    spans: list[ImageSpan]
    found: dict[Signal, Tensor]
    planes: list[list[Tensor]]
    consumed: frozenset[str]
    returned: Returned


def run(
    model: PreTrainedModel,
    family: Family,
    inputs: Mapping[str, Any],
    host: Mapping[str, Any],
    prompt: Prompt,
    modality: str,
    signals: Iterable[Signal],
) -> Part:
    """Run the encoder of a modality once, and lay out what comes of it.

    Args:
        inputs: what the processor returned.
        host: the same, with what describes the pictures on the host.
        prompt: the prompts.
        modality: "image" or "video".
        signals: what to read off the tower on the way.

    Raises:
        ValueError: inputs that the family lacks, or that its encoder refuses; clips of a family that has none.
    """
    if modality == "video" and not family.films:
        raise ValueError(
            f"clips are not pruned in models of the family {model.config.model_type!r}: pass frames as pictures"
        )
    reading: AbstractContextManager[dict[Signal, Tensor]] = nullcontext({})
    if family.attends:
        reading = capture(family.tower(model), family.feature_layer(model), family.cls_place(model), signals)
    with torch.set_grad_enabled(torch.is_grad_enabled() and model.training), reading as found:
        consumed, output = _call(model, family, inputs, modality)
    pieces = family.pieces(output)
    lay = family.layouts if modality == "image" else family.clips
    layouts = lay(model, host, prompt, [len(piece) for piece in pieces])
    lengths = [len(layout.patches) for layout in layouts]
    if sum(lengths) != sum(map(len, pieces)):
        raise ValueError(
            f"the encoder of this {model.config.model_type!r} model made {sum(map(len, pieces))} tokens of what should "
            f"be {sum(lengths)}: this way of preparing {modality}s is not known, please report it"
        )
    planes = [list(torch.cat(list(plane)).split(lengths)) for plane in output.get("deepstack_features") or ()]
    return Part(
        features=list(torch.cat(pieces).split(lengths)),
        layouts=layouts,
        spans=prompt.spans(lengths, modality),
        found=found,
        planes=planes,
        consumed=consumed,
        returned=Returned(modality, len(layouts), output, family.door),
    )


def _call(
    model: PreTrainedModel, family: Family, inputs: Mapping[str, Any], modality: str
) -> tuple[frozenset[str], ModelOutput]:
    """The names of the inputs that the model's encoder takes, and what it returns."""
    encoder = getattr(base_of(model), f"get_{modality}_features")
    parameters = inspect.signature(encoder).parameters
    required = {name for name, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    needs = {name if modality == "image" else name.replace("image", "video") for name in family.needs}
    if lacking := sorted((required | needs) - {name for name, x in inputs.items() if x is not None}):
        raise ValueError(
            f"the inputs lack {', '.join(lacking)}, which models of the family {model.config.model_type!r} need: "
            "prepare text and images with the model's own processor"
        )
    accepted = frozenset(parameters) & frozenset(inputs)
    try:
        return accepted, encoder(**{name: inputs[name] for name in accepted}, return_dict=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"the vision tower of this {model.config.model_type!r} model refuses the images ({reason}): prepare them "
            "with the model's own processor, in its dtype and on its device"
        ) from error
