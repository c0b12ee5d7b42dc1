"""The language model compiled: one compilation for a bucket of lengths, the same answers, the model given back."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from test_speed import SMALL, prepared
from torch._dynamo.testing import CompileCounter
from transformers import CompileConfig, DynamicCache, StaticCache

from adafv import AdaFV, FastV
from adafv.ask import build_batch
from adafv.compiled import compiled
from adafv.speed.shapes import WORDS, picture

KINDS = tuple(SMALL)
GREEDY = {"do_sample": False, "max_new_tokens": 5}
STATIC = GREEDY | {"cache_implementation": "static", "max_cache_len": 128}
PRUNER = AdaFV(keep=0.25)


@pytest.fixture
def counter(monkeypatch) -> CompileCounter:
    """Counts graphs, and runs them as they are: what inductor makes of them is PyTorch's to test."""
    counter = CompileCounter()
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    return counter


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


def asked(kind: str, *lengths: int) -> dict:
    """Questions of so many words about pictures."""
    shape = SMALL[kind]
    pictures = [picture(shape.side, seed) for seed in range(len(lengths))]
    questions = [" ".join((WORDS * 9)[3 : 3 + length]) for length in lengths]
    return build_batch(shape.processor(), pictures, questions, "cpu")


def answers(model, inputs, **options) -> list[list[int]]:
    return model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :].tolist()


def test_a_bucket_is_compiled_once(kind, counter):
    """Prompts of other lengths in the same bucket compile nothing more: neither their prefill nor their decoding."""
    model, _ = prepared(kind)
    prompts = [asked(kind, length) for length in (9, 14, 11)]
    plain = [answers(model, PRUNER(model, inputs), **GREEDY) for inputs in prompts]
    counts = []
    with compiled(model, bucket=64), torch.no_grad():
        for inputs, expected in zip(prompts, plain, strict=True):
            short = PRUNER(model, inputs)
            assert short["input_ids"].shape[1] <= 64
            assert answers(model, short, **STATIC) == expected
            counts.append(counter.frame_count)
        assert counts[0] > 0 and counts[1:] == counts[:1] * 2
        answers(model, PRUNER(model, asked(kind, 60)), **STATIC)
        assert counter.frame_count > counts[0]
    with compiled(model, bucket=64), torch.no_grad():
        before = counter.frame_count
        answers(model, PRUNER(model, prompts[0]), **STATIC)
        assert counter.frame_count == before
