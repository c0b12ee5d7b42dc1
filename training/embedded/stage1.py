"""Train vision tower and projector with a target for every patch: stage 1.

They are aligned on purpose: a patch's projected feature is pulled towards the embeddings of the
words that name what it shows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.embedded.data import HIDDEN, Scenes, crops_of
from training.embedded.recipe import COLOR_WORDS, GRID, LABELS, NOUNS, SHAPES, TEXT_WIDTH, TEXTS

GROUPS = (
    slice(0, len(NOUNS)),
    slice(len(NOUNS) + 1, len(NOUNS) + 1 + len(COLOR_WORDS)),
    slice(len(LABELS) - len(TEXTS), len(LABELS)),
)
"""The parts of LABELS that are nouns, colours and texts."""
NAMES = ("noun", "color", "text")
POSITIONS = 16  # axes that carry where a patch lies
AUX = 18  # those, one for thumbnail or crop, one for the centre of a thing
AMPLITUDE = 0.15  # of what the axes carry, beside features of norm 1


def mixed_precision(device: str | torch.device) -> torch.autocast:
    """Return a context that computes in bf16, on a CPU only where it multiplies bf16 itself.

    Elsewhere that takes a hundred times as long.
    """
    kind = torch.device(device).type
    fast = kind != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(kind, torch.bfloat16, enabled=fast)


def plain_attention(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any,
    scaling: float = 1.0,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute attention written out: on CPUs its backward pass is far faster than SDPA's."""
    weights = torch.softmax((q * scaling) @ k.transpose(-1, -2), -1)  # (B, H, L, L)
    return (weights @ v).transpose(1, 2).contiguous(), None  # (B, L, H, D / H)


class Stage1(nn.Module):
    """Tower, projector, and the readouts that supervise them."""

    def __init__(self, model: Any, seed: int = 0) -> None:
        super().__init__()
        from transformers import AttentionInterface

        AttentionInterface.register("adafv_plain", plain_attention)
        self.tower = model.model.vision_tower
        self.projector = model.model.multi_modal_projector
        self.tower.set_attn_implementation("adafv_plain")
        rng = torch.Generator().manual_seed(seed)
        self.labels = nn.Parameter(torch.randn(len(LABELS), TEXT_WIDTH, generator=rng))
        # as in SigLIP: a learned temperature, and a bias since few words name a patch
        self.scale = nn.Parameter(torch.tensor(math.log(12.0)))
        self.bias = nn.Parameter(torch.tensor(-4.0))
        # which words are in the image, read from CLS
        width = self.tower.config.hidden_size
        self.present = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(LABELS)))
        axes = torch.linalg.qr(torch.randn(TEXT_WIDTH, AUX, generator=rng))[0]
        self.register_buffer("axes", axes)
        self.axes: Tensor
        self.register_buffer("positions", position_targets())
        self.positions: Tensor

    def words(self) -> Tensor:
        """Return unit embeddings of LABELS, orthogonal to the axes that carry position."""
        free = self.labels - self.labels @ self.axes @ self.axes.T
        return F.normalize(free, dim=-1)

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Run crops (B, 3, 96, 96) through tower and projector.

        Returns:
            Hidden state at layer −2 (B, 145, width), and projected patches (B, 144, text width).
        """
        hidden = self.tower.pre_layrnorm(self.tower.embeddings(pixels))
        for layer in self.tower.encoder.layers[:-1]:
            out = layer(hidden, None)
            hidden = out if isinstance(out, Tensor) else out[0]
        # without CLS
        return hidden, self.projector(hidden[:, 1:])

    def forward(
        self, pixels: Tensor, labels: Tensor, thumb: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch of crops, and its parts.

        Args:
            pixels: (B, 3, 96, 96).
            labels: (B, 144, 4) as in data.py.
            thumb: (B,) 1 for a thumbnail, 0 for a crop.
        """
        # which words name each patch
        hidden, projected = self.features(pixels)
        unit = F.normalize(projected.float(), dim=-1)
        logits = unit @ self.words().T * self.scale.exp()  # (B, 144, labels)
        targets, weights = multi_hot(labels)
        dense = F.binary_cross_entropy_with_logits(
            logits + self.bias, targets, weights, reduction="sum"
        )
        loss = dense / targets.shape[0] / targets.shape[1]

        # which noun, which colour, which text, where there is one
        parts = {}
        for i, (name, group) in enumerate(zip(NAMES, GROUPS, strict=True)):
            index = labels[..., i].reshape(-1)
            seen = index >= 0
            picked = logits[..., group].reshape(-1, group.stop - group.start)[seen]
            loss = loss + F.cross_entropy(picked, index[seen]) * (0.5 if name == "color" else 1.0)
            parts[name] = (picked.argmax(-1) == index[seen]).float().mean().item()

        # where the patch lies, in what kind of crop, and whether a thing's centre is there
        aux = unit @ self.axes  # (B, 144, AUX)
        where = (aux[..., :POSITIONS] - self.positions).square().sum(-1).mean()
        kind = (aux[..., POSITIONS] - AMPLITUDE * (2 * thumb[:, None] - 1)).square().mean()
        center = labels[..., 3].float()
        middle = ((aux[..., POSITIONS + 1] - 0.3 * center).square() * (1 + 8 * center)).mean()

        # CLS: which words are in the image
        area = targets.sum(1)
        # what is large counts for more, as in a caption
        share = area / area.sum(-1, keepdim=True).clamp(min=1)
        cls = -(share * self.present(hidden[:, 0]).float().log_softmax(-1)).sum(-1).mean()
        parts |= {"where": where.item(), "middle": middle.item(), "cls": cls.item()}
        return loss + 5 * where + 5 * kind + 20 * middle + 0.5 * cls, parts


def position_targets() -> Tensor:
    """Return sines and cosines of x and y within the crop, at four rates: (144, 16)."""
    y, x = torch.meshgrid(torch.arange(GRID) + 0.5, torch.arange(GRID) + 0.5, indexing="ij")
    waves = []
    for rate in (0.5, 1, 2, 4):
        for axis in (x, y):
            angles = math.pi * axis.reshape(-1) / GRID * rate  # (144,)
            waves += [torch.sin(angles), torch.cos(angles)]
    return AMPLITUDE * torch.stack(waves, -1)


def multi_hot(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return targets and weights (B, 144, len(LABELS)) of "which words name this patch"."""
    parts = []
    masks = []
    for i, group in enumerate(GROUPS):
        index = labels[..., i]  # (B, 144)
        hot = F.one_hot(index.clamp(min=0), group.stop - group.start).float()
        parts.append(hot * (index >= 0).unsqueeze(-1))
        # what is too small to tell has no weight
        masks.append((index != HIDDEN).unsqueeze(-1).expand_as(hot).float())
    # "shape" names what any of the shapes names
    shape = parts[0][..., -len(SHAPES) :].sum(-1, keepdim=True)
    targets = torch.cat([parts[0], shape, *parts[1:]], -1)
    weights = torch.cat([masks[0], torch.ones_like(shape), *masks[1:]], -1)
    # few words name a patch, so those count for more
    return targets, weights * (1 + 3 * targets)


def to_pixels(crops: np.ndarray) -> Tensor:
    """Normalise uint8 crops (B, 96, 96, 3) to (B, 3, 96, 96), as the processor does."""
    pixels = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float()
    return pixels.div_(127.5).sub_(1.0).contiguous()


class Batches:
    """Batches of stage 1: thumbnails, native crops and easy-vqa.

    Batch k is a function of (seed, k).
    """

    def __init__(
        self, scenes: Scenes, easy: tuple[np.ndarray, np.ndarray, Any], seed: int, size: int = 64
    ) -> None:
        self.seed = seed
        self.size = size
        # labels: (I[, crops], 12, 12, 4) → (I[, crops], 144, 4)
        self.thumb = scenes.thumb
        self.thumb_labels = scenes.thumb_labels.reshape(len(scenes.thumb), -1, 4)
        self.crops = crops_of(scenes.full)
        self.crop_labels = crops_of(scenes.full_labels).reshape(len(scenes.full), 4, -1, 4)
        self.easy = easy[0]
        self.easy_labels = easy[1].reshape(*easy[1].shape[:2], -1, 4)

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixels, labels and kinds of a batch, as `Stage1.forward` takes them."""
        rng = np.random.default_rng((self.seed, step))
        # a tenth of easy-vqa, four tenths thumbnails, the rest crops
        few = self.size // 10
        thumbs = self.size * 4 // 10
        crops = self.size - few - thumbs

        # draw images, and which crop of each; of easy-vqa's three the first twice as often
        thumb_of = rng.integers(len(self.thumb), size=thumbs)
        crop_of = rng.integers(len(self.crops), size=crops)
        crop = rng.integers(4, size=crops)
        easy_of = rng.integers(len(self.easy), size=few)
        easy = rng.choice([0, 0, 1, 2], size=few)

        parts = [self.thumb[thumb_of], self.crops[crop_of, crop], self.easy[easy_of, easy]]
        pixels = np.concatenate(parts)
        parts = [
            self.thumb_labels[thumb_of],
            self.crop_labels[crop_of, crop],
            self.easy_labels[easy_of, easy],
        ]
        labels = np.concatenate(parts)
        thumb = np.concatenate([np.ones(thumbs), np.zeros(crops), easy == 0])
        return (
            to_pixels(pixels),
            torch.from_numpy(labels.astype(np.int64)),
            torch.from_numpy(thumb).float(),
        )


@torch.no_grad()
def measure(stage: Stage1, scenes: Scenes, limit: int = 256) -> dict[str, float]:
    """Return the share of held-out patches whose noun, colour and text are right.

    Those of thumbnails and of native crops are measured separately.
    """
    result = {}
    words = stage.words()
    crops = crops_of(scenes.full[: limit // 2]).reshape(-1, *scenes.thumb.shape[1:])
    crop_labels = crops_of(scenes.full_labels[: limit // 2]).reshape(-1, GRID * GRID, 4)
    thumb_labels = scenes.thumb_labels[:limit].reshape(-1, GRID * GRID, 4)
    batches = {"thumb": (scenes.thumb[:limit], thumb_labels), "crop": (crops, crop_labels)}
    for kind, (pixels, labels) in batches.items():
        # four parts, for memory's sake
        projected = []
        with mixed_precision(words.device):
            for part in np.array_split(pixels, 4):
                projected.append(stage.features(to_pixels(part).to(words.device))[1])
        unit = F.normalize(torch.cat(projected).float(), dim=-1)
        logits = unit @ words.T  # (B, 144, labels)
        for i, (name, group) in enumerate(zip(NAMES, GROUPS, strict=True)):
            index = torch.from_numpy(labels[..., i].astype(np.int64)).to(words.device)
            right = logits[..., group].argmax(-1) == index
            result[f"{kind} {name}"] = right[index >= 0].float().mean().item()
    return result
