"""A shorter prompt around the tokens that stay: ids, masks, labels, positions and features shrink
together.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.visual_tokens import Encoding
from adafv.families import family_of
from adafv.families.base import base_of
from adafv.utils.checks import checked

__all__ = ["kept_positions", "rebuild"]

BOUNDS = ("cu_seq_lens_q", "cu_seq_lens_k")


@checked
def rebuild(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    encoding: Encoding,
    kept: list[Tensor],
    merged: list[Tensor] | None = None,
    *,
    positions: str = "packed",
    newlines: str = "drop",
) -> dict[str, Any]:
    """The inputs of a model with fewer placeholders, and encoded images in place of the pixels.

    Args:
        kept: for each image the indices (K,) of the droppable tokens that stay, ascending.
        merged: for each image their features (K, D) instead of the encoded ones. None: those.
        positions, newlines: see `Pruner`.

    Raises:
        ValueError: positions="original" in a family that numbers its tokens by counting them.
    """
    offsets = [_offsets(encoding, i, indices, newlines) for i, indices in enumerate(kept)]
    features = [f[o] for f, o in zip(encoding.features, offsets, strict=True)]
    for i, new in enumerate(merged or ()):
        features[i][torch.searchsorted(offsets[i], encoding.patch_indices[i][kept[i]])] = new.to(
            features[i]
        )
    places = _places(encoding, offsets)
    out = _sequence(model, inputs, encoding, places, positions)
    deepstack_features = [
        [p[o] for p, o in zip(plane, offsets, strict=True)] for plane in encoding.deepstack_features
    ]
    out["mm_encoder_outputs"] = encoding.encoded(features, deepstack_features)
    return out


def _sequence(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    encoding: Encoding,
    places: list[tuple[int, Tensor]],
    positions: str,
) -> dict[str, Any]:
    """The inputs without pixels and without the placeholders that go; as they are where none goes."""
    rest = {name: value for name, value in inputs.items() if name not in encoding.consumed}
    if not encoding.prompt.loses(places):
        return rest | {name: inputs[name] for name in encoding.numbering if name in inputs}
    columns = encoding.prompt.columns(places, inputs["input_ids"].device)
    out = rest | encoding.prompt.shorten(rest, columns, _pad_id(model))
    out |= _bounds(inputs, encoding, columns)
    out |= _positions(model, inputs, encoding, columns, positions)
    if encoding.positions is not None:  # where decoding goes on, as the model notes it for itself
        last = out["position_ids"][-3:].amax((0, 2))[:, None]  # (B, 1)
        mask = out.get("attention_mask")
        count = out["input_ids"].shape[1] if mask is None else mask.sum(1, keepdim=True)
        base_of(model).rope_deltas = last + 1 - count
    return out


@checked
def kept_positions(
    encoding: Encoding, kept: list[Tensor], newlines: str
) -> list[tuple[int, Tensor]]:
    """For each image its row and the positions in the prompt of the tokens that stay, newlines
    among them.
    """
    return _places(
        encoding, [_offsets(encoding, i, indices, newlines) for i, indices in enumerate(kept)]
    )


def _places(encoding: Encoding, offsets: list[Tensor]) -> list[tuple[int, Tensor]]:
    return [
        (span.row, span.positions.to(o.device, non_blocking=True)[o])
        for span, o in zip(encoding.spans, offsets, strict=True)
    ]


def _offsets(encoding: Encoding, image: int, kept: Tensor, newlines: str) -> Tensor:
    """Where the tokens that stay are among all tokens of an image, those that may not be dropped
    included.
    """
    patch_indices, structural_indices = (
        encoding.patch_indices[image],
        encoding.structural_indices[image],
    )
    if len(kept) == len(patch_indices):
        return torch.arange(len(encoding.features[image]), device=kept.device)
    if newlines != "all":
        structural_indices = (
            _newlines_of_rows(encoding, image, kept)
            if newlines == "rows"
            else structural_indices[:0]
        )
    return torch.cat([patch_indices[kept], structural_indices]).sort().values


def _newlines_of_rows(encoding: Encoding, image: int, kept: Tensor) -> Tensor:
    newlines, crop = encoding.structural_indices[image], encoding.tokens.coordinates[image][:, 0]
    # the thumbnail's rows don't
    ends_in_newline = (crop >= crop.max().clamp(max=1)).to(kept.device)
    tokens = encoding.patch_indices[image][kept[ends_in_newline[kept]]]
    used = torch.searchsorted(newlines, tokens).bincount(minlength=len(newlines) + 1)
    return newlines[used[:-1] > 0]


def _positions(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    encoding: Encoding,
    columns: tuple[Tensor, Tensor],
    wanted: str,
) -> dict[str, Tensor]:
    """The position ids of the shorter prompts, where the model would not number them so itself."""
    prompt, given = encoding.prompt, inputs.get("position_ids")
    if encoding.positions is not None:
        positions = prompt.original_positions(columns, encoding.positions)
        axes = model.config.get_text_config().rope_parameters.get("mrope_section", range(3))
        if len(positions) > len(axes):
            positions[0] = prompt.packed_positions(columns, encoding.positions[0])
        return {"position_ids": positions}
    if wanted == "original":
        if family_of(model).ignores_position_ids:
            raise ValueError(
                f"positions='original' has no effect in models of the family {model.config.model_type!r}, which "
                "number their tokens by counting them: pass positions='packed'"
            )
        if prompt.packed:
            raise ValueError(
                "positions='original' leaves gaps, at which a packed row would fall apart: pass positions='packed'"
            )
        return {} if given is not None else {"position_ids": prompt.original_positions(columns)}
    if given is None:
        return {}
    return {"position_ids": prompt.packed_positions(columns, given.expand(prompt.ids.shape))}


def _bounds(
    inputs: Mapping[str, Any], encoding: Encoding, columns: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """The bounds of packed sequences, as attention kernels take them, in columns of the shorter
    row.
    """
    names = [name for name in BOUNDS if inputs.get(name) is not None]
    if not names:
        return {}
    index, exists = columns
    if len(index) != 1:
        raise ValueError(
            f"{names[0]} comes with {len(index)} rows: pack all sequences into one row"
        )
    stays = index.new_zeros(encoding.prompt.ids.shape[1] + 1)
    stays[index[0] + 1] = exists[0].long()
    before = stays.cumsum(0)  # (L + 1,) columns that stay before each
    return {name: before[inputs[name].long()].to(inputs[name]) for name in names}


def _pad_id(model: PreTrainedModel) -> int:
    generation, text = getattr(model, "generation_config", None), model.config.get_text_config()
    places = [
        (part, name) for name in ("pad_token_id", "eos_token_id") for part in (generation, text)
    ]
    for candidate in (getattr(part, name, None) for part, name in places):
        if isinstance(candidate, list):
            candidate = candidate[0]
        if candidate is not None and candidate >= 0:
            return candidate
    return 0
