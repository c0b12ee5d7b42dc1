"""Train the language model alone, on the frozen features of stage 1: stage 2.

Several questions share one image prefix: a question sees the image and itself, and its positions
continue after the image. The noun also learns to say where the thing meant lies and what colour
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

NORM = 0.5  # of word embeddings, and of the mean feature
LENGTH = 14  # tokens of the longest question with template and answer
IDS = {word: i for i, word in enumerate(vocabulary())}
CELLS = GRID * GRID


def packing(columns: int = 2 * GRID, rows: int = 2 * GRID, skip: int = 0) -> np.ndarray:
    """Return the order in which the model reads thumbnail and crops.

    Args:
        columns, rows: patches of the crops that are seen.
        skip: columns to both sides that are padding.

    Returns:
        Indices into (crops · 144) patches, −1 for a newline.
    """
    across = (columns + 2 * skip) // GRID
    order = list(range(CELLS))  # the thumbnail comes first
    for row in range(rows):
        for column in range(skip, skip + columns):
            crop = 1 + (row // GRID) * across + column // GRID
            order.append(crop * CELLS + (row % GRID) * GRID + column % GRID)
        order.append(-1)
    return np.array(order)


class Bank(NamedTuple):
    """Features of I images, and how they are read.

    Attributes:
        features: (I, N, D) bf16, crop after crop without newlines.
        order: see `packing`.
        weight: (I, N) uint8: 1 where a token shows a thing, 3 at its centre.
    """

    features: Tensor
    order: np.ndarray
    weight: np.ndarray


@torch.no_grad()
def encode(
    stage: Stage1, pixels: np.ndarray, labels: np.ndarray, order: np.ndarray, device: str
) -> Bank:
    """Encode images given as crops (I, c, 96, 96, 3); labels (I, c, 12, 12, 4)."""
    out = []
    for part in np.array_split(pixels, max(1, len(pixels) // 24)):
        with mixed_precision(device):
            x = to_pixels(part.reshape(-1, *part.shape[2:])).to(device)
            projected = stage.features(x)[1]
        # (images · c, 144, D) → (images, c · 144, D)
        out.append(projected.bfloat16().reshape(len(part), -1, TEXT_WIDTH).cpu())
    weight = (labels[..., 0] != NONE) + 2 * labels[..., 3]  # (I, c, 12, 12)
    weight = weight.reshape(len(labels), -1).astype(np.uint8)  # (I, c · 144)
    return Bank(torch.cat(out), order, weight)


def scene_crops(scenes: Scenes, some: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return thumbnail and crops of some scenes (I, 5, 96, 96, 3), and their patch labels."""
    crops = crops_of(scenes.full[some])
    pixels = np.concatenate([scenes.thumb[some][:, None], crops], 1)
    crop_labels = crops_of(scenes.full_labels[some])
    labels = np.concatenate([scenes.thumb_labels[some][:, None], crop_labels], 1)
    return pixels, labels


class EncodedQuestions(NamedTuple):
    """The Q questions about an image, as tensors.

    Attributes:
        ids: (Q, LENGTH).
        last: (Q,) index of the last prompt token.
        nouns: (Q, 2) indices of the tokens that name things.
        points: (Q, 3, 2): coordinates of the first noun, the second noun and the answer, 0 … 1;
            NaN where there is none.
        colors: (Q, 2): the colour of what the nouns name; NONE where there is none.
        types: of the questions.
    """

    ids: np.ndarray
    last: np.ndarray
    nouns: np.ndarray
    points: np.ndarray
    colors: np.ndarray
    types: list[str]


def encode_questions(questions: list[Question], things: tuple[Thing, ...] = ()) -> EncodedQuestions:
    """Tokenize as the chat template does: words, "?", "assistant :", answer, "</s>"."""
    color_at = {thing.box: list(COLORS).index(thing.color) for thing in things}
    ids = np.full((len(questions), LENGTH), IDS["<pad>"], np.int64)
    last = np.zeros(len(questions), np.int64)
    nouns = np.zeros((len(questions), 2), np.int64)
    points = np.full((len(questions), 3, 2), np.nan, np.float32)
    colors = np.full((len(questions), 2), NONE)
    for i, question in enumerate(questions):
        words = question.text.lower().replace("?", " ?").split()
        row = [*words, "assistant", ":", question.answer, "</s>"]
        ids[i, : len(row)] = [IDS[w] for w in row]
        last[i] = len(words) + 1

        # what the nouns point at: the boxes are in the order of the nouns
        centers = [_center(box) for box in question.boxes]
        named = [k for k, word in enumerate(words) if word in ICONS]
        if question.type in ("color", "relation", "beside", "two", "text"):
            for k, (token, box) in enumerate(zip(named[:2], question.boxes, strict=False)):
                nouns[i, k] = token
                points[i, k] = centers[k]
                colors[i, k] = color_at[box]
        # the answer is another thing than the noun's, the last one
        if question.type in ("beside", "text"):
            points[i, 2] = centers[-1]
    types = [question.type for question in questions]
    return EncodedQuestions(ids, last, nouns, points, colors, types)


def _center(box: tuple[int, int, int, int]) -> tuple[float, float]:
    """Return x and y of a box's centre, 0 … 1."""
    return (box[0] + box[2]) / 2 / SIZE[0], (box[1] + box[3]) / 2 / SIZE[1]


def scene_questions(scenes: Scenes, seed: int, times: int) -> list[list[Question]]:
    """Return questions about training scenes: those of their own suite, and of "scenes"."""
    result = []
    for i, (things, suite) in enumerate(zip(scenes.things, scenes.suites, strict=True)):
        rng = random.Random(f"asked/{seed}/{i}")
        found: dict[str, Question] = {}
        for kind in (suite, "scenes"):
            for question in ask(rng, things, kind, SIZE, times):
                found[question.text] = question
        result.append(list(found.values()))
    return result


def waves(points: Tensor) -> Tensor:
    """Return points (…, 2) in 0 … 1 as sines and cosines (…, 16), as the features carry them."""
    rates = torch.tensor([0.5, 1, 2, 4], device=points.device) * torch.pi
    angles = (points[..., None, :] * rates[:, None]).flatten(-2)  # (…, 4, 2) → (…, 8)
    return torch.cat([angles.sin(), angles.cos()], -1)


class Stage2(nn.Module):
    """The language model with the words of stage 1, the newline, and readouts that supervise it."""

    def __init__(self, model: Any, stage: Stage1, seed: int = 0) -> None:
        super().__init__()
        from transformers import AttentionInterface

        self.lm = model.model.language_model
        self.head = model.lm_head
        self.newline = model.model.image_newline
        AttentionInterface.register("adafv_masked", masked_attention)
        self.lm.set_attn_implementation("adafv_masked")
        # where the nouns' things lie, where the answer lies, and the colour
        sizes = (POSITIONS, POSITIONS, len(COLORS))
        self.readouts = nn.ModuleList([nn.Linear(TEXT_WIDTH, size) for size in sizes])
        table = self.lm.embed_tokens.weight
        with torch.no_grad():
            # words are unit vectors at random, but for those that stage 1 has learned
            rng = torch.Generator().manual_seed(seed)
            table.copy_(F.normalize(torch.randn(table.shape, generator=rng), dim=-1))
            words = stage.words().cpu()
            for label, row in zip(LABELS, words, strict=True):
                table[IDS[label]] = row
            for name, many in PLURALS.items():
                table[IDS[many]] = words[LABELS.index(name)]
            # the head has unit vectors, the input those of the norm of features
            self.head.weight.copy_(table)
            table.mul_(NORM)
            self.newline.mul_(NORM / self.newline.norm())

    def grow(self, state: dict[str, Tensor]) -> None:
        """Take over a shallower model; the layers it lacks begin as the identity."""
        known = self.state_dict()
        fitting = {k: v for k, v in state.items() if v.shape == known[k].shape}
        self.load_state_dict(fitting, strict=False)
        for i, layer in enumerate(self.lm.layers):
            if f"lm.layers.{i}.mlp.down_proj.weight" not in state:
                nn.init.zeros_(layer.self_attn.o_proj.weight)
                nn.init.zeros_(layer.mlp.down_proj.weight)

    def forward(
        self, image: Tensor, newline: Tensor, ids: Tensor, mask: Tensor, positions: Tensor
    ) -> tuple[Tensor, ...]:
        """Return hidden states of the questions (B, Q · LENGTH, D), of every layer.

        Args:
            image: (B, N, D) features.
            newline: (B, N) bool, which of them stand for a newline.
            ids: (B, Q · LENGTH).
            mask, positions: see `shared_prefix`.
        """
        table = self.lm.embed_tokens
        start = table.weight[[IDS["<s>"], IDS["user"], IDS[":"]]]
        image = torch.where(newline[..., None], self.newline, image.float())
        # "<s> user :", the image, the questions: (B, 3 + N + Q · LENGTH, D)
        embeddings = torch.cat([start.expand(len(image), -1, -1), image, table(ids)], 1)
        hidden = self.lm(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions.expand(len(image), -1),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        return tuple(h[:, -ids.shape[1] :] for h in hidden)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Return the cross-entropy of answer and end, plus that of the readouts, and its parts."""
        hidden = self(batch.image, batch.newline, batch.ids, batch.mask, batch.positions)
        logits = self.head(hidden[-1]).float()  # (B, Q · LENGTH, words)

        # the answer is one word, and then comes the end
        rows = torch.arange(len(logits), device=logits.device)[:, None]
        answers = batch.ids[rows, batch.last + 1]
        at_answer = logits[rows, batch.last]  # (B, Q, words)
        losses = F.cross_entropy(at_answer.flatten(0, 1), answers.flatten(), reduction="none")
        ends = logits[rows, batch.last + 1].flatten(0, 1)
        end = F.cross_entropy(ends, torch.full_like(answers.flatten(), IDS["</s>"]))
        right = (at_answer.argmax(-1) == answers).float()
        parts = {"right": right.mean().item()}

        # where the nouns' things lie, said at layer 2, and where the answer lies, at layer 4
        aux = losses.new_zeros(())
        nouns = batch.nouns
        readings = ((2, 0, nouns[..., 0]), (2, 1, nouns[..., 1]), (4, 2, batch.last))
        for level, which, at in readings:
            target = batch.points[..., which, :]  # (B, Q, 2)
            known = ~target[..., 0].isnan()
            if known.any():
                said = self.readouts[which // 2](hidden[level][rows, at][known]).float()
                miss = (said - waves(target[known])).square().mean()
                aux = aux + miss
                parts[f"aux{which}"] = miss.item()

        # the colour of the nouns' things, said at layer 3
        known = batch.colors != NONE
        if known.any():
            said = self.readouts[2](hidden[3][rows[..., None], batch.nouns][known]).float()
            aux = aux + 0.3 * F.cross_entropy(said, batch.colors[known])
            parts["seen"] = (said.argmax(-1) == batch.colors[known]).float().mean().item()
        return losses.mean() + 0.1 * end + aux, parts


class Batch(NamedTuple):
    """One step of stage 2; last and nouns index into the row of all questions of an image."""

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


def masked_attention(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    scaling: float = 1.0,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute attention written out, under an additive mask."""
    scores = (q * scaling) @ k.transpose(-1, -2) + mask.to(q.dtype)
    return (torch.softmax(scores, -1) @ v).transpose(1, 2).contiguous(), None


def shared_prefix(image: int, questions: int) -> tuple[Tensor, Tensor]:
    """Return mask and positions of an image followed by questions that don't see each other.

    Args:
        image: its tokens.
        questions: how many.

    Returns:
        Additive mask (1, 1, L, L) and positions (1, L).
    """
    prefix = 3 + image
    # 0 for the image, 1 … for the questions
    numbers = 1 + torch.arange(questions).repeat_interleave(LENGTH)
    block = torch.cat([torch.zeros(prefix, dtype=torch.long), numbers])  # (L,)
    sees = torch.ones(len(block), len(block), dtype=torch.bool).tril()
    # a token sees the image, and its own question
    sees &= (block[None, :] == 0) | (block[None, :] == block[:, None])
    # every question continues behind the image
    positions = torch.cat([torch.arange(prefix), prefix + torch.arange(LENGTH).repeat(questions)])
    return torch.where(sees, 0.0, -1e4)[None, None], positions[None]


HARD = {"beside": 4.0, "count": 4.0, "text": 2.0, "two": 3.0}
"""Types that are asked more often than others, and how much: they need several steps of looking."""


def choose(
    kinds: list[str], rng: np.random.Generator, count: int, types: tuple[str, ...] | None
) -> np.ndarray:
    """Return indices of `count` questions, each type as often as HARD says.

    Args:
        kinds: types of all questions.
        types: if given, only these, where there are any.
    """
    # a type's weight is shared among its questions, however many they are
    weight = np.array([HARD.get(kind, 1.0) / kinds.count(kind) for kind in kinds])
    if types is not None and set(types) & set(kinds):
        weight *= [kind in types for kind in kinds]
    some = int((weight > 0).sum())
    return rng.choice(len(kinds), count, replace=some < count, p=weight / weight.sum())


def make_batch(
    bank: Bank,
    encoded: list[EncodedQuestions],
    rows: np.ndarray,
    rng: np.random.Generator,
    keep: int | None,
    questions: int,
    types: tuple[str, ...] | None,
    device: str,
) -> Batch:
    """Return questions about some images.

    Args:
        bank: features of all images.
        encoded: questions of all images.
        rows: which images.
        keep: tokens of each, those of things first; None: all, with newlines.
        questions: how many of each image.
        types: see `choose`.
    """
    # which tokens are read, (B, N); a newline is no feature
    index = bank.order[_chosen(bank, rows, rng, keep)]
    image = bank.features[torch.from_numpy(rows)[:, None], torch.from_numpy(index.clip(0))]

    # which questions are asked, and what is known of them
    ids = []
    last = []
    nouns = []
    points = []
    colors = []
    asked_types = []
    for row in rows:
        own = encoded[row]
        picked = choose(own.types, rng, questions, types)  # (Q,)
        ids.append(own.ids[picked].reshape(-1))  # (Q · LENGTH,)
        last.append(own.last[picked])
        nouns.append(own.nouns[picked])
        points.append(own.points[picked])
        colors.append(own.colors[picked])
        asked_types.append([own.types[i] for i in picked])

    # indices within a question become indices within the row of all questions
    shift = (np.arange(questions) * LENGTH)[None]  # (1, Q)
    mask, positions = shared_prefix(index.shape[1], questions)
    return Batch(
        image=image.to(device),
        newline=torch.from_numpy(index < 0).to(device),
        ids=torch.from_numpy(np.stack(ids)).to(device),
        last=torch.from_numpy(np.stack(last) + shift).to(device),
        nouns=torch.from_numpy(np.stack(nouns) + shift[..., None]).to(device),
        points=torch.from_numpy(np.stack(points)).to(device),
        colors=torch.from_numpy(np.stack(colors)).to(device),
        mask=mask.to(device),
        positions=positions.to(device),
        types=asked_types,
    )


def _chosen(bank: Bank, rows: np.ndarray, rng: np.random.Generator, keep: int | None) -> np.ndarray:
    """Return which tokens of some images are read, (B, N) indices into the order."""
    order = bank.order
    shape = (len(rows), len(order))
    if keep is None:
        return np.broadcast_to(np.arange(len(order)), shape)
    # mostly those of things first, sometimes at random; newlines all or none
    things = np.where(order >= 0, bank.weight[rows][:, order], 0)
    weight = things * (rng.random((len(rows), 1)) < 0.9)
    luck = rng.random(shape) * np.where(order >= 0, 1.0, rng.choice([0.0, 1.0]))
    best = np.argpartition(-(weight + luck), keep - 1, axis=1)[:, :keep]
    return np.sort(best, 1)


@torch.no_grad()
def measure(
    stage: Stage2,
    bank: Bank,
    encoded: list[EncodedQuestions],
    device: str,
    keep: int | None = None,
) -> dict[str, float]:
    """Return the accuracy of each type of question on held-out images."""
    rng = np.random.default_rng(0)
    right: dict[str, list[float]] = {}
    for rows in np.array_split(np.arange(len(bank.features)), max(1, len(bank.features) // 8)):
        batch = make_batch(bank, encoded, rows, rng, keep, 8, None, device)
        with mixed_precision(device):
            hidden = stage(batch.image, batch.newline, batch.ids, batch.mask, batch.positions)[-1]
            said = stage.head(hidden).argmax(-1)
        index = torch.arange(len(said), device=said.device)[:, None]
        good = said[index, batch.last] == batch.ids[index, batch.last + 1]
        for types, row in zip(batch.types, good.tolist(), strict=True):
            for kind, hit in zip(types, row, strict=True):
                right.setdefault(kind, []).append(hit)
    return {kind: float(np.mean(hits)) for kind, hits in sorted(right.items())}
