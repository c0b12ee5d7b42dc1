"""One question, explained: what the tower attends to, what the words point at, how the budget was
split, what stays.
"""

from pathlib import Path
from typing import Any

from PIL import Image
from transformers import PreTrainedModel

from adafv.core.pruner import Pruner
from adafv.utils.checks import checked
from adafv.utils.files import atomic
from adafv.viz.collect import (
    Explanation,
    Word,
    check_drawable,
    explained,
    explanation,
    split_curves,
)
from adafv.viz.compare import explanations, side_by_side
from adafv.viz.regions import Maps, Scale, scales, shade, token_map, view

__all__ = [
    "Explanation",
    "Maps",
    "Scale",
    "Word",
    "check_drawable",
    "explain",
    "explained",
    "explanation",
    "explanations",
    "scales",
    "shade",
    "side_by_side",
    "split_curves",
    "token_map",
    "view",
]


@checked
def explain(
    model: PreTrainedModel,
    processor: Any,
    image: Image.Image,
    question: str,
    pruner: Pruner,
    out: str | Path,
    max_new_tokens: int = 64,
) -> dict[str, Any]:
    """Ask a question and draw how its visual tokens were chosen, on one page (AdaFV, arXiv
    2501.09532, Fig. 5).

    Args:
        model, processor: a model of a family in `adafv.families`, and its processor.
        image: the image.
        question: what is asked about it.
        pruner: any method; the page leaves out what it doesn't use.
        out: the PNG file to write.
        max_new_tokens: the longest answer.

    Returns:
        A summary that can be written as JSON: out, method, question, answer, dense_answer,
            visual_tokens,
        kept_tokens, k_t, k_v (None for methods that don't mix), words (word, max, share) and cut:
        whether either answer
        ended because it was max_new_tokens long.

    Raises:
        ValueError: `out` is no PNG file name or cannot be written (before the model runs), or what
            `ask` refuses.
    """
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise ValueError(
            f"out={str(out)!r} is not the name of a PNG file: pass one that ends in .png"
        )
    if out.is_dir():
        raise ValueError(
            f"out={str(out)!r} is a folder: pass the name of a file in it, e.g. {out / 'explain.png'}"
        )
    with atomic(out) as temporary:
        what = explanation(model, processor, image, question, pruner, max_new_tokens)
        what.figure().savefig(temporary, format="png")
    k_t, k_v = what.split or (None, None)
    return {
        "out": str(out),
        "method": what.method,
        "question": question,
        "answer": what.pruned.answer,
        "dense_answer": what.dense.answer,
        "visual_tokens": what.pruned.visual_tokens,
        "kept_tokens": what.pruned.kept_tokens,
        "k_t": k_t,
        "k_v": k_v,
        "words": [{"word": w.text, "max": w.strongest, "share": w.share} for w in what.words],
        "cut": what.pruned.cut or what.dense.cut,
    }
