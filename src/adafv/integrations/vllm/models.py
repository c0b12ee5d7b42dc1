"""Make vLLM's models read only the visual tokens that are kept.

Their weights, layers and kernels are vLLM's own. A class of this module is made when it is asked
for, of a class of vLLM and an entry in `adafv.integrations.vllm.architectures`.
"""

import math
import time
import types
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, reduce
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalKwargsItem, MultiModalKwargsItems

from adafv.integrations.vllm.architecture import Architecture
from adafv.integrations.vllm.architectures import ARCHITECTURES
from adafv.integrations.vllm.config_checks import check_config
from adafv.integrations.vllm.context import Context, PillowContext
from adafv.integrations.vllm.encoder_cache import Encoded, Encodings
from adafv.integrations.vllm.encoder_ranks import encode_by_rank, on_any_rank
from adafv.integrations.vllm.engine_counts import EngineCounts
from adafv.integrations.vllm.failures import catches
from adafv.integrations.vllm.hub_format import as_transformers
from adafv.integrations.vllm.meta_model import SHAPES, pixels_in
from adafv.integrations.vllm.mrope_model import Items, MRopeModel
from adafv.integrations.vllm.options import CACHE_MB, settings
from adafv.integrations.vllm.processor import processor_factory
from adafv.integrations.vllm.prune_spec import FIELDS, PruneSpec
from adafv.integrations.vllm.routing import RoutedModel
from adafv.integrations.vllm.select import Kept, select
from adafv.integrations.vllm.transformers_backend import meta_model_of
from adafv.integrations.vllm.transformers_tower import watch_transformers
from adafv.integrations.vllm.vision_attention import last_attention, over_all_heads, watch
from adafv.integrations.vllm.weight_updates import forget_with_vllm

__all__ = ["PrunedModel"]


class PrunedModel:
    """A mixin before a model of vLLM: encodes each image once, then keeps what its spec says.

    An image comes with a spec (`adafv.integrations.vllm.prune_spec.PruneSpec`). Encodings are kept
    under the image's own hash (`adafv_cache_mb`, 512 by default), so that another question about
    it costs a selection.

    Attributes:
        architecture: of the model.
        config, get_language_model: of the vLLM model that it stands before.
    """

    architecture: Architecture
    config: Any
    get_language_model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        config = vllm_config.model_config
        options = settings(config)
        check_config(vllm_config, self.architecture)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.failed = on_any_rank if catches(vllm_config) else None
        self.meta_model = meta_model_of(as_transformers(config.hf_config, self.architecture))
        self.served_config = config
        cache_mb = CACHE_MB if options.cache_mb is None else options.cache_mb
        self.encodings = Encodings(cache_mb * 2**20)
        forget_with_vllm()
        # each rank has the whole tower, and encodes some of the images
        self.by_rank = config.multimodal_config.mm_encoder_tp_mode == "data"
        # a server without options of ours prunes at a request only, and reserves nothing for it
        self.prunes = options.prunes
        if self.prunes:
            self.encodings.reserve(vllm_config.device_config.device)
        text_config = config.hf_config.get_text_config()
        self.layers = text_config.num_hidden_layers
        self.width = text_config.hidden_size
        self.at_once = vllm_config.scheduler_config.max_num_batched_tokens
        # every rank does the same, so one is to say it
        parallel = vllm_config.parallel_config
        self.engine_counts = EngineCounts(parallel.data_parallel_index, shared=parallel.rank == 0)

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Return what stands for an image or a video in a chat.

        Raises:
            ValueError: a video where vLLM reads chunks of it, and has nothing that makes them.
        """
        if modality == "video" and cls.architecture.vision_chunks:
            raise ValueError(
                f"vLLM does not cut the videos of a chat into chunks for {cls.architecture.title}: "
                "send frames as images"
            )
        placeholder: str | None = super().get_placeholder_str(modality, i)  # type: ignore[misc]
        return placeholder

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Return the embeddings of each image for the language model: those of its kept tokens.

        Or of each video: vLLM hands over items of one modality.
        """
        given = {name: kwargs.pop(field, ()) for name, field in FIELDS.items()}
        modality = next((name for name, specs in given.items() if len(specs)), "image")
        specs = [PruneSpec.read(spec) for spec in given[modality]]
        # of sound, and of videos that are not pruned, there are none
        observed = self.prunes and bool(specs)
        if all(spec.dense for spec in specs):
            return self._whole(kwargs, observed)

        # images of which everything is kept go vLLM's own way
        items = self._items(kwargs, modality)
        whole = [i for i, spec in enumerate(specs) if spec.dense]
        pruned = [i for i, spec in enumerate(specs) if not spec.dense]
        found: dict[int, Tensor] = {}
        if whole:
            inputs = _together([items[i] for i in whole])
            found |= zip(whole, self._whole(inputs, observed), strict=True)

        # encode the others, or find them in the cache; then score and select
        of_pruned = [specs[i] for i in pruned]
        their_items = [items[i] for i in pruned]
        encoded = self._encoded(of_pruned, their_items, modality)
        start = time.perf_counter()
        kept = select(of_pruned, encoded, self._embed, self.layers, self.width, failed=self.failed)
        self.engine_counts.add_selection(time.perf_counter() - start)
        found |= zip(pruned, self.embeddings(kept, of_pruned, their_items, modality), strict=True)
        return [found[i] for i in range(len(specs))]

    def _whole(self, kwargs: dict[str, Any], observed: bool) -> Any:
        """Return the embeddings of images or videos of which every token is kept."""
        # vLLM measures its memory with such images: with a budget of its own, a server has to
        # observe the attention here, too
        with self._watched() if observed else nullcontext():
            features = super().embed_multimodal(**kwargs)  # type: ignore[misc]
        if isinstance(features, list | tuple):
            # LLaVA-OneVision gives videos of unequal lengths a dimension of a batch, which vLLM
            # stumbles over: (1, n, D) → (n, D)
            features = [tokens.flatten(0, -2) for tokens in features]
        return self.dense_embeddings(features)

    def load_weights(self, weights: Any) -> Any:
        """Load weights as vLLM does; what others have encoded is of no use then."""
        self.encodings.clear()
        return super().load_weights(weights)  # type: ignore[misc]

    def embeddings(
        self, kept: list[Kept], specs: Sequence[PruneSpec], items: Items, modality: str
    ) -> list[Tensor]:
        """Return the embeddings (K, D) of each image or video.

        Args:
            kept: of each.
            specs, items: theirs.
            modality: vLLM's name of it.
        """
        return [image.features for image in kept]

    def dense_embeddings(self, features: Any) -> Any:
        """Return the embeddings of images or videos of which every token is kept."""
        return features

    def _items(self, kwargs: dict[str, Any], modality: str) -> Items:
        """Return the inputs of each image, of those of all together."""
        fields = self._processor._get_mm_fields_config(BatchFeature(kwargs), {})
        return MultiModalKwargsItems.from_hf_inputs(BatchFeature(kwargs), fields)[modality]

    @cached_property
    def _processor(self) -> Any:
        """Return the model's processor, which knows how inputs are shared out among images."""
        return MULTIMODAL_REGISTRY.create_processor(self.served_config)

    def _encoded(self, specs: Sequence[PruneSpec], items: Items, modality: str) -> list[Encoded]:
        """Return an encoding for each spec; each image is run through the tower once."""
        # which images have been encoded before, and which are new
        found: dict[str, Encoded] = {}
        new: dict[str, MultiModalKwargsItem] = {}
        for spec, item in zip(specs, items, strict=True):
            if spec.image in found or spec.image in new:
                self.encodings.reused += 1
                continue
            known = self.encodings.find(spec.image)
            if known is None:
                new[spec.image] = item
            else:
                found[spec.image] = known

        self.engine_counts.add_images(encoded=len(new), reused=len(specs) - len(new))

        # encode the new ones, and remember them
        for part in self._parts(new):
            of_part = self._encode([new[image] for image in part], modality)
            for image, encoded in zip(part, of_part, strict=True):
                found[image] = encoded
                self.encodings.add(image, encoded)
        return [found[spec.image] for spec in specs]

    def _parts(self, new: dict[str, MultiModalKwargsItem]) -> Iterator[list[str]]:
        """Yield as many images at once as the measurement of memory had.

        The scheduler counts only what is kept of them, so it may hand over more.
        """
        part: list[str] = []
        room = self.at_once
        before = 0
        for image, item in new.items():
            size = self._patches(item.get_data())
            # an image that is larger than the room is encoded alone; those of a part keep their
            # order where vLLM would sort them
            if part and (size > room or (self.architecture.sorts and size != before)):
                yield part
                part = []
                room = self.at_once
            part.append(image)
            room -= size
            before = size
        if part:
            yield part

    def _patches(self, inputs: Any) -> int:
        """Return how many patches the tower reads of an image."""
        if SHAPES in inputs:
            return int(inputs[SHAPES].prod(dim=1).sum())
        pixels = pixels_in(inputs, "image")
        if pixels is None:
            pixels = pixels_in(inputs, "video")
        assert pixels is not None
        if pixels.dim() < 3:
            # patches already, one after another (patches, width)
            return len(pixels)
        patch_size = self.config.vision_config.patch_size
        if not isinstance(patch_size, int):
            patch_size = patch_size[0]
        *crops, _, height, width = pixels.shape
        return math.prod(crops) * (height // patch_size) * (width // patch_size)

    def _encode(self, items: Items, modality: str) -> list[Encoded]:
        """Encode images, each of them on one of the ranks where each has the whole tower."""
        if self.by_rank:
            sizes = [self._patches(item.get_data()) for item in items]
            observed = encode_by_rank(self._observed, items, sizes)
        else:
            observed = self._observed(items)

        encoded = []
        for item, (tokens, saliency) in zip(items, observed, strict=True):
            # videos of unequal lengths have a batch's dimension: (1, n, D) → (n, D)
            tokens = tokens.flatten(0, -2)
            # saliency (patches,) → (N,), the mean over what a token merges
            layout = self.meta_model.layout(len(tokens), item.get_data(), modality)
            pooled = layout.pooled(saliency, layout.patch_indices)
            encoded.append(Encoded(tokens, pooled, layout))
        return encoded

    def _observed(self, items: Items) -> list[tuple[Tensor, Tensor]]:
        """Run images through the tower, and observe what each patch is worth to it.

        Returns:
            tokens (n, D) and saliency (patches,) of each image.
        """
        with self._watched() as seen, self._on_this_rank():
            features = list(super().embed_multimodal(**_together(items)))  # type: ignore[misc]

        # the tower's calls hold the patches of all images, one image after the other
        sizes = [self._patches(item.get_data()) for item in items]
        saliency = torch.cat([x.flatten() for x in seen])
        if not self.by_rank:
            saliency = over_all_heads(saliency)
        return list(zip(features, saliency.split(sizes), strict=True))

    @contextmanager
    def _on_this_rank(self) -> Iterator[None]:
        """Keep vLLM from sharing out images among ranks itself."""
        model: Any = self
        # some models say so themselves, some leave it to their tower
        sharing = [part for part in model.modules() if getattr(part, "use_data_parallel", False)]
        for part in sharing:
            part.use_data_parallel = False
        try:
            yield
        finally:
            for part in sharing:
                part.use_data_parallel = True

    def _watched(self) -> AbstractContextManager[list[Tensor]]:
        """Return a context in which the saliency of patches is observed."""
        model: Any = self
        meta = self.meta_model
        if self.architecture.tower:
            tower = reduce(getattr, self.architecture.tower.split("."), model)
            return watch_transformers(tower, meta.feature_layer, meta.cls, meta.registers)
        return watch(last_attention(model), meta.cls)

    def _embed(self, text_ids: Tensor) -> Tensor:
        """Return the input embeddings (M, D) of text tokens (M,)."""
        return self.get_language_model().embed_input_ids(text_ids)


def _together(items: Items) -> dict[str, Any]:
    """Return the inputs of images as those of all of them."""
    return dict(MultiModalKwargsItems({"image": list(items)}).get_data())


def __getattr__(name: str) -> Any:
    """Return the pruned class of an architecture, made when it is first asked for."""
    for architecture in ARCHITECTURES.values():
        if architecture.name == name:
            globals()[name] = _pruned_class(architecture)
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _pruned_class(architecture: Architecture) -> type:
    """Return vLLM's class of an architecture, with pruning in front."""
    module = import_module(f"vllm.model_executor.models.{architecture.module}")
    original = getattr(module, architecture.model)

    about = "; ".join(filter(None, (architecture.title, architecture.about)))
    attributes: dict[str, Any] = {
        "__doc__": f"{about}.",
        "__module__": __name__,
        "architecture": architecture,
    }
    if architecture.weights:
        renamed = WeightsMapper(orig_to_new_prefix=architecture.weights)
        attributes["hf_to_vllm_mapper"] = original.hf_to_vllm_mapper | renamed
    if architecture.normalizes:
        attributes["supports_mm_device_do_normalize"] = False
    routed = (RoutedModel,) if architecture.routes else ()
    numbered = (MRopeModel,) if architecture.mrope else ()
    pruned = types.new_class(
        # vLLM knows its Transformers backend by the name of the class
        original.__name__ if architecture.module == "transformers" else architecture.name,
        (*routed, *numbered, PrunedModel, original),
        exec_body=lambda body: body.update(attributes),
    )

    factories = original._processor_factory
    context_of = PillowContext if architecture.hub else Context

    def info(context: Any) -> Any:
        # some processors stumble over options of ours when they are asked about sizes
        settings(context.model_config)
        return factories.info(context_of(context.model_config, context.tokenizer))

    register = MULTIMODAL_REGISTRY.register_processor(
        processor_factory(factories.processor, architecture),
        info=info,
        dummy_inputs=factories.dummy_inputs,
    )
    return register(pruned)
