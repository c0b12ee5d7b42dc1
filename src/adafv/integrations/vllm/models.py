"""vLLM's models, reading only the visual tokens that stay.

Their weights, layers and kernels are vLLM's own.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
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
from adafv.integrations.vllm.meta_model import MetaModel
from adafv.integrations.vllm.mrope import CHANNELS, numbered, places_of, with_places
from adafv.integrations.vllm.options import FIELD, PruneSpec, settings
from adafv.integrations.vllm.processor import Pruned
from adafv.integrations.vllm.select import Kept, select
from adafv.integrations.vllm.vision_attention import last_attention, watch

__all__ = ["PrunedLlava", "PrunedLlavaNext", "PrunedLlavaOnevision", "PrunedQwen2_5VL"]

CACHE_MB = 512
TOWER_PARTS = ("embeddings", "encoder", "pre_layrnorm", "post_layernorm")
NAMES = WeightsMapper(
    orig_to_new_prefix={
        f"vision_tower.{x}.": f"vision_tower.vision_model.{x}." for x in TOWER_PARTS
    }
)
"""From the names under which transformers 5 saves a tower to those of older checkpoints, which vLLM
reads.
"""


class PrunedModel:
    """Stands before a model of vLLM: encodes each image once, then keeps what its tickets say.

    An image comes with a ticket (`adafv.integrations.vllm.options.PruneSpec`). Encodings are kept
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
        self.skeleton = MetaModel(config.hf_config)
        self.encodings = Encodings(options.get("adafv_cache_mb", CACHE_MB) * 2**20)
        self.prunes = bool(options)
        if self.prunes:
            self.encodings.reserve(vllm_config.device_config.device)
        self.layers = config.hf_config.get_text_config().num_hidden_layers
        self.at_once = vllm_config.scheduler_config.max_num_batched_tokens

    def embed_multimodal(self, **kwargs: Any) -> Any:
        tickets = [PruneSpec.read(ticket) for ticket in kwargs.pop(FIELD, ())]
        if all(ticket.dense for ticket in tickets):
            # vLLM measures its memory with whole images: with a budget of its own, a server has
            # to look here, too
            with self._watched() if self.prunes else nullcontext():
                return self.whole(super().embed_multimodal(**kwargs), kwargs)  # type: ignore[misc]
        return self.embeddings(
            select(tickets, self._encoded(tickets, kwargs), self._embed, self.layers)
        )

    def embeddings(self, stay: list[Kept]) -> list[Tensor]:
        """What the language model gets of each image."""
        return [s.features for s in stay]

    def whole(self, features: Any, kwargs: dict[str, Any]) -> Any:
        """What the language model gets of images or clips of which everything stays."""
        return features

    def images(self, kwargs: dict[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
        """The inputs of some images."""
        return {name: _these(x, chosen) for name, x in kwargs.items()}

    def count(self, kwargs: dict[str, Any], index: int) -> int:
        """Patches of an image, padding included."""
        pixels = kwargs["pixel_values"][index]
        crops = len(pixels) if pixels.dim() == 4 else 1
        return crops * int(
            np.prod([n // self.config.vision_config.patch_size for n in pixels.shape[-2:]])
        )

    def _encoded(self, tickets: Sequence[PruneSpec], kwargs: dict[str, Any]) -> list[Encoded]:
        found: dict[str, Encoded] = {}
        new: dict[str, int] = {}
        for i, ticket in enumerate(tickets):
            if ticket.image in found or ticket.image in new:
                self.encodings.reused += 1
            elif (known := self.encodings.find(ticket.image)) is not None:
                found[ticket.image] = known
            else:
                new[ticket.image] = i
        for part in self._parts(kwargs, list(new.values())):
            for i, encoded in zip(part, self._encode(self.images(kwargs, part)), strict=True):
                found[tickets[i].image] = encoded
                self.encodings.add(tickets[i].image, encoded)
        return [found[ticket.image] for ticket in tickets]

    def _parts(self, kwargs: dict[str, Any], chosen: list[int]) -> Iterator[list[int]]:
        """As many images at once as the measurement of memory had: the scheduler counts only what
        stays of them.
        """
        part: list[int] = []
        room = self.at_once
        for i in chosen:
            size = self.count(kwargs, i)
            if part and size > room:
                yield part
                part, room = [], self.at_once
            part.append(i)
            room -= size
        if part:
            yield part

    def _encode(self, kwargs: dict[str, Any]) -> list[Encoded]:
        with self._watched() as seen:
            features = list(super().embed_multimodal(**kwargs))  # type: ignore[misc]
        shapes = {name: x for name, x in kwargs.items() if name != "pixel_values"}
        layouts = [
            self.skeleton.layout(len(f), {n: x[i] for n, x in shapes.items()})
            for i, f in enumerate(features)
        ]
        patches = torch.cat([x.flatten() for x in seen]).split(
            [self.count(kwargs, i) for i in range(len(layouts))]
        )
        return [
            Encoded(f, layout.pooled(p, layout.patch_indices), layout)
            for f, p, layout in zip(features, patches, layouts, strict=True)
        ]

    def _watched(self) -> AbstractContextManager[list[Tensor]]:
        return watch(last_attention(getattr(self, self.tower_name)), self.skeleton.cls)

    def _embed(self, words: Tensor) -> Tensor:
        return self.get_language_model().embed_input_ids(words)


def _these(x: Any, chosen: Sequence[int]) -> Any:
    return x[list(chosen)] if isinstance(x, Tensor) else [x[i] for i in chosen]


class _Llava(Pruned, LlavaMultiModalProcessor):
    pass


class _Pixtral(PixtralHFMultiModalProcessor):
    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        if any(
            name.startswith(FIELD)
            for name in (*inputs.hf_processor_mm_kwargs, *settings(self.info.ctx.model_config))
        ):
            raise ValueError(
                "models with Pixtral's tower are not pruned on vLLM: leave adafv's options out"
            )
        return super().apply(inputs, timing_ctx)


def _llava_processor(info: Any, dummy_inputs: Any) -> Any:
    return (_Llava if isinstance(info, LlavaProcessingInfo) else _Pixtral)(info, dummy_inputs)


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
    """LLaVA-NeXT. The newlines of an image that is pruned go."""

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
    """Qwen2.5-VL. Kept tokens keep the rows and columns they have in the whole image (M-RoPE).

    vLLM numbers a prompt before it knows which tokens stay. So text is numbered as if all had
    stayed, an image that is pruned has the number of its first token everywhere, and the rows and
    columns travel with the embeddings, as four more channels, to be added when the language model
    reads them.
    """

    tower_name = "visual"

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        check_positions(vllm_config)
        places = torch.zeros(
            2, self.at_once, dtype=torch.long, device=vllm_config.device_config.device
        )
        self.register_buffer("places", places, persistent=False)

    def count(self, kwargs: dict[str, Any], index: int) -> int:
        return int(kwargs["image_grid_thw"][index].prod())

    def images(self, kwargs: dict[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
        pixels = kwargs["pixel_values"].split(kwargs["image_grid_thw"].prod(-1).tolist())
        rest = {name: _these(x, chosen) for name, x in kwargs.items() if name != "pixel_values"}
        return {**rest, "pixel_values": torch.cat([pixels[i] for i in chosen])}

    def embeddings(self, stay: list[Kept]) -> list[Tensor]:
        return [
            with_places(s.features, s.coordinates if s.pruned else torch.zeros_like(s.coordinates))
            for s in stay
        ]

    def whole(self, features: Any, kwargs: dict[str, Any]) -> Any:
        return [with_places(x, torch.zeros(len(x), 2, dtype=torch.long)) for x in features]

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        features = sorted(mm_features, key=lambda feature: feature.mm_position.offset)
        spans = [(feature.mm_position.offset, feature.mm_position.length) for feature in features]
        grids = [(tuple(grid), seconds) for _, *grid, seconds in self.iter_mm_grid_thw(mm_features)]
        return numbered(len(input_tokens), spans, grids)

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        places = self.places[:, : len(input_ids)].zero_()
        if (
            multimodal_embeddings is not None
            and len(multimodal_embeddings)
            and is_multimodal is not None
        ):
            found = torch.cat([places_of(x) for x in multimodal_embeddings]).to(places.device)
            places.masked_scatter_(is_multimodal.to(places.device), found.mT)
            multimodal_embeddings = [x[:, :-CHANNELS] for x in multimodal_embeddings]
        return super().embed_input_ids(
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )

    def forward(
        self, input_ids: Tensor | None, positions: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        places = self.places[:, : positions.shape[-1]]
        # in place: CUDA graphs read vLLM's own buffer, which it fills anew for every step
        positions[1:] += places
        places.zero_()
        return super().forward(input_ids, positions, *args, **kwargs)
