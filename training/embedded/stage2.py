"""Stage 2: the language model alone, on the frozen features of stage 1.

Several questions share one image prefix: a question sees the picture and itself, and its positions
continue after the picture. The noun also learns to say where the thing meant lies and what colour
it has, the last position where the answer lies: else questions that take several looks need hours.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adafv.data.canvas import COLORS, ICONS
from adafv.data.sample import Question, Thing
from adafv.data.scene_questions import ask
from training.embedded.data import NONE, SIZE, Scenes, crops_of
from training.embedded.recipe import GRID, LABELS, PLURALS, TEXT_WIDTH, vocabulary
from training.embedded.stage1 import POSITIONS, Stage1, mixed_precision, to_pixels

NORM, LENGTH = 0.5, 14
"""Norm of word embeddings and of the mean feature; tokens of the longest question with template and
answer.
"""
IDS = {word: i for i, word in enumerate(vocabulary())}
CELLS = GRID * GRID


def packing(columns: int = 2 * GRID, rows: int = 2 * GRID, skip: int = 0) -> np.ndarray:
    """Order in which the model reads thumbnail and crops: indices into (crops · 144), −1 for a
    newline.
    """
    across = (columns + 2 * skip) // GRID
    order = list(range(CELLS))
    for row in range(rows):
        for column in range(skip, skip + columns):
            crop = 1 + (row // GRID) * across + column // GRID
            order.append(crop * CELLS + (row % GRID) * GRID + column % GRID)
        order.append(-1)
    return np.array(order)


class Bank(NamedTuple):
    """Features of pictures, (n, tokens, width) bf16 in reading order without newlines, and how they
    are read.
    """

    features: Tensor
    order: np.ndarray
    weight: np.ndarray
    """(n, tokens) uint8: 1 where a token shows a thing, 3 at its centre."""


@torch.no_grad()
def encode(
    stage: Stage1, pixels: np.ndarray, labels: np.ndarray, order: np.ndarray, device: str
) -> Bank:
    """Encode pictures given as crops (n, c, 96, 96, 3); labels (n, c, 12, 12, 4)."""
    out = []
    for part in np.array_split(pixels, max(1, len(pixels) // 24)):
        with mixed_precision(device):
            x = to_pixels(part.reshape(-1, *part.shape[2:])).to(device)
            projected = stage.features(x)[1]
        out.append(projected.bfloat16().reshape(len(part), -1, TEXT_WIDTH).cpu())
    weight = (
        ((labels[..., 0] != NONE) + 2 * labels[..., 3]).reshape(len(labels), -1).astype(np.uint8)
    )
    return Bank(torch.cat(out), order, weight)


def scene_crops(scenes: Scenes, where: slice) -> tuple[np.ndarray, np.ndarray]:
    """Thumbnail and crops of some scenes, and their patch labels."""
    pixels = np.concatenate([scenes.thumb[where][:, None], crops_of(scenes.full[where])], 1)
    labels = np.concatenate(
        [scenes.thumb_labels[where][:, None], crops_of(scenes.full_labels[where])], 1
    )
    return pixels, labels


class Asked(NamedTuple):
    """Questions as tensors: ids (q, LENGTH), index of the last prompt token, nouns and what they
    point at.
    """

    ids: np.ndarray
    last: np.ndarray
    nouns: np.ndarray
    points: np.ndarray
    """(q, 3, 2): where the first noun, the second noun and the answer lie, 0 … 1; NaN for none."""
    colors: np.ndarray
    """(q, 2): the colour of what the nouns name; NONE for none."""
    types: list[str]


def encode_questions(questions: list[Question], things: tuple[Thing, ...] = ()) -> Asked:
    """Tokenize as the chat template does: words, "?", "assistant :", answer, "</s>"."""
    color_at = {thing.box: list(COLORS).index(thing.color) for thing in things}
    ids = np.full((len(questions), LENGTH), IDS["<pad>"], np.int64)
    last, nouns = np.zeros(len(questions), np.int64), np.zeros((len(questions), 2), np.int64)
    points, colors = (
        np.full((len(questions), 3, 2), np.nan, np.float32),
        np.full((len(questions), 2), NONE),
    )
    for i, question in enumerate(questions):
        words = question.text.lower().replace("?", " ?").split()
        row = [*words, "assistant", ":", question.answer, "</s>"]
        ids[i, : len(row)] = [IDS[w] for w in row]
        last[i] = len(words) + 1
        centers = [
            ((b[0] + b[2]) / 2 / SIZE[0], (b[1] + b[3]) / 2 / SIZE[1]) for b in question.boxes
        ]
        named = [k for k, w in enumerate(words) if w in ICONS]
        if question.type in ("color", "relation", "beside", "two", "text"):
            for k, (at, center, box) in enumerate(
                zip(named[:2], centers, question.boxes, strict=False)
            ):
                nouns[i, k], points[i, k], colors[i, k] = at, center, color_at[box]
        if question.type in ("beside", "text"):
            points[i, 2] = centers[-1]
    return Asked(ids, last, nouns, points, colors, [q.type for q in questions])


def scene_questions(scenes: Scenes, seed: int, times: int) -> list[list[Question]]:
    """Questions about training scenes; those of scenes-small and scenes-text get the questions of
    both suites.
    """
    result = []
    for i, (things, suite) in enumerate(zip(scenes.things, scenes.suites, strict=True)):
        rng = random.Random(f"asked/{seed}/{i}")
        found = {
            q.text: q
            for q in ask(rng, things, suite, SIZE, times) + ask(rng, things, "scenes", SIZE, times)
        }
        result.append(list(found.values()))
    return result


def waves(points: Tensor) -> Tensor:
    """(…, 2) in 0 … 1 → (…, 16) sines and cosines, as the features carry them."""
    rates = torch.tensor([0.5, 1, 2, 4], device=points.device) * torch.pi
    angles = (points[..., None, :] * rates[:, None]).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], -1)


class Stage2(nn.Module):
    """The language model with the words of stage 1, the newline, and the readouts that supervise
    it.
    """

    def __init__(self, model: Any, stage: Stage1, seed: int = 0) -> None:
        super().__init__()
        from transformers import AttentionInterface

        self.lm, self.head = model.model.language_model, model.lm_head
        self.newline = model.model.image_newline
        AttentionInterface.register("adafv_masked", masked_attention)
        self.lm.set_attn_implementation("adafv_masked")
        self.readouts = nn.ModuleList(
            [nn.Linear(TEXT_WIDTH, n) for n in (POSITIONS, POSITIONS, len(COLORS))]
        )
        table = self.lm.embed_tokens.weight
        with torch.no_grad():
            table.copy_(
                F.normalize(
                    torch.randn(table.shape, generator=torch.Generator().manual_seed(seed)), dim=-1
                )
            )
            words = stage.words().cpu()
            for label, row in zip(LABELS, words, strict=True):
                table[IDS[label]] = row
            for name, many in PLURALS.items():
                table[IDS[many]] = words[LABELS.index(name)]
            self.head.weight.copy_(table)
            table.mul_(NORM)
            self.newline.mul_(NORM / self.newline.norm())

    def grow(self, state: dict[str, Tensor]) -> None:
        """Take over a shallower model; the layers it lacks begin as the identity."""
        known = self.state_dict()
        self.load_state_dict(
            {k: v for k, v in state.items() if v.shape == known[k].shape}, strict=False
        )
        for i, layer in enumerate(self.lm.layers):
            if f"lm.layers.{i}.mlp.down_proj.weight" not in state:
                nn.init.zeros_(layer.self_attn.o_proj.weight)
                nn.init.zeros_(layer.mlp.down_proj.weight)

    def forward(
        self, image: Tensor, newline: Tensor, ids: Tensor, mask: Tensor, positions: Tensor
    ) -> tuple[Tensor, ...]:
        """Image (B, S, width), newline (B, S) bool, ids (B, Q·LENGTH) → their hidden states, per
        layer.
        """
        table = self.lm.embed_tokens
        start = table.weight[[IDS["<s>"], IDS["user"], IDS[":"]]]
        image = torch.where(newline[..., None], self.newline, image.float())
        whole = torch.cat([start.expand(len(image), -1, -1), image, table(ids)], 1)
        hidden = self.lm(inputs_embeds=whole, attention_mask=mask, position_ids=positions.expand(len(image), -1),
                         output_hidden_states=True, use_cache=False).hidden_states  # fmt: skip
        return tuple(h[:, -ids.shape[1] :] for h in hidden)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of answer and end, plus where the nouns and the answer lie."""
        hidden = self(batch.image, batch.newline, batch.ids, batch.mask, batch.positions)
        logits = self.head(hidden[-1]).float()
        rows = torch.arange(len(logits), device=logits.device)[:, None]
        answers = batch.ids[rows, batch.last + 1]
        at_answer = logits[rows, batch.last]
        losses = F.cross_entropy(at_answer.flatten(0, 1), answers.flatten(), reduction="none")
        ends = logits[rows, batch.last + 1].flatten(0, 1)
        end = F.cross_entropy(ends, torch.full_like(answers.flatten(), IDS["</s>"]))
        right = (at_answer.argmax(-1) == answers).float()
        parts = {"right": right.mean().item()}
        aux = losses.new_zeros(())
        for level, which, at in (
            (2, 0, batch.nouns[..., 0]),
            (2, 1, batch.nouns[..., 1]),
            (4, 2, batch.last),
        ):
            target = batch.points[..., which, :]
            known = ~target[..., 0].isnan()
            if known.any():
                said = self.readouts[which // 2](hidden[level][rows, at][known]).float()
                miss = (said - waves(target[known])).square().mean()
                aux = aux + miss
                parts[f"aux{which}"] = miss.item()
        known = batch.colors != NONE
        if known.any():
            said = self.readouts[2](hidden[3][rows[..., None], batch.nouns][known]).float()
            aux = aux + 0.3 * F.cross_entropy(said, batch.colors[known])
            parts["seen"] = (said.argmax(-1) == batch.colors[known]).float().mean().item()
        return losses.mean() + 0.1 * end + aux, parts


class Batch(NamedTuple):
    """One step of stage 2; last and nouns index into the row of all questions of a picture."""

    image: Tensor
    newline: Tensor
    ids: Tensor
    last: Tensor
    nouns: Tensor
    points: Tensor
    colors: Tensor
    mask: Tensor
    positions: Tensor
    types: list[list[str]]


def masked_attention(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float = 1.0,
                     dropout: float = 0.0, **_: Any) -> tuple[Tensor, None]:  # fmt: skip
    """Attention written out, under an additive mask."""
    scores = (q * scaling) @ k.transpose(-1, -2) + mask.to(q.dtype)
    return (torch.softmax(scores, -1) @ v).transpose(1, 2).contiguous(), None


def shared_prefix(image: int, questions: int) -> tuple[Tensor, Tensor]:
    """Additive mask (1, 1, T, T) and positions (1, T) of a picture followed by questions that don't
    see each other.
    """
    prefix = 3 + image
    block = torch.cat(
        [
            torch.zeros(prefix, dtype=torch.long),
            1 + torch.arange(questions).repeat_interleave(LENGTH),
        ]
    )
    sees = torch.ones(len(block), len(block), dtype=torch.bool).tril()
    sees &= (block[None, :] == 0) | (block[None, :] == block[:, None])
    positions = torch.cat([torch.arange(prefix), prefix + torch.arange(LENGTH).repeat(questions)])
    return torch.where(sees, 0.0, -1e4)[None, None], positions[None]


HARD = {"beside": 4.0, "count": 4.0, "text": 2.0, "two": 3.0}
"""How much more often than the other types these are asked: they need several steps of looking."""


def choose(
    kinds: list[str], rng: np.random.Generator, count: int, types: tuple[str, ...] | None
) -> np.ndarray:
    """Indices of `count` questions, each type as often as HARD says, whatever the number of its
    questions.
    """
    weight = np.array([HARD.get(kind, 1.0) / kinds.count(kind) for kind in kinds])
    if types is not None and set(types) & set(kinds):
        weight *= [kind in types for kind in kinds]
    some = int((weight > 0).sum())
    return rng.choice(len(kinds), count, replace=some < count, p=weight / weight.sum())


def make_batch(bank: Bank, asked: list[Asked], rows: np.ndarray, rng: np.random.Generator, keep: int | None,
               questions: int, types: tuple[str, ...] | None, device: str) -> Batch:  # fmt: skip
    """Questions about pictures `rows`; `keep` tokens of each, those of things first, or all with
    newlines (None).
    """
    order = bank.order
    if keep is None:
        chosen = np.broadcast_to(np.arange(len(order)), (len(rows), len(order)))
    else:
        weight = np.where(order >= 0, bank.weight[rows][:, order], 0) * (
            rng.random((len(rows), 1)) < 0.9
        )
        luck = rng.random((len(rows), len(order))) * np.where(
            order >= 0, 1.0, rng.choice([0.0, 1.0])
        )
        chosen = np.sort(np.argpartition(-(weight + luck), keep - 1, axis=1)[:, :keep], 1)
    index = order[chosen]
    image = bank.features[torch.from_numpy(rows)[:, None], torch.from_numpy(index.clip(0))]
    picked = [choose(asked[row].types, rng, questions, types) for row in rows]
    pick = [(asked[row], p) for row, p in zip(rows, picked, strict=True)]
    shift = (np.arange(questions) * LENGTH)[None]
    mask, positions = shared_prefix(index.shape[1], questions)
    return Batch(
        image=image.to(device),
        newline=torch.from_numpy(index < 0).to(device),
        ids=torch.from_numpy(np.stack([a.ids[p].reshape(-1) for a, p in pick])).to(device),
        last=torch.from_numpy(np.stack([a.last[p] for a, p in pick]) + shift).to(device),
        nouns=torch.from_numpy(np.stack([a.nouns[p] for a, p in pick]) + shift[..., None]).to(
            device
        ),
        points=torch.from_numpy(np.stack([a.points[p] for a, p in pick])).to(device),
        colors=torch.from_numpy(np.stack([a.colors[p] for a, p in pick])).to(device),
        mask=mask.to(device),
        positions=positions.to(device),
        types=[[a.types[i] for i in p] for a, p in pick],
    )


@torch.no_grad()
def measure(
    stage: Stage2, bank: Bank, asked: list[Asked], device: str, keep: int | None = None
) -> dict[str, float]:
    """Accuracy per question type on held-out pictures."""
    rng = np.random.default_rng(0)
    right: dict[str, list[float]] = {}
    for rows in np.array_split(np.arange(len(bank.features)), max(1, len(bank.features) // 8)):
        batch = make_batch(bank, asked, rows, rng, keep, 8, None, device)
        with mixed_precision(device):
            hidden = stage(batch.image, batch.newline, batch.ids, batch.mask, batch.positions)[-1]
            said = stage.head(hidden).argmax(-1)
        index = torch.arange(len(said), device=said.device)[:, None]
        good = said[index, batch.last] == batch.ids[index, batch.last + 1]
        for types, row in zip(batch.types, good.tolist(), strict=True):
            for kind, hit in zip(types, row, strict=True):
                right.setdefault(kind, []).append(hit)
    return {kind: float(np.mean(hits)) for kind, hits in sorted(right.items())}
