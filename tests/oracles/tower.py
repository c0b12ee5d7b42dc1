"""The methods that read the vision tower in plain loops, close to their papers: the oracles of the
fast ones.
"""

import math
from collections import Counter
from functools import cache

import torch

from oracles.sacmam import descending

Vector = tuple[float, ...]
Place = tuple[int, int, int]


@cache
def cosines(vectors: tuple[Vector, ...]) -> list[list[float]]:
    lengths = [math.sqrt(sum(x * x for x in v)) for v in vectors]
    return [
        [
            sum(x * y for x, y in zip(v, w, strict=True)) / (a * b or 1.0)
            for w, b in zip(vectors, lengths, strict=True)
        ]
        for v, a in zip(vectors, lengths, strict=True)
    ]


def vispruner(
    saliency: list[float], hidden: tuple[Vector, ...], k: int, important: float
) -> list[int]:
    """Survivors of the first half come first in the next round, the most duplicated before the
    least.
    """
    order, alike = descending(saliency), cosines(hidden)
    sure = int(k * important)
    rest = order[sure:] if k > sure else []
    while len(rest) > k - sure:
        evens, odds = rest[::2], rest[1::2]
        duplication = {a: max(alike[a][b] for b in odds) for a in evens}
        most_duplicated_first = sorted(reversed(evens), key=lambda a: -duplication[a])
        drop = min(8, len(rest) - (k - sure))
        rest = most_duplicated_first[drop:] + odds
    return sorted(order[:sure] + rest)


def visionzip(
    saliency: list[float],
    keys: tuple[Vector, ...],
    features: list[list[float]],
    k: int,
    contextual: int,
) -> tuple[list[int], list[list[float]]]:
    order, alike = descending(saliency), cosines(keys)
    dominant, rest = order[: k - contextual], sorted(order[k - contextual :])
    targets = [rest[j * (len(rest) // contextual)] for j in range(contextual)]
    assigned: dict[int, list[int]] = {t: [] for t in targets}
    for j in rest:
        if targets and j not in assigned:
            assigned[max(targets, key=lambda t: alike[j][t])].append(j)
    kept = sorted(dominant + targets)
    merged = []
    for j in kept:
        mine = assigned.get(j)
        if mine:
            mean = [sum(features[m][d] for m in mine) / len(mine) for d in range(len(features[j]))]
            merged.append([(x + y) / 2 for x, y in zip(features[j], mean, strict=True)])
        else:
            merged.append(features[j])
    return kept, merged


def prumerge(
    saliency: list[float],
    keys: tuple[Vector, ...],
    features: list[list[float]],
    k: int,
    spread: float,
    neighbours: int,
) -> tuple[list[int], list[list[float]]]:
    strided = int(spread * k)
    order, alike = descending(saliency), cosines(keys)
    rest = sorted(order[k - strided :])
    kept = sorted(order[: k - strided] + [rest[j * len(rest) // strided] for j in range(strided)])
    if k == len(saliency):
        return kept, features
    merged = []
    for i in kept:
        others = [j for j in range(len(saliency)) if j != i]
        nearest = sorted(others, key=lambda j: -alike[i][j])[:neighbours]
        merged.append(
            [
                y + sum(saliency[j] * features[j][d] for j in nearest)
                for d, y in enumerate(features[i])
            ]
        )
    return kept, merged


def tile_of(row: int, column: int, side: int, places: list[Place]) -> int:
    """The tile under the middle of the thumbnail's token."""
    rows, columns = ([p[axis] for p in places if p[0] > 0] for axis in (1, 2))
    y = min(rows) + math.floor((row + 0.5) / side * (max(rows) - min(rows) + 1))
    x = min(columns) + math.floor((column + 0.5) / side * (max(columns) - min(columns) + 1))
    return next(crop for crop, r, c in places if crop > 0 and (r, c) == (y, x))


def hired(
    saliency: list[float], content: list[float], places: list[Place], k: int, alpha: float
) -> list[int]:
    """Seat after seat goes to the tile with the highest average, votes / (2 · seats + 1), that has
    a token left.
    """
    crops = {
        c: [j for j, p in enumerate(places) if p[0] == c] for c in sorted({p[0] for p in places})
    }
    best = {c: sorted(members, key=lambda j: (-saliency[j], j)) for c, members in crops.items()}
    thumbnail, tiles = crops[0], [c for c in crops if c > 0]
    share = max(min(int(alpha * k), len(thumbnail)), k - sum(len(crops[c]) for c in tiles))
    side = math.isqrt(len(thumbnail))
    voters = sorted(thumbnail, key=lambda j: (-content[j], j))[: int((1 - alpha) * len(thumbnail))]
    votes = Counter(tile_of(*places[j][1:], side, places) for j in voters) if tiles else Counter()
    seats = dict.fromkeys(tiles, 0)
    for _ in range(k - share):
        open_tiles = [c for c in tiles if seats[c] < len(crops[c])]
        winner = max(open_tiles, key=lambda c: (votes[c] / (2 * seats[c] + 1), -seats[c], -c))
        seats[winner] += 1
    return sorted(best[0][:share] + [j for c in tiles for j in best[c][: seats[c]]])


def hiprune(
    middle: list[float], deep: list[float], places: list[Place], k: int, alpha: float
) -> list[int]:
    """Neighbours by their number in the crop, row after row: one more or less, a row's length more
    or less.
    """
    anchors = descending(middle)[: round(alpha * k / 5)]
    beside = set()
    for j in anchors:
        crop = [i for i, p in enumerate(places) if p[0] == places[j][0]]
        width = len({places[i][2] for i in crop})
        for number in (crop.index(j) + step for step in (-1, 1, -width, width)):
            beside.add(crop[min(max(number, 0), len(crop) - 1)])
    buffers = [j for j in descending(deep) if j in beside and j not in anchors]
    registers = [j for j in descending(deep) if j not in beside and j not in anchors]
    return sorted((anchors + buffers + registers)[:k])


def prunesid(saliency: list[float], hidden: tuple[Vector, ...], k: int) -> list[int]:
    """Groups by the right singular vectors of channels × tokens; in each, survivors go first."""
    count, groups = len(hidden), max(1, k // 4)
    channels = torch.tensor(hidden, dtype=torch.float64).sigmoid().T
    _, sizes, axes = torch.linalg.svd(channels - channels.mean(0), full_matrices=False)
    used = [c for c in range(min(groups, len(sizes))) if sizes[c] ** 2 > 1e-9 * sizes[0] ** 2]
    group = [max(used, key=lambda c: abs(axes[c, j]), default=0) for j in range(count)]

    alike, order = cosines(hidden), descending(saliency)
    pairs = [alike[i][j] for i in range(count) for j in range(i)]
    threshold = 18 * k / count * sum(pairs) / max(1, len(pairs))
    survivors: list[int] = []
    for j in order:
        better = [i for i in survivors if group[i] == group[j]]
        if all(alike[i][j] <= threshold for i in better):
            survivors.append(j)

    size = [group.count(c) for c in range(groups)]
    surviving = [sum(group[j] == c for j in survivors) for c in range(groups)]
    most = [min(s, 5 * math.ceil(k / 64)) for s in surviving]
    while sum(most) < k:
        most = [min(m + 1, s) for m, s in zip(most, size, strict=True)]
    quota, reached, rest = [], 0, k - sum(s > 0 for s in size)
    for c in range(groups):
        share = round(sum(surviving[: c + 1]) * rest / sum(surviving))
        quota.append(min((size[c] > 0) + share - reached, most[c]))
        reached = share
    for c in descending([float(s) for s in surviving]):
        quota[c] += min(most[c] - quota[c], k - sum(quota))
    kept: list[int] = []
    for c in range(groups):
        turn = [j for j in survivors if group[j] == c]
        turn += [j for j in order if group[j] == c and j not in survivors]
        kept += turn[: quota[c]]
    return sorted(kept)
