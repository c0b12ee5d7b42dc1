"""Give kept visual tokens the positions that they have in the dense image or video (M-RoPE)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalFeatureSpec, MultiModalKwargsItem, PlaceholderRange

from adafv.integrations.vllm.config_checks import check_positions
from adafv.integrations.vllm.mrope import (
    AXES,
    CHANNELS,
    Span,
    coordinates_of,
    dense_tokens,
    pruned_positions,
    with_coordinates,
)
from adafv.integrations.vllm.prune_spec import FIELDS, PruneSpec
from adafv.integrations.vllm.select import Kept
from adafv.integrations.vllm.structure import dense_run

__all__ = ["Items", "MRopeModel"]

Items = Sequence[MultiModalKwargsItem]
"""Inputs of each image, or of each video."""


class MRopeModel:
    """A mixin before `PrunedModel`, for models with M-RoPE.

    vLLM numbers a prompt before it knows which tokens are kept. So text is numbered as if all
    were, an image that is pruned has the number of its first token everywhere, and what each token
    is further on in time, rows and columns travels with the embeddings, as six more channels, to
    be added when the language model reads them.

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
        # (3, tokens of a step): time, row and column to add to each token's position
        device = vllm_config.device_config.device
        coordinates = torch.zeros(AXES, self.at_once, dtype=torch.long, device=device)
        self.register_buffer("coordinates", coordinates, persistent=False)

    def embeddings(
        self, kept: list[Kept], specs: Sequence[PruneSpec], items: Items, modality: str
    ) -> list[Tensor]:
        """Return the embeddings (K, D + 6) of each image, with coordinates among them."""
        embeddings = []
        for image, spec, item in zip(kept, specs, items, strict=True):
            # the positions of one of which nothing is dropped are right already
            coordinates = torch.zeros(len(image.features), AXES, dtype=torch.long)
            if image.pruned:
                device = image.positions.device
                in_run = self._coordinates(spec, item, modality).to(device, non_blocking=True)
                coordinates = in_run[image.positions]  # (K, 3)
            embeddings.append(with_coordinates(image.features, coordinates))
        return embeddings

    def dense_embeddings(self, features: Any) -> Any:
        """Return the embeddings (n, D + 6) of images of which every token is kept."""
        embeddings = []
        for tokens in features:
            nothing = torch.zeros(len(tokens), AXES, dtype=torch.long)
            embeddings.append(with_coordinates(tokens, nothing))
        return embeddings

    def _coordinates(self, spec: PruneSpec, item: MultiModalKwargsItem, modality: str) -> Tensor:
        """Return how far each token of a dense run is from the first: (n, 3)."""
        tokens, position = _dense(spec)
        feature = MultiModalFeatureSpec(item, modality, spec.image, position)
        # vLLM numbers what the prompt says of one image as it does in any prompt
        number = super().get_mrope_input_positions  # type: ignore[misc]
        positions, _ = number(tokens, [feature])  # (3, before + n + behind)
        run = positions[:, len(spec.before) : len(tokens) - len(spec.behind)]  # (3, n)
        return (run - run[:, :1]).mT

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
            offset = position.offset + shift
            spec = _spec_of(feature)
            if spec.count:
                tokens, dense = _dense(spec)
                edges = len(spec.before) + len(spec.behind)
                run = tuple(tokens[len(spec.before) : len(tokens) - len(spec.behind)])
                start = position.offset + len(spec.before)
                span = Span(start, position.length - edges, len(run), run)
                spans.append(span)
                shift += span.dropped
                dense_features.append(replace(feature, mm_position=replace(dense, offset=offset)))
            else:
                dense = replace(position, offset=offset)
                dense_features.append(replace(feature, mm_position=dense))

        # numbered as vLLM numbers it
        tokens = dense_tokens(input_tokens, spans)
        number = super().get_mrope_input_positions  # type: ignore[misc]
        positions, delta = number(tokens, dense_features)
        return pruned_positions(positions, spans), delta + shift

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """Return embeddings (L, D), and note which coordinates `forward` is to add."""
        noted = self.coordinates[:, : len(input_ids)].zero_()  # (3, L)
        shown = multimodal_embeddings is not None and len(multimodal_embeddings) > 0
        if shown and is_multimodal is not None:
            # (K, D + 6) of each image → (all K, 3), written where the prompt has placeholders
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
        """Run the language model, with coordinates added to the positions (3, L)."""
        noted = self.coordinates[:, : positions.shape[-1]]
        # in place: CUDA graphs read vLLM's own buffer, which it fills anew for every step
        positions += noted
        noted.zero_()
        return super().forward(input_ids, positions, *args, **kwargs)  # type: ignore[misc]


def _spec_of(feature: Any) -> PruneSpec:
    """Return the spec of an image or a video of a prompt; one that keeps all where it has none."""
    field = FIELDS.get(feature.modality)
    if field is None or field not in feature.data:
        return PruneSpec("")
    return PruneSpec.read(feature.data[field].data)


def _dense(spec: PruneSpec) -> tuple[list[int], PlaceholderRange]:
    """Return what the dense prompt says of an image, and where its visual tokens are in that."""
    run = dense_run(spec.token, spec.count, spec.structure)
    tokens = [*spec.before, *run, *spec.behind]
    is_embed = torch.zeros(len(tokens), dtype=torch.bool)
    is_embed[len(spec.before) : len(spec.before) + len(run)] = True
    for position, _ in spec.structure:
        is_embed[len(spec.before) + position] = False
    return tokens, PlaceholderRange(offset=0, length=len(tokens), is_embed=is_embed)
