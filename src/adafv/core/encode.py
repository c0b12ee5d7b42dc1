"""Run the vision tower once: visual tokens, their saliency, where they lie, and the words they are
asked about.
"""

import inspect
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from adafv.core.encoder import run
from adafv.core.prompt import PIXELS, ImageSpan, Prompt, Question, as_tensors, placeholders
from adafv.core.signals import SALIENCY, Signal
from adafv.core.turns import template_for
from adafv.core.visual_tokens import Encoding, VisualTokens
from adafv.families import family_of
from adafv.families.base import Layout, base_of
from adafv.ops.precision import full_precision
from adafv.ops.saliency import mean_cosine_distance
from adafv.utils.checks import checked

# numbers; what is smaller describes images, and is copied to the host before the tower runs
LARGE = 100_000
STILLS = (PIXELS["image"], "pixel_values_images")
SAME = 0.9999  # cosine of a token with that of the frame before, from which on it shows nothing new

__all__ = ["encode", "reask"]


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
    tokenizer: Any = None,
) -> Encoding:
    """Encode the images of a batch and lay out what the methods need.

    Args:
        model: a vision-language model of a known family.
        inputs: what its processor returned, with at least one image.
        signals: what to read off the vision tower.
        text: whether to look up the words.
        query: (M,) token ids to be used as the question of every image, instead of the user's
            words.
        skip: token ids that never count as words of the question.
        of: "turn": an image is asked about by the words of its turn; "chat": by those of later
            turns, too.
        tokenizer: of the model, or its processor, to tell the user's words from the chat
            template's; see `adafv.core.turns.template_for` for where it is found otherwise.

    Raises:
        ValueError: an unknown family, or placeholders that don't match the images; features that
            are not finite. The latter are only known on the device: on CUDA the sentence is that of
            an assertion there, which stops the process at whatever it waits for next, since to look
            sooner would be to wait for the tower.
    """
    inputs = as_tensors(inputs, model.device)
    family, device, host = family_of(model), inputs["input_ids"].device, _host(inputs)
    prompt = _prompt(model, inputs, tokenizer)
    positions = _full_positions(model, host, prompt, device)
    modalities = [m for m, name in PIXELS.items() if inputs.get(name) is not None] or ["image"]
    parts = [run(model, family, inputs, host, prompt, modality, signals) for modality in modalities]
    features, layouts, spans = (
        [*chain(*x)] for x in zip(*((p.features, p.layouts, p.spans) for p in parts), strict=True)
    )

    patches = [_candidates(x, f) for x, f in zip(layouts, features, strict=True)]
    patch_indices = [_to(p, device) for p in patches]
    words = _words(prompt, spans, query, skip, of)
    with torch.no_grad():
        seen = [
            family.project(model, f.detach()[i])
            for f, i in zip(features, patch_indices, strict=True)
        ]
    with torch.no_grad(), full_precision(device):
        embedded, text_mask = _embed(model, words, device) if text else (None, None)
        found = {s: torch.cat([p.found[s] for p in parts]) for s in parts[0].found}
        tokens = VisualTokens(
            features=pad_sequence(seen, batch_first=True),
            mask=_to(_padding([len(p) for p in patches]), device),
            counts=tuple(map(len, patches)),
            signals=_signals(found, layouts, patches)
            if family.attention_observable
            else {s: _own(s, seen) for s in signals},
            text=embedded,
            text_mask=text_mask,
            coordinates=tuple(x.coordinates[p] for x, p in zip(layouts, patches, strict=True)),
            seeds=_seeds(words),
            layers=model.config.get_text_config().num_hidden_layers,
        )
        _check_finite(model, tokens)
    return Encoding(
        tokens=tokens,
        features=features,
        patch_indices=patch_indices,
        structural_indices=[_to(x.structural_indices, device) for x in layouts],
        spans=spans,
        prompt=prompt,
        consumed=frozenset().union(*(p.consumed for p in parts)),
        deepstack_features=[
            list(chain(*deepstack_features))
            for deepstack_features in zip(*(p.deepstack_features for p in parts), strict=True)
        ],
        returned=[p.returned for p in parts],
        positions=positions,
        numbering=_numbering(model),
        question=of,
        merges=family.merges,
    )


def _candidates(layout: Layout, features: Tensor) -> Tensor:
    """Which of an image's tokens (n,) a method chooses from: its patches; of a clip those that show
    something new.

    A token of a clip that is the same as that of the frame before, at the same place, says nothing:
    it is not counted, and goes as soon as any token goes. So a clip of a scene that stands still
    costs what a still costs.
    """
    patches = layout.patch_indices
    if layout.frames == 1:
        return patches
    frames = F.normalize(
        features.detach()[_to(patches, features.device)].float(), dim=-1
    ).unflatten(0, (layout.frames, -1))
    news = (frames[1:] * frames[:-1]).sum(-1) < SAME
    return patches[torch.cat([torch.ones_like(news[:1]), news]).flatten().cpu()]


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
    tokenizer: Any = None,
) -> Encoding:
    """Ask something else about images that are encoded already: the vision tower does not run
    again.

    Args:
        inputs: the new prompts, `input_ids` and `attention_mask` with as many placeholders as the
            images have tokens.
        encoding: the encoded images.
        images: which of them the prompts' images are, in reading order; one may occur any number of
            times. None: all of them, once each.
        text, query, skip, of, tokenizer: as in `encode`.

    Raises:
        ValueError: placeholders that don't match the images.
    """
    if any(part.modality == "video" for part in encoding.returned):
        raise ValueError(
            "clips cannot be asked about again without encoding them: call encode once for each question"
        )
    inputs = as_tensors(inputs, model.device)
    images = range(len(encoding.features)) if images is None else images
    old, device = encoding.tokens, inputs["input_ids"].device
    prompt = _prompt(model, inputs, tokenizer)
    spans = prompt.spans([len(encoding.features[i]) for i in images])
    words = _words(prompt, spans, query, skip, of)
    index = _to(torch.tensor(list(images)), device)
    with torch.no_grad():
        embedded, text_mask = _embed(model, words, device) if text else (None, None)
        tokens = replace(
            old,
            features=old.features[index],
            mask=old.mask[index],
            counts=tuple(old.counts[i] for i in images),
            signals={s: x[index] for s, x in old.signals.items()},
            text=embedded,
            text_mask=text_mask,
            coordinates=tuple(old.coordinates[i] for i in images),
            seeds=_seeds(words),
        )
    features, patch_indices, structural_indices = (
        [part[i] for i in images]
        for part in (encoding.features, encoding.patch_indices, encoding.structural_indices)
    )
    return replace(
        encoding,
        tokens=tokens,
        features=features,
        patch_indices=patch_indices,
        structural_indices=structural_indices,
        spans=spans,
        prompt=prompt,
        question=of,
        deepstack_features=[[plane[i] for i in images] for plane in encoding.deepstack_features],
        returned=[replace(part, count=len(images)) for part in encoding.returned],
        positions=_full_positions(model, _host(inputs), prompt, device),
    )


def _host(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs, with all but the pixels on the host."""
    return {
        name: x.cpu() if isinstance(x, Tensor) and x.numel() < LARGE else x
        for name, x in inputs.items()
    }


def _prompt(model: PreTrainedModel, inputs: Mapping[str, Any], tokenizer: Any) -> Prompt:
    """The prompts, with those ids for placeholders whose pixels are given; the others are words."""
    tokens = placeholders(model.config)
    if inputs.get(PIXELS["video"]) is None:
        tokens.pop("video", None)
    elif not any(inputs.get(name) is not None for name in STILLS):
        tokens.pop("image")
    template = template_for(model, tokenizer)
    return Prompt(
        inputs, tokens, model.config.model_type, template, _told_by(model, inputs["input_ids"])
    )


def _told_by(model: PreTrainedModel, ids: Tensor) -> int | None:
    """The id by which `generate` tells padding where there is no mask. None: by none."""
    generation = getattr(model, "generation_config", None)
    pad, eos = getattr(generation, "pad_token_id", None), getattr(generation, "eos_token_id", None)
    ends = eos if isinstance(eos, list) else [eos]
    return None if pad is None or pad in ends else pad


def _numbering(model: PreTrainedModel) -> frozenset[str]:
    """Names of the inputs from which a model with M-RoPE numbers its tokens."""
    number = getattr(base_of(model), "get_rope_index", None)
    return frozenset() if number is None else frozenset(inspect.signature(number).parameters)


def _full_positions(
    model: PreTrainedModel, host: dict[str, Any], prompt: Prompt, device: torch.device
) -> Tensor | None:
    """(3 or more, B, L) position ids of the whole prompts, for models with M-RoPE; worked out on
    the host.
    """
    if not (numbering := _numbering(model)):
        return None
    if (given := host.get("position_ids")) is not None:
        return _to(given.expand(3, *prompt.ids.shape) if given.dim() == 2 else given, device)
    if "mm_token_type_ids" in numbering and "mm_token_type_ids" not in host:
        raise ValueError(
            f"the inputs lack mm_token_type_ids, from which models of the family {model.config.model_type!r} number "
            "their visual tokens: pass on everything that the processor returns, and return_mm_token_type_ids=True to "
            "a processor that leaves them out"
        )
    prepare = getattr(model, "_prepare_position_ids_for_generation", None)
    masked = {**host, "attention_mask": prompt.mask.long()}
    try:
        if prepare is None:  # a model without a head
            positions, _ = base_of(model).get_rope_index(
                **{name: x for name, x in masked.items() if name in numbering}
            )
        else:
            positions = prepare(host["input_ids"], masked)
    except (RuntimeError, IndexError, StopIteration) as error:
        raise ValueError(
            "the prompt's placeholders don't fit the images: pass both through the processor of this "
            f"{model.config.model_type!r} model together, without truncation"
        ) from error
    return _to(positions, device)


def _words(
    prompt: Prompt, spans: list[ImageSpan], query: Tensor | None, skip: frozenset[int], of: Question
) -> list[Tensor]:
    if query is not None:
        return [query.cpu().long()] * len(spans)
    return [prompt.ids[span.row, prompt.question(span, skip, of)] for span in spans]


def _seeds(words: list[Tensor]) -> tuple[int, ...]:
    return tuple(zlib.crc32(w.numpy().tobytes()) for w in words)


def _signals(
    found: Mapping[Signal, Tensor], layouts: list[Layout], patches: list[Tensor]
) -> dict[Signal, Tensor]:
    """What the tower's patches showed as (I, N[, d]): the mean over the patches that each token is
    made of.
    """
    signals, sizes = {}, [layout.size for layout in layouts]
    for signal, seen in found.items():
        if len(seen) != sum(sizes):
            raise ValueError(
                f"the vision tower has shown {len(seen)} patches of images that should have {sum(sizes)}: this way of "
                "preparing images is not known, please report it, or choose a method that looks at no attention"
            )
        per_image = seen.split(sizes)
        tokens = [
            layout.pooled(x, p) for x, layout, p in zip(per_image, layouts, patches, strict=True)
        ]
        signals[signal] = pad_sequence(tokens, batch_first=True)
    return signals


def _check_finite(model: PreTrainedModel, tokens: VisualTokens) -> None:
    """Raise a `ValueError` if a feature or a signal is not finite; nothing is read back from a GPU."""
    total = sum(x.sum(dtype=torch.float32) for x in (tokens.features, *tokens.signals.values()))
    finite = torch.as_tensor(total).isfinite()
    sentence = (
        f"the vision tower of this {model.config.model_type!r} model makes features of these images that are not "
        "finite (NaN or inf): check the pixels, or load a model that is in float16 in bfloat16 or float32"
    )
    if finite.is_cuda:
        torch._assert_async(finite, sentence)
    elif not finite:
        raise ValueError(sentence)


def _own(signal: Signal, features: list[Tensor]) -> Tensor:
    """In place of a tower that cannot be observed: the visual tokens, and how much each differs
    from the others.
    """
    if signal.kind in ("keys", "hidden"):
        return pad_sequence([f.float() for f in features], batch_first=True)
    return pad_sequence([mean_cosine_distance(f) for f in features], batch_first=True)


def _embed(
    model: PreTrainedModel, words: list[Tensor], device: torch.device
) -> tuple[Tensor, Tensor]:
    ids = _to(pad_sequence(words, batch_first=True), device)
    return model.get_input_embeddings()(ids), _to(_padding([len(w) for w in words]), device)


def _padding(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)
