"""Run the vision tower once: visual tokens, their saliency, coordinates, and the question's text.

Letters: I images of a batch, n tokens of an image, newlines included, N that methods choose from,
M text tokens, D width, B rows and L columns of the prompts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.candidates import candidates
from adafv.core.chat_template import Tokenizer, template_for
from adafv.core.encoder import Part, run
from adafv.core.inputs import (
    PIXEL_NAMES,
    as_tensors,
    inferred_pad_id,
    placeholders,
    question_ids,
    video_bounds,
)
from adafv.core.position_ids import full_positions, numbering_inputs
from adafv.core.prompt import ImageSpan, Prompt, Question
from adafv.core.signals import SALIENCY, Signal
from adafv.core.token_signals import observed_signals, unobserved_signal
from adafv.core.visual_tokens import NUMBERS, Encoding, VisualTokens
from adafv.families import family_of
from adafv.ops.precision import full_precision
from adafv.utils.checks import checked

__all__ = ["encode", "reask"]

LARGE = 100_000
"""Numbers of a tensor; what is smaller describes images, and is copied to the host."""

T = TypeVar("T")


@checked
def encode(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    *,
    signals: Iterable[Signal] = (SALIENCY,),
    text: bool = True,
    query: Tensor | None = None,
    skip: frozenset[int] = frozenset(),
    of: Question = "turn",
    tokenizer: Tokenizer | None = None,
    downsample: Callable[[int], int] | None = None,
) -> Encoding:
    """Encode the images of a batch and lay out what the methods need.

    Args:
        model: a vision-language model of a known family.
        inputs: what its processor returned, with at least one image.
        signals: what to read off the vision tower.
        text: whether to look up the question's text tokens.
        query: (M,) or (1, M) token ids to be used as the question of every image, instead of the
            user's text.
        skip: token ids that never count as text tokens of the question.
        of: "turn": an image is asked about by the text of its turn; "chat": by that of later
            turns, too.
        tokenizer: of the model, or its processor, to tell the user's text from the chat
            template's; see `adafv.core.chat_template.template_for` for where it is found otherwise.
        downsample: gives K of N, where the tower is to see images of K tokens; None: as they are.

    Raises:
        ValueError: an unknown family, or placeholders that don't match the images; features that
            are not finite. The latter are only known on the device: on CUDA the sentence is that of
            an assertion there, which stops the process at whatever it waits for next, since to look
            sooner would be to wait for the tower.
    """
    inputs = as_tensors(inputs, model.device)
    signals = tuple(signals)
    family = family_of(model)
    device = inputs["input_ids"].device

    # read the prompts on the host, before the tower keeps the device busy
    host = _host(inputs)
    modalities = _modalities(inputs)
    prompt = _prompt(model, inputs, tokenizer, modalities)
    positions = full_positions(model, host, prompt, device)  # (3 or more, B, L)

    # run the encoders: that of images, that of videos
    parts = []
    for modality in modalities:
        part = run(
            model,
            family,
            inputs,
            host,
            prompt,
            modality=modality,
            signals=signals,
            downsample=downsample,
        )
        parts.append(part)
    features = _joined([part.features for part in parts])  # I times (n, D')
    layouts = _joined([part.layouts for part in parts])
    spans = _joined([part.spans for part in parts])

    # leave out newlines, and what a video repeats
    patches = [candidates(x, f) for x, f in zip(layouts, features, strict=True)]  # I times (N,)
    patch_indices = _beside(features, patches)
    structural_indices = _beside(features, [layout.structural_indices for layout in layouts])

    # lay out what methods see: the images padded to the longest, each with its question
    visual = _projected(model, features, patch_indices)  # I times (N, D)
    asked, question = _questions(prompt, spans, query, skip, of)
    with torch.no_grad(), full_precision(device):
        tokens = _visual_tokens(model, parts, patches, visual, signals)
        tokens = tokens.asked(question, model.get_input_embeddings() if text else None)
        _check_finite(model, tokens)

    return Encoding(
        tokens=tokens,
        features=features,
        patch_indices=patch_indices,
        structural_indices=structural_indices,
        spans=spans,
        prompt=prompt,
        consumed=frozenset().union(*(part.consumed for part in parts)),
        deepstack_features=_deepstack_features(parts),
        returned=[part.returned for part in parts],
        positions=positions,
        numbering=numbering_inputs(model),
        grids=_grids(model, host, len(features)),
        question=of,
        asked=asked,
        merges=family.merges,
        downsampled=downsample is not None,
    )


@checked
def reask(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    encoding: Encoding,
    images: Sequence[int] | None = None,
    *,
    text: bool = True,
    query: Tensor | None = None,
    skip: frozenset[int] = frozenset(),
    of: Question = "turn",
    tokenizer: Tokenizer | None = None,
) -> Encoding:
    """Ask something else about encoded images, without running the vision tower again.

    Args:
        inputs: the new prompts, `input_ids` and `attention_mask` with as many placeholders as the
            images have tokens, and `mm_token_type_ids` for models with M-RoPE.
        encoding: the encoded images, or the encoded videos.
        images: indices of those that the prompts show, in reading order; one may occur any number
            of times. None: all of them, once each.
        text, query, skip, of, tokenizer: as in `encode`.

    Raises:
        ValueError: placeholders that don't match the images; images and videos in one encoding.
    """
    modalities = [part.modality for part in encoding.returned]
    if len(modalities) > 1:
        raise ValueError(
            "images and videos that were encoded together cannot be asked about again: encode "
            "them apart, or call encode once for each question"
        )
    inputs = as_tensors(inputs, model.device)
    images = range(len(encoding.features)) if images is None else images

    # how the images are numbered, unless the inputs say so
    grids = {name: x[torch.tensor(list(images))] for name, x in encoding.grids.items()}
    host = grids | _host(inputs)
    _check_numbered(encoding, host, modalities[0])

    # read the new prompts
    prompt = _prompt(model, inputs, tokenizer, modalities)
    features = _taken(encoding.features, images)
    spans = prompt.spans([len(full) for full in features], modalities[0])
    asked, question = _questions(prompt, spans, query, skip, of)

    # the same visual tokens, asked about otherwise
    with torch.no_grad():
        tokens = _tokens_of(encoding.tokens, images)
        tokens = tokens.asked(question, model.get_input_embeddings() if text else None)
    return replace(
        encoding,
        tokens=tokens,
        features=features,
        patch_indices=_taken(encoding.patch_indices, images),
        structural_indices=_taken(encoding.structural_indices, images),
        spans=spans,
        prompt=prompt,
        question=of,
        asked=asked,
        deepstack_features=[_taken(level, images) for level in encoding.deepstack_features],
        returned=[replace(part, count=len(images)) for part in encoding.returned],
        positions=full_positions(model, host, prompt, inputs["input_ids"].device),
        grids=grids,
        number=next(NUMBERS),
    )


def _check_numbered(encoding: Encoding, host: Mapping[str, Any], modality: str) -> None:
    """Raise a `ValueError` if nothing says by which grids a model numbers its tokens."""
    lacking = f"{modality}_grid_thw"
    if lacking in encoding.numbering and host.get(lacking) is None:
        raise ValueError(
            f"the inputs lack {lacking}, by which the model numbers the tokens of these "
            f"{modality}s: pass that of the {modality}s in the prompts"
        )


def _tokens_of(tokens: VisualTokens, images: Sequence[int]) -> VisualTokens:
    """Return the visual tokens of some images, in their order."""
    index = _to(torch.tensor(list(images)), tokens.device)  # (I',)
    return replace(
        tokens,
        features=tokens.features[index],  # (I', N, D)
        mask=tokens.mask[index],  # (I', N)
        counts=tuple(_taken(tokens.counts, images)),
        signals={signal: x[index] for signal, x in tokens.signals.items()},  # (I', N[, d])
        coordinates=tuple(_taken(tokens.coordinates, images)),
        frames=tuple(_taken(tokens.frames, images)),
    )


def _grids(model: PreTrainedModel, host: Mapping[str, Any], count: int) -> dict[str, Tensor]:
    """Return the inputs by which a model numbers the tokens of images, where each has a row."""
    grids: dict[str, Tensor] = {}
    for name in numbering_inputs(model) - {"input_ids", "attention_mask", "mm_token_type_ids"}:
        x = host.get(name)
        if isinstance(x, Tensor) and len(x) == count:
            grids[name] = x
    return grids


def _joined(lists: list[list[T]]) -> list[T]:
    return list(chain.from_iterable(lists))


def _taken(of_images: Sequence[T], images: Sequence[int]) -> list[T]:
    return [of_images[i] for i in images]


def _host(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs, with all but the pixels on the host."""
    host: dict[str, Any] = {}
    for name, value in inputs.items():
        # ids are there for every token, however many prompts there are
        small = isinstance(value, Tensor) and (
            value.numel() < LARGE or not value.is_floating_point()
        )
        host[name] = value.cpu() if small else value
    return host


def _modalities(inputs: Mapping[str, Any]) -> list[str]:
    """Return which modalities have pixels among the inputs, "image" if none has."""
    found: list[str] = []
    for modality, names in PIXEL_NAMES.items():
        if any(inputs.get(name) is not None for name in names):
            found.append(modality)
    return found or ["image"]


def _prompt(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    tokenizer: Tokenizer | None,
    modalities: list[str],
) -> Prompt:
    """Return the prompts; an id is a placeholder if its pixels are given, else it is text."""
    known = placeholders(model.config)
    if family_of(model).video_as_images:
        known["video"] = known["image"]
        if len(modalities) > 1:
            raise ValueError(
                "a prompt with both an image and a video cannot be read by models of the family "
                f"{model.config.model_type!r}, which know one placeholder for both: ask about one "
                "of them"
            )
    tokens = {modality: known[modality] for modality in modalities if modality in known}
    template = template_for(model, tokenizer)
    pad = inferred_pad_id(model, inputs)
    bounds = video_bounds(model.config)
    return Prompt(inputs, tokens, model.config.model_type, template, pad, bounds)


def _frames(parts: list[Part]) -> tuple[int, ...]:
    """Return how many frames each video has, and 1 for each image."""
    found = []
    for part in parts:
        for layout in part.layouts:
            # frames are crops 1 to F; the crop of a single one is 0
            last = int(layout.coordinates[:, 0].max())
            found.append(max(1, last) if part.returned.modality == "video" else 1)
    return tuple(found)


def _questions(
    prompt: Prompt,
    spans: list[ImageSpan],
    query: Tensor | None,
    skip: frozenset[int],
    of: Question,
) -> tuple[list[Tensor] | None, list[Tensor]]:
    """Return the text tokens that each image is asked about: their positions and ids, (M,) each.

    A query has no positions in the prompt.
    """
    if query is not None:
        return None, [question_ids(query)] * len(spans)
    asked = [prompt.question(span, skip, of) for span in spans]
    ids = [prompt.ids[span.row, x] for span, x in zip(spans, asked, strict=True)]
    return asked, ids


def _beside(features: list[Tensor], indices: list[Tensor]) -> list[Tensor]:
    """Return indices of each image on the device of its features.

    The tower, or what projects its features, may lie on another device than the ids.
    """
    return [_to(x, f.device) for f, x in zip(features, indices, strict=True)]


def _projected(
    model: PreTrainedModel, features: list[Tensor], indices: list[Tensor]
) -> list[Tensor]:
    """Return the features (N, D) of the candidates of each image, as wide as the LLM."""
    family = family_of(model)
    visual: list[Tensor] = []
    with torch.no_grad():
        for full, patches in zip(features, indices, strict=True):
            visual.append(family.project(model, full.detach()[patches]))  # (n, D') -> (N, D)
    return visual


def _visual_tokens(
    model: PreTrainedModel,
    parts: list[Part],
    patches: list[Tensor],
    visual: list[Tensor],
    signals: Sequence[Signal],
) -> VisualTokens:
    """Lay out what methods see of the images, of which nothing is asked yet.

    Args:
        parts: what the encoders made.
        patches: (N,) of each image, the candidates.
        visual: (N, D) of each image, their features.
        signals: what was asked for of the vision tower.
    """
    layouts = _joined([part.layouts for part in parts])
    if family_of(model).attention_observable:
        found = observed_signals(parts, layouts, patches, visual[0].device)
    else:
        found = {signal: unobserved_signal(signal, visual) for signal in signals}
    return VisualTokens.of(
        features=visual,
        signals=found,
        coordinates=[x.coordinates[p] for x, p in zip(layouts, patches, strict=True)],
        frames=_frames(parts),
        layers=model.config.get_text_config().num_hidden_layers,
    )


def _check_finite(model: PreTrainedModel, tokens: VisualTokens) -> None:
    """Raise a `ValueError` if a feature or a signal is not finite, without waiting for a GPU."""
    # one number that is finite if all of them are
    total = torch.zeros((), device=tokens.features.device)
    for x in (tokens.features, *tokens.signals.values()):
        total = total + x.sum(dtype=torch.float32)
    finite = total.isfinite()

    sentence = (
        f"the vision tower of this {model.config.model_type!r} model makes features of these "
        "images that are not finite (NaN or inf): check the pixels, or load a model that is in "
        "float16 in bfloat16 or float32"
    )
    if finite.is_cuda:
        torch._assert_async(finite, sentence)
    elif not finite:
        raise ValueError(sentence)


def _deepstack_features(parts: list[Part]) -> list[list[Tensor]]:
    """Return for each deeper layer of the LLM the features of all images that it reads."""
    levels = zip(*[part.deepstack_features for part in parts], strict=True)
    return [_joined(list(level)) for level in levels]


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)
