"""A model's own encoders, watched while they run."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from adafv.core.capture import WHOLE, capture
from adafv.core.prompt import ImageSpan, Prompt
from adafv.core.signals import Signal
from adafv.core.visual_tokens import Returned
from adafv.families.base import Family, Layout, base_of, hidden_index, layers_of
from adafv.utils.checks import checked

__all__ = ["Part", "ending", "run"]

CHOICES = ("vision_feature_layer", "vision_feature_select_strategy")
"""What a call may say of the features otherwise than the configuration."""
IGNORED = frozenset({"vision_aspect_ratio"})
"""What LLaVA-OneVision's forward takes and doesn't pass on to its encoder."""


@checked
@dataclass(frozen=True)
class Part:
    """What one of a model's encoders made of the images, or of the clips, of a batch."""

    features: list[Tensor]
    layouts: list[Layout]
    spans: list[ImageSpan]
    found: dict[Signal, Tensor]
    deepstack_features: list[list[Tensor]]
    consumed: frozenset[str]
    returned: Returned


@checked
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
        host: the same, with what describes the images on the host.
        prompt: the prompts.
        modality: "image" or "video".
        signals: what to read off the tower on the way.

    Raises:
        ValueError: inputs that the family lacks, or that its encoder refuses; clips of a family
            that has none; a layer or a strategy that is none.
    """
    if modality == "video" and not family.prunes_video:
        raise ValueError(
            f"clips are not pruned in models of the family {model.config.model_type!r}: pass frames as images"
        )
    consumed = _accepted(model, inputs, modality)
    host = {name: x for name, x in host.items() if name in consumed or name not in CHOICES}
    if (strategy := host.get("vision_feature_select_strategy")) not in (None, "default", "full"):
        raise ValueError(
            f"vision_feature_select_strategy={strategy!r} is unknown: pass 'default' or 'full'"
        )
    found: dict[Signal, Tensor] = {}
    with torch.set_grad_enabled(torch.is_grad_enabled() and model.training), ExitStack() as stack:
        if family.attention_observable:
            tower, layer, signals = (
                family.tower(model),
                family.feature_layer(model, host),
                frozenset(signals),
            )
            embedded = bool(signals) and hidden_index(layer, len(layers_of(tower))) == 0
            # the first layer is the one that reads the embeddings
            looked = 1 if embedded else layer
            cls, registers = family.cls_place(model), family.registers(model)
            found = stack.enter_context(capture(tower, looked, cls, signals, registers))
            stack.enter_context(ending(tower, looked, signals))
        output = _call(model, family, inputs, consumed, modality)
    if family.output_field not in output:
        raise ValueError(
            f"the tower {type(family.tower(model)).__name__} hands features on otherwise than those that are known: "
            f"adafv cannot prune what this {model.config.model_type!r} model makes of images"
        )
    pieces = family.pieces(output)
    lay = family.layouts if modality == "image" else family.video_layouts
    layouts = lay(model, host, prompt, [len(piece) for piece in pieces])
    lengths = [len(layout.patches) for layout in layouts]
    if sum(lengths) != sum(map(len, pieces)):
        raise ValueError(
            f"the encoder of this {model.config.model_type!r} model made {sum(map(len, pieces))} tokens of what should "
            f"be {sum(lengths)}: this way of preparing {modality}s is not known, please report it"
        )
    deepstack_features = [
        list(torch.cat(list(plane)).split(lengths))
        for plane in output.get("deepstack_features") or ()
    ]
    return Part(
        features=list(torch.cat(pieces).split(lengths)),
        layouts=layouts,
        spans=prompt.spans(lengths, modality),
        found=found,
        deepstack_features=deepstack_features,
        consumed=consumed,
        returned=Returned(modality, len(layouts), output, family.output_field),
    )


_lock = RLock()  # a layer is the model's, whichever thread runs it
_returned: ContextVar[list[Any] | None] = ContextVar("adafv_returned", default=None)


@checked
@contextmanager
def ending(tower: PreTrainedModel, layer: int, signals: Iterable[Signal]) -> Iterator[None]:
    """While open, a vision tower computes no layer above the features' and those that signals look
    at.

    The layers above hand on what the last one returned, in the thread that opened it; one thread at
    a time.

    Args:
        tower: the vision tower.
        layer: which of `hidden_states` the features are taken from (LLaVA: -2).
        signals: what is read off the tower.
    """
    layers = layers_of(tower) if layer != -1 else None
    if layers is None:
        yield
        return
    of_features = max(0, hidden_index(layer, len(layers)) - 1)
    whole = getattr(tower.config, WHOLE, None)
    last = max(
        [of_features, *(signal.layer(len(layers), of_features, whole) for signal in signals)]
    )
    with _lock:
        own: list[Any] = [vars(above).get("forward") for above in layers[last + 1 :]]
        handle = layers[last].register_forward_hook(_keep)
        token = _returned.set([None])
        try:
            for above in layers[last + 1 :]:
                above.forward = _handing_on(above)
            yield
        finally:
            _returned.reset(token)
            handle.remove()
            for above, forward in zip(layers[last + 1 :], own, strict=True):
                del above.forward
                if forward is not None:
                    above.forward = forward


def _keep(module: nn.Module, inputs: Any, output: Any) -> None:
    if (returned := _returned.get()) is not None:
        returned[0] = output


def _handing_on(layer: nn.Module) -> Callable[..., Any]:
    forward = layer.forward

    @wraps(forward)
    def hand_on(*args: Any, **kwargs: Any) -> Any:
        returned = _returned.get()
        return forward(*args, **kwargs) if returned is None else returned[0]

    return hand_on


def _accepted(model: PreTrainedModel, inputs: Mapping[str, Any], modality: str) -> frozenset[str]:
    """Which of the inputs the model's forward would pass on to its encoder of a modality."""
    base: Any = base_of(model)
    parameters = inspect.signature(getattr(base, f"get_{modality}_features")).parameters
    taken = {
        *inspect.signature(model.forward).parameters,
        *inspect.signature(base.forward).parameters,
    }
    return frozenset(name for name in parameters if name in inputs and name in taken - IGNORED)


def _call(
    model: PreTrainedModel,
    family: Family,
    inputs: Mapping[str, Any],
    accepted: frozenset[str],
    modality: str,
) -> ModelOutput:
    """What the model's encoder returns."""
    encoder = getattr(base_of(model), f"get_{modality}_features")
    parameters = inspect.signature(encoder).parameters
    required = {
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    }
    needs = {
        name if modality == "image" else name.replace("image", "video")
        for name in family.required_inputs
    }
    if lacking := sorted(
        (required | needs) - {name for name, x in inputs.items() if x is not None}
    ):
        raise ValueError(
            f"the inputs lack {', '.join(lacking)}, which models of the family {model.config.model_type!r} need: "
            "prepare text and images with the model's own processor"
        )
    try:
        return encoder(**{name: inputs[name] for name in accepted}, return_dict=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        chosen = " and ".join(name for name in CHOICES if name in accepted)
        own = f", and leave {chosen} out unless it suits the model" if chosen else ""
        raise ValueError(
            f"the vision tower of this {model.config.model_type!r} model refuses the images ({reason}): prepare them "
            f"with the model's own processor, in its dtype and on its device{own}"
        ) from error
