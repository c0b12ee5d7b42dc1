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


def min_max(scores: Vector) -> list[float]:
    low, high = min(scores), max(scores)
    return [(x - low) / (high - low) if high > low else 0.0 for x in scores]


def mmr(visual: Sequence[Vector], saliency: Vector, diversity: float = 0.3) -> list[int]:
    """The most salient token, then always the one of largest marginal relevance."""
    alike, relevance = cosines(visual, visual), min_max(saliency)
    rest, chosen = list(range(len(visual))), []
    while rest:
        score = {
            j: relevance[j] - diversity * max((alike[j][i] for i in chosen), default=0.0)
            for j in rest
        }
        chosen.append(best(score))
        rest.remove(chosen[-1])
    return chosen


def coverpruner(
    visual: Sequence[Vector], words: Sequence[Vector], temperature: float = 0.02
) -> list[int]:
    """Facility location around the mean token, weighted by what the words attend to."""
    count = len(visual)
    mean = [sum(column) / count for column in zip(*visual, strict=True)]
    centered = [[x - m for x, m in zip(v, mean, strict=True)] for v in visual]
    demand = [0.0 if words else 1 / count] * count
    for row in cosines(words, visual):
        for j, attention in enumerate(softmax([c / temperature for c in row])):
            demand[j] += attention / len(words)
    rows = []
    for w, row in zip(demand, cosines(centered, centered), strict=True):
        # rounded, so that two tokens that are each other's only neighbours tie
        row = [round(c * 2**40) / 2**40 for c in row]
        rows.append([round(w * max(c, 0.0) * 2**50) / 2**50 for c in row])
    return cover(rows, [1.0] * count)


def solve(matrix: list[list[float]], right: Vector) -> list[float]:
    """Gauss' elimination, for a positive definite matrix."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i, row in enumerate(rows):
        for j, other in enumerate(rows):
            if j != i:
                factor = other[i] / row[i]
                rows[j] = [x - factor * y for x, y in zip(other, row, strict=True)]
    return [row[-1] / row[i] for i, row in enumerate(rows)]


def sfpruner(
    visual: Sequence[Vector],
    words: Sequence[Vector],
    saliency: Vector,
    k: int,
    ridge: float = 1.0,
) -> list[int]:
    """The leverage of weighted rows in the space of their features; better ones mask others."""
    relevance = [sum(cosine(w, v) for w in words) / max(1, len(words)) for v in visual]
    low, high = min(relevance), max(relevance)
    relevance = [(r - low + 1e-6) / (high - low) if high - low > 1e-12 else 1.0 for r in relevance]
    weight = [r * s for r, s in zip(relevance, min_max(saliency), strict=True)]
    length = [math.sqrt(dot(v, v)) for v in visual]
    rows = [
        [math.sqrt(w) * x / n for x in v] for w, v, n in zip(weight, visual, length, strict=True)
    ]
    covariance = [
        [sum(row[a] * row[b] for row in rows) for b in range(len(rows[0]))]
        for a in range(len(rows[0]))
    ]
    for a, line in enumerate(covariance):
        line[a] += max(ridge * sum(weight) / len(weight), 1e-12)
    leverage = [dot(row, solve(covariance, row)) for row in rows]
    order = sorted(range(len(visual)), key=lambda j: (-round(leverage[j], 12), j))
    score = {}
    for place, j in enumerate(order):
        masked = max((cosine(visual[j], visual[i]) for i in order[:place]), default=0.0)
        score[j] = leverage[j] * (1 - max(masked, 0.0))
    return sorted(sorted(order, key=lambda j: (-score[j], j))[:k])


class Stack:
    """One crop of StackTok: its affinities, its target, and the tokens it keeps."""

    def __init__(
        self, visual: Sequence[Vector], hidden: Sequence[Vector], words: Sequence[Vector], k: int
    ) -> None:
        count = len(visual)
        self.words = [softmax([c / 0.02 for c in row]) for row in cosines(words, visual)]
        self.rows = [softmax([c / 0.2 for c in row]) for row in cosines(hidden, hidden)]
        self.kept: list[int] = []
        entropy = [-sum(p * math.log(p) for p in row if p) for row in self.words]
        share = sum(entropy) / max(1, len(entropy)) / math.log(count) if count > 1 else 0.0
        self.beta = min(max(share, 0.3), 0.9)
        greedy: list[int] = []
        self.curve = [0.0]
        while len(greedy) < min(k, count):
            rest = [j for j in range(count) if j not in greedy]
            greedy.append(best({j: mean_cover(self.rows, [*greedy, j]) for j in rest}))
            self.curve.append(mean_cover(self.rows, greedy))

    def target(self) -> float:
        return self.beta * self.curve[len(self.kept)]

    def name(self) -> tuple[float, int] | None:
        """What the token to be kept next would add in all, and its index."""
        rest = [j for j in range(len(self.rows)) if j not in self.kept]
        if not rest:
            return None
        gains = []
        for rows in (self.words, self.rows):
            now = mean_cover(rows, self.kept)
            gains.append({j: mean_cover(rows, [*self.kept, j]) - now for j in rest})
        relevant, supporting = gains
        reached = mean_cover(self.rows, self.kept) >= self.target() - 1e-12
        if not (reached and self.words):
            gains.reverse()
        first = gains[0] if max(gains[0].values()) > 1e-15 else gains[1]
        token = best({j: round(gain, 14) for j, gain in first.items()})
        return relevant[token] + supporting[token], token

    def refine(self) -> None:
        for turn in range(len(self.kept)):
            now = mean_cover(self.words, self.kept) + mean_cover(self.rows, self.kept)
            floor = min(self.target(), mean_cover(self.rows, self.kept))
            gain = {}
            for j in range(len(self.rows)):
                swapped = [*self.kept[:turn], j, *self.kept[turn + 1 :]]
                support = mean_cover(self.rows, swapped)
                if j not in self.kept and support >= floor - 1e-14:
                    gain[j] = round(support + mean_cover(self.words, swapped), 14)
            if gain and gain[best(gain)] > now * (1 + 1e-6):
                self.kept[turn] = best(gain)


def mean_cover(rows: list[list[float]], chosen: list[int]) -> float:
    return sum(max((row[j] for j in chosen), default=0.0) for row in rows) / max(1, len(rows))


def stacktok(
    visual: Sequence[Vector],
    hidden: Sequence[Vector],
    words: Sequence[Vector],
    crop: Sequence[int],
    k: int,
    swaps: int = 16,
) -> list[int]:
    """Crops with targets of their own share a budget."""
    members = [[j for j, c in enumerate(crop) if c == number] for number in sorted(set(crop))]
    stacks = [Stack([visual[j] for j in m], [hidden[j] for j in m], words, k) for m in members]
    for _ in range(k):
        named = {c: stack.name() for c, stack in enumerate(stacks)}
        worth = {c: round(token[0], 14) for c, token in named.items() if token}
        stacks[best(worth)].kept.append(named[best(worth)][1])
    for stack in stacks:
        if len(stack.kept) <= swaps:
            stack.refine()
    return sorted(m[j] for m, stack in zip(members, stacks, strict=True) for j in stack.kept)


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
