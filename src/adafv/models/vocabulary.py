"""Say what the embedded model does not know: most words, and photographs."""

import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any

from PIL import Image

from adafv import embedded
from adafv.utils.checks import checked

__all__ = [
    "DRAWN",
    "PhotographWarning",
    "photograph_notice",
    "unknown_words",
    "unknown_words_notice",
    "warn_of_photograph",
]

DRAWN = 192
"""Pixels of the scenes that the embedded model was trained on, a side."""

NAMED = 5
"""Unknown words that a notice names."""


class PhotographWarning(UserWarning):
    """An image is beyond the embedded model."""


@checked
def unknown_words(processor: Any, question: str) -> list[str]:
    """Return the words of a question that its tokenizer reads as unknown, each once.

    Punctuation is not a word, and neither is what is no UTF-8.

    Empty for tokenizers that spell out what they don't know.

    Args:
        processor: with a tokenizer.
        question: as a person writes it.
    """
    tokenizer = processor.tokenizer
    # a tokenizer of bytes or pieces has no token for what it does not know
    if tokenizer.unk_token_id is None:
        return []
    unknown = []
    for written in question.split():
        # every category of punctuation begins with P
        word = "".join(c for c in written if unicodedata.category(c)[0] != "P")
        # half a surrogate pair, which no tokenizer takes, is of category Cs
        if not word or any(unicodedata.category(c) == "Cs" for c in word):
            continue
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if tokenizer.unk_token_id in ids:
            unknown.append(word)
    # each once, in the order of the question
    return list(dict.fromkeys(unknown))


@checked
def unknown_words_notice(processor: Any, words: Sequence[str]) -> str:
    """Say in one sentence that words are unknown to the embedded model, and what to do.

    Args:
        processor: of the embedded model.
        words: one or more.
    """
    # not all of a long question's words
    named = ", ".join(repr(word) for word in words[:NAMED])
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    verb = "is" if len(words) == 1 else "are"
    return (
        f"{named}{more} {verb} not among the {len(processor.tokenizer)} words that the embedded "
        "model knows, so its answer need not mean anything: pass --model photo, which `adafv fetch "
        "photo` gets, or a model of your own"
    )


@checked
def photograph_notice(image: Image.Image) -> str:
    """Say in one sentence that an image is beyond the embedded model, and what to do.

    Returns:
        Empty: it is no larger than the model's own.
    """
    if max(image.size) <= DRAWN:
        return ""
    return (
        f"the built-in model knows drawn scenes of {DRAWN} x {DRAWN} pixels, not photographs: "
        "its answer is a guess; `adafv fetch photo` gets a model of the real world, --model takes "
        "any other"
    )


@checked
def warn_of_photograph(image: Image.Image, model: str) -> None:
    """Warn with a `PhotographWarning` where the embedded model is asked about a photograph.

    Args:
        model: name of the model.
    """
    notice = photograph_notice(image) if model == embedded.NAME else ""
    if notice:
        warnings.warn(notice, PhotographWarning, stacklevel=2)
