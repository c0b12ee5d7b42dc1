"""Which token ids of a prompt say nothing about the image."""

from typing import Any

from adafv.models.prompting import prompt_for
from adafv.utils.checks import checked

__all__ = ["STOP_WORDS", "boilerplate"]

_WORDS = """
    a an the this that these those it its i me my we us our you your he him his she her they them their
    is are was were be been being am do does did has have had can could will would shall should may might must
    of in on at to from for with by as into onto and or but if than then so
    there here what which who whose where when why how any some please
    . , ? ! : ; ' "
"""
STOP_WORDS = tuple(_WORDS.split())
"""English function words and punctuation.

Words of place, number and negation (left, above, many, not) are none.
"""

_QUESTION = "zzqx"


@checked
def boilerplate(processor: Any, stop_words: bool = True) -> frozenset[int]:
    """Token ids of the chat template's own words and, if wanted, of English function words: for
    `Pruner(skip=…)`.

    What the template writes doesn't count as a word of the question anyway (see
    `adafv.core.turns`). Function words do, and each may claim visual tokens with its softmax: words
    that are in every prompt, or that no patch can look like, then spend budget on whatever they
    happen to resemble. Skipping them leaves the budget to the words that name something.

    Ids are skipped wherever they stand, in the user's own text too: with a template that says
    "USER:" a question's colon doesn't count either. A question of nothing else is all text around
    the image that isn't skipped, or, where there is none, no word at all.

    Args:
        processor: with a tokenizer and, usually, a chat template.
        stop_words: also skip `STOP_WORDS`, as far as they are single tokens.
    """
    tokenizer = processor.tokenizer
    prompt = prompt_for(processor, _QUESTION)
    start = prompt.rindex(_QUESTION)
    tokens = tokenizer(prompt, return_offsets_mapping=True, add_special_tokens=False)
    outside = {
        token
        for token, (first, last) in zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)
        if last <= start or first >= start + len(_QUESTION)
    }
    if stop_words:
        variants = (
            v
            for word in STOP_WORDS
            for v in (word, word.capitalize(), " " + word, " " + word.capitalize())
        )
        pieces = [tokenizer(variant, add_special_tokens=False)["input_ids"] for variant in variants]
        outside |= {ids[0] for ids in pieces if len(ids) == 1}
    return frozenset(
        outside - {tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids(processor.image_token)}
    )
