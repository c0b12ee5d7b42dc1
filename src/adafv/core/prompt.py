"""Where visual tokens sit in a prompt, and the shorter prompt once most of them are gone.

Everything here is known on the host before the vision tower runs; only which tokens are kept lives
on the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig

from adafv.core.turns import Template, answer_starts, user_turns
from adafv.utils.checks import checked

__all__ = ["PIXELS", "ImageSpan", "Prompt", "as_tensors", "has_images", "placeholders"]

IGNORED = -100  # labels that nobody asks about
FILL = {"labels": IGNORED, "shift_labels": IGNORED}
# may be lists
OPTIONS = frozenset({*vars(GenerationConfig()), "vision_feature_layer", "vision_feature_layers"})
NARROW = (torch.int8, torch.int16, torch.uint8, torch.uint16, torch.uint32)
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}

Question = Literal["turn", "chat"]
T = TypeVar("T")


@checked
@dataclass(frozen=True)
class ImageSpan:
    """The placeholders of one image: `positions` (n,) in row `row` of the batch, in LLM order."""

    row: int
    positions: Tensor


@checked
class Prompt:
    """A batch of prompts with image placeholders, as plain host tensors.

    Args:
        inputs: what the processor returned: `input_ids` (B, L), perhaps `attention_mask`, `labels`
            and `position_ids` (B, L). Without a mask, it is the one that `generate` infers.
        tokens: ids of the placeholders by modality, "image" and "video", of those whose pixels are
            given.
        family: of the model, for what goes wrong.
        template: of the chat, which tells the user's words from the others.
        pad: the id that padding is told by where there is no mask. None: none is.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        tokens: Mapping[str, int],
        family: str,
        template: Template | None = None,
        pad: int | None = None,
    ) -> None:
        self.family, self.tokens, self.template = family, tokens, template or Template()
        self.ids: Tensor = inputs["input_ids"].cpu().long()  # (B, L)
        if self.ids.dim() != 2:
            raise ValueError(
                f"input_ids is {tuple(self.ids.shape)}: pass a batch of prompts (B, L)"
            )
        mask = inputs.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.shape != self.ids.shape):
            given = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(
                f"attention_mask is {given}, input_ids {tuple(self.ids.shape)}: pruning needs the whole prompt and the "
                "processor's own mask, without a prefilled cache"
            )
        self.masked = mask is not None
        if mask is not None:
            self.mask = mask.cpu().bool()
        else:
            self.mask = (
                torch.ones_like(self.ids, dtype=torch.bool) if pad is None else self.ids != pad
            )
        self.placeholder = torch.isin(self.ids, torch.tensor(list(tokens.values()))) & self.mask
        self.segments = _segments(inputs.get("position_ids"), self.mask)  # (B, L)
        self.packed = not self.masked and bool((self.segments[:, -1] > self.segments[:, 0]).any())
        self.answered = self._answered(inputs.get("labels"))

    def spans(self, lengths: list[int], modality: str = "image") -> list[ImageSpan]:
        """Hand the placeholders of a modality out to images of `lengths` tokens, in reading order.

        Raises:
            ValueError: the prompt's placeholders don't add up to the images.
        """
        rows, columns = ((self.ids == self.tokens[modality]) & self.mask).nonzero(as_tuple=True)
        if len(rows) != sum(lengths):
            raise ValueError(
                f"the prompt holds {len(rows)} {modality} placeholders, the {modality}s make {sum(lengths)} tokens: "
                f"pass both through the processor of this {self.family!r} model together, without truncation"
            )
        spans = []
        for row, columns_ in zip(rows.split(lengths), columns.split(lengths), strict=True):
            if (row != row[0]).any():
                raise ValueError(
                    "an image's placeholders run over two prompts: were they truncated?"
                )
            spans.append(ImageSpan(int(row[0]), columns_))
        return spans

    def groups(self, crops: Sequence[T], lengths: list[int], gap: int) -> list[list[T]]:
        """Crops of `lengths` tokens put together to images: those at most `gap` other tokens apart.

        Raises:
            ValueError: see `spans`.
        """
        groups: list[list[T]] = []
        before = None
        for crop, span in zip(crops, self.spans(lengths), strict=True):
            if (
                before is None
                or span.row != before.row
                or span.positions[0] - before.positions[-1] > gap + 1
            ):
                groups.append([])
            groups[-1].append(crop)
            before = span
        return groups

    def question(
        self, span: ImageSpan, skip: frozenset[int] = frozenset(), of: Question = "turn"
    ) -> Tensor:
        """Return the positions (M,) of the words that an image is asked about.

        They are what the user says in the turn of the image, before it and after it; where that is
        nothing, what the next turn says, or the one before. What the chat template writes is no
        word, and neither is an answer: what follows the opening of one, or what `labels` point at.

        Args:
            skip: ids that don't count as words either.
            of: "turn", or "chat": what later turns say counts, too.
        """
        start, end = self._segment(span)
        ids = self.ids[span.row, start:end]
        word = self.mask[span.row, start:end] & ~self.placeholder[span.row, start:end]
        word &= ~torch.isin(
            ids, torch.tensor(sorted(self.template.structure | skip), dtype=torch.long)
        )
        turns = user_turns(ids, self.answered[span.row, start:end], self.template)
        if not turns:
            return torch.zeros(0, dtype=torch.long)
        first, last = int(span.positions[0]) - start, int(span.positions[-1]) - start

        said = [word[a:b].nonzero()[:, 0] + a + start for a, b in turns]
        own = [i for i, (a, b) in enumerate(turns) if a <= first and last < b]
        here = (
            own[0]
            if own
            else next((i for i, (a, _) in enumerate(turns) if a > last), len(turns) - 1)
        )
        if of == "chat":
            later = torch.cat(said[here:])
            return later if len(later) else torch.cat(said)
        nearest = [*range(here, len(turns)), *range(here - 1, -1, -1)]
        return next((said[i] for i in nearest if len(said[i])), torch.zeros(0, dtype=torch.long))

    def last_before_answer(self, span: ImageSpan, of: Question = "turn") -> int:
        """Return the position of the token after which the answer begins: to the turn of an image,
        or to the chat.
        """
        start, end = self._segment(span)
        places = [
            place + start
            for place in answer_starts(
                self.ids[span.row, start:end], self.answered[span.row, start:end], self.template
            )
            if place + start > int(span.positions[-1])
        ]
        stop = end if not places else places[0 if of == "turn" else -1]
        return int(self.mask[span.row, :stop].nonzero()[-1])

    def columns(
        self, kept: list[tuple[int, Tensor]], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return where each column of the shortened rows comes from, and which come from somewhere.

        Only placeholders go, and as many columns of padding as all rows can spare; what is masked
        stays where it was.

        Args:
            kept: for each image its row and the positions (k,) that stay, on the device.

        Returns:
            (B, L') columns of the full prompts, and (B, L') false where a column is new padding.
        """
        dropped = self.placeholder.sum(1)  # (B,)
        for row, positions in kept:
            dropped[row] -= len(positions)
        lead, trail = _outer_padding(self.mask)  # (B,), (B,)
        inner = self.ids.shape[1] - lead - trail - dropped
        on_the_left = not self.packed and (bool(lead.any()) or not bool(trail.any()))
        spare, fixed = (lead, trail) if on_the_left else (trail, lead)
        width = int((inner + fixed).max() + spare.min())
        room = width - inner - fixed  # (B,) columns of padding on the side that gives way

        index = torch.zeros(len(self.ids), width, dtype=torch.long, device=device)
        exists = torch.zeros(len(self.ids), width, dtype=torch.bool, device=device)
        for row, text in enumerate(~self.placeholder):
            own = min(int(room[row]), int(spare[row]))
            columns = text.nonzero()[:, 0]
            gone = int(spare[row]) - own
            columns = columns[gone:] if on_the_left else columns[: len(columns) - gone]
            stay = [
                columns.to(device, non_blocking=True),
                *(positions for owner, positions in kept if owner == row),
            ]
            source = torch.cat(stay).sort().values
            where = slice(width - len(source), None) if on_the_left else slice(len(source))
            index[row, where], exists[row, where] = source, True
        return index, exists

    def shorten(
        self, inputs: Mapping[str, Any], columns: tuple[Tensor, Tensor], pad: int
    ) -> dict[str, Tensor]:
        """Return every tensor that runs along the sequence, without the placeholders that were not
        kept.

        Args:
            inputs: the full inputs.
            columns: of the shortened rows, see `columns`.
            pad: the id to fill `input_ids` with, where rows end up shorter than the longest.

        Returns:
            The shortened tensors by name, an `attention_mask` among them unless the rows are
            packed, which is told by
            there being none.
        """
        index, exists = columns
        out = {}
        for name, tensor in inputs.items():
            if not isinstance(tensor, Tensor) or not self._runs_along(name, tensor):
                continue
            fill = pad if name == "input_ids" else FILL.get(name, 0)
            rows = index.expand(*tensor.shape[:-2], *index.shape)
            whole = tensor.expand(*tensor.shape[:-2], *self.ids.shape)
            out[name] = whole.gather(-1, rows).where(exists, fill)
        if not self.masked and not self.packed:
            out["attention_mask"] = self.gathered(self.mask.long(), index).where(exists, 0)
        return out

    def loses(self, kept: list[tuple[int, Tensor]]) -> bool:
        """Return whether any placeholder goes, given for each image its row and the positions that
        stay.
        """
        return sum(len(positions) for _, positions in kept) < int(self.placeholder.sum())

    def gathered(self, whole: Tensor, index: Tensor) -> Tensor:
        """Return (…, B, L') what columns of the full prompts have in a tensor (…, B, L) of the
        host.
        """
        return whole.to(index.device, non_blocking=True).gather(
            -1, index.expand(*whole.shape[:-2], *index.shape)
        )

    def original_positions(
        self, columns: tuple[Tensor, Tensor], positions: Tensor | None = None
    ) -> Tensor:
        """Return (B, L') or (…, B, L') position ids that the kept tokens had in the full prompt.

        Args:
            positions: (…, B, L) those of the full prompt. None: 0, 1, 2, …
        """
        index, exists = columns
        if positions is None:
            positions = (self.mask.long().cumsum(-1) - 1).clamp(min=0)
        return self.gathered(positions, index).where(exists, 0)

    def packed_positions(self, columns: tuple[Tensor, Tensor], positions: Tensor) -> Tensor:
        """Return (B, L') the caller's position ids (B, L), less the placeholders that went before,
        segment by segment.

        Columns of new padding each begin a segment of their own, so that no token of a packed row
        sees them.
        """
        index, exists = columns
        stays = torch.zeros(
            len(index), self.ids.shape[1] + 1, dtype=torch.bool, device=positions.device
        )
        stays = stays.scatter(1, index.where(exists, self.ids.shape[1]), True)[:, :-1]  # (B, L)
        placeholder = self.placeholder.to(positions.device, non_blocking=True)
        gone = (placeholder & ~stays).long().cumsum(1)  # (B, L)
        first = _segment_starts(self.segments).to(positions.device, non_blocking=True)
        before = F.pad(gone, (1, 0)).gather(1, first)
        shifted = (positions - (gone - before)).clamp(min=0)
        return shifted.gather(1, index).where(exists, 0)

    def _segment(self, span: ImageSpan) -> tuple[int, int]:
        """The columns of the segment of a packed row that an image is in; else the whole row."""
        segments = self.segments[span.row]
        if not self.packed:
            return 0, len(segments)
        own = (segments == segments[span.positions[0]]).nonzero()[:, 0]
        return int(own[0]), int(own[-1]) + 1

    def _answered(self, labels: Any) -> Tensor:
        """(B, L) where labels say that an answer stands; nowhere in a row whose every word is
        labelled.
        """
        if not isinstance(labels, Tensor) or labels.shape != self.ids.shape:
            return torch.zeros_like(self.mask)
        answered = (labels.cpu() != IGNORED) & self.mask & ~self.placeholder
        structure = torch.isin(
            self.ids, torch.tensor(sorted(self.template.structure), dtype=torch.long)
        )
        asked = self.mask & ~self.placeholder & ~structure & ~answered
        for row in range(len(answered)):
            for segment in self.segments[row].unique():
                own = self.segments[row] == segment
                answered[row, own] &= asked[row, own].any()
        return answered

    def _runs_along(self, name: str, tensor: Tensor) -> bool:
        """Whether a tensor has a number for each token of the prompts: (…, B, L), or (1, L) for all
        of them.
        """
        if name == "position_ids" and tensor.shape[-1:] == self.ids.shape[1:] and tensor.dim() >= 2:
            return tensor.shape[-2] in (1, len(self.ids))
        return tensor.shape[-2:] == self.ids.shape and (
            tensor.dim() == 2 or not tensor.is_floating_point()
        )


@checked
def as_tensors(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return inputs with lists and arrays of numbers as tensors on a device, ids and narrow
    integers as int64.

    Raises:
        ValueError: no ids, or something that is no rectangle of numbers.
    """
    out: dict[str, Any] = {}
    for name, value in inputs.items():
        out[name] = value
        if type(value) in (list, tuple, np.ndarray) and len(value) and name not in OPTIONS:
            out[name] = _tensor(name, value, device)
        elif (
            isinstance(value, Tensor)
            and value.dtype in NARROW
            and not name.startswith("pixel_values")
        ):
            out[name] = value.long()
    ids = out.get("input_ids")
    if not isinstance(ids, Tensor):
        raise ValueError(
            "the inputs lack input_ids, by which visual tokens are found in the prompt: pass what the model's "
            "processor returned, not inputs_embeds"
        )
    if ids.is_floating_point() or ids.is_complex():
        raise ValueError(f"input_ids are {ids.dtype}: pass token ids, whole numbers")
    out["input_ids"] = ids.long()
    return out


@checked
def has_images(inputs: Mapping[str, Any]) -> bool:
    """Whether there is an image or a clip among the inputs of a model."""
    return any(inputs.get(name) is not None for name in (*PIXELS.values(), "pixel_values_images"))


@checked
def placeholders(config: Any) -> dict[str, int]:
    """The ids that stand for a visual token in the prompts of a model, by modality."""
    found: dict[str, int] = {}
    for modality in PIXELS:
        for name in (f"{modality}_token_id", f"{modality}_token_index"):
            if (token := getattr(config, name, None)) is not None:
                found.setdefault(modality, token)
    if "image" not in found:
        raise ValueError(
            f"the configuration of {config.model_type!r} names no image_token_id: add it to config.json"
        )
    return found


def _tensor(name: str, value: Any, device: torch.device) -> Any:
    """Numbers as a tensor; what holds tensors or words stays as it is."""
    if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
        return value
    try:
        numbers = np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name} is a list of unequal parts: call the processor with return_tensors='pt', and padding=True"
        ) from None
    if numbers.dtype.kind not in "biuf":
        return value
    tensor = torch.from_numpy(np.ascontiguousarray(numbers))
    return tensor.to(
        device=device, dtype=torch.get_default_dtype() if numbers.dtype.kind == "f" else None
    )


def _outer_padding(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) masked columns before the first token of each row, and (B,) behind its last."""
    real = mask.int()
    lead = (real.cumsum(1) == 0).sum(1)
    trail = (real.flip(1).cumsum(1) == 0).sum(1)
    return lead, trail.where(lead < mask.shape[1], 0)


def _segments(positions: Any, mask: Tensor) -> Tensor:
    """(B, L) which of the sequences that were packed into its row each token belongs to, as the
    model tells them.
    """
    if isinstance(positions, Tensor) and positions.dim() == 3 and len(positions) == 4:
        positions = positions[0]  # of M-RoPE's channels the first counts tokens
    if (
        not isinstance(positions, Tensor)
        or positions.dim() != 2
        or positions.shape[-1] != mask.shape[1]
    ):
        return torch.zeros_like(mask, dtype=torch.long)
    steps = positions.cpu().diff(prepend=positions[:, :1].cpu() - 1)
    return (steps != 1).long().cumsum(1).expand(mask.shape)


def _segment_starts(segments: Tensor) -> Tensor:
    """(B, L) the column where the segment of each token begins."""
    begins = segments.diff(prepend=segments[:, :1] - 1) != 0
    columns = torch.arange(segments.shape[1]).expand_as(segments)
    return columns.where(begins, 0).cummax(1).values
