"""Compile the language model: prompts padded to a few lengths, answers from a static cache.

On CUDA each forward replays a CUDA graph.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from threading import Lock
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, StaticCache, masking_utils
from transformers.modeling_outputs import BaseModelOutputWithPast

from adafv.families.base import layers_of

__all__ = ["compiled"]

# Inputs that run along the sequence, and so are padded with it.
ALONG = ("inputs_embeds", "attention_mask", "position_ids", "visual_pos_masks")
# Kinds of layers in which no token sees what comes after it.
LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
LENGTHS = 64  # that may be compiled in one process; the default, 8, is soon reached


@contextmanager
def compiled(model: PreTrainedModel, bucket: int = 32) -> Iterator[PreTrainedModel]:
    """Run the layers of the language model compiled; on CUDA each forward replays a CUDA graph.

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
    where hidden states or attentions are asked for, for a prompt that continues a filled cache,
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
    _check_layers(model, decoder)

    # An instance may carry a forward of its own; only that one is put back as an attribute.
    own = vars(decoder).get("forward")
    decoder.forward = _fast_forward(model, decoder, bucket)

    try:
        with _settings():
            yield model
    finally:
        if own is None:
            del decoder.forward
        else:
            decoder.forward = own


def _check_layers(model: PreTrainedModel, decoder: Any) -> None:
    """Raise a `ValueError` if the model has layers whose state padding would enter."""
    other = set(getattr(decoder.config, "layer_types", None) or ()) - LAYERS
    if other:
        raise ValueError(
            f"models of the family {model.config.model_type!r} have layers of "
            f"{', '.join(sorted(other))}, whose state padded prompts would change: "
            "leave `compiled` out"
        )


def _fast_forward(model: PreTrainedModel, decoder: Any, bucket: int) -> Any:
    """Return a forward for the decoder that pads a prompt and runs what is compiled."""
    forward = decoder.forward
    layers = layers_of(decoder)
    mode = "reduce-overhead" if model.device.type == "cuda" else None

    def read(**inputs: Any) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        # A cache of the graph's own: the caller's is not padded and need not keep its address.
        cache: Any = DynamicCache()
        hidden = forward(**inputs, past_key_values=cache, use_cache=True).last_hidden_state
        # keys and values of a layer: (B, H, L + pad, D / H)
        return hidden, [(layer.keys, layer.values) for layer in cache.layers]

    def decode(**inputs: Any) -> Tensor:
        return forward(**inputs).last_hidden_state

    # Static shapes: CUDA graphs need them, and one length is as good as another.
    compile_static: Any = partial(torch.compile, dynamic=False, mode=mode)
    prefill = compile_static(read)
    step = compile_static(decode)

    @wraps(forward)
    def fast(*args: Any, **inputs: Any) -> Any:
        if args or torch.compiler.is_compiling() or not _known(inputs):
            return forward(*args, **inputs)
        if _observed(decoder, layers):
            return forward(*args, **inputs)

        cache = inputs.get("past_key_values")
        length = inputs["inputs_embeds"].shape[1]  # (B, L, D)
        if length == 1 and isinstance(cache, StaticCache) and not any(cache.is_sliding):
            # one step of decoding
            hidden = step(**inputs)
        elif cache is not None and cache.get_seq_length():
            # a prompt that continues a filled cache
            return forward(**inputs)
        else:
            # prefill: pad the prompt, then copy its own keys and values into the caller's cache
            if cache is None:
                cache = DynamicCache(config=decoder.config)
            hidden, found = prefill(**_padded(inputs, bucket))
            for i, (keys, values) in enumerate(found):
                cache.update(keys[:, :, :length], values[:, :, :length], i)  # (B, H, L, D / H)

        # (B, L, D), cloned: a graph's next replay writes over what it has returned
        hidden = hidden[:, :length].clone()
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=cache)

    return fast


_lock = Lock()
_open: list[ExitStack] = []  # what undoes the settings, once for each context that is open


@contextmanager
def _settings() -> Iterator[None]:
    """Let PyTorch compile prompts of many lengths, as long as any context is open."""
    stack = ExitStack()
    with _lock:
        if not _open:
            # PyTorch before 2.12 claims to export while it compiles, and no causal mask would be
            # left to the kernel.
            stack.enter_context(_replaced(masking_utils, "is_torchdynamo_exporting", lambda: False))
            stack.enter_context(torch._dynamo.config.patch(recompile_limit=LENGTHS))
        _open.append(stack)
    try:
        yield
    finally:
        # whichever was opened first may be closed first: the last one undoes them
        with _lock:
            _open.remove(stack)
            if _open:
                _open[0].push(stack.pop_all())
            else:
                stack.close()


@contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of a module, and restore it on leaving, also if it did not exist."""
    existed = hasattr(module, name)
    old = getattr(module, name, None)
    setattr(module, name, value)
    try:
        yield
    finally:
        if existed:
            setattr(module, name, old)
        else:
            delattr(module, name)


def _observed(decoder: Any, layers: nn.ModuleList) -> bool:
    """Return whether hidden states are wanted of every call, or a layer has hooks."""
    # wanted by the configuration, not by the call
    if decoder.config.output_hidden_states or decoder.config.output_attentions:
        return True
    # A method that prunes between layers has hooks there, which a graph would freeze.
    return any(layer._forward_pre_hooks for layer in layers)


def _known(inputs: Mapping[str, Any]) -> bool:
    """Return whether prompts of a call may be padded: embeddings, no gradient, no extras."""
    if torch.is_grad_enabled():
        return False
    if inputs.get("inputs_embeds") is None or inputs.get("use_cache") is False:
        return False

    # Masks of flex attention are objects whose shape is not ours to change.
    for mask in _masks(inputs).values():
        if mask is not None and not isinstance(mask, Tensor):
            return False

    # Another tensor might run along the sequence too, and wanted outputs would have the padding.
    for name, value in inputs.items():
        if name in ALONG:
            continue
        if isinstance(value, Tensor) or (value and name.startswith("output_")):
            return False
    return True


def _masks(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attention masks by kind of layer; a single one under the empty name."""
    mask = inputs.get("attention_mask")
    return dict(mask) if isinstance(mask, Mapping) else {"": mask}


def _padded(inputs: Mapping[str, Any], bucket: int) -> dict[str, Any]:
    """Return inputs of prompts without a cache, padded to the next multiple of `bucket`."""
    out = dict(inputs)
    out.pop("past_key_values", None)
    out.pop("use_cache", None)
    length = out["inputs_embeds"].shape[1]
    masks = _masks(inputs)

    # A mask (B, 1, L, W) says which of W keys may be seen, as many as a static cache has: no more
    # than W - L of them can be padding.
    pad = -length % bucket
    for mask in masks.values():
        if mask is not None and mask.dim() == 4:
            pad = min(pad, mask.shape[-1] - length)

    for name, mask in masks.items():
        if mask is None:
            continue
        if mask.dim() == 4:
            # (B, 1, L, W) → (B, 1, L + pad, L + pad)
            masks[name] = _longer(mask[..., : length + pad], pad, dim=-2)
        else:
            # (B, L) → (B, L + pad), or none at all where every token is visible
            masks[name] = None if mask.all() else _longer(mask, pad)
    out["attention_mask"] = masks.get("", masks)

    out["inputs_embeds"] = _longer(out["inputs_embeds"], pad, dim=1)  # (B, L + pad, D)
    positions = out.get("position_ids")
    if positions is not None:
        # (…, L) → (…, L + pad): positions count on behind the prompt
        more = positions[..., -1:] + torch.arange(1, pad + 1, device=positions.device)
        out["position_ids"] = torch.cat([positions, more], dim=-1)
    visual = out.get("visual_pos_masks")
    if visual is not None:
        out["visual_pos_masks"] = F.pad(visual, (0, pad))  # (B, L + pad)
    return out


def _longer(x: Tensor, count: int, dim: int = -1) -> Tensor:
    """Repeat the last slice `count` times more: numbers that the layers have met."""
    last = x.narrow(dim, x.shape[dim] - 1, 1)
    return torch.cat([x, last.repeat_interleave(count, dim)], dim)
