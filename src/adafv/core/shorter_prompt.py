"""The shorter prompt, once most of the visual tokens of a prompt are dropped.

Which tokens are kept lives on the device, all else on the host. Letters: B rows of the batch, L
columns of the full prompts, L' of the shorter ones, k kept tokens of an image.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.core.prompt import IGNORED, Prompt
from adafv.core.segments import segment_starts
from adafv.utils.checks import checked

__all__ = ["FILL", "ShorterPrompt", "loses"]

FILL = {"labels": IGNORED}
"""What fills new padding, where that is not 0."""
Kept = list[tuple[int, Tensor]]
"""For each image its row and the positions (k,) of its kept tokens."""


@checked
class ShorterPrompt:
    """The columns of a prompt that are left.

    Only placeholders are dropped, and as many columns of padding as all rows can spare; what is
    masked keeps its position.

    Args:
        prompt: the full one.
        kept: for each image its row and the positions (k,) of its kept tokens, on the device.
        device: of the tensors.

    Attributes:
        index: (B, L') columns of the full prompts.
        exists: (B, L') false where a column is new padding.
    """

    def __init__(self, prompt: Prompt, kept: Kept, device: torch.device) -> None:
        self.prompt = prompt

        # count what each row keeps
        dropped = prompt.placeholder.sum(1)  # (B,)
        for row, positions in kept:
            dropped[row] -= len(positions)
        lead, trail = _outer_padding(prompt.mask)  # (B,), (B,)
        inner = prompt.ids.shape[1] - lead - trail - dropped  # (B,)

        # one side gives padding up, or is given some; the other is left alone
        on_the_left = not prompt.packed and (bool(lead.any()) or not bool(trail.any()))
        spare = lead if on_the_left else trail  # (B,)
        fixed = trail if on_the_left else lead  # (B,)
        width = int((inner + fixed).max() + spare.min())  # L'
        room = width - inner - fixed  # (B,) columns of padding on the side that gives way

        self.index = torch.zeros(len(prompt.ids), width, dtype=torch.long, device=device)
        self.exists = torch.zeros(len(prompt.ids), width, dtype=torch.bool, device=device)
        for row, text in enumerate(~prompt.placeholder):
            # text and the padding that is left
            columns = text.nonzero()[:, 0]
            surplus = max(0, int(spare[row]) - int(room[row]))
            columns = columns[surplus:] if on_the_left else columns[: len(columns) - surplus]

            # the kept tokens of the row's images between them
            parts = [columns.to(device, non_blocking=True)]
            for owner, positions in kept:
                if owner == row:
                    parts.append(positions.to(device, non_blocking=True))
            source = torch.cat(parts).sort().values
            own = slice(width - len(source), None) if on_the_left else slice(len(source))
            self.index[row, own] = source
            self.exists[row, own] = True

    @property
    def real(self) -> Tensor:
        """Return the attention mask (B, L')."""
        return self._gathered(self.prompt.mask) & self.exists

    def tensors(self, inputs: Mapping[str, Any], pad: int) -> dict[str, Tensor]:
        """Return every tensor that runs along the sequence, without the dropped placeholders.

        Args:
            inputs: the full inputs.
            pad: the id to fill `input_ids` with, where rows end up shorter than the longest.

        Returns:
            The shorter tensors by name, an `attention_mask` among them unless the rows are packed,
            which models tell by its absence.

        Raises:
            ValueError: `shift_labels`, which belong to the columns before theirs.
        """
        if inputs.get("shift_labels") is not None:
            raise ValueError(
                "shift_labels name the token behind each column, which may be dropped: pass "
                "labels, which the model shifts itself"
            )
        out: dict[str, Tensor] = {}
        for name, tensor in inputs.items():
            if not isinstance(tensor, Tensor) or not self.prompt.runs_along(name, tensor):
                continue
            fill = pad if name == "input_ids" else FILL.get(name, 0)
            full = tensor.expand(*tensor.shape[:-2], *self.prompt.ids.shape)  # (…, B, L)
            rows = self.index.expand(*tensor.shape[:-2], *self.index.shape)  # (…, B, L')
            out[name] = full.gather(-1, rows).where(self.exists, fill).to(tensor.dtype)
        if not self.prompt.masked and not self.prompt.packed:
            out["attention_mask"] = self.real.long()
        return out

    def original_positions(self, positions: Tensor | None = None) -> Tensor:
        """Return the position ids (…, B, L') that the kept tokens had in the full prompt.

        Args:
            positions: (…, B, L) those of the full prompt. None: 0, 1, 2, …
        """
        if positions is None:
            positions = (self.prompt.mask.long().cumsum(-1) - 1).clamp(min=0)  # (B, L)
        return self._gathered(positions).where(self.exists, 0)

    def packed_positions(self, positions: Tensor) -> Tensor:
        """Return the caller's position ids (B, L), less the dropped placeholders before: (B, L').

        Segment by segment. Columns of new padding each begin a segment of their own, so that no
        token of a packed row sees them.
        """
        device = positions.device
        length = self.prompt.ids.shape[1]

        # new padding is scattered to a column behind the last
        kept = torch.zeros(len(self.index), length + 1, dtype=torch.bool, device=device)
        kept = kept.scatter(1, self.index.where(self.exists, length), True)[:, :-1]  # (B, L)

        # count the dropped placeholders since the segment began
        placeholder = self.prompt.placeholder.to(device, non_blocking=True)
        dropped = (placeholder & ~kept).long().cumsum(1)  # (B, L)
        starts = segment_starts(self.prompt.segments).to(device, non_blocking=True)  # (B, L)
        before = F.pad(dropped, (1, 0)).gather(1, starts)  # (B, L)

        shifted = (positions - (dropped - before)).clamp(min=0)  # (B, L)
        return shifted.gather(1, self.index).where(self.exists, 0)

    def _gathered(self, full: Tensor) -> Tensor:
        """Return the entries (…, B, L') of a host tensor (…, B, L)."""
        full = full.to(self.index.device, non_blocking=True)
        return full.gather(-1, self.index.expand(*full.shape[:-2], *self.index.shape))


@checked
def loses(prompt: Prompt, kept: Kept) -> bool:
    """Return whether any placeholder is dropped.

    Args:
        prompt: the full one.
        kept: for each image its row and the positions of its kept tokens.
    """
    return sum(len(positions) for _, positions in kept) < int(prompt.placeholder.sum())


def _outer_padding(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many columns are masked before (B,) and behind (B,) the tokens of each row."""
    real = mask.int()  # (B, L)
    lead = (real.cumsum(1) == 0).sum(1)
    trail = (real.flip(1).cumsum(1) == 0).sum(1)
    # a row without tokens counts its padding once
    return lead, trail.where(lead < mask.shape[1], 0)
