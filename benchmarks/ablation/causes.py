"""What goes with the answers that `adafv+` loses: facts of each choice beside logged answers.

README.md beside this has the commands.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from adafv.core.encode import encode, reask
from adafv.core.signals import HIDDEN, SALIENCY
from adafv.data.suites import load_suite
from adafv.evaluation.boxes import distances, patches
from adafv.evaluation.own import is_own, name_of, own_images, own_samples
from adafv.evaluation.prepared_images import PreparedImages
from adafv.methods import AdaFVPlus
from adafv.models.load import load

LONG = 3.0
"""Standard deviations above the mean length of a tower's tokens, from which one is an artefact."""
FEW = (0, 1, 3, 6)
"""Tokens in the boxes, from which a group of questions begins."""


def facts(
    encoding: Any, grid: Any, boxes: Any, kept: Tensor, relevance: Tensor, boxed: Tensor
) -> dict[str, float]:
    """Return what a choice is like.

    Args:
        encoding: of one question on one image.
        grid: (N, 4) middles and half sizes of the patches.
        boxes: of the question.
        kept: (K,) indices.
        relevance: (N,) a_t.
        boxed: (N,) true in a box of any question on the image.
    """
    inside = distances(grid, boxes).isfinite().any(1)
    hidden = encoding.tokens.signals[HIDDEN][0].float().norm(dim=-1)
    long = hidden > hidden.mean() + LONG * hidden.std()
    thumbnail = encoding.tokens.coordinates[0][:, 0] == 0
    large, small = kept[thumbnail[kept]], kept[~thumbnail[kept]]
    away = torch.from_numpy(abs(grid[small.numpy(), None, :2] - grid[large.numpy(), :2]))
    doubles = (away <= torch.from_numpy(grid[large.numpy(), 2:])).all(-1).any(1)
    return {
        "evidence": float(inside[kept].sum()),
        "evidence_share": float(inside[kept].sum() / inside.sum().clamp(min=1)),
        "points_at_it": float(inside[relevance.argmax()]),
        "relevance_on_it": float(relevance[inside].sum()),
        "artefacts": float((long & ~boxed)[kept].float().mean()),
        "doubles": float(doubles.sum() / len(kept)),
    }


def measured(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the facts of every question that all tokens answer right, and whether it is lost."""
    right = {}
    for line in given.answers.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        key = (record["suite"], record["id"], record["question"])
        right[(*key, record["method"], record["keep"])] = record["correct"]

    model, processor = load(given.model, dtype=given.dtype)
    for suite in given.suite.split(","):
        if is_own(suite):
            samples = own_samples(own_images(suite))
        else:
            samples = load_suite(suite, given.limit, given.seed, "validation")
        for sample in samples:
            prepared = PreparedImages(processor, [sample.image])
            inputs = []
            for question in sample.questions:
                asked = prepared.ask([0], [question.text], model.device, model.dtype)
                inputs.append(asked)
            whole = encode(model, inputs[0], signals=frozenset({SALIENCY, HIDDEN}), text=True)
            grid = patches(processor, sample.image.size, whole.tokens.coordinates[0])
            boxes = tuple(box for question in sample.questions for box in question.boxes)
            boxed = distances(grid, boxes).isfinite().any(1)
            for index, question in enumerate(sample.questions):
                key = (name_of(suite), sample.id, index)
                if not question.boxes or not right.get((*key, "none", 1.0)):
                    continue
                encoding = reask(model, inputs[index], whole, [0], text=True)
                for keep in given.keep:
                    own = right.get((*key, given.method, keep))
                    if own is None:
                        continue
                    pruner = AdaFVPlus(keep=keep)
                    kept = pruner.choose(encoding).kept[0]
                    relevance = pruner.relevance(encoding.tokens)[0]
                    found = facts(encoding, grid, question.boxes, kept, relevance, boxed)
                    yield {
                        "suite": key[0],
                        "keep": keep,
                        "type": question.type,
                        "lost": not own,
                    } | found


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the means of lost and held answers, and how many are lost by tokens in the boxes."""
    rows = []
    for suite, keep in dict.fromkeys((one["suite"], one["keep"]) for one in found):
        own = [one for one in found if (one["suite"], one["keep"]) == (suite, keep)]
        row: dict[str, Any] = {"suite": suite, "keep": keep, "n": len(own)}
        for name, lost in (("lost", True), ("held", False)):
            some = [one for one in own if one["lost"] == lost]
            row[name] = {"n": len(some)}
            for fact in list(own[0])[4:]:
                row[name][fact] = round(mean(one[fact] for one in some), 4) if some else None
        row["by_evidence"] = []
        for low, high in zip(FEW, (*FEW[1:], float("inf")), strict=True):
            some = [one for one in own if low <= one["evidence"] < high]
            lost = sum(one["lost"] for one in some)
            row["by_evidence"].append({"from": low, "n": len(some), "lost": lost})
        rows.append(row)
    return rows


@torch.no_grad()
def main() -> None:
    """Write the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.05, 0.025, 0.0125])
    parser.add_argument("--method", default="adafv+", help="under which the choice is logged")
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = summary(list(measured(given)))
    given.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
