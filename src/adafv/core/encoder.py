"""A model's own encoders, watched while they run: features, what they stand for, and signals."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from adafv.core.capture import capture
from adafv.core.downsample import interpolation, smaller, spread
from adafv.core.early_exit import without_later_layers as without_later_layers
from adafv.core.prompt import ImageSpan, Prompt
from adafv.core.signals import Signal
from adafv.core.tower_cache import Encoded, open_cache
from adafv.core.visual_tokens import Returned
from adafv.families.base import Family, base_of, hidden_index, layers_of
from adafv.families.crop_layout import Layout
from adafv.utils.adapters import without_adapters
from adafv.utils.checks import checked, is_out_of_memory

__all__ = ["Part", "asks_for_gradients", "run", "without_later_layers"]

CHOICES = ("vision_feature_layer", "vision_feature_select_strategy")
"""What a call may say of the features otherwise than the configuration."""
IGNORED = frozenset({"vision_aspect_ratio"})
"""What LLaVA-OneVision's forward takes and doesn't pass on to its encoder."""
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)
"""What an encoder raises of inputs that it cannot take."""


@checked
@dataclass(frozen=True)
class Part:
    """The features that one of a model's encoders made of the images, or of the videos, of a batch.

    Attributes:
        features: for each image (n, D').
        layouts: what its placeholders stand for.
        spans: its placeholders.
        found: what was read off the tower, (patches of all images[, d]).
        deepstack_features: for each deeper layer of the LLM those of each image.
        consumed: names of the inputs that the encoder has used up.
        returned: its output as it came.
    """

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
    *,
    modality: str,
    signals: Iterable[Signal],
    downsample: Callable[[int], int] | None,
) -> Part:
    """Run the encoder of a modality once, and lay out what comes of it.

    Args:
        inputs: what the processor returned.
        host: the same, with what describes the images on the host.
        prompt: the prompts.
        modality: "image" or "video".
        signals: what to read off the tower on the way.
        downsample: gives K of N, where images are shrunk to K tokens, see `adafv.core.downsample`;
            None: as they are.

    Raises:
        ValueError: inputs that the family lacks, or that its encoder refuses; videos of a family
            that has none; a layer or a strategy that does not exist.
    """
    family = _of_modality(model, family, modality)
    consumed = _accepted(model, inputs, modality)
    # a choice that the encoder does not take is not the call's to make
    host = {name: x for name, x in host.items() if name in consumed or name not in CHOICES}
    _check_strategy(host)

    # run the encoder
    output, found = _output(
        model,
        family,
        inputs,
        host,
        consumed,
        modality=modality,
        signals=frozenset(signals),
        downsample=downsample,
    )
    if family.output_field not in output:
        raise ValueError(
            f"the tower {type(family.tower(model)).__name__} hands features on otherwise than "
            f"those that are known: adafv cannot prune what this {model.config.model_type!r} "
            "model makes of images"
        )

    # lay out: from pieces of the encoder's to images
    pieces = family.pieces(output)  # (tokens, D') each
    layouts = _layouts(model, family, host, prompt, pieces, modality)
    lengths = [len(layout.patches) for layout in layouts]  # n of each
    features = list(torch.cat(pieces).split(lengths))  # (n, D') each
    deepstack_features: list[list[Tensor]] = []
    for level in output.get("deepstack_features") or ():
        deepstack_features.append(list(torch.cat(list(level)).split(lengths)))  # (n, D') each

    # leave out the tokens of videos that the processor has left out of the prompt
    mask = host.get(family.video_mask) if modality == "video" else None
    if mask is not None:
        consumed |= {family.video_mask}
        features, layouts = _compressed(features, layouts, mask.cpu())

    return Part(
        features=features,
        layouts=layouts,
        spans=prompt.spans([len(x) for x in features], modality),
        found=found,
        deepstack_features=deepstack_features,
        consumed=consumed,
        returned=Returned(modality, len(layouts), output, family.output_field),
    )


def _of_modality(model: PreTrainedModel, family: Family, modality: str) -> Family:
    """Return what a family does differently for images, or for videos if it prunes those."""
    if modality == "image":
        return family
    if not family.prunes_video:
        raise ValueError(
            f"videos are not pruned in models of the family {model.config.model_type!r}: pass "
            "frames as images"
        )
    return family.of_videos


def _check_strategy(host: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a call asks for features by a strategy that no encoder knows."""
    strategy = host.get("vision_feature_select_strategy")
    if strategy not in (None, "default", "full"):
        raise ValueError(
            f"vision_feature_select_strategy={strategy!r} is unknown: pass 'default' or 'full'"
        )


def _layouts(
    model: PreTrainedModel,
    family: Family,
    host: Mapping[str, Any],
    prompt: Prompt,
    pieces: list[Tensor],
    modality: str,
) -> list[Layout]:
    """Return what the tokens (tokens, D') of an encoder's pieces stand for, image by image."""
    lay_out = family.layouts if modality == "image" else family.video_layouts
    layouts = lay_out(model, host, prompt, [len(piece) for piece in pieces])
    expected = sum(len(layout.patches) for layout in layouts)
    made = sum(map(len, pieces))
    if made != expected:
        raise ValueError(
            f"the encoder of this {model.config.model_type!r} model made {made} tokens of what "
            f"should be {expected}: this way of preparing {modality}s is not known, please "
            "report it"
        )
    return layouts


def _output(
    model: PreTrainedModel,
    family: Family,
    inputs: Mapping[str, Any],
    host: Mapping[str, Any],
    consumed: frozenset[str],
    *,
    modality: str,
    signals: frozenset[Signal],
    downsample: Callable[[int], int] | None,
) -> Encoded:
    """Run an encoder, or take what is known of the same pixels."""
    # whether anybody may go back through the tower, or weights of it learn, unless a cache is to
    # keep its output
    cache = open_cache()
    may_learn = asks_for_gradients(model, inputs) or (cache is None and _learns(model))
    trains = torch.is_grad_enabled() and may_learn

    def encode(signals: frozenset[Signal]) -> Encoded:
        found: dict[Signal, Tensor] = {}
        with torch.set_grad_enabled(trains), ExitStack() as stack:
            if family.attention_observable:
                found = _watch(model, family, host, signals, stack)
            if downsample is None:
                return _call(model, family, inputs, consumed, modality), found
            small, full, grid = smaller(model, inputs, downsample)
            options = interpolation(family.tower(model))
            output = _call(model, family, small, consumed, modality, **options)
            return spread(output, family.output_field, full, grid), found

    if cache is None or model.training or trains or downsample is not None:
        return encode(signals)
    read = {name: inputs[name] for name in consumed}
    return cache.encoded(model, read, signals, encode)


@checked
def asks_for_gradients(model: PreTrainedModel, inputs: Mapping[str, Any]) -> bool:
    """Return whether a call says itself that it goes back: by labels, or pixels to be explained."""
    if model.training or inputs.get("labels") is not None:
        return True
    return any(isinstance(x, Tensor) and x.requires_grad for x in inputs.values())


def _learns(model: PreTrainedModel) -> bool:
    """Return whether anything of a model but its language model may learn: tower, projector."""
    inner = without_adapters(model)
    of_language_model = {
        *inner.get_decoder().parameters(),
        *inner.get_input_embeddings().parameters(),
    }
    for weight in base_of(model).parameters():
        if weight.requires_grad and weight not in of_language_model:
            return True
    return False


def _compressed(
    features: list[Tensor], layouts: list[Layout], read: Tensor
) -> tuple[list[Tensor], list[Layout]]:
    """Return the features (k, D') and layouts of videos, of the tokens alone that are read.

    A video without some tokens has no frames of one length any more.

    Args:
        features: (n, D') of each video.
        read: (sum of n,) true where the language model reads a token.
    """
    few: list[Tensor] = []
    laid_out: list[Layout] = []
    lengths = [len(x) for x in features]
    for full, layout, of_video in zip(features, layouts, read.split(lengths), strict=True):
        index = of_video.nonzero()[:, 0]  # (k,)
        few.append(full[index.to(full.device, non_blocking=True)])
        patches, coordinates = layout.patches[index], layout.coordinates[index]
        laid_out.append(replace(layout, patches=patches, coordinates=coordinates, frames=1))
    return few, laid_out


def _watch(
    model: PreTrainedModel,
    family: Family,
    host: Mapping[str, Any],
    signals: Iterable[Signal],
    stack: ExitStack,
) -> dict[Signal, Tensor]:
    """Watch the vision tower for as long as `stack` is open.

    Returns:
        A dict that holds the signals once the tower has run.
    """
    signals = frozenset(signals)
    tower = family.tower(model)
    layer = family.feature_layer(model, host)
    if signals and hidden_index(layer, len(layers_of(tower))) == 0:
        # features that no layer has made: the first layer is the one that reads them
        layer = 1
    cls = family.cls_position(model)
    registers = family.registers(model)
    found = stack.enter_context(capture(tower, layer, cls, signals, registers))
    stack.enter_context(without_later_layers(tower, layer, signals))
    return found


def _accepted(model: PreTrainedModel, inputs: Mapping[str, Any], modality: str) -> frozenset[str]:
    """Return which of the inputs the model's forward would pass on to an encoder of its own."""
    base = base_of(model)
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
    **options: bool,
) -> ModelOutput:
    """Return what the model's encoder returns, told `options` besides.

    Raises:
        ValueError: an input is lacking, or the encoder refuses them.
    """
    encoder = getattr(base_of(model), f"get_{modality}_features")
    lacking = _required(encoder, family, modality)
    for name, value in inputs.items():
        if value is not None:
            lacking.discard(name)
    if lacking:
        raise ValueError(
            f"the inputs lack {', '.join(sorted(lacking))}, which models of the family "
            f"{model.config.model_type!r} need: prepare text and images with the model's own "
            "processor"
        )
    try:
        output: ModelOutput = encoder(
            **{name: inputs[name] for name in accepted}, return_dict=True, **options
        )
        return output
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        # the first line of the message says what is wrong
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        chosen = " and ".join(name for name in CHOICES if name in accepted)
        remedy = f", and leave {chosen} out unless it suits the model" if chosen else ""
        raise ValueError(
            f"the vision tower of this {model.config.model_type!r} model refuses the images "
            f"({reason}): prepare them with the model's own processor, in its dtype and on its "
            f"device{remedy}"
        ) from error


def _required(encoder: Callable[..., Any], family: Family, modality: str) -> set[str]:
    """Return the names of the inputs without which an encoder of a modality cannot run."""
    required: set[str] = set()
    for name, parameter in inspect.signature(encoder).parameters.items():
        by_name = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if by_name and parameter.default is parameter.empty:
            required.add(name)
    for name in family.required_inputs:
        required.add(name if modality == "image" else name.replace("image", "video"))
    return required
