"""What led to an answer: collected, and drawn when it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.layerwise import LayerPruner
from adafv.core.pruner import Pruner, Selection
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import Encoding
from adafv.families import check_has_grid
from adafv.methods import AdaFV, AdaFVPlus, NoPruning, TextToImage
from adafv.models.ask import Answer, ask
from adafv.models.prompting import build_inputs
from adafv.ops.cosine import standardised_cosines
from adafv.ops.relevance import text_to_image_attention
from adafv.utils.checks import checked
from adafv.viz.regions import Maps, Scale, scales, view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Explanation",
    "Word",
    "check_drawable",
    "explained",
    "explanation",
    "split_curves",
    "words",
]

Array = NDArray[Any]


@dataclass(frozen=True)
class Word:
    """A word of the question.

    Attributes:
        text: the word.
        attention: (N,) to each visual token; the highest of its pieces'.
        share: of all relevance that is kept, the part which lies on tokens that this word points at
            most.
    """

    text: str
    attention: Array
    share: float

    @property
    def strongest(self) -> float:
        """The highest attention to any visual token."""
        return float(self.attention.max())


@dataclass(frozen=True)
class Explanation:
    """What led to an answer; N visual tokens, K of them kept. Shows itself as a page in a notebook.

    Attributes:
        image, question, method, budget: what was asked, of whom; K as asked for.
        view: left, top, right, bottom of what the model sees, in pixels of the image.
        scales: the grids, the finest first; a thumbnail comes second.
        kept: (K,) indices.
        merged: the kept tokens are averages.
        saliency, relevance: (N,) a_v and a_t, where the method uses them.
        words: in the order of the question, where the method reads it.
        split: k_t and k_v, where the method mixes.
        reserve: tokens that each list is sure of.
        dense, pruned: the two answers.
    """

    image: Image.Image
    question: str
    method: str
    budget: int
    view: tuple[float, float, float, float]
    scales: list[Scale]
    kept: Array
    merged: bool
    saliency: Array | None
    relevance: Array | None
    words: list[Word]
    split: tuple[int, int] | None
    reserve: int
    dense: Answer
    pruned: Answer

    @property
    def maps(self) -> list[Maps]:
        """Scores and choice as images, one for each of `scales`: the finest first, a thumbnail
        second.
        """
        whole = (0.0, 0.0, float(self.image.width), float(self.image.height))
        chosen = np.isin(np.arange(self.pruned.visual_tokens), self.kept)
        return [
            Maps(
                box=box,
                saliency=None if self.saliency is None else scale.map(self.saliency),
                relevance=None if self.relevance is None else scale.map(self.relevance),
                words=np.array([scale.map(word.attention) for word in self.words]).reshape(
                    -1, *scale.shape
                ),
                kept=scale.map(chosen) == 1,
            )
            for scale, box in zip(self.scales, (self.view, whole), strict=False)
        ]

    def figure(self) -> "Figure":
        """The page: a matplotlib figure that belongs to no window and no pyplot state."""
        from adafv.viz.panels import draw  # matplotlib takes a second to import

        return draw(self)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.figure().savefig(buffer, format="png")
        return buffer.getvalue()

    def chosen_by(self) -> tuple[Array, Array]:
        """For each kept token whether it is among the k_t most relevant and among the k_v most
        salient ones.
        """
        none = np.zeros(len(self.kept), dtype=bool)
        if self.split is None or self.relevance is None or self.saliency is None:
            return none, none
        lists = ((self.relevance, self.split[0]), (self.saliency, self.split[1]))
        by_relevance, by_saliency = (
            np.isin(self.kept, np.argsort(-s, kind="stable")[:k]) for s, k in lists
        )
        return by_relevance, by_saliency


@checked
def explanation(
    model: PreTrainedModel,
    processor: Any,
    image: Image.Image,
    question: str,
    pruner: Pruner,
    max_new_tokens: int = 64,
) -> Explanation:
    """Ask, dense and pruned, and collect what led to the choice.

    The pruned model is asked twice and timed the second time, so that neither answer pays for a
    cold start.
    """
    check_drawable(model, pruner)
    image = image.convert("RGB")
    ask(model, processor, image, question, pruner, max_new_tokens=max_new_tokens)
    pruned = ask(model, processor, image, question, pruner, max_new_tokens=max_new_tokens)
    dense = ask(model, processor, image, question, NoPruning(), max_new_tokens=max_new_tokens)
    inputs = build_inputs(processor, image, question, model.device, model.dtype)
    with torch.no_grad():
        encoding = pruner.encode(model, inputs)
        selection = pruner.choose(encoding)
    return explained(processor, image, question, pruner, encoding, selection, dense, pruned)


@checked
def check_drawable(model: PreTrainedModel, pruner: Pruner) -> None:
    """Raise a `ValueError` if what a method keeps of a model's visual tokens cannot be drawn on a
    image.
    """
    if isinstance(pruner, LayerPruner):
        raise ValueError(
            f"{pruner.name} chooses between the layers of the model, which no page shows: pass e.g. adafv"
        )
    check_has_grid(model)


@checked
@torch.no_grad()
def explained(
    processor: Any,
    image: Image.Image,
    question: str,
    pruner: Pruner,
    encoding: Encoding,
    selection: Selection,
    dense: Answer,
    pruned: Answer,
) -> Explanation:
    """What led to an answer that is there already: `selection` by `pruner` from the `encoding` of
    one image.
    """
    relevance, by_word = _relevance(pruner, encoding)
    saliency = encoding.tokens.signals.get(SALIENCY) if SALIENCY in pruner.signals else None
    if isinstance(pruner, AdaFV):
        relevance, saliency = pruner.attentions(encoding.tokens)
    budget = pruner.budget(encoding.tokens.counts[0])
    kept = np.unique(selection.kept[0].cpu().numpy())
    split = None if selection.split is None else selection.split[0].tolist()
    return Explanation(
        image=image,
        question=question,
        method=pruner.spec,
        budget=budget,
        view=view(processor, image.size, encoding.tokens.coordinates[0]),
        scales=scales(encoding.tokens.coordinates[0]),
        kept=kept,
        merged=selection.features is not None,
        saliency=None if saliency is None else saliency[0].float().cpu().numpy(),
        relevance=None if relevance is None else relevance[0].cpu().numpy(),
        words=[]
        if by_word is None
        else words(_pieces(processor.tokenizer, pruner, encoding), by_word, kept),
        split=None if split is None else (split[0], split[1]),
        reserve=int(getattr(pruner, "reserve", 0.0) * budget),
        dense=dense,
        pruned=pruned,
    )


@checked
def split_curves(
    relevance: Array, saliency: Array, total: int
) -> tuple[Array, Array, Array, Array]:
    """What every split of `total` places captures (arXiv 2501.09532, section 3.3).

    Returns:
        k_t, the share of relevance P_t(k_t), the share of saliency P_v(total - k_t), and their
        geometric mean.
    """
    count = len(relevance)
    k_t = np.arange(max(0, total - count), min(total, count) + 1)
    mass_t, mass_v = _mass(relevance)[k_t], _mass(saliency)[total - k_t]
    return k_t, mass_t, mass_v, np.sqrt(mass_t * mass_v)


@checked
def words(pieces: Sequence[tuple[str, bool]], by_word: Array, kept: Array) -> list[Word]:
    """What each word of a question has to say in what is kept.

    Args:
        pieces: text of each of the M tokens of the question, and whether it begins a word.
        by_word: (M, N) attention of each token of the question to each visual token.
        kept: (K,) indices.
    """
    owner = np.cumsum([begins for _, begins in pieces]) - 1
    strongest = by_word[:, kept].max(0)
    share = np.zeros(len(pieces))
    np.add.at(share, by_word[:, kept].argmax(0), strongest)
    share /= max(strongest.sum(), 1e-12)
    out = []
    for word in range(owner[-1] + 1 if len(owner) else 0):
        members = owner == word
        text = "".join(piece for (piece, _), member in zip(pieces, members, strict=True) if member)
        out.append(Word(text, by_word[members].max(0), float(share[members].sum())))
    return out


def _mass(scores: Array) -> Array:
    prefix = np.concatenate([[0.0], np.sort(scores.astype(float))[::-1].cumsum()])
    return prefix / max(prefix[-1], 1e-300)


def _relevance(pruner: Pruner, encoding: Encoding) -> tuple[Tensor | None, Array | None]:
    """a_t (1, N) as the method computes it, and beside it each word's own attention (M, N)."""
    tokens = encoding.tokens
    if not isinstance(pruner, TextToImage) or tokens.text is None:
        return None, None
    text, visual = tokens.text[0].float(), tokens.features[0].float()
    if isinstance(pruner, AdaFVPlus):
        standing = (
            standardised_cosines(tokens.text, tokens.features, tokens.mask)[0] / pruner.temperature
        )
        return pruner.score(tokens), (standing - standing.max()).exp().cpu().numpy()
    if pruner.center:
        text, visual = text - text.mean(0), visual - visual.mean(0)
    each = text_to_image_attention(
        text[:, None], visual.expand(len(text), -1, -1), temperature=pruner.temperature
    )  # a batch in which every word is a question of its own
    return pruner.score(tokens), each.cpu().numpy()


def _pieces(tokenizer: Any, pruner: Pruner, encoding: Encoding) -> list[tuple[str, bool]]:
    """Text of the question's tokens, and whether each begins a word."""
    span = encoding.spans[0]
    ids = encoding.prompt.ids[
        span.row, encoding.prompt.question(span, frozenset(pruner.skip), encoding.question)
    ]
    names = tokenizer.convert_ids_to_tokens(
        ids if pruner.query is None else cast(Tensor, pruner.query).cpu()
    )
    marked = any(name.startswith(("▁", "Ġ")) for name in names)
    texts = [
        name.replace("▁", "").replace("Ġ", "").replace("Ċ", "↵").replace("<0x0A>", "↵")
        for name in names
    ]
    begins = [
        not marked or i == 0 or name.startswith(("▁", "Ġ")) or not (text + texts[i - 1]).isalnum()
        for i, (name, text) in enumerate(zip(names, texts, strict=True))
    ]
    return list(zip(texts, begins, strict=True))
