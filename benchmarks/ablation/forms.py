"""What `adafv+` could be instead: each form is one change of it, measured on validation data.

python benchmarks/ablation/forms.py --suite scenes,scenes-text --limit 300 --out OUT
python benchmarks/ablation/forms.py --model photo --dtype bfloat16 --suite FOLDER,… --out OUT
"""

import argparse
import json
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from adafv.core.selection import Selection
from adafv.core.visual_tokens import Encoding, VisualTokens
from adafv.evaluation.evaluate import Evaluation
from adafv.evaluation.paired import paired
from adafv.methods import METHODS
from adafv.methods.adafv_plus import LEAST, SHORTLIST, TINY, AdaFVPlus
from adafv.methods.sfpruner import _leverage
from adafv.models.load import load
from adafv.ops.cosine import word_cosines
from adafv.ops.grid import places

OURS = "form"
"""AdaFV+ as it was, which the others are compared with."""
STARTS: set[int] = set()
"""Ids of the tokens that a word begins with; the tokenizer's, as no method sees it."""


@dataclass(kw_only=True)
class Form(AdaFVPlus):
    """Changes AdaFV+ as it was in one place or several; without an option it is that.

    Args:
        scales: whose tokens take something off: "all"; those "within" the same scale; those
            "across" scales; or all, and one "place" that the other scale has shown counts as said.
        clear: how the words' share falls where they point at nothing: not; by the "entropy" of a_t;
            or by how far its peak is above that of as many normal numbers, the "null".
        words: "equal"; "telling": each by the deviation of its cosines over this image; "peaked":
            each by how far its strongest token is above chance; "whole": sub-words are averaged.
        power: of the discount.
        direct: λ, the share of a_t itself that is added to the score.
        itself: a_t counts beside the nearness.
        cover: "none"; "leverage": the score weighs a ridge leverage; "facility": what a token adds
            to the coverage of the image by better ones, weighed by the score.
        shortlist: times K.
        peak: exponent of the saliency.
        near: exponent of the nearness.
        centred: the discount's cosines are those of features less their mean.
        tail: share of the budget that goes to an even stride over the other tokens.
        local: width of a second, narrower nearness; the two are averaged.
        norms: tokens longer than this many times the median have no saliency.
    """

    scales: Literal["all", "within", "across", "place"] = "all"
    clear: Literal["no", "entropy", "null"] = "no"
    words: Literal["equal", "telling", "peaked", "whole"] = "equal"
    power: float = 1.0
    direct: float = 0.0
    itself: bool = False
    cover: Literal["none", "leverage", "facility"] = "none"
    shortlist: int = SHORTLIST
    peak: float = 1.0
    near: float = 0.5
    centred: bool = False
    tail: float = 0.0
    local: float = 0.0
    norms: float = 0.0

    name = "form"

    def choose(self, encoding: Encoding) -> Selection:
        """Keep tokens as AdaFV+ does, of other words where they are to be whole."""
        if self.words == "whole":
            encoding = replace(encoding, tokens=_whole_words(encoding))
        return super().choose(encoding)

    def pick(self, tokens: VisualTokens, budget: list[int]) -> Selection:
        """Keep the K first tokens of each image's order."""
        score = self.score(tokens)
        kept = []
        for image, (count, k) in enumerate(zip(tokens.counts, budget, strict=True)):
            features = tokens.features[image, :count].float()
            own = score[image, :count].float()
            order = self.ordered(features, own, tokens.coordinates[image], k)
            kept.append(self.with_tail(order, k, count))
        return Selection(kept)

    def with_tail(self, order: Tensor, k: int, count: int) -> Tensor:
        """Return the first of an order and, for a share of K, an even stride over the others."""
        more = math.floor(self.tail * k + 0.5)
        best = order[: k - more].sort().values
        others = torch.ones(count, dtype=torch.bool)
        others[best] = False
        left = others.nonzero()[:, 0]
        stride = (torch.arange(more) + 0.5) * len(left) / max(1, more)
        return torch.cat([best, left[stride.long()]]).sort().values

    def ordered(self, features: Tensor, score: Tensor, coordinates: Tensor, k: int) -> Tensor:
        """Return the tokens of one image, the first to keep first."""
        if self.centred:
            features = features - features.mean(0)
        unit = F.normalize(features, dim=-1, eps=TINY)
        if self.cover == "leverage":
            cosine = (unit @ unit.T).double()[None]
            weight = (score / score.max()).double()[None]
            ridge = weight.mean(1, keepdim=True)
            score = _leverage(cosine, weight, ridge)[0].float()
        order = score.argsort(descending=True, stable=True)
        chance, rest = order.tensor_split([self.shortlist * k])
        if self.cover == "facility":
            cosine = (unit[chance] @ unit.T).clamp(0, 1)  # (S, N)
            reached = cosine.cummax(0).values
            before = F.pad(reached, (0, 0, 1, 0))[:-1]
            left = (cosine - before).clamp(min=0) @ score
        else:
            cosine = (unit @ unit.T).clamp(0, 1)
            cosine = self.of_scales(cosine, coordinates)[chance][:, chance]
            said = cosine.tril(-1).amax(1)
            said = (said * 2**20).round() / 2**20
            left = score[chance] * (1 - said) ** self.power
        return torch.cat([chance[left.argsort(descending=True, stable=True)], rest])

    def of_scales(self, cosine: Tensor, coordinates: Tensor) -> Tensor:
        """Return the cosines (N, N) that count, 0 elsewhere."""
        if self.scales == "all":
            return cosine
        thumbnail = coordinates[:, 0] == 0
        same = thumbnail[:, None] == thumbnail
        if self.scales == "within":
            return cosine * same
        if self.scales == "across":
            return cosine * ~same
        place = places(coordinates, size=None)
        half = 0.5 / (coordinates[thumbnail, 1:].amax(0) + 1)
        near = ((place[:, None] - place).abs() <= half).all(-1)  # (N, N)
        return torch.where(near & ~same, 1.0, cosine)

    def score(self, tokens: VisualTokens) -> Tensor:
        """Return what ranks before the discount (I, N)."""
        saliency = tokens.saliency.float()
        saliency = saliency / saliency.sum(1, keepdim=True)
        if self.norms:
            length = tokens.features.float().norm(dim=-1)
            saliency = saliency * (length < self.norms * length.median(1, keepdim=True).values)
        nearness = self.nearness(tokens).float()
        if self.local:
            narrow = replace(self, spread=self.local, local=0.0)
            nearness = (nearness + narrow.nearness(tokens)) / 2
        relevance = self.relevance(tokens)
        if self.itself:
            peak = relevance.amax(1, keepdim=True).clamp(min=TINY)
            nearness = nearness + relevance / peak
        if self.clear != "no":
            share = self.clearness(tokens, relevance)[:, None]
            nearness = share * nearness + (1 - share)
        score = saliency**self.peak * (LEAST + nearness) ** self.near
        return score + self.direct * relevance

    def clearness(self, tokens: VisualTokens, relevance: Tensor) -> Tensor:
        """Return how clearly the words point at something (I,), 0 to 1."""
        count = tokens.mask.sum(1)
        if self.clear == "entropy":
            entropy = torch.special.entr(relevance).sum(1)
            return 1 - entropy / count.log()
        strongest = (self._sharpened(tokens) * self.temperature).amax((1, 2))
        words = tokens.text_mask.sum(1)
        chance = (2 * (count * words).log()).sqrt()
        return ((strongest - chance) / chance).clamp(0, 1)

    def _sharpened(self, tokens: VisualTokens) -> Tensor:
        sharpened = super()._sharpened(tokens)
        if self.words in ("equal", "whole"):
            return sharpened
        there = tokens.text_mask[..., None]
        z = sharpened.masked_fill(~there, 0)
        if self.words == "telling":
            cosine = word_cosines(tokens.text, tokens.features)
            mask = tokens.mask[:, None]
            count = mask.sum(-1, keepdim=True)
            mean = (cosine * mask).sum(-1, keepdim=True) / count
            weight = (((cosine - mean) * mask).square().sum(-1, keepdim=True) / count).sqrt()
        else:
            chance = (2 * tokens.mask.sum(1).log()).sqrt()[:, None, None]
            weight = (z.amax(2, keepdim=True) * self.temperature / chance).clamp(min=TINY)
        weight = weight * there
        weight = weight / weight.amax(1, keepdim=True).clamp(min=TINY)
        return (z * weight).masked_fill(~there, -torch.inf)


def _whole_words(encoding: Encoding) -> VisualTokens:
    """Return the tokens with each text token the mean of the sub-words of its word."""
    text = encoding.tokens.text.clone()
    for image, (span, asked) in enumerate(zip(encoding.spans, encoding.asked, strict=True)):
        ids = encoding.prompt.ids[span.row, asked].tolist()
        begins = torch.tensor([i == 0 or x in STARTS for i, x in enumerate(ids)])
        word = begins.cumsum(0) - 1
        for number in range(int(word[-1]) + 1 if len(ids) else 0):
            own = (word == number).nonzero()[:, 0]
            text[image, own] = text[image, own].mean(0)
    return replace(encoding.tokens, text=text)


def answer(given: argparse.Namespace) -> None:
    """Answer the questions with every form; an interrupted run goes on where it was."""
    METHODS[Form.name] = Form
    plan = Evaluation(
        methods=given.methods.split(","),
        keeps=given.keep,
        suites=given.suite.split(","),
        limit=given.limit,
        seed=given.seed,
        split="validation",
    )
    model, processor = load(given.model, dtype=given.dtype)
    for token, number in processor.tokenizer.get_vocab().items():
        if not (token[0].isascii() and token[0].isalnum()):
            STARTS.add(number)
    plan.run(model, processor, given.out, name=given.model)


def collected(folders: list[Path]) -> list[dict[str, Any]]:
    """Return accuracies, and differences to `adafv+` on the questions that both have answered."""
    rows = []
    for folder in folders:
        with (folder / "answers.jsonl").open(encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
        cells = defaultdict(list)
        for record in records:
            cells[record["suite"], record["keep"], record["method"]].append(record)
        pruned = [record for record in records if 0 < record["keep"] < 1]
        pairs = {(p["suite"], p["keep"], p["rival"]): p for p in paired(pruned, [OURS])}
        for (suite, keep, method), own in cells.items():
            evidence = [one["evidence_kept"] for one in own if one["evidence_kept"] is not None]
            row = {
                "run": folder.name,
                "suite": suite,
                "keep": keep,
                "method": method,
                "n": len(own),
                "accuracy": round(mean(one["correct"] for one in own), 6),
                "evidence_kept": round(mean(evidence), 6) if evidence else None,
            }
            if (pair := pairs.get((suite, keep, method))) is not None:
                # what the form has more
                row["difference"] = -pair["difference"] + 0.0
                row["ci_low"] = -pair["ci_high"] + 0.0
                row["ci_high"] = -pair["ci_low"] + 0.0
                row["p"] = pair["p"]
            types = defaultdict(list)
            for one in own:
                types[one["type"]].append(one["correct"])
            row["right"] = {name: f"{sum(some)}/{len(some)}" for name, some in types.items()}
            rows.append(row)
    return rows


def main() -> None:
    """Answer, or put together what was answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--suite", default="scenes,scenes-text")
    parser.add_argument("--methods", default=OURS)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.05, 0.025, 0.0125])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--collect", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.collect is None:
        answer(given)
        return
    text = json.dumps({"rows": collected(given.collect)}, indent=1)
    given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
