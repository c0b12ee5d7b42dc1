"""Have the marks around an image read by visual experts, whichever step of the engine reads them.

ERNIE has experts for visual tokens and others for text; the marks that open and close an image are
visual tokens. vLLM 0.32 tells them by their ids in a step that has tokens of an image, and takes
all for text in any other. The marks may come in another one: where a prompt is read in chunks, or
what is before them is in the prefix cache.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from vllm.forward_context import get_forward_context

__all__ = ["RoutedModel"]


class RoutedModel:
    """A mixin before a model whose experts are chosen by the ids of tokens.

    Attributes:
        visual_token_mask, _set_visual_token_mask: of vLLM's model. None: all is text.
        step_ids: (L,) of the tokens of a step. None: of one that only measures or captures.
    """

    visual_token_mask: Tensor | None
    _set_visual_token_mask: Callable[[Tensor], None]
    step_ids: Tensor | None = None

    def embed_input_ids(self, input_ids: Tensor, *args: Any, **options: Any) -> Tensor:
        """Return embeddings (L, D), and note the ids that `forward` is to tell experts by."""
        self.step_ids = input_ids
        return super().embed_input_ids(input_ids, *args, **options)  # type: ignore[misc]

    def forward(self, *args: Any, **options: Any) -> Any:
        """Run the language model, with experts chosen by ids wherever prompts are read."""
        ids, self.step_ids = self.step_ids, None
        if ids is not None and self.visual_token_mask is None and _reads_prompts():
            self._set_visual_token_mask(ids)
        return super().forward(*args, **options)  # type: ignore[misc]


def _reads_prompts() -> bool:
    """Return whether a step reads several tokens of a request; those of answers are text."""
    # none where vLLM measures its memory
    attention: Any = get_forward_context().attn_metadata or {}
    # not every kernel is told how many: then it may be
    return any(getattr(layer, "max_query_len", 2) > 1 for layer in attention.values())
