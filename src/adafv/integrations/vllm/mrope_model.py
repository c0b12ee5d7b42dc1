"""Give kept visual tokens the rows and columns that they have in the dense image (M-RoPE)."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from adafv.integrations.vllm.config_checks import check_positions
from adafv.integrations.vllm.mrope import (
    CHANNELS,
    Span,
    coordinates_of,
    dense_tokens,
    pruned_positions,
    with_coordinates,
)
from adafv.integrations.vllm.select import Kept

__all__ = ["MRopeModel"]


class MRopeModel:
    """A mixin before `PrunedModel`, for models with M-RoPE.

    vLLM numbers a prompt before it knows which tokens are kept. So text is numbered as if all
    were, an image that is pruned has the number of its first token everywhere, and the rows and
    columns travel with the embeddings, as four more channels, to be added when the language model
    reads them.

    Attributes:
        config, at_once, register_buffer: of the model that it stands before.
    """

    config: Any
    at_once: int
    coordinates: Tensor
    register_buffer: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        check_positions(vllm_config)
        # (2, tokens of a step): row and column to add to each token's position
        device = vllm_config.device_config.device
        coordinates = torch.zeros(2, self.at_once, dtype=torch.long, device=device)
        self.register_buffer("coordinates", coordinates, persistent=False)

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

    def dense_embeddings(self, features: Any) -> Any:
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
        # images in the dense prompt
        spans = []
        dense_features = []
        shift = 0  # tokens that are dropped before
        for feature in sorted(mm_features, key=lambda feature: feature.mm_position.offset):
            position = feature.mm_position
            span = Span(position.offset, position.length, self._dense_length(feature))
            dense = replace(position, offset=span.start + shift)
            if span.dropped:
                dense = replace(dense, length=span.count)
            dense_features.append(replace(feature, mm_position=dense))
            spans.append(span)
            shift += span.dropped

        # numbered as vLLM numbers it
        tokens = dense_tokens(input_tokens, spans)
        number = super().get_mrope_input_positions  # type: ignore[misc]
        positions, delta = number(tokens, dense_features)
        return pruned_positions(positions, spans), delta + shift

    def _dense_length(self, feature: Any) -> int:
        """Return how many visual tokens an image has before pruning."""
        if feature.modality != "image":
            return feature.mm_position.length
        merge = self.config.vision_config.spatial_merge_size
        grid = feature.data["image_grid_thw"].data  # (3,) time, height and width in patches
        return int(grid.prod()) // merge**2

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
        return super().embed_input_ids(  # type: ignore[misc]
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
        return super().forward(input_ids, positions, *args, **kwargs)  # type: ignore[misc]
