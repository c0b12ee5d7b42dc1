"""A shorter prompt around the kept tokens: ids, masks, labels, positions, features shrink together.

`Pruner.rebuild` comes through here. Letters: B rows, L columns of the full prompts, L' of the
shorter ones, n tokens of an image, newlines included, N that a method chooses from, K kept.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.logits_to_keep import logits_kept
from adafv.core.pruned_inputs import PrunedInputs
from adafv.core.shorter_prompt import ShorterPrompt, loses
from adafv.core.visual_tokens import Encoding
from adafv.families import family_of
from adafv.families.base import base_of
from adafv.utils.checks import checked

__all__ = ["kept_positions", "padding_id", "rebuild"]

BOUNDS = ("cu_seq_lens_q", "cu_seq_lens_k")
"""Inputs in which attention kernels take the bounds of packed sequences."""


@checked
def rebuild(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    encoding: Encoding,
    kept: list[Tensor],
    merged: list[Tensor] | None = None,
    *,
    whole: list[bool] | None = None,
    positions: str = "packed",
    newlines: str = "drop",
    layerwise: bool = False,
) -> PrunedInputs:
    """Return the inputs of a model with fewer placeholders and encoded images instead of pixels.

    Args:
        kept: for each image the indices (K,) of the kept tokens among its N, ascending.
        merged: for each image their features (K, D) instead of the encoded ones. None: those.
        whole: for each image whether its budget is all of it: a video keeps the tokens that repeat
            the frame before, too. None: of each.
        positions, newlines: see `adafv.core.settings.Settings`.
        layerwise: later layers read fewer tokens than the shorter prompt has.

    Raises:
        ValueError: positions="original" in a family that numbers its tokens by counting them;
            `logits_to_keep` for tokens that are dropped.
    """
    # from the N tokens that a method chose from to all n of the image
    offsets = _offsets(encoding, kept, newlines, whole)

    # the kept features
    features: list[Tensor] = []
    for full, offset in zip(encoding.features, offsets, strict=True):
        features.append(full[offset])  # (n, D) -> (K + newlines, D)
    if merged is not None:
        for i, new in enumerate(merged):
            chosen = encoding.patch_indices[i][kept[i]]  # (K,)
            rows = torch.searchsorted(offsets[i], chosen)  # (K,) behind the newlines before them
            features[i][rows] = new.to(features[i])

    # those that deeper layers read besides
    deepstack_features: list[list[Tensor]] = []
    for level in encoding.deepstack_features:
        deepstack_features.append([x[o.to(x.device)] for x, o in zip(level, offsets, strict=True)])

    # the ids and all that runs along them
    kept_columns = _in_prompt(encoding, offsets)
    out = _sequence(model, inputs, encoding, kept_columns, positions)
    out["mm_encoder_outputs"] = encoding.encoded(features, deepstack_features)

    # the caller's positions
    lost = layerwise or loses(encoding.prompt, kept_columns)
    if lost and inputs.get("logits_to_keep") is not None:
        shorter = ShorterPrompt(encoding.prompt, kept_columns, inputs["input_ids"].device)
        columns = shorter.index.where(shorter.exists, -1)  # (B, L')
        out |= logits_kept(inputs, encoding, columns, start=0, layerwise=layerwise)
    return PrunedInputs(out)


def _sequence(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    encoding: Encoding,
    kept: list[tuple[int, Tensor]],
    positions: str,
) -> dict[str, Any]:
    """Return the inputs without pixels and dropped placeholders; unchanged where none is dropped.

    Args:
        kept: for each image its row and the columns of its kept tokens.
        positions: see `adafv.core.settings.Settings`.
    """
    # the encoders have used up the pixels
    rest = {name: value for name, value in inputs.items() if name not in encoding.consumed}
    if not loses(encoding.prompt, kept):
        # the model numbers the full prompt itself
        for name in encoding.numbering:
            if name in inputs:
                rest[name] = inputs[name]
            elif name in encoding.grids:
                rest[name] = encoding.grids[name].to(inputs["input_ids"].device)
        return rest

    shorter = ShorterPrompt(encoding.prompt, kept, inputs["input_ids"].device)
    out = rest | shorter.tensors(rest, padding_id(model))
    out |= _bounds(inputs, shorter)
    out |= _positions(model, inputs, encoding, shorter, positions)
    if encoding.positions is not None:
        _note_rope_deltas(model, out)
    return out


def _note_rope_deltas(model: PreTrainedModel, out: Mapping[str, Any]) -> None:
    """Note at which position decoding resumes, as a model with M-RoPE notes it for itself."""
    positions, ids = out["position_ids"], out["input_ids"]
    last = positions[-3:].amax((0, 2))[:, None]  # (3, B, L') -> (B, 1)
    mask = out.get("attention_mask")  # (B, L')
    count = ids.shape[1] if mask is None else mask.sum(1, keepdim=True)  # (B, 1)
    base_of(model).rope_deltas = last + 1 - count  # (B, 1)


@checked
def kept_positions(
    encoding: Encoding, kept: list[Tensor], newlines: str, whole: list[bool]
) -> list[tuple[int, Tensor]]:
    """Return for each image its row and the columns of its kept tokens, newlines among them.

    Args:
        kept, newlines, whole: see `rebuild`.
    """
    return _in_prompt(encoding, _offsets(encoding, kept, newlines, whole))


def _in_prompt(encoding: Encoding, offsets: list[Tensor]) -> list[tuple[int, Tensor]]:
    """Return for each image its row and the columns of the tokens that offsets name."""
    found: list[tuple[int, Tensor]] = []
    for span, offset in zip(encoding.spans, offsets, strict=True):
        columns = span.positions.to(offset.device, non_blocking=True)  # (n,)
        found.append((span.row, columns[offset]))  # (K + newlines,)
    return found


def _offsets(
    encoding: Encoding, kept: list[Tensor], newlines: str, whole: list[bool] | None = None
) -> list[Tensor]:
    """Return for each image which of all its n tokens are kept, ascending."""
    offsets = []
    for image, indices in enumerate(kept):
        all_of_it = whole is None or whole[image]
        offsets.append(_offsets_of(encoding, image, indices, newlines, all_of_it))
    return offsets


def _offsets_of(encoding: Encoding, image: int, kept: Tensor, newlines: str, whole: bool) -> Tensor:
    patch_indices = encoding.patch_indices[image]  # (N,)
    structural_indices = encoding.structural_indices[image]  # (n - N,)

    # nothing is dropped: newlines are kept, too
    if len(kept) == len(patch_indices) and (whole or not encoding.repeats(image)):
        return torch.arange(len(encoding.features[image]), device=kept.device)  # (n,)

    if newlines == "rows":
        structural_indices = _newlines_of_rows(encoding, image, kept)
    elif newlines == "drop":
        structural_indices = structural_indices[:0]
    return torch.cat([patch_indices[kept], structural_indices]).sort().values


def _newlines_of_rows(encoding: Encoding, image: int, kept: Tensor) -> Tensor:
    """Return the newlines of an image that close a row of which a token is kept.

    Of an image or frames that begin with CLS and registers: those that precede a kept token.
    """
    newlines = encoding.structural_indices[image]  # (n - N,)
    order = torch.arange(len(newlines), device=newlines.device)  # (n - N,)
    leading = int((newlines == order).sum())
    if leading:
        tokens = encoding.patch_indices[image][kept]  # (K,)
        return _opening(newlines, tokens, leading)

    # rows of tiles end in a newline; those of the thumbnail don't, unless it is all there is
    crop = encoding.tokens.coordinates[image][:, 0]  # (N,)
    ends_in_newline = (crop >= crop.max().clamp(max=1)).to(kept.device)  # (N,)
    tokens = encoding.patch_indices[image][kept[ends_in_newline[kept]]]  # (at most K,)
    return _closing(newlines, tokens)


def _opening(newlines: Tensor, tokens: Tensor, leading: int) -> Tensor:
    """Return the last `leading` ones (M,) of newlines (n - N,) before each token (K,)."""
    before = torch.searchsorted(newlines, tokens)  # (K,)
    opening = before[:, None] - 1 - torch.arange(leading, device=before.device)  # (K, leading)
    return newlines[opening.unique()]


def _closing(newlines: Tensor, tokens: Tensor) -> Tensor:
    """Return the first (M,) of newlines (n - N,) behind each token (K,)."""
    closing = torch.searchsorted(newlines, tokens)  # (K,)
    used = closing.bincount(minlength=len(newlines) + 1)  # (n - N + 1,)
    return newlines[used[:-1] > 0]


def _positions(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    encoding: Encoding,
    shorter: ShorterPrompt,
    wanted: str,
) -> dict[str, Tensor]:
    """Return the position ids of the shorter prompts, where the model would number them otherwise.

    Args:
        wanted: "packed" or "original".
    """
    given = inputs.get("position_ids")  # (B, L) or (1, L)

    # M-RoPE: rows and columns of the image stay what they were
    if encoding.positions is not None:
        positions = shorter.original_positions(encoding.positions)  # (3 or 4, B, L')
        axes = model.config.get_text_config().rope_parameters.get("mrope_section", range(3))
        if len(positions) > len(axes):
            # a first channel that counts tokens, and by which packed sequences are told
            positions[0] = shorter.packed_positions(encoding.positions[0])
        return {"position_ids": positions}

    if wanted == "original":
        if family_of(model).ignores_position_ids:
            raise ValueError(
                f"positions='original' has no effect in models of the family "
                f"{model.config.model_type!r}, which number their tokens by counting them: pass "
                "positions='packed'"
            )
        if encoding.prompt.packed:
            raise ValueError(
                "positions='original' leaves gaps, at which a packed row would fall apart: pass "
                "positions='packed'"
            )
        # position ids that are given were shortened with all that runs along the sequence
        return {} if given is not None else {"position_ids": shorter.original_positions()}

    if given is None:
        return {}
    given = given.expand(encoding.prompt.ids.shape)  # (B, L)
    return {"position_ids": shorter.packed_positions(given)}  # (B, L')


def _bounds(inputs: Mapping[str, Any], shorter: ShorterPrompt) -> dict[str, Tensor]:
    """Return the bounds of packed sequences in columns of the shorter row."""
    names = [name for name in BOUNDS if inputs.get(name) is not None]
    if not names:
        return {}

    index = shorter.index  # (B, L')
    if len(index) != 1:
        raise ValueError(
            f"{names[0]} comes with {len(index)} rows: pack all sequences into one row"
        )
    kept = index.new_zeros(shorter.prompt.ids.shape[1] + 1)  # (L + 1,)
    kept[index[0] + 1] = shorter.exists[0].long()
    before = kept.cumsum(0)  # (L + 1,) kept columns before each
    return {name: before[inputs[name].long()].to(inputs[name]) for name in names}


@checked
def padding_id(model: PreTrainedModel) -> int:
    """Return the id that fills rows which end up shorter than the longest."""
    generation = getattr(model, "generation_config", None)
    text = model.config.get_text_config()
    for name in ("pad_token_id", "eos_token_id"):
        for config in (generation, text):
            candidate = getattr(config, name, None)
            if isinstance(candidate, list):
                candidate = candidate[0]
            if isinstance(candidate, int) and candidate >= 0:
                return candidate
    return 0
