"""Model Runner V2, vLLM's default where Triton is, gives the language model what the library does.

No CPU runs it whole, so its own classes are driven here: they encode a request's images, cut its
prompt into chunks, and put embeddings in place; then the model's `forward` adds rows and columns.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from checkpoints import save
from engine import Engine, Library, Request, engine, picture
from torch import Tensor
from vllm.v1.worker.gpu.mm.encoder_cache import EncoderCache
from vllm.v1.worker.gpu.mm.encoder_runner import EncoderRunner

from adafv import method

CHUNK = 24
ASKED = [
    Request("what color is the anchor ?"),
    Request("is there a knight", (1, 2), keep=0.4, method="adafv+"),
    Request("is there a knight", (0, 0), keep=1.0),
]


@pytest.fixture(scope="module", params=["llava_next", "qwen2_5_vl"])
def both(request, tmp_path_factory) -> Iterator[tuple[Engine, Library]]:
    """An engine and the library, of one checkpoint: positions in a row, and M-RoPE."""
    folder = save(request.param, tmp_path_factory.mktemp(request.param))
    with engine(request.param, folder) as made:
        yield made, Library(request.param, folder)


def prepared(made: Engine, asked: Request, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the request that reaches vLLM's scheduler."""
    scheduler = made.llm.llm_engine.engine_core.engine_core.scheduler
    found = []
    add = scheduler.add_request
    monkeypatch.setattr(scheduler, "add_request", lambda one: (found.append(one), add(one)))
    made.say(asked, max_tokens=1)
    monkeypatch.undo()
    [one] = found
    return one


def read_by_runner(
    made: Engine, one: Any, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor]:
    """Return the embeddings (L, D) and positions (L,) or (3, L) that reach vLLM's own model."""
    model, name = made.model, one.request_id
    cache = EncoderCache()
    width = made.llm.llm_engine.model_config.get_hidden_size()
    runner = EncoderRunner(model, CHUNK, width, cache, torch.float32, torch.device("cpu"))

    # encode all images
    cache.add_request(name, one.mm_features)
    hashes, images = runner.prepare_mm_inputs({name: list(range(len(one.mm_features)))})
    # the same image twice is encoded once
    unique = dict(zip(hashes, images, strict=True))
    outputs = runner.execute_mm_encoder(list(unique.values()))
    cache.encoder_outputs.update(zip(unique, outputs, strict=True))

    # what `forward` hands on
    read: list[tuple[Tensor, Tensor]] = []
    stock = next(cls for cls in type(model).__mro__ if cls.__module__.startswith("vllm."))
    monkeypatch.setattr(
        stock,
        "forward",
        lambda self, ids, positions, *_, inputs_embeds, **options: read.append(
            (inputs_embeds.clone(), positions.clone())
        ),
    )

    ids = one.prompt_token_ids
    positions = torch.arange(len(ids))
    if hasattr(model, "get_mrope_input_positions"):
        positions, _ = model.get_mrope_input_positions(ids, one.mm_features)
    for start in range(0, len(ids), CHUNK):
        count = min(CHUNK, len(ids) - start)
        embeds, at = runner.gather_mm_embeddings(
            [name],
            count,
            np.array([count]),
            np.array([0, count]),
            np.array([len(ids)]),
            np.array([start]),
        )
        chunk = torch.tensor(ids[start : start + count])
        inputs_embeds = runner.get_inputs_embeds(chunk, embeds, at)[:count]
        # vLLM's buffer, which `forward` changes in place
        buffer = positions[..., start : start + count].clone()
        model.forward(None, buffer, inputs_embeds=inputs_embeds)
    monkeypatch.undo()
    embeddings, places = zip(*read, strict=True)
    return torch.cat(embeddings), torch.cat(places, dim=-1)


@torch.no_grad()
def read_by_library(library: Library, asked: Request) -> tuple[Tensor, Tensor]:
    """Return the embeddings (L, D) and positions (L,) or (3, L) that its language model reads."""
    images = [[picture(i) for i in asked.images]]
    prompt = asked.prompt(library.family)
    inputs = dict(library.processor(text=[prompt], images=images, return_tensors="pt"))
    short = method(asked.method, keep=asked.keep)(library.model, inputs)
    read: dict[str, Any] = {}
    decoder = library.model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda module, args, options: read.update(options), with_kwargs=True
    )
    library.model(**short)
    hook.remove()
    embeddings = read["inputs_embeds"][0]  # (L, D)
    positions = read.get("position_ids")
    if positions is None or positions.dim() < 3:
        return embeddings, torch.arange(len(embeddings))
    # transformers puts the text's positions before the three of M-RoPE: (4, 1, L) → (3, L)
    return embeddings, positions[-3:, 0]


@pytest.mark.parametrize("asked", ASKED, ids=["one", "two", "whole"])
def test_what_the_language_model_reads(both, asked, monkeypatch):
    """In chunks that cut images: embeddings and positions are the library's."""
    made, library = both
    one = prepared(made, asked, monkeypatch)
    embeddings, positions = read_by_runner(made, one, monkeypatch)
    expected, places = read_by_library(library, asked)
    # the towers are two implementations
    assert embeddings.shape == expected.shape
    assert torch.cosine_similarity(embeddings, expected).min() > 0.9999
    assert torch.equal(positions, places)
