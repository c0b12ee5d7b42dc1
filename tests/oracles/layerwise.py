"""Pruning between layers in plain loops, for one prompt: the layers are called one by one on an
ever shorter list.
"""

import math

import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb


def descending(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda j: (-scores[j], j))


def softmax(logits: list[float]) -> list[float]:
    highest = max(logits)
    weights = [math.exp(x - highest) for x in logits]
    total = sum(weights)
    return [w / total for w in weights]


def attention_row(decoder, layer, hidden, positions, rater: int) -> list[float]:
    """What the token at place `rater` attends to in a layer: softmax over all places up to its own,
    mean over heads.
    """
    attention, width = layer.self_attn, layer.self_attn.head_dim
    normed = layer.input_layernorm(hidden)
    query = attention.q_proj(normed).unflatten(-1, (-1, width)).transpose(1, 2)
    key = attention.k_proj(normed).unflatten(-1, (-1, width)).transpose(1, 2)
    query, key = apply_rotary_pos_emb(
        query, key, *decoder.rotary_emb(hidden, torch.tensor([positions]))
    )
    heads, repeats = query.shape[1], query.shape[1] // key.shape[1]
    mean = [0.0] * len(positions)
    for head in range(heads):
        seen = key[0, head // repeats, : rater + 1]
        for j, weight in enumerate(
            softmax((seen @ query[0, head, rater] / math.sqrt(width)).tolist())
        ):
            mean[j] += weight / heads
    return mean


def run(
    model,
    embeddings,
    images: list[dict[int, bool]],
    raters: list[list[int]],
    plans: list[dict[int, int]],
    looks_ahead: bool = False,
):
    """The logits of one prompt (1, L, D), and the columns that each layer reads.

    `images[i]` holds the columns of image i and whether they are patches (newlines go with the
    first patch that goes), `raters[i]` the columns whose attention ranks them; `plans[i]` says
    before which layer how many patches are left. The attention is that of the layer before, on what
    it read, or, where a method looks ahead, of that layer itself, on what it would read if nothing
    went.
    """
    decoder = model.get_decoder()
    columns, hidden, entered, read = list(range(embeddings.shape[1])), embeddings, embeddings, []
    for index, layer in enumerate(decoder.layers):
        drop = set()
        for image, rating, plan in zip(images, raters, plans, strict=True):
            patches = [c for c, is_patch in image.items() if is_patch and c in columns]
            if plan.get(index, len(patches)) == len(patches):
                continue
            scores = [0.0] * len(patches)
            for rater in rating:
                rated_by, reads = (
                    (layer, hidden) if looks_ahead else (decoder.layers[index - 1], entered)
                )
                row = attention_row(decoder, rated_by, reads, columns, columns.index(rater))
                attention = dict(zip(columns, row, strict=True))
                scores = [
                    s + attention[c] / len(rating) for s, c in zip(scores, patches, strict=True)
                ]
            drop |= set(image) - {patches[j] for j in descending(scores)[: plan[index]]}
        stay = [j for j, c in enumerate(columns) if c not in drop]
        columns, entered = [columns[j] for j in stay], hidden[:, stay]
        read.append(columns)
        rotary = decoder.rotary_emb(entered, torch.tensor([columns]))
        hidden = layer(entered, attention_mask=None, position_embeddings=rotary)
    return model.lm_head(decoder.norm(hidden)), read


def rating_words(words: torch.Tensor, visual: torch.Tensor) -> list[int]:
    """Words (M, D) whose mean softmaxed product with the visual tokens (N, D) is at least the
    words' mean.
    """
    relevance = [0.0] * len(words)
    for token in visual:
        for m, weight in enumerate(softmax((words @ token).tolist())):
            relevance[m] += weight / len(visual)
    return [m for m, r in enumerate(relevance) if r >= sum(relevance) / len(relevance)]
