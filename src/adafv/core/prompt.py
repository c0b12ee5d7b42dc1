"""Visual tokens in a prompt: where they stand, and what they are asked about.

Everything here is known on the host before the vision tower runs. Letters: B rows of the batch, L
columns of the prompts, n placeholders of an image, M text tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from adafv.core.chat_template import Template
from adafv.core.inputs import ARGUMENTS
from adafv.core.segments import segments_of
from adafv.core.turns import answer_starts, user_turns
from adafv.utils.checks import checked

__all__ = ["ImageSpan", "Prompt"]

IGNORED = -100
"""The label of tokens that take no part in the loss."""
Question = Literal["turn", "chat"]
T = TypeVar("T")
Turns = tuple[list[tuple[int, int]], list[Tensor]]
"""Columns of the user's turns, within their sequence, and the positions (M,) of what each says."""


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
            and `position_ids` (B, L). Without a mask, padding is what rows begin or end with.
        tokens: ids of the placeholders by modality, "image" and "video", of those whose pixels are
            given.
        family: of the model, for error messages.
        template: of the chat, which tells the user's text from all other.
        pad: the id that padding is told by where there is no mask. None: by no id.
        bounds: ids that open and close a video, where its frames are told apart by text (times).
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        tokens: Mapping[str, int],
        family: str,
        template: Template | None = None,
        pad: int | None = None,
        bounds: tuple[int, int] | None = None,
    ) -> None:
        self.family = family
        self.bounds = bounds
        self.tokens = tokens
        self.template = template or Template()
        self.ids: Tensor = inputs["input_ids"].cpu().long()  # (B, L)
        if self.ids.dim() != 2:
            raise ValueError(
                f"input_ids is {tuple(self.ids.shape)}: pass a batch of prompts (B, L)"
            )

        # the mask, given or inferred
        mask = inputs.get("attention_mask")
        self.masked = mask is not None
        self.mask = self._mask(mask, pad)  # (B, L)

        # placeholders
        placeholder_ids = torch.tensor(list(tokens.values()))
        self.placeholder = torch.isin(self.ids, placeholder_ids) & self.mask  # (B, L)

        # what stands between the placeholders of one image, once `spans` has told images apart
        self.between_placeholders = torch.zeros_like(self.mask)  # (B, L)
        # turns that were found before: images of one prompt share them
        self._turns: dict[tuple[int, int, frozenset[int]], Turns] = {}

        # sequences that are packed into one row, told by their position ids
        self.segments = segments_of(inputs.get("position_ids"), self.mask)  # (B, L)
        several = self.segments[:, -1] > self.segments[:, 0]  # (B,)
        self.packed = not self.masked and bool(several.any())

        # answers, as training labels them
        self.answered = self._answered(inputs.get("labels"))  # (B, L)

    def _mask(self, mask: object, pad: int | None) -> Tensor:
        """Return the attention mask (B, L), given or inferred: padding is at the ends of rows."""
        if mask is None:
            if pad is None:
                return torch.ones_like(self.ids, dtype=torch.bool)
            # the same id between tokens is a word, which `forward` sees
            real = self.ids.ne(pad)  # (B, L)
            return (real.cumsum(1) > 0) & (real.flip(1).cumsum(1) > 0).flip(1)
        if not isinstance(mask, Tensor) or mask.shape != self.ids.shape:
            given = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(
                f"attention_mask is {given}, input_ids {tuple(self.ids.shape)}: pruning needs the "
                "full prompt and the processor's own mask, without a prefilled cache"
            )
        return mask.cpu().bool()

    def spans(self, lengths: list[int], modality: str = "image") -> list[ImageSpan]:
        """Hand the placeholders of a modality out to images of `lengths` tokens, in reading order.

        What stands between those of one image is noted: `question` leaves it out.

        Raises:
            ValueError: the prompt's placeholders don't add up to the images.
        """
        placeholder = (self.ids == self.tokens[modality]) & self.mask  # (B, L)
        rows, columns = placeholder.nonzero(as_tuple=True)  # (placeholders,) each
        if len(rows) != sum(lengths):
            raise ValueError(
                f"the prompt holds {len(rows)} {modality} placeholders, the {modality}s make "
                f"{sum(lengths)} tokens: pass both through the processor of this {self.family!r} "
                "model together, without truncation"
            )
        spans: list[ImageSpan] = []
        self._turns.clear()
        for row, positions in zip(rows.split(lengths), columns.split(lengths), strict=True):
            if (row != row[0]).any():
                raise ValueError(
                    "an image's placeholders run over two prompts: were they truncated?"
                )
            spans.append(ImageSpan(int(row[0]), positions))
            start, end = int(positions[0]), int(positions[-1])
            if modality == "video":
                start, end = self._bounded(int(row[0]), start, end)
            self.between_placeholders[row[0], start:end] = True
        return spans

    def _bounded(self, row: int, start: int, end: int) -> tuple[int, int]:
        """Return the columns of a video with the text before its first frame and behind its last.

        Args:
            start, end: columns of its first and its last placeholder.
        """
        if self.bounds is None:
            return start, end
        opening, closing = self.bounds
        opened = (self.ids[row] == opening).nonzero()[:, 0]  # columns
        closed = (self.ids[row] == closing).nonzero()[:, 0]
        # frames have bounds of their own in some families: the outermost that is still open
        since = int(max(closed[closed < start], default=-1))
        until = int(min(opened[opened > end], default=self.ids.shape[1]))
        before = opened[(opened > since) & (opened < start)]
        behind = closed[(closed > end) & (closed < until)]
        return int(min(before, default=start)), int(max(behind, default=end))

    def groups(
        self, crops: Sequence[T], lengths: list[int], gap: int, named: int | None = None
    ) -> list[list[T]]:
        """Put crops of `lengths` tokens together to images: those at most `gap` tokens apart.

        Args:
            named: which crop of every image, 0 the first or -1 the last, has a token of its own
                before it, so that images are told apart however close they are. None: no crop.

        Raises:
            ValueError: see `spans`.
        """
        spans = self.spans(lengths)
        names = [int(self.ids[span.row, span.positions[0] - 1]) for span in spans]
        groups: list[list[T]] = []
        for i, crop in enumerate(crops):
            begins = i == 0 or not _close(spans[i - 1], spans[i], gap)
            if not begins and named is not None:
                # the first of an image is this crop, or the last of one is that before
                begins = names[i + named] == names[named]
            if begins:
                groups.append([])
            groups[-1].append(crop)
        return groups

    def question(
        self, span: ImageSpan, skip: frozenset[int] = frozenset(), of: Question = "turn"
    ) -> Tensor:
        """Return the positions (M,) of the text tokens that an image is asked about.

        They are what the user says in the turn of the image, before it and after it; where that is
        nothing, what the next turn says, or the one before. What the chat template writes does not
        count, and neither does an answer: what follows the opening of one, or what `labels` mark;
        nor what stands between the placeholders of an image, such as the names of its tiles, or
        the times of a video's frames.

        Args:
            skip: ids that don't count as text tokens either.
            of: "turn", or "chat": what later turns say counts, too.
        """
        # of the sequence that the image is in
        start, end = self._segment(span)
        known = (span.row, start, skip)
        if known not in self._turns:
            self._turns[known] = self._find_turns(span.row, start, end, skip)
        turns, said = self._turns[known]
        if not turns:
            return torch.zeros(0, dtype=torch.long)

        current = _turn_of(span.positions - start, turns)
        if of == "chat":
            later = torch.cat(said[current:])
            return later if len(later) else torch.cat(said)
        # the nearest turn that says something, later ones first
        nearest: list[Tensor] = [*said[current:], *reversed(said[:current])]
        for text in nearest:
            if len(text):
                return text
        return torch.zeros(0, dtype=torch.long)

    def _find_turns(self, row: int, start: int, end: int, skip: frozenset[int]) -> Turns:
        """Return the user's turns in a sequence of S columns, and what is said in each.

        Args:
            start, end: columns of the sequence in its row.
            skip: see `question`.
        """
        ids = self.ids[row, start:end]  # (S,)
        turns = user_turns(ids, self.answered[row, start:end], self.template)

        # text tokens
        is_text = self.mask[row, start:end] & ~self.placeholder[row, start:end]  # (S,)
        is_text &= ~self.between_placeholders[row, start:end]
        others = torch.tensor(sorted(self.template.structure | skip), dtype=torch.long)
        is_text &= ~torch.isin(ids, others)

        # those of each turn
        said: list[Tensor] = []
        for begin, stop in turns:
            columns = is_text[begin:stop].nonzero()[:, 0]  # (M,)
            said.append(columns + begin + start)
        return turns, said

    def last_before_answer(self, span: ImageSpan, of: Question = "turn") -> int:
        """Return the position of the token after which the answer begins.

        Args:
            of: the answer to the "turn" of an image, or to the "chat".
        """
        start, end = self._segment(span)
        answered = self.answered[span.row, start:end]
        starts = answer_starts(self.ids[span.row, start:end], answered, self.template)
        behind = [start + column for column in starts if start + column > int(span.positions[-1])]
        stop = end
        if behind:
            stop = behind[0] if of == "turn" else behind[-1]
        return int(self.mask[span.row, :stop].nonzero()[-1])

    def _segment(self, span: ImageSpan) -> tuple[int, int]:
        """Return the columns of the packed sequence that an image is in; else of the full row."""
        segments = self.segments[span.row]  # (L,)
        if not self.packed:
            return 0, len(segments)
        own = (segments == segments[span.positions[0]]).nonzero()[:, 0]
        return int(own[0]), int(own[-1]) + 1

    def _answered(self, labels: object) -> Tensor:
        """Return (B, L) true where labels mark an answer.

        Nowhere in a sequence that is labelled from its first to its last text token: there labels
        don't tell answers from questions.
        """
        if not isinstance(labels, Tensor) or labels.shape != self.ids.shape:
            return torch.zeros_like(self.mask)
        is_text = self.mask & ~self.placeholder  # (B, L)
        answered = (labels.cpu() != IGNORED) & is_text
        structure = torch.tensor(sorted(self.template.structure), dtype=torch.long)
        asked = is_text & ~torch.isin(self.ids, structure) & ~answered
        for row in range(len(answered)):
            for segment in self.segments[row].unique():
                own = self.segments[row] == segment  # (L,)
                answered[row, own] &= asked[row, own].any()
        return answered

    def runs_along(self, name: str, tensor: Tensor) -> bool:
        """Return whether a tensor has a number for each token: (…, B, L), or (1, L) for all."""
        # another prompt may be as long by chance
        if name in ARGUMENTS:
            return False
        if name == "position_ids" and tensor.shape[-1:] == self.ids.shape[1:] and tensor.dim() >= 2:
            return tensor.shape[-2] in (1, len(self.ids))
        if tensor.shape[-2:] != self.ids.shape:
            return False
        # pixels could have such a shape by chance
        return tensor.dim() == 2 or not tensor.is_floating_point()


def _close(before: ImageSpan, span: ImageSpan, gap: int) -> bool:
    """Return whether a span follows another in its row, at most `gap` other tokens apart."""
    if span.row != before.row:
        return False
    return bool(span.positions[0] - before.positions[-1] <= gap + 1)


def _turn_of(positions: Tensor, turns: list[tuple[int, int]]) -> int:
    """Return the index of the turn that an image is in, or of the next one, or of the last."""
    first = int(positions[0])
    last = int(positions[-1])
    for i, (begin, end) in enumerate(turns):
        if begin <= first and last < end:
            return i
    for i, (begin, _) in enumerate(turns):
        if begin > last:
            return i
    return len(turns) - 1
