"""Find the token ids of a prompt that say nothing about the image."""

from typing import Any

from adafv.core.config import TemplateIds
from adafv.models.prompting import prompt_for
from adafv.utils.checks import checked

__all__ = ["STOP_WORDS", "boilerplate"]

_WORDS = """
    a an the this that these those it its
    i me my we us our you your he him his she her they them their
    is are was were be been being am do does did has have had
    can could will would shall should may might must
    of in on at to from for with by as into onto and or but if than then so
    there here what which who whose where when why how any some please
    . , ? ! : ; ' "
"""
STOP_WORDS = tuple(_WORDS.split())
"""English function words and punctuation.

Words of position, number and negation (left, above, many, not) are not among them.
"""

_QUESTION = "zzqx"  # in no template, so that it tells where the question stands


@checked
def boilerplate(processor: Any, stop_words: bool = True) -> frozenset[int]:
    """Return the token ids of the chat template's own words: for `Pruner(skip=…)`.

    If wanted, English function words are among them.

    What the template writes doesn't count as a word of the question anyway (see
    `adafv.core.turns`). Function words do, and each may claim visual tokens with its
    softmax: words that are in every prompt, or that no patch can look like, then spend budget on
    whatever they happen to resemble. Skipping them leaves the budget to the words that name
    something.

    Ids are skipped wherever they stand, in the user's own text too: with a template that says
    "USER:" a question's colon doesn't count either. For a question of nothing else the nearest
    other turn counts that says something, or, where there is none, no text token at all.

    Args:
        processor: with a tokenizer and, usually, a chat template.
        stop_words: also skip `STOP_WORDS`, as far as they are single tokens.
    """
    tokenizer = processor.tokenizer

    # the template around a question: tokens that lie outside the question's characters
    prompt = prompt_for(processor, _QUESTION)
    start = prompt.rindex(_QUESTION)
    tokens = tokenizer(prompt, return_offsets_mapping=True, add_special_tokens=False)
    outside = set()
    for token, (first, last) in zip(tokens["input_ids"], tokens["offset_mapping"], strict=True):
        if last <= start or first >= start + len(_QUESTION):
            outside.add(token)

    # function words, as tokenizers write them: within a sentence, at its start, after a blank
    if stop_words:
        for word in STOP_WORDS:
            for form in (word, word.capitalize(), " " + word, " " + word.capitalize()):
                ids = tokenizer(form, add_special_tokens=False)["input_ids"]
                # a word of several tokens shares them with words that mean something
                if len(ids) == 1:
                    outside.add(ids[0])

    # unknown words may name something, and the image's placeholder is no text
    image_token = tokenizer.convert_tokens_to_ids(processor.image_token)
    outside -= {tokenizer.unk_token_id, image_token}
    # `skip=template` stands for both kinds of words
    return TemplateIds(outside) if stop_words else frozenset(outside)
