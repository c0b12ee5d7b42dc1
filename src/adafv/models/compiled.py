"""The language model compiled: prompts padded to a few lengths, answers from a static cache; on
CUDA as CUDA graphs.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache, masking_utils
from transformers.modeling_outputs import BaseModelOutputWithPast

from adafv.families.base import layers_of

__all__ = ["compiled"]

ALONG = ("inputs_embeds", "attention_mask", "position_ids", "visual_pos_masks")
LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
LENGTHS = 64  # that may be compiled in one process; the default, 8, is soon reached


@contextmanager
def compiled(model: PreTrainedModel, bucket: int = 32) -> Iterator[PreTrainedModel]:
    """A context in which the layers of the language model run compiled; on CUDA each forward
    replays a CUDA graph.

        with compiled(model):
            model.generate(**pruner(model, inputs), cache_implementation="static",
            max_cache_len=1024)

    A prompt is padded on the right to the next multiple of `bucket` tokens on its way into the
    layers, which are compiled once for each such length and batch size. No token sees what comes
    after it: nothing that is the prompt's own changes beyond rounding, no mask is made where none
    was needed, and the padding neither enters the cache nor leaves the layers. `Pruner.attached`
    works as ever.

    Decoding is compiled too where the cache is static, once for each length of the cache:
    `max_cache_len` makes that the same for all prompts. On a GPU `generate` sees to it itself; here
    it is done for loops of one's own, unless a layer has a sliding window, whose static cache
    counts in Python and would be compiled anew for every token.

    The model computes as ever where nothing is to be gained or too little is known: with gradients,
    where hidden states or attentions are asked for, for a prompt that goes on from a filled cache,
    and under a method that prunes between layers. On leaving, after an exception too, the model is
    as it was.

    Args:
        bucket: in tokens; the wider, the fewer the compilations and the more is computed for
            nothing.

    Raises:
        ValueError: bucket below 1, or layers that are not attention, whose state the padding would
            enter.
    """
    if bucket < 1:
        raise ValueError(f"bucket={bucket} is not a number of tokens: pass 1 or more")
    decoder: Any = model.get_decoder()
    if other := set(getattr(decoder.config, "layer_types", None) or ()) - LAYERS:
        raise ValueError(
            f"models of the family {model.config.model_type!r} have layers of {', '.join(sorted(other))}, whose state "
            "padded prompts would change: leave `compiled` out"
        )
    own, forward, layers = vars(decoder).get("forward"), decoder.forward, layers_of(decoder)
    mode = "reduce-overhead" if model.device.type == "cuda" else None

    def read(**inputs: Any) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        # of the graph's own: no cache is padded, and none has to stay at its address
        cache: Any = DynamicCache()
        hidden = forward(**inputs, past_key_values=cache, use_cache=True).last_hidden_state
        return hidden, [(layer.keys, layer.values) for layer in cache.layers]

    def decode(**inputs: Any) -> Tensor:
        return forward(**inputs).last_hidden_state

    fixed: Any = partial(torch.compile, dynamic=False, mode=mode)
    prefill, step = fixed(read), fixed(decode)

    @wraps(forward)
    def fast(*args: Any, **inputs: Any) -> Any:
        if (
            args
            or torch.compiler.is_compiling()
            or not _known(inputs)
            or any(x._forward_pre_hooks for x in layers)
        ):
            return forward(*args, **inputs)
        cache, length = inputs.get("past_key_values"), inputs["inputs_embeds"].shape[1]
        if length == 1 and isinstance(cache, StaticCache) and not any(cache.is_sliding):
            hidden = step(**inputs)
        elif cache is not None and cache.get_seq_length():
            return forward(**inputs)
        else:
            cache = DynamicCache(config=decoder.config) if cache is None else cache
            hidden, found = prefill(**_padded(inputs, bucket))
            for i, (keys, values) in enumerate(found):
                cache.update(keys[:, :, :length], values[:, :, :length], i)
        # a graph's next replay writes over what it has returned
        return BaseModelOutputWithPast(
            last_hidden_state=hidden[:, :length].clone(), past_key_values=cache
        )

    decoder.forward = fast
    try:
        # PyTorch before 2.12 claims to export while it compiles, and no causal mask would be left
        # to the kernel
        exporting = patch.object(
            masking_utils, "is_torchdynamo_exporting", lambda: False, create=True
        )
        with torch._dynamo.config.patch(recompile_limit=LENGTHS), exporting:
            yield model
    finally:
        if own is None:
            del decoder.forward
        else:
            decoder.forward = own


def _known(inputs: Mapping[str, Any]) -> bool:
    """Whether a call of the language model is one whose prompts may be padded: embeddings, no
    gradient, no extras.
    """
    if (
        torch.is_grad_enabled()
        or inputs.get("inputs_embeds") is None
        or inputs.get("use_cache") is False
    ):
        return False
    if not all(mask is None or isinstance(mask, Tensor) for mask in _masks(inputs).values()):
        return False
    rest = {name: value for name, value in inputs.items() if name not in ALONG}
    return not any(
        isinstance(x, Tensor) or (x and name.startswith("output_")) for name, x in rest.items()
    )


def _masks(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The attention masks by kind of layer, where there is more than one kind."""
    mask = inputs.get("attention_mask")
    return dict(mask) if isinstance(mask, Mapping) else {"": mask}


def _padded(inputs: Mapping[str, Any], bucket: int) -> dict[str, Any]:
    """What the layers read of prompts without a cache, up to the next multiple of `bucket`."""
    out = {
        name: value
        for name, value in inputs.items()
        if name not in ("past_key_values", "use_cache")
    }
    length, masks = out["inputs_embeds"].shape[1], _masks(inputs)
    # (B, 1, L, W) masks say of W keys, as many as a static cache has, who may see them: no more of
    # them can be padding
    pad = min(
        [
            -length % bucket,
            *(m.shape[-1] - length for m in masks.values() if m is not None and m.dim() == 4),
        ]
    )
    for name, mask in masks.items():
        if mask is not None and mask.dim() == 4:
            masks[name] = _longer(mask[..., : length + pad], pad, dim=-2)
        elif mask is not None:
            masks[name] = None if mask.all() else _longer(mask, pad)
    out["attention_mask"] = masks.get("", masks)
    out["inputs_embeds"] = _longer(out["inputs_embeds"], pad, dim=1)
    if (positions := out.get("position_ids")) is not None:
        more = positions[..., -1:] + torch.arange(1, pad + 1, device=positions.device)
        out["position_ids"] = torch.cat([positions, more], dim=-1)
    if (visual := out.get("visual_pos_masks")) is not None:
        out["visual_pos_masks"] = F.pad(visual, (0, pad))
    return out


def _longer(x: Tensor, count: int, dim: int = -1) -> Tensor:
    """With its last slice `count` times more: numbers that the layers have met."""
    return torch.cat([x, x.narrow(dim, x.shape[dim] - 1, 1).repeat_interleave(count, dim)], dim)
