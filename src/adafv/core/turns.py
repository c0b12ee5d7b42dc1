"""The turns of a chat in token ids: which text the user wrote, and which the chat template did."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from adafv.utils.checks import checked

__all__ = ["Template", "answer_starts", "remember", "template_for", "template_of", "user_turns"]

QUESTION, ANSWER, NEXT = "zzqxa", "zzqxb", "zzqxc"
VICUNA = f"USER: {QUESTION} ASSISTANT: {ANSWER} USER: {NEXT} ASSISTANT:"
SPACES = " \t\r\n▁ĠĊĉč"
LINE_BREAKS = ("<0x0A>", "<0x0D>", "<0x09>")
SPECIAL_ID = re.compile(r"(\w+_)?token_(id|index)")


@checked
@dataclass(frozen=True)
class Template:
    """What a chat template writes around the turns of a chat, as token ids.

    Attributes:
        users: the ids that open a user's turn, any one of them.
        answers: the ids that open an answer, any one of them, the longest first.
        structure: ids that are never words: control tokens and white space.
    """

    users: tuple[tuple[int, ...], ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()
    structure: frozenset[int] = frozenset()

    def including(self, *configs: Any) -> "Template":
        """Return the same with the control tokens that configurations of a model name."""
        named: set[int] = set()
        for config in configs:
            for name, value in vars(config).items() if config is not None else ():
                if SPECIAL_ID.fullmatch(name):
                    numbers = value if isinstance(value, list) else [value]
                    named |= {number for number in numbers if isinstance(number, int)}
        return replace(self, structure=self.structure | named)


@checked
def template_for(model: PreTrainedModel, tokenizer: Any = None) -> Template:
    """Return the template of a model's chats.

    It is read off `tokenizer` if one is given, else off the processor that `adafv.models.load`
    loaded with the model, else off the tokenizer that lies beside the model's files. Nothing is
    downloaded. Where there is none, only the control tokens that the configuration names are known.

    Args:
        tokenizer: the model's tokenizer or processor.
    """
    if tokenizer is not None:
        found = template_of(tokenizer)
    elif base(model) in _remembered:
        found = _remembered[base(model)]
    else:
        found = _beside(str(getattr(model.config, "_name_or_path", "") or ""))
    config = model.config
    return found.including(
        config, config.get_text_config(), getattr(model, "generation_config", None)
    )


@checked
def remember(model: PreTrainedModel, processor: Any) -> None:
    """Note the processor that a model was loaded with, for `template_for`, of the model and of its
    base.
    """
    whole = base(model)
    for part in (whole, whole.base_model):
        _remembered[part] = template_of(processor)


@checked
def template_of(tokenizer: Any) -> Template:
    """Read off a tokenizer or processor what its chat template writes around the turns of a chat.

    A short chat is rendered, and what stands before, between and behind its sentences is
    tokenized. Without a chat template it is the one of Vicuna: "USER: … ASSISTANT: …".

    Raises:
        ValueError: neither a tokenizer nor a processor with one.
    """
    if not hasattr(getattr(tokenizer, "tokenizer", tokenizer), "get_vocab"):
        raise ValueError(
            f"tokenizer is a {type(tokenizer).__name__}: pass the model's tokenizer, or its processor"
        )
    written = getattr(tokenizer, "chat_template", None)
    if tokenizer not in _read or _read[tokenizer][0] != written:
        _read[tokenizer] = (written, _template_of(tokenizer))
    return _read[tokenizer][1]


def _template_of(tokenizer: Any) -> Template:
    words = getattr(tokenizer, "tokenizer", tokenizer)
    blank = _white_space(words)
    structure = _control(words) | blank
    if not getattr(words, "is_fast", False):
        return Template(structure=structure)
    opening, to_answer, to_user, closing = _gaps(words, _chat(tokenizer))
    # white space before a sentence may become part of its first token
    opening, to_user = _stripped(opening, blank), _stripped(to_user, blank)
    return Template(
        users=_openings(_common([opening[::-1], to_user[::-1]])[::-1], opening, to_user, words),
        answers=_openings(_common([to_answer, closing]), to_answer, closing, words),
        structure=structure,
    )


@checked
def user_turns(ids: Tensor, answered: Tensor, template: Template) -> list[tuple[int, int]]:
    """Return where the user's turns of a prompt begin and end, in reading order.

    Args:
        ids: (L,) the prompt.
        answered: (L,) true where the caller says that an answer stands.
        template: of its chat. Where nothing in the prompt opens a turn as it does, all that is no
            answer is the user's.

    Returns:
        Pairs of a first column and the column behind the last.
    """
    tokens = ids.tolist()
    users, answers = _found(tokens, template.users), _found(tokens, template.answers)
    given = _runs(answered)
    opens = {end for _, end in users}
    if not opens:
        opens = {0} | {end for _, end in given}
    closes = {start for start, _ in [*users, *answers, *given]} | {len(tokens)}

    turns = []
    for start in sorted(opens):
        end = min(place for place in closes if place >= start)
        if end > start:
            turns.append((start, end))
    return turns


@checked
def answer_starts(ids: Tensor, answered: Tensor, template: Template) -> list[int]:
    """Return the columns where the answers of a prompt (L,) begin, in reading order."""
    openings = {end for _, end in _found(ids.tolist(), template.answers)}
    return sorted(openings | {start for start, _ in _runs(answered)})


def base(model: PreTrainedModel) -> Any:
    """Return what a model is without adapters of PEFT around it."""
    return getattr(model, "get_base_model", lambda: model)()


_remembered: WeakKeyDictionary[Any, Template] = WeakKeyDictionary()
_read: WeakKeyDictionary[Any, tuple[Any, Template]] = WeakKeyDictionary()


@cache
def _beside(folder: str) -> Template:
    """The template of the tokenizer in a model's folder, or in the cache of the hub."""
    if not folder:
        return Template()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        return template_of(tokenizer)
    except Exception:  # whatever keeps a tokenizer from loading: the model is none the worse
        return Template()


def _control(tokenizer: Any) -> frozenset[int]:
    """Ids of the control tokens; what stands for an unknown word is none."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    control = {number for number, token in added.items() if token.special}
    control |= set(tokenizer.all_special_ids)
    return frozenset(control - {tokenizer.unk_token_id})


def _white_space(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that are white space, as byte-level and SentencePiece vocabularies write
    it.
    """
    tokens = tokenizer.get_vocab().items()
    return frozenset(
        number for token, number in tokens if not token.strip(SPACES) or token in LINE_BREAKS
    )


def _chat(tokenizer: Any) -> str:
    """A chat of two turns in the model's own template, the second unanswered."""
    if getattr(tokenizer, "chat_template", None) is None:
        return VICUNA
    turns = [("user", QUESTION), ("assistant", ANSWER), ("user", NEXT)]
    as_lists = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    as_texts = [{"role": role, "content": text} for role, text in turns]
    for messages in (as_lists, as_texts):
        try:
            chat = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
        except Exception:  # a template raises whatever its author liked
            continue
        if all(
            isinstance(chat, str) and chat.count(word) == 1 for word in (QUESTION, ANSWER, NEXT)
        ):
            return chat
    return VICUNA


def _gaps(tokenizer: Any, chat: str) -> list[tuple[int, ...]]:
    """Ids of what stands before, between and behind the three sentences of a chat."""
    tokens = tokenizer(chat, return_offsets_mapping=True, add_special_tokens=False)
    edges = [0]
    for word in (QUESTION, ANSWER, NEXT):
        edges += [chat.index(word), chat.index(word) + len(word)]
    edges.append(len(chat))
    gaps = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        gap = [
            token
            for token, (first, last) in zip(
                tokens["input_ids"], tokens["offset_mapping"], strict=True
            )
            if start <= first and last <= end and first < last
        ]
        gaps.append(tuple(gap))
    return gaps


def _openings(
    shared: tuple[int, ...], one: tuple[int, ...], other: tuple[int, ...], tokenizer: Any
) -> tuple[tuple[int, ...], ...]:
    """What opens a turn: what two openings share if it says something, else either of them."""
    known = {x for x in (one, other) if _says_something(x, tokenizer)}
    if _says_something(shared, tokenizer):
        known.add(shared)
    return tuple(sorted(known, key=lambda opening: (-len(opening), opening)))


def _stripped(ids: tuple[int, ...], blank: frozenset[int]) -> tuple[int, ...]:
    """Ids without the white space at their end."""
    count = len(ids)
    while count and ids[count - 1] in blank:
        count -= 1
    return ids[:count]


def _says_something(ids: tuple[int, ...], tokenizer: Any) -> bool:
    """Whether ids hold a control token or a letter, and no unknown word: no sentence holds them by
    chance.
    """
    if tokenizer.unk_token_id in ids:
        return False
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    return bool(special & set(ids)) or any(c.isalpha() for c in tokenizer.decode(list(ids)))


def _common(sequences: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest common beginning."""
    shared = []
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        shared.append(tokens[0])
    return tuple(shared)


def _found(tokens: list[int], openings: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Where openings stand in a prompt: first column and the column behind; no two overlap."""
    first_ids = {opening[0] for opening in openings}
    found, end = [], 0
    for start, token in enumerate(tokens):
        if token not in first_ids or start < end:
            continue
        match = next((o for o in openings if tokens[start : start + len(o)] == list(o)), ())
        if match:
            end = start + len(match)
            found.append((start, end))
    return found


def _runs(true: Tensor) -> list[tuple[int, int]]:
    """Where the runs of true columns (L,) begin and end."""
    edges = true.int().diff(prepend=true.new_zeros(1).int(), append=true.new_zeros(1).int())
    starts, ends = (edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))
