"""Make vLLM's models read only the visual tokens that are kept.

Their weights, layers and kernels are vLLM's own.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
    PixtralHFMultiModalProcessor,
    _build_llava_or_pixtral_hf_info,
)
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
    LlavaNextProcessingInfo,
)
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from adafv.integrations.vllm.config_checks import check_config, check_positions
from adafv.integrations.vllm.encoder_cache import Encoded, Encodings
from adafv.integrations.vllm.failures import catches, fail_requests
from adafv.integrations.vllm.meta_model import MetaModel
from adafv.integrations.vllm.mrope import (
    CHANNELS,
    coordinates_of,
    mrope_positions,
    with_coordinates,
)
from adafv.integrations.vllm.options import FIELD, PruneSpec, settings
from adafv.integrations.vllm.processor import Pruned
from adafv.integrations.vllm.select import Kept, select
from adafv.integrations.vllm.vision_attention import last_attention, watch

__all__ = ["PrunedLlava", "PrunedLlavaNext", "PrunedLlavaOnevision", "PrunedQwen2_5VL"]

CACHE_MB = 512  # of encoded images, where the server says nothing
TOWER_PARTS = ("embeddings", "encoder", "pre_layrnorm", "post_layernorm")
NAMES = WeightsMapper(
    orig_to_new_prefix={
        f"vision_tower.{x}.": f"vision_tower.vision_model.{x}." for x in TOWER_PARTS
    }
)
"""From the names of a tower's weights in transformers 5 to those of older checkpoints.

vLLM reads the latter.
"""


class PrunedModel:
    """A mixin before a model of vLLM: encodes each image once, then keeps what its spec says.

    An image comes with a spec (`adafv.integrations.vllm.options.PruneSpec`). Encodings are kept
    under the image's own hash (`adafv_cache_mb`, 512 by default), so that another question about
    it costs a selection.

    Attributes:
        config, get_language_model: of the vLLM model that it stands before.
    """

    tower_name = "vision_tower"
    config: Any
    get_language_model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        config = vllm_config.model_config
        options = settings(config)
        check_config(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.catches = catches(vllm_config)
        if self.catches:
            fail_requests(vllm_config)
        self.meta_model = MetaModel(config.hf_config)
        cache_mb = CACHE_MB if options.cache_mb is None else options.cache_mb
        self.encodings = Encodings(cache_mb * 2**20)
        # a server without options of ours prunes at a request only, and reserves nothing for it
        self.prunes = options.prunes
        if self.prunes:
            self.encodings.reserve(vllm_config.device_config.device)
        self.layers = config.hf_config.get_text_config().num_hidden_layers
        self.at_once = vllm_config.scheduler_config.max_num_batched_tokens

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Return the embeddings of each image for the language model: those of its kept tokens."""
        specs = [PruneSpec.read(spec) for spec in kwargs.pop(FIELD, ())]
        if all(spec.dense for spec in specs):
            # vLLM measures its memory with dense images: with a budget of its own, a server has
            # to observe the attention here, too
            with self._watched() if self.prunes else nullcontext():
                features = super().embed_multimodal(**kwargs)  # type: ignore[misc]
            return self.dense_embeddings(features, kwargs)

        # encode, or find in the cache; then score and select
        encoded = self._encoded(specs, kwargs)
        kept = select(specs, encoded, self._embed, self.layers, catch=self.catches)
        return self.embeddings(kept)

    def embeddings(self, kept: list[Kept]) -> list[Tensor]:
        """Return the embeddings (K, D) of each image."""
        return [image.features for image in kept]

    def dense_embeddings(self, features: Any, kwargs: dict[str, Any]) -> Any:
        """Return the embeddings of images or videos of which every token is kept."""
        return features

    def images(self, kwargs: dict[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
        """Return the inputs of some images."""
        return {name: _rows(x, chosen) for name, x in kwargs.items()}

    def count(self, kwargs: dict[str, Any], index: int) -> int:
        """Return how many patches the tower has of an image, padding included."""
        pixels = kwargs["pixel_values"][index]  # (crops, 3, height, width), or without crops
        crops = len(pixels) if pixels.dim() == 4 else 1
        patch_size = self.config.vision_config.patch_size
        height, width = pixels.shape[-2:]
        return crops * (height // patch_size) * (width // patch_size)

    def _encoded(self, specs: Sequence[PruneSpec], kwargs: dict[str, Any]) -> list[Encoded]:
        """Return an encoding for each spec; each image is run through the tower once."""
        # which images have been encoded before, and which are new
        found: dict[str, Encoded] = {}
        new: dict[str, int] = {}
        for i, spec in enumerate(specs):
            if spec.image in found or spec.image in new:
                self.encodings.reused += 1
                continue
            known = self.encodings.find(spec.image)
            if known is None:
                new[spec.image] = i
            else:
                found[spec.image] = known

        # encode the new ones, and remember them
        for part in self._parts(kwargs, list(new.values())):
            for i, encoded in zip(part, self._encode(self.images(kwargs, part)), strict=True):
                found[specs[i].image] = encoded
                self.encodings.add(specs[i].image, encoded)
        return [found[spec.image] for spec in specs]

    def _parts(self, kwargs: dict[str, Any], chosen: list[int]) -> Iterator[list[int]]:
        """Yield as many images at once as the measurement of memory had.

        The scheduler counts only what is kept of them, so it may hand over more.
        """
        part: list[int] = []
        room = self.at_once
        for i in chosen:
            size = self.count(kwargs, i)
            # an image that is larger than the room is encoded alone
            if part and size > room:
                yield part
                part = []
                room = self.at_once
            part.append(i)
            room -= size
        if part:
            yield part

    def _encode(self, kwargs: dict[str, Any]) -> list[Encoded]:
        """Run images through the tower, and observe what each patch is worth to it."""
        with self._watched() as seen:
            features = list(super().embed_multimodal(**kwargs))  # type: ignore[misc]

        # the tower's calls hold the patches of all images, one image after the other
        sizes = [self.count(kwargs, i) for i in range(len(features))]
        saliency_of_patches = torch.cat([x.flatten() for x in seen]).split(sizes)

        shapes = dict(kwargs)
        shapes.pop("pixel_values", None)
        encoded = []
        for i, (tokens, saliency) in enumerate(zip(features, saliency_of_patches, strict=True)):
            # tokens (n, D); saliency (patches,) → (N,), the mean over what a token merges
            shape = {name: x[i] for name, x in shapes.items()}
            layout = self.meta_model.layout(len(tokens), shape)
            pooled = layout.pooled(saliency, layout.patch_indices)
            encoded.append(Encoded(tokens, pooled, layout))
        return encoded

    def _watched(self) -> AbstractContextManager[list[Tensor]]:
        """Return a context in which the saliency of patches is observed."""
        return watch(last_attention(getattr(self, self.tower_name)), self.meta_model.cls)

    def _embed(self, text_ids: Tensor) -> Tensor:
        """Return the input embeddings (M, D) of text tokens (M,)."""
        return self.get_language_model().embed_input_ids(text_ids)


def _rows(x: Any, chosen: Sequence[int]) -> Any:
    """Return some rows of a tensor, or some items of a list."""
    if isinstance(x, Tensor):
        return x[list(chosen)]
    return [x[i] for i in chosen]


# vLLM makes a processor from its class, so each model has one with ours in front.


class _Llava(Pruned, LlavaMultiModalProcessor):
    pass


def _llava_processor(info: Any, dummy_inputs: Any) -> Any:
    # one architecture has two towers, and vLLM a processor for each
    if isinstance(info, LlavaProcessingInfo):
        return _Llava(info, dummy_inputs)
    return PixtralHFMultiModalProcessor(info, dummy_inputs)


class _LlavaNext(Pruned, LlavaNextMultiModalProcessor):
    pass


class _LlavaOnevision(Pruned, LlavaOnevisionMultiModalProcessor):
    pass


class _Qwen2_5VL(Pruned, Qwen2_5_VLMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    _llava_processor, info=_build_llava_or_pixtral_hf_info, dummy_inputs=LlavaDummyInputsBuilder
)
class PrunedLlava(PrunedModel, LlavaForConditionalGeneration):
    """LLaVA-1.5."""

    hf_to_vllm_mapper = LlavaForConditionalGeneration.hf_to_vllm_mapper | NAMES


@MULTIMODAL_REGISTRY.register_processor(
    _LlavaNext, info=LlavaNextProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class PrunedLlavaNext(PrunedModel, LlavaNextForConditionalGeneration):
    """LLaVA-NeXT; the newlines of an image that is pruned are dropped."""

    hf_to_vllm_mapper = LlavaNextForConditionalGeneration.hf_to_vllm_mapper | NAMES


@MULTIMODAL_REGISTRY.register_processor(
    _LlavaOnevision,
    info=LlavaOnevisionProcessingInfo,
    dummy_inputs=LlavaOnevisionDummyInputsBuilder,
)
class PrunedLlavaOnevision(PrunedModel, LlavaOnevisionForConditionalGeneration):
    """LLaVA-OneVision; SigLIP has no CLS, so saliency is the attention a patch receives."""

    hf_to_vllm_mapper = LlavaOnevisionForConditionalGeneration.hf_to_vllm_mapper | NAMES


@MULTIMODAL_REGISTRY.register_processor(
    _Qwen2_5VL, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class PrunedQwen2_5VL(PrunedModel, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL; kept tokens have the rows and columns of the dense image (M-RoPE).

    vLLM numbers a prompt before it knows which tokens are kept. So text is numbered as if all
    were, an image that is pruned has the number of its first token everywhere, and the rows and
    columns travel with the embeddings, as four more channels, to be added when the language model
    reads them.
    """

    tower_name = "visual"

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        check_positions(vllm_config)
        # (2, tokens of a step): row and column to add to each token's position
        device = vllm_config.device_config.device
        coordinates = torch.zeros(2, self.at_once, dtype=torch.long, device=device)
        self.register_buffer("coordinates", coordinates, persistent=False)

    def count(self, kwargs: dict[str, Any], index: int) -> int:
        """Return how many patches the tower has of an image."""
        return int(kwargs["image_grid_thw"][index].prod())

    def images(self, kwargs: dict[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
        """Return the inputs of some images, whose patches follow one another in one tensor."""
        rest = dict(kwargs)
        pixels = rest.pop("pixel_values").split(kwargs["image_grid_thw"].prod(-1).tolist())
        inputs = {name: _rows(x, chosen) for name, x in rest.items()}
        inputs["pixel_values"] = torch.cat([pixels[i] for i in chosen])
        return inputs

    def embeddings(self, kept: list[Kept]) -> list[Tensor]:
        """Return the embeddings (K, D + 4) of each image, rows and columns among them."""
        embeddings = []
        for image in kept:
            coordinates = image.coordinates  # (K, 2)
            if not image.pruned:
                # its positions are right already
                coordinates = torch.zeros_like(coordinates)
            embeddings.append(with_coordinates(image.features, coordinates))
        return embeddings

    def dense_embeddings(self, features: Any, kwargs: dict[str, Any]) -> Any:
        """Return the embeddings (n, D + 4) of images of which every token is kept."""
        embeddings = []
        for tokens in features:
            nothing = torch.zeros(len(tokens), 2, dtype=torch.long)
            embeddings.append(with_coordinates(tokens, nothing))
        return embeddings

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        """Return position ids (3, L), and what the next token's position exceeds its index by."""
        features = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
        spans = [(feature.mm_position.offset, feature.mm_position.length) for feature in features]
        grids = []
        for _, time, height, width, seconds in self.iter_mm_grid_thw(mm_features):
            grids.append(((time, height, width), seconds))
        return mrope_positions(len(input_tokens), spans, grids)

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """Return embeddings (L, D), and note which rows and columns `forward` is to add."""
        noted = self.coordinates[:, : len(input_ids)].zero_()  # (2, L)
        shown = multimodal_embeddings is not None and len(multimodal_embeddings) > 0
        if shown and is_multimodal is not None:
            # (K, D + 4) of each image → (all K, 2), written where the prompt has placeholders
            found = torch.cat([coordinates_of(x) for x in multimodal_embeddings])
            found = found.to(noted.device)
            noted.masked_scatter_(is_multimodal.to(noted.device), found.mT)
            multimodal_embeddings = [x[:, :-CHANNELS] for x in multimodal_embeddings]
        return super().embed_input_ids(
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )

    def forward(
        self, input_ids: Tensor | None, positions: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """Run the language model, with rows and columns added to the positions (3, L)."""
        noted = self.coordinates[:, : positions.shape[-1]]
        # in place: CUDA graphs read vLLM's own buffer, which it fills anew for every step
        positions[1:] += noted
        noted.zero_()
        return super().forward(input_ids, positions, *args, **kwargs)
