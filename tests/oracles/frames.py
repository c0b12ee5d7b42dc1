"""Oracles, in plain loops close to the papers: methods that compare the frames of a clip.

A clip is a list of frames, a frame a list of vectors by place; `there` tells which of them are
tokens of their own. What is kept are pairs of frame and place, in reading order.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from oracles.diversity import Vector, cosine, softmax

Frames = Sequence[Sequence[Vector]]
Kept = list[tuple[int, int]]


def mean(xs: Sequence[Vector]) -> list[float]:
    return [sum(column) / len(xs) for column in zip(*xs, strict=True)]


def unit(x: Vector) -> list[float]:
    length = math.sqrt(sum(a * a for a in x))
    return [a / length for a in x] if length else list(x)


def minus(x: Vector, y: Vector) -> list[float]:
    return [a - b for a, b in zip(x, y, strict=True)]


def own(there: Sequence[Sequence[bool]]) -> Kept:
    return [(t, p) for t, frame in enumerate(there) for p, has in enumerate(frame) if has]


def change(frames: Frames) -> list[list[float]]:
    found = [[1.0] * len(frames[0])]
    for before, after in pairwise(frames):
        found.append([1 - cosine(x, y) for x, y in zip(before, after, strict=True)])
    return found


def evs(frames: Frames, there: Sequence[Sequence[bool]], k: int) -> Kept:
    changed = change(frames)
    later = [(t, p) for t, p in own(there) if t > 0]
    later.sort(key=lambda at: -changed[at[0]][at[1]])
    return sorted(([at for at in own(there) if at[0] == 0] + later)[:k])


def _best(scores: Sequence[Sequence[float]], there, counts: Sequence[int]) -> Kept:
    """The tokens with the highest scores of each frame."""
    kept = []
    for t, count in enumerate(counts):
        places = [p for p, has in enumerate(there[t]) if has]
        places.sort(key=lambda p: -scores[t][p])
        kept += [(t, p) for p in places[:count]]
    return sorted(kept)


def vidcom2(frames: Frames, there: Sequence[Sequence[bool]], k: int) -> Kept:
    tokens = [x for frame in frames for x in frame]
    center = mean(tokens)
    variance = [
        sum((x[c] - center[c]) ** 2 for x in tokens) / len(tokens) for c in range(len(center))
    ]
    channels = sorted(range(len(center)), key=variance.__getitem__)[: len(center) // 2]
    units = [[unit([x[c] for c in channels]) for x in frame] for frame in frames]

    def similarity(x: Vector, to: Vector) -> float:
        distance = sum(a * a for a in minus(x, to))
        return sum(math.exp(-distance / (2 * 2.0**power)) for power in range(-3, 2))

    of_video = mean([x for frame in units for x in frame])
    to_video = [[similarity(x, of_video) for x in frame] for frame in units]
    to_frame = [[similarity(x, mean(frame)) for x in frame] for frame in units]
    p = softmax([-sum(row) / len(row) / 0.01 for row in to_video])
    # what is equal but for rounding ties
    weights = [round(1 + one - sum(p) / len(p), 12) for one in p]
    both = [
        [round(-a - b, 12) for a, b in zip(x, y, strict=True)]
        for x, y in zip(to_video, to_frame, strict=True)
    ]

    # one token after the other: first one for each frame, the heaviest first, then always to the
    # frame that is furthest below its share
    room = [sum(frame) for frame in there]
    counts = [0] * len(frames)
    for _ in range(k):
        open_frames = [t for t in range(len(frames)) if counts[t] < room[t]]
        empty = [t for t in open_frames if counts[t] == 0]
        if empty:
            t = max(empty, key=lambda t: (weights[t], -t))
        else:
            t = min(open_frames, key=lambda t: ((2 * counts[t] + 1) / weights[t], t))
        counts[t] += 1
    return _best(both, there, counts)


def vcast(frames: Frames, there: Sequence[Sequence[bool]], k: int) -> Kept:
    means = [unit(mean(frame)) for frame in frames]
    curvature = [1.0] * len(frames)
    for t in range(1, len(frames) - 1):
        into, out = minus(means[t], means[t - 1]), minus(means[t + 1], means[t])
        curvature[t] = 1 - cosine(into, out)
    weights = softmax([one / 0.7 for one in curvature])

    least = 1 if k >= len(frames) else 0
    shares = [w * (k - least * len(frames)) for w in weights]
    room = [sum(frame) for frame in there]
    counts = [min(r, least + math.floor(s)) for r, s in zip(room, shares, strict=True)]
    by_remainder = sorted(range(len(frames)), key=lambda t: (-Fraction(shares[t] % 1), t))
    while sum(counts) < k:
        for t in by_remainder:
            if sum(counts) < k and counts[t] < room[t]:
                counts[t] += 1

    scores = []
    for frame, center in zip(frames, means, strict=True):
        lengths = [math.sqrt(sum(a * a for a in x)) for x in frame]
        low, high = min(lengths), max(lengths)
        scores.append(
            [
                1 - cosine(x, center) + (length - low) / (high - low + 1e-6)
                for x, length in zip(frame, lengths, strict=True)
            ]
        )
    return _best(scores, there, counts)
