"""Process a request before the model sees it: specs, hashes, and a placeholder a kept token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import EmbeddingItems
from vllm.multimodal.processing import BaseMultiModalProcessor, PromptUpdateDetails

from adafv.core.chat_template import Template, template_of
from adafv.core.inputs import placeholders
from adafv.core.prompt import Prompt, Question
from adafv.integrations.vllm.architectures import Architecture
from adafv.integrations.vllm.meta_model import MetaModel
from adafv.integrations.vllm.options import (
    ALL,
    FIELD,
    PruneSpec,
    VLLMOptions,
    check_cost,
    pruner_of,
    settings,
)
from adafv.integrations.vllm.structure import between
from adafv.models.boilerplate import boilerplate

__all__ = ["Pruned", "processor_factory"]

DENSE = {"adafv_keep": 1.0}  # options that prune nothing


@dataclass(frozen=True)
class PruneSpecs:
    """The specs of a prompt's images, and the hashes of everything in it."""

    images: tuple[PruneSpec, ...]
    hashes: Mapping[str, list[str]]


class Pruned(BaseMultiModalProcessor):
    """A processor in front of vLLM's own one of a model.

    Everything that decides a selection is in an image's hash.

    Attributes:
        architecture: of the model.
    """

    architecture: Architecture

    def __init__(self, info: Any, dummy_inputs: Any) -> None:
        super().__init__(info, dummy_inputs)
        self.server = settings(info.ctx.model_config)
        # of an encoder for other engines no language model is loaded
        self.embeds_words = not info.ctx.model_config.multimodal_config.mm_encoder_only
        # a server that cannot do what it is to do by default does not start
        self._options({})

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Process a request; what it asks of adafv becomes a spec for each of its images."""
        requested, rest = _separate(inputs.hf_processor_mm_kwargs)
        if rest and self.server.only:
            raise ValueError(
                f"mm_processor_kwargs with {', '.join(rest)}: "
                "this server takes options of adafv only"
            )
        options = self._options(requested)

        # hash the images as vLLM does, without our options; the name that a client gives an image
        # that is pruned (`uuid`) does not say which it is
        plain = replace(inputs, hf_processor_mm_kwargs=rest)
        if options is not None and not options.config.dense:
            _check_items(inputs.mm_data_items)
            plain = replace(plain, mm_uuid_items=None)
        hashes = super()._get_mm_hashes(plain)

        # the specs travel among the options of the processor, which reach every hook below
        specs = PruneSpecs(self._specs(inputs, options, hashes.get("image", [])), hashes)
        with_specs = replace(plain, hf_processor_mm_kwargs={**rest, FIELD: specs})
        return super().apply(with_specs, timing_ctx)

    def _options(self, requested: Mapping[str, Any]) -> VLLMOptions | None:
        """Return what is to be done for a request; None: nothing is asked for, nothing pruned.

        Raises:
            ValueError: it cannot be done, or not by this engine.
        """
        options = VLLMOptions.of_request(requested).request(self.server)
        if options is None or options.config.dense or self.embeds_words:
            return options
        config = options.config
        if pruner_of(config.spec, config.keep, config.tokens).needs_text:
            raise ValueError(
                f"{config.spec} looks at the question's words, which an encoder without a language "
                "model cannot embed: pass another method, e.g. fastervlm, or ec_role='ec_both'"
            )
        return options

    def get_dummy_inputs(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> Any:
        """Return inputs with which memory is measured: of images of which everything is kept."""
        dummy = super().get_dummy_inputs(seq_len, mm_counts, mm_options)
        return replace(dummy, hf_processor_mm_kwargs=DENSE)

    def _specs(
        self, inputs: Any, options: VLLMOptions | None, hashes: Sequence[str]
    ) -> tuple[PruneSpec, ...]:
        """Return a spec for each image of a request."""
        if options is None or options.config.dense:
            return tuple(map(PruneSpec, hashes))

        # the question is part of a spec only where the method looks at it, or is seeded by it:
        # other methods keep the same tokens for every question, and so share a cache entry
        config = options.config
        template = self.template if "skip" in config.options else ()
        pruner = pruner_of(config.spec, config.keep, config.tokens, template)
        questions: list[tuple[int, ...]] = [()] * len(hashes)
        if pruner.needs_text or pruner.draws:
            skip = frozenset(pruner.skip)
            questions = self._questions(inputs.prompt, len(hashes), options.question, skip)

        specs = []
        for image, text_ids in zip(hashes, questions, strict=True):
            specs.append(PruneSpec(image, config.spec, config.keep, config.tokens, text_ids))
        return tuple(specs)

    def _questions(
        self, ids: Sequence[int], images: int, of: Question, skip: frozenset[int]
    ) -> list[tuple[int, ...]]:
        """Return for each image the text tokens (M,) of its question, as the library finds them."""
        hf_config = self.info.get_hf_config()
        tokens = {"image": self.marker}
        # (1, L), with one placeholder an image: vLLM repeats them later
        input_ids = torch.tensor([ids])
        prompt = Prompt({"input_ids": input_ids}, tokens, hf_config.model_type, self.chat)

        questions = []
        for span in prompt.spans([1] * images):
            text_ids = prompt.ids[0, prompt.question(span, skip, of)]  # (M,)
            questions.append(tuple(text_ids.tolist()))
        return questions

    @cached_property
    def marker(self) -> int:
        """Return the id that stands for an image in a prompt."""
        if not self.architecture.marker:
            return placeholders(self.info.get_hf_config())["image"]
        token = getattr(self.info.get_hf_processor(), self.architecture.marker)
        return self.info.get_tokenizer().convert_tokens_to_ids(token)

    @cached_property
    def meta_model(self) -> MetaModel:
        """Return the model without weights, which knows the layout of an image's tokens."""
        return MetaModel(self.info.get_hf_config())

    @cached_property
    def template(self) -> frozenset[int]:
        """Return the ids that `skip=template` stands for."""
        return boilerplate(self.info.get_hf_processor())

    @cached_property
    def chat(self) -> Template:
        """Return how the chat template separates turns."""
        return template_of(self.info.get_hf_processor()).including(self.info.get_hf_config())

    # What follows overrides hooks of vLLM's processor.

    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        specs = inputs.hf_processor_mm_kwargs[FIELD]
        if not specs.images:
            return specs.hashes
        # an image's identity in the caches is that of its kept tokens
        return {**specs.hashes, "image": [spec.hash for spec in specs.images]}

    def _get_cache_missing_processor_kwargs(
        self, inputs: Any, mm_is_cached: Any
    ) -> Mapping[str, object]:
        rest, images = _without(inputs.hf_processor_mm_kwargs)
        plain = replace(inputs, hf_processor_mm_kwargs=rest)
        kwargs = super()._get_cache_missing_processor_kwargs(plain, mm_is_cached)
        # only images that are not cached are processed, so theirs are the specs that go along
        missing = []
        for spec, cached in zip(images, mm_is_cached.get("image", []), strict=True):
            if not cached:
                missing.append(spec)
        return {**kwargs, FIELD: PruneSpecs(tuple(missing), {})}

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        rest, images = _without(hf_kwargs)
        data = super()._apply_hf_processor_main(mm_items, rest)
        if images:
            data[FIELD] = [spec.tensor() for spec in images]
        return data

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Any:
        rest, _ = _without(hf_processor_mm_kwargs)
        fields = super()._get_mm_fields_config(hf_inputs, rest)
        # one spec an image; it is read on the host
        return {**fields, FIELD: MultiModalFieldConfig.batched("image", keep_on_cpu=True)}

    def _get_mm_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Mapping[str, Any]:
        rest, specs = _without(hf_processor_mm_kwargs)
        updates = dict(super()._get_mm_prompt_updates(mm_items, rest, out_mm_kwargs))
        # none where all images are cached
        if not updates.get("image"):
            return updates
        images = []
        for spec, item, of_image in zip(
            specs, out_mm_kwargs["image"], updates["image"], strict=True
        ):
            images.append([self._shorter(update, spec, item) for update in of_image])
        return {**updates, "image": images}

    def _shorter(self, update: Any, spec: PruneSpec, item: Any) -> Any:
        """Return an update that writes as many placeholders of an image as tokens are kept.

        Args:
            update: as vLLM has it for the dense image.
            spec: of the image.
            item: what the processor made of it.
        """
        if spec.dense:
            return update
        ids = update.content.full
        is_visual = torch.ones(len(ids), dtype=torch.bool)  # (L,)
        if update.content.is_embed is not None:
            is_visual = update.content.is_embed(ids)

        # N of the n placeholders stand for patches, the others for newlines
        count = int(is_visual.sum())
        layout = self.meta_model.layout(count, _tensors(item.get_data()))
        patches = len(layout.patch_indices)

        # newlines are dropped from an image that is pruned, and kept in one that is not
        pruner = spec.pruner
        if self.server.methods != ALL:
            check_cost(pruner, patches)
        kept = pruner.budget(patches)
        if kept == patches:
            return update

        # what stands between the placeholders travels with the image
        start, end, structure = between(ids, is_visual)
        run = [*(token for _, token in structure), *[ids[start]] * kept]
        if structure:
            if not self.embeds_words:
                raise ValueError(
                    "text among an image's visual tokens cannot be embedded by an encoder without "
                    "a language model: pass adafv_keep=1, or ec_role='ec_both'"
                )
            if not self.architecture.structure:
                raise ValueError(
                    "an image with text among its visual tokens is not pruned in this model: "
                    "pass adafv_keep=1 with such a request"
                )
            item[FIELD].data = replace(spec, structure=structure).tensor()
        return update.with_content(_content(ids[:start], run, ids[end:]))


def _check_items(items_of: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for what is not an image, is one no longer, or is not there."""
    for modality, items in items_of.items():
        if modality != "image":
            raise ValueError(
                f"{modality}s are not pruned on vLLM: pass adafv_keep=1 with such a request"
            )
        if isinstance(items, EmbeddingItems):
            raise ValueError("encoded images are not pruned: pass images, or adafv_keep=1")
        if any(item is None for item in items.get_all_items_for_hash()):
            raise ValueError("an image by its uuid alone is not pruned: send it, or adafv_keep=1")


def processor_factory(original: Any, architecture: Architecture) -> Any:
    """Return a factory as vLLM's own one of a model, of a processor with `Pruned` in front."""

    def factory(info: Any, dummy_inputs: Any) -> Any:
        # vLLM has a class, or a function that chooses between classes by the model
        cls = original if isinstance(original, type) else type(original(info, dummy_inputs))
        pruned = type(cls.__name__, (Pruned, cls), {"architecture": architecture})
        return pruned(info, dummy_inputs)

    return factory


def _content(before: list[int], run: list[int], behind: list[int]) -> PromptUpdateDetails:
    """Return what the prompt says of an image, with embeddings for a run of its tokens."""
    full = [*before, *run, *behind]
    if len(run) == len(full):
        return PromptUpdateDetails(full)
    is_embed = torch.zeros(len(full), dtype=torch.bool)
    is_embed[len(before) : len(before) + len(run)] = True
    return PromptUpdateDetails(full, is_embed=lambda _: is_embed)


def _tensors(item: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors among the inputs of an image."""
    return {name: x for name, x in item.items() if isinstance(x, Tensor)}


def _separate(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return our options and the others."""
    ours = {}
    rest = {}
    for name, value in kwargs.items():
        if name.startswith("adafv"):
            ours[name] = value
        else:
            rest[name] = value
    return ours, rest


def _without(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[PruneSpec, ...]]:
    """Return the options without the specs, and the specs."""
    rest = dict(kwargs)
    specs = rest.pop(FIELD, None)
    return rest, specs.images if specs else ()
