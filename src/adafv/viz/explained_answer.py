"""Explanations of an answer: collected, and drawn when they are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from adafv.core.pruner import Pruner
from adafv.core.selection import Selection
from adafv.core.visual_tokens import Encoding
from adafv.families import check_has_grid, family_of
from adafv.methods import NoPruning
from adafv.models.ask import Answer, ask
from adafv.models.images import to_rgb
from adafv.models.prompting import build_inputs
from adafv.models.videos import Video
from adafv.ops.budget import share_of
from adafv.utils.checks import checked
from adafv.viz.grids import Maps, Scale
from adafv.viz.pieces import pieces
from adafv.viz.stages import Stage, stages
from adafv.viz.surface import edges, surface_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Explanation",
    "Word",
    "check_drawable",
    "explained",
    "explanation",
    "question_words",
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
    attention: Array  # (N,)
    share: float

    @property
    def strongest(self) -> float:
        """Return the highest attention to any visual token."""
        return float(self.attention.max())


@dataclass(frozen=True)
class Explanation:
    """An answer and what led to it: N visual tokens, K of them kept.

    It shows itself as a page in a notebook.

    Attributes:
        image, question, method, budget: what was asked, of whom; K as asked for.
        view: left, top, right, bottom of what the model sees, in pixels of the image; beyond it
            lies padding.
        scales: the grids, the finest first; a thumbnail comes second. Empty where it is not known
            where tokens lie.
        kept: (K,) indices; of a method that prunes between layers, what its last stage leaves.
        merged: the kept tokens are averages.
        saliency, relevance: (N,) a_v and a_t, where the method uses them.
        words: in the order of the question, where the method reads it.
        split: k_t and k_v, where the method mixes; of a budget that is divided among crops, sums.
        curves: the split is the best of one mixture of all tokens, which can be drawn.
        reserve: tokens that each list is sure of.
        dense, pruned: the two answers; dense is None where the model cannot read every token.
        frames: of a video, which `image` shows side by side; 0 for an image.
        stages: what is left after each, where the method prunes between layers.
        by_crop: the budget is divided among the crops, each of which splits its own.
        attention: saliency is where the vision tower looks; else, in families whose tower shows no
            attention and where a method's options say so, how far a token differs from the others.
    """

    image: Image.Image
    question: str
    method: str
    budget: int
    view: tuple[float, float, float, float]
    scales: list[Scale]
    kept: Array  # (K,)
    merged: bool
    saliency: Array | None  # (N,)
    relevance: Array | None  # (N,)
    words: list[Word]
    split: tuple[int, int] | None
    reserve: int
    dense: Answer | None
    pruned: Answer
    curves: bool = True
    frames: int = 0
    stages: Sequence[Stage] = ()
    by_crop: bool = False
    attention: bool = True

    @property
    def maps(self) -> list[Maps]:
        """Lay scores and choice out as images, one for each of `scales`, the finest first."""
        boxes = (self.view, edges(self.image))  # of the finest grid, and of a thumbnail
        chosen = np.isin(np.arange(self.pruned.visual_tokens), self.kept)  # (N,)

        found = []
        for scale, box in zip(self.scales, boxes, strict=False):
            words = np.zeros((len(self.words), *scale.shape))  # (W, rows, columns)
            for i, word in enumerate(self.words):
                words[i] = scale.map(word.attention)
            found.append(
                Maps(
                    box=box,
                    saliency=None if self.saliency is None else scale.map(self.saliency),
                    relevance=None if self.relevance is None else scale.map(self.relevance),
                    words=words,
                    kept=scale.map(chosen) == 1,
                )
            )
        return found

    def figure(self) -> "Figure":
        """Draw the page: a matplotlib figure that belongs to no window and no pyplot state."""
        from adafv.viz.explain_page import draw  # matplotlib takes a second to import

        return draw(self)

    def _repr_png_(self) -> bytes:
        """Show the page in a notebook."""
        buffer = BytesIO()
        self.figure().savefig(buffer, format="png")
        return buffer.getvalue()

    def chosen_by(self) -> tuple[Array, Array]:
        """Say of each kept token whether relevance speaks for it, and whether saliency does.

        A score that the method doesn't look at speaks for none. Of a method that doesn't split its
        budget, or splits that of each crop, either speaks for the K tokens where it is highest.

        Returns:
            (K,) whether it is among the k_t most relevant; (K,) among the k_v most salient ones.
        """
        k_t = k_v = len(self.kept)
        # the sums over crops are no ranks in the whole image
        if self.split is not None and not self.by_crop:
            k_t, k_v = self.split
        return self._highest(self.relevance, k_t), self._highest(self.saliency, k_v)

    def _highest(self, scores: Array | None, count: int) -> Array:
        """Say of each kept token (K,) whether it is among the `count` highest scores (N,)."""
        if scores is None:
            return np.zeros(len(self.kept), dtype=bool)
        highest = np.argsort(-scores, kind="stable")[:count]  # (count,)
        return np.isin(self.kept, highest)


@checked
def explanation(
    model: PreTrainedModel,
    processor: Any,
    image: Image.Image | Video,
    question: str,
    pruner: Pruner,
    max_new_tokens: int = 64,
) -> Explanation:
    """Ask, dense and pruned, and collect what led to the choice.

    Of a video it is drawn on its frames, side by side.

    The pruned model is asked twice and timed the second time, so that neither answer pays for a
    cold start.
    """
    check_drawable(pruner)
    if isinstance(image, Image.Image):
        image = to_rgb(image)
    else:
        # without a grid not even the frame of a token is known
        check_has_grid(model)

    ask(model, processor, image, question, pruner, max_new_tokens=max_new_tokens)
    pruned = ask(model, processor, image, question, pruner, max_new_tokens=max_new_tokens)
    dense = ask(model, processor, image, question, NoPruning(), max_new_tokens=max_new_tokens)

    # the choice once more, for what is drawn
    inputs = build_inputs(processor, image, question, model.device, model.dtype)
    with torch.no_grad():
        encoding = pruner.encode(model, inputs)
        selection = pruner.choose(encoding)
    return explained(
        model,
        processor,
        inputs=inputs,
        image=image,
        question=question,
        pruner=pruner,
        encoding=encoding,
        selection=selection,
        dense=dense,
        pruned=pruned,
    )


@checked
def check_drawable(pruner: Pruner) -> None:
    """Raise a `ValueError` if a method keeps no tokens of the image that is asked about."""
    if pruner.shrinks:
        raise ValueError(
            f"{pruner.name} shrinks the whole image, so no patch of it is kept or dropped: "
            "pass e.g. adafv"
        )


@checked
@torch.no_grad()
def explained(
    model: PreTrainedModel,
    processor: Any,
    *,
    inputs: Mapping[str, Any],
    image: Image.Image | Video,
    question: str,
    pruner: Pruner,
    encoding: Encoding,
    selection: Selection,
    dense: Answer | None,
    pruned: Answer,
) -> Explanation:
    """Collect what led to an answer that is there already.

    A method that prunes between layers has the model read the prompt once more.

    Args:
        inputs: the prompt, see `build_inputs`.
        image: or the video.
        encoding: of it.
        selection: what `pruner` chose from it.
        dense: the answer from all tokens; None: there is none.
        pruned: the answer from those kept.

    Raises:
        ValueError: a model of an unproven family that reads an image in several parts.
    """
    parts = len(encoding.tokens.counts)
    if parts > 1:
        raise ValueError(
            f"the model reads the image in {parts} parts, of which it is not known where they "
            "lie: only `adafv ask` answers about it"
        )
    family = family_of(model)
    surface = surface_of(family, processor, image, encoding)
    evidence = pruner.evidence(encoding.tokens)
    budget = pruner.budget(encoding.tokens.counts[0])

    # what is kept in the end, be it between layers
    kept = np.unique(selection.kept[0].cpu().numpy())  # (K,)
    between = stages(model, inputs, encoding, pruner)
    if between:
        kept = between[-1].kept

    split = None
    if selection.split is not None:
        k_t, k_v = selection.split[0].tolist()
        split = (k_t, k_v)

    return Explanation(
        image=surface.image,
        question=question,
        method=pruner.spec,
        budget=budget,
        view=surface.box,
        scales=surface.grids,
        kept=kept,
        merged=selection.features is not None,
        saliency=_of_first_image(evidence.saliency),
        relevance=_of_first_image(evidence.relevance),
        words=question_words(processor, pruner, encoding, kept),
        split=split,
        reserve=share_of(budget, evidence.reserve),
        # crops that share a budget split it each on their own
        curves=pruner.crops == "global" and getattr(pruner, "mass", "whole") == "whole",
        dense=dense,
        pruned=pruned,
        frames=surface.frames,
        stages=between,
        by_crop=pruner.crops == "each",
        attention=family.attention_observable and evidence.attention,
    )


@checked
def question_words(processor: Any, pruner: Pruner, encoding: Encoding, kept: Array) -> list[Word]:
    """Return what each word of the question has to say in what is kept (K,) of the first image.

    They are none where the method doesn't read the question.
    """
    by_word = pruner.evidence(encoding.tokens).words
    if by_word is None:
        return []
    return words(pieces(processor.tokenizer, pruner, encoding), by_word[0].cpu().numpy(), kept)


@checked
def split_curves(
    relevance: Array, saliency: Array, total: int
) -> tuple[Array, Array, Array, Array]:
    """Compute what every split of `total` tokens captures (arXiv 2501.09532, section 3.3).

    Returns:
        k_t, the share of relevance P_t(k_t), the share of saliency P_v(total - k_t), and their
        geometric mean.
    """
    count = len(relevance)
    k_t = np.arange(max(0, total - count), min(total, count) + 1)  # (splits,)
    mass_t = _mass(relevance)[k_t]  # (splits,)
    mass_v = _mass(saliency)[total - k_t]  # (splits,)
    return k_t, mass_t, mass_v, np.sqrt(mass_t * mass_v)


@checked
def words(pieces: Sequence[tuple[str, bool]], by_word: Array, kept: Array) -> list[Word]:
    """Compute what each word of a question has to say in what is kept.

    Args:
        pieces: text of each of the M tokens of the question, and whether it begins a word.
        by_word: (M, N) attention of each token of the question to each visual token.
        kept: (K,) indices.
    """
    # every word may have been skipped
    if not pieces:
        return []
    # every kept token belongs to the piece that points at it most
    strongest = by_word[:, kept].max(0)  # (K,)
    share = np.zeros(len(pieces))  # (M,)
    np.add.at(share, by_word[:, kept].argmax(0), strongest)
    share /= max(strongest.sum(), 1e-12)

    # pieces of one word count together
    found: list[Word] = []
    for i, (text, begins) in enumerate(pieces):
        if begins or not found:
            found.append(Word(text, by_word[i], float(share[i])))
        else:
            before = found[-1]
            attention = np.maximum(before.attention, by_word[i])
            found[-1] = Word(before.text + text, attention, before.share + float(share[i]))
    return found


def _mass(scores: Array) -> Array:
    """Return the share of all mass that the k largest scores have, for k = 0 … N."""
    prefix = np.concatenate([[0.0], np.sort(scores.astype(float))[::-1].cumsum()])  # (N + 1,)
    return prefix / max(prefix[-1], 1e-300)


def _of_first_image(scores: Tensor | None) -> Array | None:
    """Return the scores (N,) of the first image of (I, N), on the host."""
    return None if scores is None else scores[0].float().cpu().numpy()
