"""What a chat template writes around the turns of a chat, in token ids."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.utils import cached_file

from adafv.utils.adapters import without_adapters
from adafv.utils.checks import checked

__all__ = [
    "Template",
    "Tokenizer",
    "remember",
    "template_for",
    "template_of",
]

Tokenizer = PreTrainedTokenizerBase | ProcessorMixin
"""A tokenizer, or a processor that has one."""
Ids = tuple[int, ...]

# three sentences that no chat template holds
QUESTION = "zzqxa"
ANSWER = "zzqxb"
NEXT = "zzqxc"
SENTENCES = (QUESTION, ANSWER, NEXT)
VICUNA = f"USER: {QUESTION} ASSISTANT: {ANSWER} USER: {NEXT} ASSISTANT:"
"""A chat of two turns for models without a chat template."""

SPACES = " \t\r\n▁"
"""White space, as SentencePiece vocabularies write it."""
OF_BYTES = "ĠĊĉč"
"""The same as byte-level vocabularies write it, to which no letter is a token of its own."""
LINE_BREAKS = ("<0x0A>", "<0x0D>", "<0x09>")
SPECIAL_ID = re.compile(r"(\w+_)?token_(id|index)")
"""Names that configurations give to the ids of control tokens."""


@checked
@dataclass(frozen=True)
class Template:
    """The ids that a chat template writes around the turns of a chat, as token ids.

    Attributes:
        users: the ids that open a user's turn, any one of them.
        answers: the ids that open an answer, any one of them, the longest first.
        structure: ids that are never text: control tokens and white space.
    """

    users: tuple[Ids, ...] = ()
    answers: tuple[Ids, ...] = ()
    structure: frozenset[int] = frozenset()

    def including(self, *configs: PreTrainedConfig | GenerationConfig | None) -> "Template":
        """Return the same with the control tokens that configurations of a model name."""
        named: set[int] = set()
        for config in configs:
            if config is None:
                continue
            for name, value in vars(config).items():
                if not SPECIAL_ID.fullmatch(name):
                    continue
                numbers = value if isinstance(value, list) else [value]
                named.update(number for number in numbers if isinstance(number, int))
        return replace(self, structure=self.structure | named)


@checked
def template_for(model: PreTrainedModel, tokenizer: Tokenizer | None = None) -> Template:
    """Return the template of a model's chats.

    It is read off `tokenizer` if one is given, else off the processor that `adafv.models.load`
    loaded with the model, else off the tokenizer in the folder of the model. Nothing is downloaded.
    Without any of these, only the control tokens that the configuration names are known.

    Args:
        tokenizer: the model's tokenizer or processor.
    """
    if tokenizer is not None:
        found = template_of(tokenizer)
    elif without_adapters(model) in _remembered:
        found = template_of(_remembered[without_adapters(model)])
    else:
        found = _in_folder(str(getattr(model.config, "_name_or_path", "") or ""))
    config: PreTrainedConfig = model.config
    generation = getattr(model, "generation_config", None)
    return found.including(config, config.get_text_config(), generation)


@checked
def remember(model: PreTrainedModel, processor: Tokenizer) -> None:
    """Note the processor that a model, and its base, was loaded with, for `template_for`."""
    unwrapped = without_adapters(model)
    for part in (unwrapped, unwrapped.base_model):
        _remembered[part] = processor


@checked
def template_of(tokenizer: Tokenizer) -> Template:
    """Read off a tokenizer or processor what its chat template writes around the turns of a chat.

    A short chat is rendered, and what stands before, between and behind its sentences is
    tokenized. Without a chat template it is the one of Vicuna: "USER: … ASSISTANT: …".

    Raises:
        ValueError: neither a tokenizer nor a processor with one.
    """
    if not hasattr(getattr(tokenizer, "tokenizer", tokenizer), "get_vocab"):
        raise ValueError(
            f"tokenizer is a {type(tokenizer).__name__}: pass the model's tokenizer, or its "
            "processor"
        )
    # read once, and once more if its chat template was changed, or a token added
    words: Any = getattr(tokenizer, "tokenizer", tokenizer)
    state = (getattr(tokenizer, "chat_template", None), len(words), tuple(words.all_special_ids))
    if tokenizer not in _read or _read[tokenizer][0] != state:
        _read[tokenizer] = (state, _template_of(tokenizer))
    return _read[tokenizer][1]


def _template_of(processor: Tokenizer) -> Template:
    tokenizer: Any = getattr(processor, "tokenizer", processor)
    blank = _white_space(tokenizer)
    structure = _control(tokenizer) | blank
    if not getattr(tokenizer, "is_fast", False):
        # without offsets nobody knows which ids are whose
        return Template(structure=structure)

    # what stands before, between and behind the sentences of a chat
    opening, to_answer, to_user, closing = _gaps(tokenizer, _chat(processor))

    # white space before a sentence may become part of its first token
    opening = _stripped(opening, blank)
    to_user = _stripped(to_user, blank)

    # a user's turn opens with what the two openings end in, an answer with what they begin with
    end = _common([opening[::-1], to_user[::-1]])[::-1]
    beginning = _common([to_answer, closing])
    return Template(
        users=_openings(end, opening, to_user, tokenizer),
        answers=_openings(beginning, to_answer, closing, tokenizer),
        structure=structure,
    )


_remembered: WeakKeyDictionary[PreTrainedModel, Tokenizer] = WeakKeyDictionary()
_read: WeakKeyDictionary[Tokenizer, tuple[object, Template]] = WeakKeyDictionary()


_in_folders: dict[str, Template] = {}
_without: dict[str, object] = {}  # the files of folders in which there was no tokenizer


def _in_folder(folder: str) -> Template:
    """Return the template of the tokenizer in a model's folder, or in the cache of the hub.

    One that comes later is found then.
    """
    if folder in _in_folders:
        return _in_folders[folder]
    files = _files_of(folder)
    if not folder or (files is not None and _without.get(folder) == files):
        return Template()
    template = _read_folder(folder)
    if template is None:
        _without[folder] = files
        return Template()
    _in_folders[folder] = template
    return template


def _files_of(folder: str) -> object:
    """Return what a folder holds, and of when; None: there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries)
    except OSError:
        return None


def _read_folder(folder: str) -> Template | None:
    """Return the template of the tokenizer in a folder, None if there is no tokenizer."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception:  # whatever keeps a tokenizer from loading: the model runs without it
        return None

    # a file that processors read, and tokenizers don't
    file = cached_file(
        folder,
        "chat_template.json",
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is not None:
        tokenizer.chat_template = _template_in(Path(file))
    return template_of(tokenizer)


def _template_in(file: Path) -> str:
    """Read chat_template.json.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["chat_template"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({error!r}): what is a word of the user cannot be told without "
            "the chat template; fetch the file again"
        ) from None


def _control(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of the control tokens; the one for unknown words is not among them."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    control = {number for number, token in added.items() if token.special}
    control |= set(tokenizer.all_special_ids)
    return frozenset(control - {tokenizer.unk_token_id})


def _white_space(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of the tokens that are white space."""
    vocabulary = tokenizer.get_vocab()
    # in any other vocabulary these are letters: č is one in Czech
    is_byte_level = "Ġ" in vocabulary and "▁" not in vocabulary
    spaces = SPACES + OF_BYTES if is_byte_level else SPACES
    blank: set[int] = set()
    for token, number in vocabulary.items():
        if not token.strip(spaces) or token in LINE_BREAKS:
            blank.add(number)
    return frozenset(blank)


def _chat(processor: Tokenizer) -> str:
    """Return a chat of two turns in the model's own template, the second unanswered."""
    if getattr(processor, "chat_template", None) is None:
        return VICUNA

    # templates of processors take a message in parts, those of tokenizers as text
    as_parts: list[dict[str, Any]] = []
    as_texts: list[dict[str, Any]] = []
    for role, text in (("user", QUESTION), ("assistant", ANSWER), ("user", NEXT)):
        as_parts.append({"role": role, "content": [{"type": "text", "text": text}]})
        as_texts.append({"role": role, "content": text})

    for messages in (as_parts, as_texts):
        try:
            chat = processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
        except Exception:  # a template raises whatever its author liked
            continue
        # each sentence once, as it was written
        if isinstance(chat, str) and all(chat.count(sentence) == 1 for sentence in SENTENCES):
            return chat
    return VICUNA


def _gaps(tokenizer: PreTrainedTokenizerBase, chat: str) -> list[Ids]:
    """Return the ids of what stands before, between and behind the three sentences of a chat."""
    encoded = tokenizer(chat, return_offsets_mapping=True, add_special_tokens=False)
    tokens = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))

    # in characters: a gap begins behind a sentence and ends before the next
    starts = [0]
    ends: list[int] = []
    for sentence in SENTENCES:
        start = chat.index(sentence)
        ends.append(start)
        starts.append(start + len(sentence))
    ends.append(len(chat))

    gaps: list[Ids] = []
    for start, end in zip(starts, ends, strict=True):
        gap: list[int] = []
        for token, (first, last) in tokens:
            # a token that reaches into a sentence is no part of the gap
            if start <= first < last <= end:
                gap.append(token)
        gaps.append(tuple(gap))
    return gaps


def _openings(
    shared: Ids, one: Ids, other: Ids, tokenizer: PreTrainedTokenizerBase
) -> tuple[Ids, ...]:
    """Return what opens a turn, the longest first.

    What two openings share if it says something, and either of them if it does.
    """
    known = {ids for ids in (shared, one, other) if _says_something(ids, tokenizer)}
    return tuple(sorted(known, key=lambda opening: (-len(opening), opening)))


def _stripped(ids: Ids, blank: frozenset[int]) -> Ids:
    """Return ids without the white space at their end."""
    count = len(ids)
    while count and ids[count - 1] in blank:
        count -= 1
    return ids[:count]


def _says_something(ids: Ids, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether ids hold a control token or a letter, and no unknown word.

    No sentence holds them by chance then.
    """
    if tokenizer.unk_token_id in ids:
        return False
    special = set(tokenizer.all_special_ids)
    special |= set(getattr(tokenizer, "added_tokens_decoder", {}))
    if special & set(ids):
        return True
    return any(character.isalpha() for character in tokenizer.decode(list(ids)))


def _common(sequences: Sequence[Ids]) -> Ids:
    """Return the longest common beginning of several sequences."""
    shared: list[int] = []
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        shared.append(tokens[0])
    return tuple(shared)
