"""Oracles, in plain loops close to the papers: methods that look at the visual tokens themselves.

Vectors are lists of floats. What picks one token at a time returns all of them in the order of
picking.
"""

import math
from collections.abc import Sequence

Vector = Sequence[float]
NOTHING = 1e-9


def dot(x: Vector, y: Vector) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def cosine(x: Vector, y: Vector) -> float:
    norms = math.sqrt(dot(x, x)) * math.sqrt(dot(y, y))
    return dot(x, y) / norms if norms else 0.0


def cosines(xs: Sequence[Vector], ys: Sequence[Vector]) -> list[list[float]]:
    return [[cosine(x, y) for y in ys] for x in xs]


def softmax(logits: Vector) -> list[float]:
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    return [w / sum(weights) for w in weights]


def best(scores: dict[int, float]) -> int:
    """The highest score; of equal ones the lower index."""
    return max(scores, key=lambda j: (scores[j], -j))


def divprune(visual: Sequence[Vector]) -> list[int]:
    distance = [[1 - c for c in row] for row in cosines(visual, visual)]
    rest, chosen = list(range(len(visual))), []
    while rest:
        others = chosen or rest
        nearest = {
            j: min((distance[j][i] for i in others if i != j), default=math.inf) for j in rest
        }
        chosen.append(best(nearest))
        rest.remove(chosen[-1])
    return chosen


def cdpruner(visual: Sequence[Vector], words: Sequence[Vector]) -> list[int]:
    """A determinant is a squared volume: a pick multiplies it by its squared distance from the span
    of those before.
    """
    relevance = [sum(cosine(w, v) for w in words) / max(1, len(words)) for v in visual]
    low, high = min(relevance), max(relevance)
    relevance = [(r - low + 1e-6) / (high - low) if high - low > 1e-12 else 1.0 for r in relevance]
    length = [math.sqrt(dot(v, v)) for v in visual]
    residual = [
        [r * x / (n or 1) for x in v] for r, n, v in zip(relevance, length, visual, strict=True)
    ]
    gain = {j: r * r if length[j] else 0.0 for j, r in enumerate(relevance)}
    chosen = []
    while gain:
        pick = best({j: g if g > NOTHING else 0.0 for j, g in gain.items()})
        height = gain.pop(pick)
        chosen.append(pick)
        if height > NOTHING:
            axis = [x / math.sqrt(height) for x in residual[pick]]
            for j in gain:
                along = dot(residual[j], axis)
                residual[j] = [x - along * a for x, a in zip(residual[j], axis, strict=True)]
                gain[j] -= along * along
    return chosen


def cover(rows: list[list[float]], weight: Vector) -> list[int]:
    """Every time the token whose gain in sum_i max_{j in S} rows[i][j], times its weight, is
    largest.
    """
    covered = [0.0] * len(rows)
    rest, chosen = list(range(len(weight))), []
    while rest:
        gain = {
            j: weight[j] * sum(max(row[j] - c, 0.0) for row, c in zip(rows, covered, strict=True))
            for j in rest
        }
        chosen.append(best(gain))
        rest.remove(chosen[-1])
        covered = [max(c, row[chosen[-1]]) for row, c in zip(rows, covered, strict=True)]
    return chosen


def scope(visual: Sequence[Vector], saliency: Vector, alpha: float) -> list[int]:
    return cover(cosines(visual, visual), [a**alpha for a in saliency])


def mmtok(
    visual: Sequence[Vector],
    hidden: Sequence[Vector],
    words: Sequence[Vector],
    tau_t: float = 0.02,
    tau_v: float = 0.2,
    weight: float = 0.5,
) -> list[int]:
    """Words meet the tokens after the projector, tokens meet each other before it."""
    rows = [
        [p / len(words) for p in softmax([c / tau_t for c in row])]
        for row in cosines(words, visual)
    ]
    rows += [
        [weight * p / len(visual) for p in softmax([c / tau_v for c in row])]
        for row in cosines(hidden, hidden)
    ]
    return cover(rows, [1.0] * len(visual))


def dart(visual: Sequence[Vector], words: Sequence[Vector], k: int, pivots: int = 4) -> list[int]:
    def largest(vectors: Sequence[Vector]) -> list[int]:
        return sorted(range(len(vectors)), key=lambda j: (-sum(map(abs, vectors[j])), j))[:pivots]

    chosen = largest(visual)[:k]
    if len(chosen) == k:
        return sorted(chosen)
    centers = [visual[j] for j in chosen] + [words[j] for j in largest(words)]
    centers += [visual[j] for j in chosen[len(centers) - pivots :]]
    left = k - pivots
    for turn, center in enumerate(centers):
        quota = left // len(centers) + (turn < left % len(centers))
        rest = [j for j in range(len(visual)) if j not in chosen]
        chosen += sorted(rest, key=lambda j: (cosine(center, visual[j]), j))[:quota]
    return sorted(chosen)


def tome(
    visual: Sequence[Vector], keys: Sequence[Vector], k: int
) -> tuple[list[int], list[list[float]]]:
    """Places and features of the tokens that are left."""

    def mean(x: Vector, y: Vector, m: int, n: int) -> list[float]:
        return [(m * a + n * b) / (m + n) for a, b in zip(x, y, strict=True)]

    tokens = [
        (place, list(v), list(key), 1)
        for place, (v, key) in enumerate(zip(visual, keys, strict=True))
    ]
    while len(tokens) > k:
        a, b = tokens[::2], tokens[1::2]
        similarity = cosines([t[2] for t in a], [t[2] for t in b])
        partner = [best(dict(enumerate(row))) for row in similarity]
        order = sorted(range(len(a)), key=lambda i: (-similarity[i][partner[i]], i))
        merged = order[: min(len(tokens) - k, len(tokens) // 2)]
        for i in merged:
            place, feature, key, size = b[partner[i]]
            _, other, other_key, other_size = a[i]
            merged_feature = mean(feature, other, size, other_size)
            merged_key = mean(key, other_key, size, other_size)
            b[partner[i]] = (place, merged_feature, merged_key, size + other_size)
        tokens = sorted([t for i, t in enumerate(a) if i not in merged] + b, key=lambda t: t[0])
    return [t[0] for t in tokens], [t[1] for t in tokens]
