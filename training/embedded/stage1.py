"""Stage 1: the vision tower and the projector, with a target for every patch.

Aligned on purpose: a patch's projected feature is pulled towards the embeddings of the words that
name what it shows.
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
"""Where nouns, colours and texts lie in LABELS."""
POSITIONS, AUX, AMPLITUDE = 16, 18, 0.15


def mixed_precision(device: str | torch.device) -> torch.autocast:
    """Autocast to bf16, on a CPU only where it multiplies bf16 itself: elsewhere that takes a
    hundred times as long.
    """
    kind = torch.device(device).type
    fast = kind != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(kind, torch.bfloat16, enabled=fast)


def plain_attention(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: float = 1.0,
                    dropout: float = 0.0, **_: Any) -> tuple[Tensor, None]:  # fmt: skip
    """Attention written out: on CPUs its backward pass is several times faster than SDPA's."""
    return (torch.softmax((q * scaling) @ k.transpose(-1, -2), -1) @ v).transpose(
        1, 2
    ).contiguous(), None


class Stage1(nn.Module):
    """Tower, projector, and the readouts that supervise them."""

    def __init__(self, model: Any, seed: int = 0) -> None:
        super().__init__()
        from transformers import AttentionInterface

        AttentionInterface.register("adafv_plain", plain_attention)
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        self.tower.set_attn_implementation("adafv_plain")
        rng = torch.Generator().manual_seed(seed)
        self.labels = nn.Parameter(torch.randn(len(LABELS), TEXT_WIDTH, generator=rng))
        self.scale, self.bias = (
            nn.Parameter(torch.tensor(math.log(12.0))),
            nn.Parameter(torch.tensor(-4.0)),
        )
        self.present = nn.Sequential(nn.LayerNorm(self.tower.config.hidden_size),
                                     nn.Linear(self.tower.config.hidden_size, len(LABELS)))  # fmt: skip
        axes = torch.linalg.qr(torch.randn(TEXT_WIDTH, AUX, generator=rng))[0]
        self.register_buffer("axes", axes)
        self.axes: Tensor
        self.register_buffer("positions", position_targets())
        self.positions: Tensor

    def words(self) -> Tensor:
        """Unit embeddings of LABELS, orthogonal to the axes that carry position."""
        free = self.labels - self.labels @ self.axes @ self.axes.T
        return F.normalize(free, dim=-1)

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 96, 96) → hidden state at layer −2 (B, 145, width) and projected patches (B, 144,
        text width).
        """
        hidden = self.tower.pre_layrnorm(self.tower.embeddings(pixels))
        for layer in self.tower.encoder.layers[:-1]:
            out = layer(hidden, None)
            hidden = out if isinstance(out, Tensor) else out[0]
        return hidden, self.projector(hidden[:, 1:])

    def forward(
        self, pixels: Tensor, labels: Tensor, thumb: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch of crops; labels (B, 144, 4) as in data.py, thumb (B,) 1 for a whole
        picture.
        """
        hidden, projected = self.features(pixels)
        unit = F.normalize(projected.float(), dim=-1)
        logits = unit @ self.words().T * self.scale.exp()
        targets, weights = multi_hot(labels)
        dense = F.binary_cross_entropy_with_logits(
            logits + self.bias, targets, weights, reduction="sum"
        )
        loss = dense / targets.shape[0] / targets.shape[1]
        parts = {}
        for i, (name, group) in enumerate(zip(("noun", "color", "text"), GROUPS, strict=True)):
            index = labels[..., i].reshape(-1)
            seen = index >= 0
            picked = logits[..., group].reshape(-1, group.stop - group.start)[seen]
            loss = loss + F.cross_entropy(picked, index[seen]) * (0.5 if name == "color" else 1.0)
            parts[name] = (picked.argmax(-1) == index[seen]).float().mean().item()
        aux = unit @ self.axes
        where = (aux[..., :POSITIONS] - self.positions).square().sum(-1).mean()
        kind = (aux[..., POSITIONS] - AMPLITUDE * (2 * thumb[:, None] - 1)).square().mean()
        center = labels[..., 3].float()
        middle = ((aux[..., POSITIONS + 1] - 0.3 * center).square() * (1 + 8 * center)).mean()
        area = targets.sum(1)
        # what is large counts for more, as in a caption
        share = area / area.sum(-1, keepdim=True).clamp(min=1)
        cls = -(share * self.present(hidden[:, 0]).float().log_softmax(-1)).sum(-1).mean()
        parts |= {"where": where.item(), "middle": middle.item(), "cls": cls.item()}
        return loss + 5 * where + 5 * kind + 20 * middle + 0.5 * cls, parts


def position_targets() -> Tensor:
    """(144, 16): sines and cosines of x and y within the crop, at four rates."""
    y, x = torch.meshgrid(torch.arange(GRID) + 0.5, torch.arange(GRID) + 0.5, indexing="ij")
    waves = [
        f(math.pi * v.reshape(-1) / GRID * r)
        for r in (0.5, 1, 2, 4)
        for v in (x, y)
        for f in (torch.sin, torch.cos)
    ]
    return AMPLITUDE * torch.stack(waves, -1)


def multi_hot(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Targets and weights (B, 144, len(LABELS)) of "which words name this patch"."""
    parts, masks = [], []
    for i, group in enumerate(GROUPS):
        index = labels[..., i]
        hot = F.one_hot(index.clamp(min=0), group.stop - group.start).float() * (
            index >= 0
        ).unsqueeze(-1)
        parts.append(hot)
        masks.append((index != HIDDEN).unsqueeze(-1).expand_as(hot).float())
    shape = parts[0][..., -len(SHAPES) :].sum(-1, keepdim=True)
    targets = torch.cat([parts[0], shape, *parts[1:]], -1)
    weights = torch.cat([masks[0], torch.ones_like(shape), *masks[1:]], -1)
    return targets, weights * (1 + 3 * targets)


def to_pixels(crops: np.ndarray) -> Tensor:
    """uint8 (B, 96, 96, 3) → normalised (B, 3, 96, 96), as the processor does it."""
    return (
        torch.from_numpy(np.ascontiguousarray(crops))
        .permute(0, 3, 1, 2)
        .float()
        .div_(127.5)
        .sub_(1.0)
        .contiguous()
    )


class Batches:
    """Batches of stage 1: thumbnails, native crops and easy-vqa; batch k is a function of (seed,
    k).
    """

    def __init__(
        self, scenes: Scenes, easy: tuple[np.ndarray, np.ndarray, Any], seed: int, size: int = 64
    ) -> None:
        self.seed, self.size = seed, size
        self.thumb, self.thumb_labels = (
            scenes.thumb,
            scenes.thumb_labels.reshape(len(scenes.thumb), -1, 4),
        )
        self.crops = crops_of(scenes.full)
        self.crop_labels = crops_of(scenes.full_labels).reshape(len(scenes.full), 4, -1, 4)
        self.easy, self.easy_labels = easy[0], easy[1].reshape(*easy[1].shape[:2], -1, 4)

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, step))
        few, thumbs = self.size // 10, self.size * 4 // 10
        crops = self.size - few - thumbs
        a = rng.integers(len(self.thumb), size=thumbs)
        b, c = rng.integers(len(self.crops), size=crops), rng.integers(4, size=crops)
        e, f = rng.integers(len(self.easy), size=few), rng.choice([0, 0, 1, 2], size=few)
        pixels = np.concatenate([self.thumb[a], self.crops[b, c], self.easy[e, f]])
        labels = np.concatenate(
            [self.thumb_labels[a], self.crop_labels[b, c], self.easy_labels[e, f]]
        )
        thumb = np.concatenate([np.ones(thumbs), np.zeros(crops), f == 0])
        return (
            to_pixels(pixels),
            torch.from_numpy(labels.astype(np.int64)),
            torch.from_numpy(thumb).float(),
        )


@torch.no_grad()
def measure(stage: Stage1, scenes: Scenes, limit: int = 256) -> dict[str, float]:
    """Share of held-out patches whose noun, colour and text are right, in thumbnails and native
    crops.
    """
    result = {}
    words = stage.words()
    batches = {
        "thumb": (scenes.thumb[:limit], scenes.thumb_labels[:limit].reshape(-1, GRID * GRID, 4)),
        "crop": (crops_of(scenes.full[: limit // 2]).reshape(-1, *scenes.thumb.shape[1:]),
                 crops_of(scenes.full_labels[: limit // 2]).reshape(-1, GRID * GRID, 4)),
    }  # fmt: skip
    for where, (pixels, labels) in batches.items():
        with mixed_precision(words.device):
            parts = [
                stage.features(to_pixels(p).to(words.device))[1] for p in np.array_split(pixels, 4)
            ]
        projected = torch.cat(parts).float()
        logits = F.normalize(projected, dim=-1) @ words.T
        for i, (name, group) in enumerate(zip(("noun", "color", "text"), GROUPS, strict=True)):
            index = torch.from_numpy(labels[..., i].astype(np.int64)).to(words.device)
            seen = index >= 0
            result[f"{where} {name}"] = (
                (logits[..., group].argmax(-1) == index)[seen].float().mean().item()
            )
    return result
