"""What happens to a request before the model sees it: tickets, hashes, and as many placeholders as
tokens stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import EmbeddingItems
from vllm.multimodal.processing import BaseMultiModalProcessor, PromptReplacement

from adafv.core.prompt import Prompt, Question, placeholders
from adafv.core.turns import Template, template_of
from adafv.integrations.vllm.meta_model import MetaModel
from adafv.integrations.vllm.options import FIELD, PruneConfig, PruneSpec, pruner_of, settings
from adafv.models.boilerplate import boilerplate

__all__ = ["Pruned"]

DENSE = {"adafv_keep": 1.0}


@dataclass(frozen=True)
class PruneSpecs:
    """Of a prompt: a ticket for each image, and the hashes of everything in it."""

    images: tuple[PruneSpec, ...]
    hashes: Mapping[str, list[str]]


class Pruned(BaseMultiModalProcessor):
    """Stands before vLLM's own processor of a model.

    Everything that decides a choice is in an image's hash.
    """

    def __init__(self, info: Any, dummy_inputs: Any) -> None:
        super().__init__(info, dummy_inputs)
        self.server = settings(info.ctx.model_config)
        PruneConfig.of({}, self.server)

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        asked, rest = _apart(inputs.hf_processor_mm_kwargs)
        if rest and self.server.get("adafv_only"):
            raise ValueError(
                f"mm_processor_kwargs with {', '.join(rest)}: this server takes options of adafv only"
            )
        choice = PruneConfig.of(asked, self.server)
        plain = replace(inputs, hf_processor_mm_kwargs=rest)
        hashes = super()._get_mm_hashes(plain)
        tickets = PruneSpecs(self._tickets(inputs, choice, hashes.get("image", [])), hashes)
        return super().apply(
            replace(plain, hf_processor_mm_kwargs={**rest, FIELD: tickets}), timing_ctx
        )

    def get_dummy_inputs(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> Any:
        """Memory is measured with whole images."""
        return replace(
            super().get_dummy_inputs(seq_len, mm_counts, mm_options), hf_processor_mm_kwargs=DENSE
        )

    def _tickets(
        self, inputs: Any, choice: PruneConfig | None, hashes: Sequence[str]
    ) -> tuple[PruneSpec, ...]:
        if choice is None or choice.dense:
            return tuple(map(PruneSpec, hashes))
        for modality, items in inputs.mm_data_items.items():
            if modality != "image":
                raise ValueError(
                    f"{modality}s are not pruned on vLLM: pass adafv_keep=1 with such a request"
                )
            if isinstance(items, EmbeddingItems):
                raise ValueError("encoded images are not pruned: pass images, or adafv_keep=1")
        template = self.template if "skip=template" in choice.method else ()
        pruner = pruner_of(choice.method, choice.keep, choice.tokens, template)
        words: list[tuple[int, ...]] = [()] * len(hashes)
        if pruner.needs_text or pruner.draws:
            words = self._words(inputs.prompt, len(hashes), choice, frozenset(pruner.skip))
        return tuple(
            PruneSpec(image, choice.method, choice.keep, choice.tokens, own)
            for image, own in zip(hashes, words, strict=True)
        )

    def _words(
        self, ids: Sequence[int], images: int, choice: PruneConfig, skip: frozenset[int]
    ) -> list[tuple[int, ...]]:
        """For each image the ids of the words it is asked about, as the library finds them."""
        config = self.info.get_hf_config()
        tokens = {"image": placeholders(config)["image"]}
        prompt = Prompt({"input_ids": torch.tensor([ids])}, tokens, config.model_type, self.chat)
        of: Question = "turn" if choice.pin == "first" else "chat"
        words = [
            prompt.ids[0, prompt.question(span, skip, of)] for span in prompt.spans([1] * images)
        ]
        return [tuple(found.tolist()) for found in words]

    @cached_property
    def skeleton(self) -> MetaModel:
        return MetaModel(self.info.get_hf_config())

    @cached_property
    def template(self) -> frozenset[int]:
        return boilerplate(self.info.get_hf_processor())

    @cached_property
    def chat(self) -> Template:
        return template_of(self.info.get_hf_processor()).including(self.info.get_hf_config())

    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        tickets = inputs.hf_processor_mm_kwargs[FIELD]
        return (
            {**tickets.hashes, "image": [t.hash for t in tickets.images]}
            if tickets.images
            else tickets.hashes
        )

    def _get_cache_missing_processor_kwargs(
        self, inputs: Any, mm_is_cached: Any
    ) -> Mapping[str, object]:
        kwargs = super()._get_cache_missing_processor_kwargs(inputs, mm_is_cached)
        tickets: Any = kwargs[FIELD]
        cached = mm_is_cached.get("image", [])
        missing = tuple(t for t, known in zip(tickets.images, cached, strict=True) if not known)
        return {**kwargs, FIELD: PruneSpecs(missing, {})}

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        rest, images = _without(hf_kwargs)
        data = super()._apply_hf_processor_main(mm_items, rest)
        if images:
            data[FIELD] = [ticket.tensor() for ticket in images]
        return data

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Any:
        rest, _ = _without(hf_processor_mm_kwargs)
        fields = super()._get_mm_fields_config(hf_inputs, rest)
        return {**fields, FIELD: MultiModalFieldConfig.batched("image", keep_on_cpu=True)}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        rest, images = _without(hf_processor_mm_kwargs)
        updates = super()._get_prompt_updates(mm_items, rest, out_mm_kwargs)
        return [
            self._shorter(u, images, out_mm_kwargs) if u.modality == "image" else u for u in updates
        ]

    def _shorter(
        self, update: PromptReplacement, images: Sequence[PruneSpec], kwargs: Any
    ) -> PromptReplacement:
        """An image's placeholders, as many as tokens of it stay."""

        def replacement(index: int) -> Any:
            whole = (
                update.replacement(index) if callable(update.replacement) else update.replacement
            )
            if images[index].dense:
                return whole
            item = {
                name: x
                for name, x in kwargs["image"][index].get_data().items()
                if isinstance(x, Tensor)
            }
            count = len(self.skeleton.layout(len(whole), item).patch_indices)
            kept = images[index].pruner.budget(count)
            return whole if kept == count else whole[:kept]

        return replace(update, replacement=replacement)


def _apart(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our options and the others."""
    ours = {name: value for name, value in kwargs.items() if name.startswith("adafv")}
    return ours, {name: value for name, value in kwargs.items() if name not in ours}


def _without(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[PruneSpec, ...]]:
    """The options without the tickets, and the tickets."""
    rest = dict(kwargs)
    tickets = rest.pop(FIELD, None)
    return rest, tickets.images if tickets else ()
