"""The methods in plain loops, close to their papers: the oracles of the fast implementations."""

import math
from fractions import Fraction

import torch


def descending(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda j: (-scores[j], j))


def prefix_sums(scores: list[float], order: list[int]) -> list[Fraction]:
    sums = [Fraction(0)]
    for j in order:
        sums.append(sums[-1] + Fraction(scores[j]))
    return sums


def sure(scores: list[float], k: int, reserve: float) -> int:
    """How many tokens a list is sure of: the reserve, as far as it has any mass."""
    return min(math.floor(reserve * k + 1e-9), sum(score > 0 for score in scores))


def best_split(
    relevance: list[float],
    saliency: list[float],
    total: int,
    sure_t: int,
    sure_v: int,
    beyond: bool = False,
) -> tuple[int, int]:
    """Every split k_t + k_v = total is tried, in exact arithmetic; of equal ones the smaller k_t.

    The authors' code counts what is captured from the reserved tokens on, the paper from the first
    on.
    """
    p_t = prefix_sums(relevance, descending(relevance))
    p_v = prefix_sums(saliency, descending(saliency))
    n, best = len(relevance), None
    for k_t in range(sure_t, n + 1):
        k_v = total - k_t
        if sure_v <= k_v <= n:
            product = (p_t[k_t] - beyond * p_t[sure_t]) * (p_v[k_v] - beyond * p_v[sure_v])
            if best is None or product > best[0]:
                best = (product, k_t, k_v)
    assert best is not None
    return best[1], best[2]


def sacmam(
    relevance: list[float], saliency: list[float], k: int, reserve: float, mass: str = "whole"
) -> tuple[list[int], int, int]:
    """The union of the best split of the smallest K' >= K whose union has K tokens."""
    sure_t, sure_v = sure(relevance, k, reserve), sure(saliency, k, reserve)
    for total in range(k, 2 * len(relevance) + 1):
        k_t, k_v = best_split(relevance, saliency, total, sure_t, sure_v, mass == "beyond")
        union = set(descending(relevance)[:k_t]) | set(descending(saliency)[:k_v])
        if len(union) >= k:
            return sorted(union), k_t, k_v
    raise AssertionError("no total is enough")


def text_to_image_attention(
    text: torch.Tensor, visual: torch.Tensor, temperature: float = 0.01
) -> list[float]:
    """(M, D) words, (N, D) tokens."""
    rows = []
    for word in text.double():
        cosines = [float(word @ token / (word.norm() * token.norm())) for token in visual.double()]
        highest = max(cosines)
        weights = [math.exp((c - highest) / temperature) for c in cosines]
        rows.append([w / sum(weights) for w in weights])
    return [max(row[j] for row in rows) for j in range(len(visual))]


def standing_out(text: torch.Tensor, visual: torch.Tensor, temperature: float) -> list[float]:
    """AdaFV+: every word's cosines in standard deviations from their mean; the largest, and a
    softmax.
    """
    best = [-math.inf] * len(visual)
    for word in text.double():
        cosines = [float(word @ token / (word.norm() * token.norm())) for token in visual.double()]
        mean = sum(cosines) / len(cosines)
        deviation = math.sqrt(sum((c - mean) ** 2 for c in cosines) / len(cosines))
        best = [max(b, (c - mean) / deviation) for b, c in zip(best, cosines, strict=True)]
    weights = [math.exp((b - max(best)) / temperature) for b in best]
    return [w / sum(weights) for w in weights]


def places(coordinates: list[list[int]]) -> list[tuple[float, float]]:
    """Where each patch of an image is, as shares of its height and width: thumbnail and tiles are
    one plane.
    """
    found = []
    for crop, row, column in coordinates:
        own = [c for c in coordinates if (c[0] == 0) == (crop == 0)]
        height = max(r for _, r, _ in own) + 1
        width = max(c for _, _, c in own) + 1
        found.append(((row + 0.5) / height, (column + 0.5) / width))
    return found


def nearness(
    relevance: list[float], at: list[tuple[float, float]], width: float, cells: int = 24
) -> list[float]:
    """AdaFV+: the mean relevance around each token, by a Gaussian; as a share of the largest.

    Others are where the middle of their cell of a raster is.
    """
    middles = [[(min(int(x * cells), cells - 1) + 0.5) / cells for x in place] for place in at]
    means = []
    for y, x in at:
        weights = [math.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * width**2)) for v, u in middles]
        means.append(sum(w * r for w, r in zip(weights, relevance, strict=True)) / sum(weights))
    return [mean / max(means) for mean in means]


def unsaid(scores: list[float], features: torch.Tensor, crops: list[int], k: int) -> list[int]:
    """AdaFV+: the K best of the 8 K highest scores, each times 1 - the largest cosine with a token
    of a higher score, both in the thumbnail (crop 0) or both in tiles.
    """
    unit = [feature.double() / feature.double().norm() for feature in features]
    order = descending(scores)[: 8 * k]
    left = {}
    for place, j in enumerate(order):
        better = [i for i in order[:place] if (crops[i] == 0) == (crops[j] == 0)]
        said = max([0.0, *(float(unit[j] @ unit[i]) for i in better)])
        left[j] = scores[j] * (1 - said)
    return sorted(sorted(order, key=lambda j: -left[j])[:k])


def released(
    relevance: list[float],
    saliency: list[float],
    coordinates: list[list[int]],
    k: int,
    reserve: float,
) -> list[int]:
    """The authors' code as released, step by step; ids may repeat.

    It numbers the patches of uncut tiles, one tile after the other, each as large as the thumbnail.
    """
    crop = [c for c, _, _ in coordinates]
    crops = max(crop) + 1
    side = math.isqrt(crop.count(0))
    number = [row % side * side + column % side for _, row, column in coordinates]
    token = {
        c * side * side + place: j for j, (c, place) in enumerate(zip(crop, number, strict=True))
    }
    per_crop = int(int(k / 2) / crops)
    total = 2 * per_crop * crops
    t_list = descending(relevance)[:total]
    v_list, v_score = [], []
    for c in range(crops):
        own = [j for j in range(len(crop)) if crop[j] == c]
        for j in sorted(own, key=lambda j: -saliency[j])[: 2 * per_crop]:
            v_list.append(token.get(number[j] + c, side * side - 1))
            v_score.append(saliency[j])
    sure = int(reserve * total)
    kept = t_list[:sure] + v_list[:sure]
    rest_t, rest_v = t_list[sure:], descending(v_score[sure:])
    p_t = prefix_sums(relevance, rest_t)
    p_v = prefix_sums(v_score[sure:], rest_v)
    left = total - 2 * sure
    splits = [k1 for k1 in range(left + 1) if k1 < len(p_t) and left - k1 < len(p_v)]
    k1 = max(splits, key=lambda k1: (p_t[k1] * p_v[left - k1], -k1))
    kept += rest_t[:k1] + [v_list[sure:][j] for j in rest_v[: left - k1]]
    return sorted(kept)


def received_attention(query, key, scale, sees):
    """Mean attention each key receives, over heads and the queries that see it; a query that is
    padding has none.
    """
    batch, heads, count, _ = query.shape
    received = torch.zeros(batch, count)
    for b in range(batch):
        for j in range(count):
            rows = []
            for i in range(count):
                if sees[b, i, i] and sees[b, i, j]:
                    for h in range(heads):
                        logits = torch.stack(
                            [query[b, h, i] @ key[b, h, k] * scale for k in range(count)]
                        )
                        rows.append(logits.masked_fill(~sees[b, i], -torch.inf).softmax(0)[j])
            received[b, j] = torch.stack(rows).mean() if rows else 0
    return received
