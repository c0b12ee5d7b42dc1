"""Process a request before the model sees it: specs, hashes, and a placeholder a kept token."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.encoder_budget import get_mm_max_toks_per_item
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.processing import BaseMultiModalProcessor

from adafv.core.pruner import Pruner
from adafv.families import family_of
from adafv.integrations.vllm.architecture import Architecture
from adafv.integrations.vllm.counters import COUNTERS
from adafv.integrations.vllm.item_checks import (
    check_items,
    check_merged_frames,
    check_structure,
    check_tiles,
    check_video_size,
    refuse_missing,
)
from adafv.integrations.vllm.media import DECODED
from adafv.integrations.vllm.meta_model import MetaModel
from adafv.integrations.vllm.options import (
    ALL,
    IMAGE_CACHE_MB,
    VLLMOptions,
    check_restricted,
    pruner_of,
    separate,
    settings,
)
from adafv.integrations.vllm.prepared_cache import PreparedBatch, PreparedImageCache
from adafv.integrations.vllm.prompt_details import PrunedDetails, costs_in, count_placed, is_embed
from adafv.integrations.vllm.prune_spec import (
    FIELD,
    FIELDS,
    PruneSpec,
    PruneSpecs,
    Specs,
    without_specs,
)
from adafv.integrations.vllm.questions import Questions
from adafv.integrations.vllm.request_cost import check_cost, check_costs, check_length, cost_of
from adafv.integrations.vllm.structure import between
from adafv.integrations.vllm.transformers_backend import meta_model_of

__all__ = ["Pruned", "processor_factory"]

DENSE = {"adafv_keep": 1.0}  # options that prune nothing


class Pruned(BaseMultiModalProcessor):
    """A processor in front of vLLM's own one of a model.

    Everything that decides a selection is in an image's hash.

    Attributes:
        architecture: of the model.
        questions: in its prompts.
        counts: whether what is processed somebody asked for.
        prepared: images that were asked about before.
    """

    architecture: Architecture

    def __init__(self, info: Any, dummy_inputs: Any) -> None:
        super().__init__(info, dummy_inputs)
        self.server = settings(info.ctx.model_config)
        self.questions = Questions(self, self.architecture)
        # of an encoder for other engines no language model is loaded
        self.embeds_words = not info.ctx.model_config.multimodal_config.mm_encoder_only
        self.counts = True
        # half of the memory for images as they are sent, half for images as the model reads them
        image_cache_mb = self.server.image_cache_mb
        half = (IMAGE_CACHE_MB if image_cache_mb is None else image_cache_mb) * 2**20 / 2
        DECODED.resize(half)
        self.prepared = PreparedImageCache(half)
        # a server that cannot do what it is to do by default does not start
        self._options({}, {})

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Process a request; what it asks of adafv becomes a spec for each of its images."""
        requested, rest = separate(inputs.hf_processor_mm_kwargs)
        with COUNTERS.refusals("options"):
            if rest and self.server.only:
                raise ValueError(
                    f"mm_processor_kwargs with {', '.join(rest)}: "
                    "this server takes options of adafv only"
                )
            if self.server.only:
                check_restricted(requested, self.server.config.spec)
            options = self._options(requested, rest)
            check_merged_frames(inputs.mm_data_items, self.architecture)
            if options is not None:
                refuse_missing(inputs.mm_data_items)
                if not options.config.dense:
                    check_items(
                        inputs.mm_data_items,
                        self.architecture,
                        one_placeholder=family_of(self.questions.config).video_as_images,
                    )

        # hash the images as vLLM does, without our options; the name that a client gives an image
        # (`uuid`) does not say which it is, or it could name one that is pruned for somebody else
        plain = replace(inputs, hf_processor_mm_kwargs=rest)
        if options is not None:
            plain = replace(plain, mm_uuid_items=None)
        hashes = super()._get_mm_hashes(plain)

        # the specs travel among the options of the processor, which reach every hook below
        pruned = {name: hashes[name] for name in self.architecture.modalities if name in hashes}
        specs = PruneSpecs(self._specs(inputs, options, pruned), hashes)
        with_specs = replace(plain, hf_processor_mm_kwargs={**rest, FIELD: specs})
        return super().apply(with_specs, timing_ctx)

    def _options(
        self, requested: Mapping[str, Any], others: Mapping[str, Any]
    ) -> VLLMOptions | None:
        """Return what is to be done for a request; None: nothing is asked for, nothing pruned.

        Args:
            requested: options of ours.
            others: those of the model's processor.

        Raises:
            ValueError: it cannot be done, or not by this engine.
        """
        options = VLLMOptions.of_request(requested).request(self.server)
        if options is None or options.config.dense:
            return options
        hub = self.architecture.hub
        if hub is not None and hub.tiles:
            processor = self.info.get_hf_processor(**others)
            check_tiles(self.info.get_hf_config(), processor.image_processor)
        if self.embeds_words:
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

    def get_dummy_mm_inputs(self, *args: Any, **options: Any) -> Any:
        """Return what vLLM measures its memory and warms its caches with, uncounted."""
        self.counts = False
        try:
            return super().get_dummy_mm_inputs(*args, **options)
        finally:
            self.counts = True

    def _specs(
        self, inputs: Any, options: VLLMOptions | None, hashes: Mapping[str, Sequence[str]]
    ) -> Specs:
        """Return a spec for each image and each video of a request."""
        if options is None or options.config.dense:
            return {name: [PruneSpec(one) for one in ones] for name, ones in hashes.items()}

        # the question is part of a spec only where the method looks at it, or is seeded by it:
        # other methods keep the same tokens for every question, and so share a cache entry
        config = options.config
        template = self.questions.template_ids if "skip" in config.options else ()
        pruner = pruner_of(config.spec, config.keep, config.tokens, template)
        counts = {name: len(ones) for name, ones in hashes.items()}
        questions: dict[str, list[tuple[int, ...]]]
        questions = {name: [()] * count for name, count in counts.items()}
        if pruner.needs_text or pruner.draws:
            skip = frozenset(pruner.skip)
            questions = self.questions.in_prompt(inputs.prompt, counts, options.question, skip)

        specs: dict[str, list[PruneSpec]] = {}
        for name, ones in hashes.items():
            specs[name] = []
            for one, text_ids in zip(ones, questions[name], strict=True):
                spec = PruneSpec(one, config.spec, config.keep, config.tokens, text_ids)
                specs[name].append(spec)
        return specs

    @cached_property
    def largest(self) -> int:
        """Return the most visual tokens of an item with which vLLM measures its memory."""
        counts = dict.fromkeys(self.architecture.modalities, 1)
        most = max(get_mm_max_toks_per_item(self, counts, cache=None).values())
        # GLM names more for a video than the one that is measured has, which fits into a prompt
        return min(most, self.info.ctx.model_config.max_model_len)

    @cached_property
    def meta_model(self) -> MetaModel:
        """Return the model without weights, which knows the layout of an image's tokens."""
        return meta_model_of(self.questions.config)

    # What follows overrides hooks of vLLM's processor.

    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        specs = inputs.hf_processor_mm_kwargs[FIELD]
        # an image's identity in the caches is that of its kept tokens
        hashes = {name: [spec.hash for spec in ones] for name, ones in specs.of.items()}
        return {**specs.hashes, **hashes}

    def _get_cache_missing_processor_kwargs(
        self, inputs: Any, mm_is_cached: Any
    ) -> Mapping[str, object]:
        rest, specs = without_specs(inputs.hf_processor_mm_kwargs)
        plain = replace(inputs, hf_processor_mm_kwargs=rest)
        kwargs = super()._get_cache_missing_processor_kwargs(plain, mm_is_cached)
        # only images that are not cached are processed, so theirs are the specs that go along
        missing: dict[str, list[PruneSpec]] = {}
        for name, ones in specs.items():
            missing[name] = []
            for spec, cached in zip(ones, mm_is_cached[name], strict=True):
                if not cached:
                    missing[name].append(spec)
        return {**kwargs, FIELD: PruneSpecs(missing, {})}

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        rest, specs = without_specs(hf_kwargs)
        data = self._processed(mm_items, rest, specs)
        for name, ones in specs.items():
            if ones:
                data[FIELDS[name]] = [spec.tensor() for spec in ones]
        return data

    def _processed(self, mm_items: Any, kwargs: Mapping[str, Any], specs: Specs) -> Any:
        """Return what the model's processor makes of images; those that are kept it made before."""
        modality = self.architecture.modalities[0]
        ones = specs.get(modality, ())
        # images beside a video are not kept; of whole ones vLLM's own cache keeps as much
        if not ones or ones[0].dense or len(mm_items) > 1 or not self.prepared.bytes:
            return super()._apply_hf_processor_main(mm_items, kwargs)

        stock: Any = super()

        def process(indices: list[int]) -> Any:
            images = {modality: [mm_items[modality][i] for i in indices]}
            items = self.info.parse_mm_data(images, validate=False)
            data = stock._apply_hf_processor_main(items, kwargs)
            fields = self._fields(data, kwargs)
            return MultiModalKwargsItems.from_hf_inputs(data, fields)[modality]

        return self.prepared.prepare([spec.image for spec in ones], modality, process)

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Any:
        rest, _ = without_specs(hf_processor_mm_kwargs)
        if isinstance(hf_inputs, PreparedBatch):
            fields = dict(hf_inputs.fields)
        else:
            fields = self._fields(hf_inputs, rest)
        # one spec an image; it is read on the host
        for name in self.architecture.modalities:
            fields[FIELDS[name]] = MultiModalFieldConfig.batched(name, keep_on_cpu=True)
        return fields

    def _fields(self, hf_inputs: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return how vLLM splits what the model's processor returns into that of each image."""
        fields = dict(super()._get_mm_fields_config(hf_inputs, kwargs))
        for name in self.architecture.per_image:
            fields[name] = MultiModalFieldConfig.batched("image")
        return fields

    def _get_mm_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Mapping[str, Any]:
        rest, specs = without_specs(hf_processor_mm_kwargs)
        updates = dict(super()._get_mm_prompt_updates(mm_items, rest, out_mm_kwargs))
        for name, ones in specs.items():
            # none where all images are cached
            if not updates.get(name):
                continue
            shorter = []
            for spec, item, of_item in zip(ones, out_mm_kwargs[name], updates[name], strict=True):
                shorter.append([self._shorter(update, spec, item, name) for update in of_item])
            updates[name] = shorter
        return updates

    def _cached_apply_hf_processor(self, inputs: Any, timing_ctx: Any) -> Any:
        found = super()._cached_apply_hf_processor(inputs, timing_ctx)
        if self.server.methods == ALL:
            return found
        try:
            with COUNTERS.refusals("cost"):
                check_costs(costs_in(found.prompt_updates))
        except ValueError:
            # vLLM takes the engine to have what is in this cache, and nothing is sent there
            if inputs.cache is not None:
                for image in chain.from_iterable(found.hashes.values()):
                    inputs.cache.invalidate(image)
            raise
        return found

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        ids, found = super()._maybe_apply_prompt_updates(mm_items, mm_res)
        if self.counts:
            for name in self.architecture.modalities:
                for of_item, place in zip(
                    mm_res.prompt_updates.get(name, ()), found.get(name, ()), strict=True
                ):
                    count_placed(of_item[0].content, place)
        return ids, found

    def _shorter(self, update: Any, spec: PruneSpec, item: Any, modality: str) -> Any:
        """Return an update that writes as many placeholders of an image as tokens are kept.

        Args:
            update: as vLLM has it for the dense image.
            spec: of the image.
            item: what the processor made of it.
            modality: vLLM's name of it.
        """
        if spec.dense:
            return update
        ids = update.content.full
        is_visual = torch.ones(len(ids), dtype=torch.bool)  # (L,)
        if update.content.is_embed is not None:
            is_visual = update.content.is_embed(ids)

        # N of the n placeholders stand for patches, the others for newlines
        count = int(is_visual.sum())
        layout = self.meta_model.layout(count, _tensors(item.get_data()), modality)
        patches = len(layout.patch_indices)

        pruner = spec.pruner
        self._check_cost(pruner, modality, count, patches, len(spec.text_ids))

        # newlines are dropped from an image that is pruned, and kept in one that is not
        kept = pruner.budget(patches)
        cost = cost_of(pruner, patches)
        if kept == patches:
            marks = update.content.is_embed
            return update.with_content(PrunedDetails(ids, marks, "none", count, count, cost))

        # what stands between the placeholders travels with the image
        start, end, structure = between(ids, is_visual)
        run = [*(token for _, token in structure), *[ids[start]] * kept]
        if structure:
            check_structure(modality, self.architecture, embeds_words=self.embeds_words)
        written = replace(
            spec,
            structure=structure,
            before=tuple(ids[:start]),
            behind=tuple(ids[end:]),
            token=ids[start],
            count=count,
        )
        item[FIELDS[modality]].data = written.tensor()
        details = PrunedDetails(
            [*ids[:start], *run, *ids[end:]],
            is_embed(start, len(run), len(ids) - end),
            method=spec.method.partition(":")[0],
            seen=patches,
            kept=kept,
            cost=cost,
        )
        return update.with_content(details)

    def _check_cost(
        self, pruner: Pruner, modality: str, count: int, patches: int, text_tokens: int
    ) -> None:
        """Raise a `ValueError` if a method would take too long over an image and a question."""
        with COUNTERS.refusals("cost"):
            # a processor bounds images, and lets a video have as many frames as it likes
            if modality == "video":
                check_video_size(count, self.largest)
            check_length(pruner, text_tokens, patches)
            if self.server.methods != ALL:
                check_cost(pruner, patches)


def processor_factory(original: Any, architecture: Architecture) -> Any:
    """Return a factory as vLLM's own one of a model, of a processor with `Pruned` in front."""

    def factory(info: Any, dummy_inputs: Any) -> Any:
        # vLLM has a class, or a function that chooses between classes by the model
        cls = original if isinstance(original, type) else type(original(info, dummy_inputs))
        pruned = type(cls.__name__, (Pruned, cls), {"architecture": architecture})
        return pruned(info, dummy_inputs)

    return factory


def _tensors(item: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors among the inputs of an image."""
    return {name: x for name, x in item.items() if isinstance(x, Tensor)}
