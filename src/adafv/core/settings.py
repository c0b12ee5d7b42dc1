"""What a pruner is told, and what its method says of itself."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from adafv.core.chat_template import Tokenizer
from adafv.core.config import TEMPLATE, PruneConfig, TemplateIds, check_type, skipped
from adafv.core.inputs import question_ids
from adafv.core.prompt import Question
from adafv.core.signals import Signal
from adafv.ops.budget import check_budget, check_share, num_keep, refuse_auto
from adafv.utils.checks import one_of

__all__ = ["Settings"]

# The budget stands apart, the others belong to a prompt.
NOT_AN_OPTION = ("keep", "tokens", "query", "tokenizer", "skip")


@dataclass(kw_only=True)
class Settings:
    """Keeps what every pruner is told: its budget, and how it reads and rebuilds prompts.

    Options that are `shares` of the budget are checked here.

    Args:
        keep: share of each image's visual tokens that is kept, 0 < keep <= 1;
            K = max(1, floor(keep · N + 0.5)).
        tokens: K itself; give one of the two. More than an image has keeps them all. N counts the
            patches of every crop, not the newline tokens.
        positions: "packed": kept tokens are numbered anew, as in the paper; "original": they keep
            the position ids of the full prompt, which grounding needs. Models with M-RoPE, whose
            position ids are rows and columns, always keep them.
        crops: "global": the crops of an image compete for one budget. "each": every crop is an
            image of its own and gets a share of K in proportion to its tokens, the largest
            remainders rounded up; published figures of LLaVA-NeXT are mostly so, and methods that
            compare tokens with each other are many times cheaper.
        newlines: what becomes of the newline tokens of an image that is pruned. "drop" (the
            authors), "rows": those of rows that keep a token (reads the selection back from the
            device), "all". Tokens that a processor writes between rows or tiles (Pixtral's breaks,
            names of tiles) are text of the prompt: they stay, and no budget counts them.
        query: the question for every image, as text or as (M,) or (1, M) token ids. None: the
            user's own text, see `question`.
        question: "turn": an image is asked about by what the user says in its turn, before it and
            after it, so that later turns of a chat and answers never change what is kept of it;
            "chat": by what later turns say, too. The text of the chat template and control tokens
            don't count.
        tokenizer: that of the model, or its processor: for a query in text, and to know the chat
            template. None: that of `adafv.models.load`, or the one in the folder of the model, see
            `adafv.core.chat_template.template_for`.
        skip: token ids that don't count as text tokens of the question, e.g.
            `adafv.models.boilerplate.boilerplate(processor)`.
        strict: a prompt without an image is an error instead of passing through.

    Raises:
        ValueError: keep or tokens out of range, neither or both given, an option that is unknown or
            of a wrong type.
    """

    keep: float | None = None
    tokens: int | None = None
    positions: Literal["packed", "original"] = "packed"
    crops: Literal["global", "each"] = "global"
    newlines: Literal["drop", "rows", "all"] = "drop"
    query: str | Tensor | None = field(default=None, repr=False)
    question: Question = "turn"
    tokenizer: Tokenizer | None = field(default=None, repr=False)
    skip: Iterable[int] = field(default=(), repr=False)
    strict: bool = False

    # what a method says of itself
    name: ClassVar[str]
    paper: ClassVar[str] = ""
    signals: ClassVar[frozenset[Signal]] = frozenset()
    needs_text: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    exact: ClassVar[bool] = True
    layerwise: ClassVar[bool] = False
    shrinks: ClassVar[bool] = False
    stepwise: ClassVar[bool] = False
    cubic: ClassVar[bool] = False
    shares: ClassVar[tuple[str, ...]] = ()

    def __new__(cls, *_: Any, **options: Any) -> Self:
        """Refuse keep="auto" before an option that would go with it is found unknown."""
        refuse_auto(options.get("keep"))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            # a number of NumPy's or PyTorch's
            if getattr(value, "ndim", None) == 0:
                value = value.item()
                setattr(self, option.name, value)
        self.check_options()
        self.skip = skipped(self.skip)
        if isinstance(self.query, str):
            self.query = self._token_ids(self.query)
        elif self.query is not None:
            self.query = question_ids(self.query)

    def check_options(self) -> None:
        """Raise a `ValueError` for an option that is out of its range; one may be assigned, too."""
        for option in fields(self):
            if option.name not in NOT_AN_OPTION:
                check_type(option.name, getattr(self, option.name), option.type, option.default)
        check_budget(self.keep, self.tokens)
        one_of("positions", self.positions, "packed", "original")
        one_of("crops", self.crops, "global", "each")
        one_of("newlines", self.newlines, "drop", "rows", "all")
        one_of("question", self.question, "turn", "chat")
        if self.layerwise and self.crops != "global":
            raise ValueError(
                f"crops={self.crops!r} divides a budget before the language model, {self.name} "
                "prunes inside it: pass crops='global'"
            )

        for name in self.shares:
            check_share(name, getattr(self, name))

    def _token_ids(self, query: str) -> Tensor:
        """Tokenize a query (M,)."""
        if self.tokenizer is None:
            raise ValueError(
                f"query={query!r} is text: pass tokenizer=processor too, or its token ids"
            )
        # a processor has its tokenizer inside
        tokenizer = getattr(self.tokenizer, "tokenizer", self.tokenizer)
        encoded = tokenizer(query, add_special_tokens=False, return_tensors="pt")
        ids: Tensor = encoded["input_ids"][0]  # (1, M) -> (M,)
        return ids

    @property
    def config(self) -> PruneConfig:
        """Return the method, its options where they differ from the defaults, and the budget.

        `adafv.methods.from_config` reads it; the ids of `skip=template` are that word. Query and
        tokenizer belong to a prompt, and are not among them.
        """
        options: dict[str, Any] = {}
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name not in NOT_AN_OPTION and value != option.default:
                options[option.name] = value
        if isinstance(self.skip, TemplateIds):
            options["skip"] = TEMPLATE
        elif self.skip:
            options["skip"] = sorted(self.skip)
        return PruneConfig(self.name, self.keep, self.tokens, options)

    @property
    def spec(self) -> str:
        """Return the method without its budget: "adafv", or "adafv:reserve=0.5".

        `adafv.methods.from_spec` reads it.
        """
        return self.config.spec

    def budget(self, count: int) -> int:
        """Return K for an image of `count` visual tokens.

        Raises:
            ValueError: a budget that was assigned is out of its range.
        """
        check_budget(self.keep, self.tokens)
        return num_keep(count, self.keep, self.tokens)

    @property
    def _query(self) -> Tensor | None:
        """Return the (M,) ids of the query; text became ids when the pruner was made."""
        assert not isinstance(self.query, str)
        return self.query
