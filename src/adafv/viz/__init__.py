"""One question, explained: saliency, relevance, the split of the budget, and what is kept."""

from pathlib import Path
from typing import Any

from PIL import Image
from transformers import PreTrainedModel

from adafv.core.pruner import Pruner
from adafv.models.videos import Video
from adafv.utils.checks import checked
from adafv.utils.files import atomic, check_png
from adafv.viz.compare import explanations, side_by_side
from adafv.viz.explained_answer import (
    Explanation,
    Word,
    check_drawable,
    explained,
    explanation,
    question_words,
    split_curves,
)
from adafv.viz.grid_box import grid_box
from adafv.viz.grids import Maps, Scale, scales, shade, token_map
from adafv.viz.stages import Stage, stages

__all__ = [
    "Explanation",
    "Maps",
    "Scale",
    "Stage",
    "Word",
    "check_drawable",
    "explain",
    "explained",
    "explanation",
    "explanations",
    "grid_box",
    "question_words",
    "scales",
    "shade",
    "side_by_side",
    "split_curves",
    "stages",
    "token_map",
]


@checked
def explain(
    model: PreTrainedModel,
    processor: Any,
    image: Image.Image | Video,
    question: str,
    pruner: Pruner,
    out: str | Path,
    max_new_tokens: int = 64,
) -> dict[str, Any]:
    """Ask a question and draw how its visual tokens were chosen, on one page.

    The page is Fig. 5 of AdaFV (arXiv 2501.09532), with the image at hand.

    Args:
        model, processor: a model of a family in `adafv.families`, and its processor.
        image: the image, or a video, which is drawn as its frames side by side.
        question: what is asked about it.
        pruner: any method; the page leaves out what it doesn't use.
        out: the PNG file to write.
        max_new_tokens: the longest answer.

    Returns:
        A summary that can be written as JSON: out, method, question, answer, dense_answer,
        visual_tokens, kept_tokens, kept_indices (of the visual tokens), stages (layers,
        kept_indices: what is left after each, of methods that prune between layers), k_t, k_v
        (None for methods that don't mix), words (word, max, share) and cut: whether either answer
        ended because it was max_new_tokens long.

    Raises:
        ValueError: `out` is not the name of a PNG file or cannot be written (before the model
            runs), or what `ask` refuses.
    """
    out = Path(out)
    check_png(out)

    # a file that cannot be written is refused before the model runs
    with atomic(out) as temporary:
        what = explanation(model, processor, image, question, pruner, max_new_tokens)
        what.figure().savefig(temporary, format="png")
    # `explanation` asks the dense model, too
    assert what.dense is not None

    k_t, k_v = what.split or (None, None)
    words = []
    for word in what.words:
        words.append({"word": word.text, "max": word.strongest, "share": word.share})
    between = []
    for stage in what.stages:
        between.append({"layers": stage.layers, "kept_indices": stage.kept.tolist()})
    return {
        "out": str(out),
        "method": what.method,
        "question": question,
        "answer": what.pruned.answer,
        "dense_answer": what.dense.answer,
        "visual_tokens": what.pruned.visual_tokens,
        "kept_tokens": what.pruned.kept_tokens,
        "kept_indices": what.kept.tolist(),
        "stages": between,
        "k_t": k_t,
        "k_v": k_v,
        "words": words,
        "cut": what.pruned.cut or what.dense.cut,
    }
