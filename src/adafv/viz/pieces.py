"""The text of the question's tokens, as it was written."""

from typing import Any, cast

from torch import Tensor

from adafv.core.pruner import Pruner
from adafv.core.visual_tokens import Encoding
from adafv.utils.checks import checked

__all__ = ["pieces"]

MARKS = ("▁", "Ġ")  # before the first piece of a word
BROKEN = "\ufffd"  # what bytes decode to that are no whole character
LONGEST_CHARACTER = 4  # bytes in UTF-8


@checked
def pieces(tokenizer: Any, pruner: Pruner, encoding: Encoding) -> list[tuple[str, bool]]:
    """Return the text of the question's tokens, and whether each begins a word.

    A character may be several tokens: the first of them has its text.
    """
    if pruner.query is None:
        if encoding.asked is None:
            raise ValueError(
                "these images are encoded with a query, which the pruner doesn't have: encode them "
                "with the pruner itself"
            )
        ids = encoding.prompt.ids[encoding.spans[0].row, encoding.asked[0]].tolist()
    else:
        ids = cast(Tensor, pruner.query).tolist()

    # Tokenizers mark where words begin; one that doesn't has words alone.
    names = tokenizer.convert_ids_to_tokens(ids)
    marked = any(name.startswith(MARKS) for name in names)
    found: list[tuple[str, bool]] = []
    before = ""
    start = 0
    for end in range(1, len(ids) + 1):
        # names of bytes are nothing to read: decoded, words are as they were written
        text = tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False)
        whole = not text.endswith(BROKEN) or end - start == LONGEST_CHARACTER
        if not whole and end < len(ids):
            continue
        text = "(unknown)" if ids[start] == tokenizer.unk_token_id else text
        text = text.replace("\n", "↵").strip()
        # a mark may be a token of its own
        inside_word = bool(found) and (not before or (before + text).isalnum())
        begins = not marked or names[start].startswith(MARKS) or not inside_word
        found.append((text, begins))
        found += [("", False)] * (end - start - 1)
        before = text
        start = end
    return found
