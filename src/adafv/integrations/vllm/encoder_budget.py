"""Let vLLM's scheduler encode as many images in a step as if nothing were dropped of them.

What it encodes in a step is bounded in placeholders. Of an image these are its kept tokens, so that
a burst of requests has all of its images encoded before anyone's first token. Here the bound is in
all visual tokens of an image, as in stock vLLM, and a step ends sooner. Set by vLLM's own option:

    --ec-manager-config '{"encoder_cache_manager_cls":
        "adafv.integrations.vllm.encoder_budget.EncoderBudget"}'
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

from adafv.integrations.vllm.prune_spec import FIELDS, PruneSpec

__all__ = ["EncoderBudget", "visual_tokens"]

HOOKS = ("can_allocate", "allocate", "get_freed_mm_hashes")


class EncoderBudget(EncoderCacheManager):
    """vLLM's manager of encoded images, which is asked before an image is encoded in a step.

    How long encoded images stay, and how much room they take, is as in vLLM.

    Args:
        cache_size: in kept tokens, as vLLM has it.

    Attributes:
        bound: visual tokens that may be encoded in a step, as vLLM has it.
        charged: those that are encoded in the step that is being filled.
        asked: those of the request's images that may be encoded and are not charged yet, by index.
    """

    def __init__(self, cache_size: int) -> None:
        super().__init__(cache_size)
        self.bound = 0
        self.charged = 0
        self.asked: dict[int, int] = {}

    @classmethod
    def create_manager(cls, *, cache_size: int, vllm_config: Any) -> EncoderCacheManager:
        """Return a manager, as vLLM asks for it when an engine starts.

        Where images come encoded from another engine, it is vLLM's own: they cost no encoding.

        Raises:
            ValueError: this vLLM asks its manager otherwise than 0.32 does.
        """
        for name in HOOKS:
            stock = getattr(EncoderCacheManager, name, None)
            if stock is None or _arguments(stock) != _arguments(getattr(cls, name)):
                raise ValueError(
                    f"vLLM's EncoderCacheManager has another {name} than that of 0.32: install "
                    "vllm>=0.32,<0.34, or pass --ec-manager-config '{}'"
                )
        transfer = vllm_config.ec_transfer_config
        if transfer is not None and transfer.is_ec_consumer:
            return EncoderCacheManager(cache_size)
        return cls(cache_size)

    def can_allocate(
        self,
        request: Any,
        input_id: int,
        encoder_compute_budget: int,
        num_embeds_to_schedule: int,
    ) -> bool:
        """Return whether an image of a request may be encoded in this step.

        An image that is larger than the bound is encoded alone.

        Args:
            request: vLLM's.
            input_id: index of the image in it.
            encoder_compute_budget: what vLLM's own bound has left, in kept tokens.
            num_embeds_to_schedule: kept tokens of the request's images before it that may be.
        """
        # the request's first one: what another one was allowed and did not use is void
        if not num_embeds_to_schedule:
            self.asked = {}
        count = visual_tokens(request.mm_features[input_id])
        taken = self.charged + sum(self.asked.values())
        if not taken:
            # nothing is encoded in this step yet: vLLM's bound is whole
            self.bound = encoder_compute_budget
        elif taken + count > self.bound:
            return False
        if not super().can_allocate(
            request, input_id, encoder_compute_budget, num_embeds_to_schedule
        ):
            return False
        self.asked[input_id] = count
        return True

    def allocate(self, request: Any, input_id: int) -> None:
        """Charge an image that is encoded in this step, and make room for it as vLLM does."""
        self.charged += self.asked.pop(input_id)
        super().allocate(request, input_id)

    def get_freed_mm_hashes(self) -> list[str]:
        """Return what vLLM asks for once a step is filled; the next one starts with nothing."""
        self.charged = 0
        return super().get_freed_mm_hashes()


def _arguments(method: Callable[..., Any]) -> list[str]:
    return list(signature(method).parameters)


def visual_tokens(feature: Any) -> int:
    """Return how many visual tokens the tower makes of an image or video of a request.

    Args:
        feature: vLLM's, with the inputs of the image.
    """
    count: int = feature.mm_position.get_num_embeds()
    field = FIELDS.get(feature.modality)
    # no spec where the image is not in this process (--mm-processor-cache-type shm)
    if feature.data is not None and field in feature.data:
        count = max(count, PruneSpec.read(feature.data[field].data).count)
    return count
