"""The language model compiled: one compilation for a bucket of lengths, the same answers, the model
given back.
"""

from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import StaticCache, masking_utils

from adafv import AdaFV
from adafv.methods import method
from adafv.models.compiled import compiled
from adafv.models.prompting import build_batch
from adafv.speed.shapes import WORDS, image
from tests.speed.test_speed import SHALLOW, prepared

pytestmark = [pytest.mark.slow, pytest.mark.compiled]

# one of each kind of decoder: positions in a row, in rows and columns, with features of layers
KINDS = ("llava", "qwen2_5_vl", "qwen3_vl")
GREEDY = {"do_sample": False, "max_new_tokens": 5}
STATIC = GREEDY | {"cache_implementation": "static", "max_cache_len": 128}
PRUNER = AdaFV(keep=0.25)


@pytest.fixture
def counter(monkeypatch) -> CompileCounter:
    """Counts graphs, and runs them as they are: what inductor makes of them is PyTorch's to
    test.
    """
    counter = CompileCounter()
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    return counter


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


def asked(kind: str, *lengths: int) -> dict:
    """Questions of so many words about images."""
    shape = SHALLOW[kind]
    pictures = [image(shape.side, seed) for seed in range(len(lengths))]
    questions = [" ".join((WORDS * 9)[3 : 3 + length]) for length in lengths]
    return build_batch(shape.processor(), pictures, questions, "cpu")


def answers(model, inputs, **options) -> list[list[int]]:
    return model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :].tolist()


def test_a_bucket_is_compiled_once(kind, counter):
    """Prompts of other lengths in the same bucket compile nothing more: neither their prefill nor
    their decoding.
    """
    model, _ = prepared(kind, shapes=SHALLOW)
    prompts = [asked(kind, length) for length in (9, 14, 11)]
    plain = [answers(model, PRUNER(model, inputs), **GREEDY) for inputs in prompts]
    counts = []
    with compiled(model, bucket=64), torch.no_grad():
        for inputs, expected in zip(prompts, plain, strict=True):
            short = PRUNER(model, inputs)
            assert short["input_ids"].shape[1] <= 64
            assert answers(model, short, **STATIC) == expected
            counts.append(counter.frame_count)
        assert counts[0] > 0
        assert counts[1:] == counts[:1] * 2
        answers(model, PRUNER(model, asked(kind, 60)), **STATIC)
        assert counter.frame_count > counts[0]
    with compiled(model, bucket=64), torch.no_grad():
        before = counter.frame_count
        answers(model, PRUNER(model, prompts[0]), **STATIC)
        assert counter.frame_count == before


def test_answers_and_logits_are_those_of_the_plain_model(kind, counter):
    """A batch of unequal dense prompts, with a growing or a static cache: padding changes nothing.

    Pruned ones are below.
    """
    model, _ = prepared(kind, shapes=SHALLOW)
    inputs = asked(kind, 9, 14)
    plain = answers(model, inputs, **GREEDY)
    with torch.no_grad():
        logits = model(**inputs).logits
    with compiled(model, bucket=64), torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, logits, rtol=1e-4, atol=1e-5)
        assert answers(model, inputs, **GREEDY) == answers(model, inputs, **STATIC) == plain
    assert counter.frame_count > 0


@pytest.mark.parametrize("options", [GREEDY, STATIC], ids=["growing", "static"])
def test_masks_are_compiled_too(kind, options, counter):
    """Padding on the left of pruned prompts needs a mask, which `generate` makes for a static
    cache: one, or one for each kind of layer; answers and logits are the plain model's.

    The prefill is compiled under either; the tokens after it where the cache is static and no layer
    has a window.
    """
    model, _ = prepared(kind, shapes=SHALLOW)
    inputs = asked(kind, 5, 12)
    assert not inputs["attention_mask"].all()
    short = PRUNER(model, inputs)
    plain = answers(model, short, **GREEDY)
    with torch.no_grad():
        logits = model(**short).logits
    with compiled(model, bucket=64), torch.no_grad():
        torch.testing.assert_close(model(**short).logits, logits, rtol=1e-4, atol=1e-5)
        answers(model, short, **options | {"max_new_tokens": 1})
        prefill = counter.frame_count
        assert answers(model, short, **options) == plain
    decoded = options is STATIC and not any(StaticCache(model.config, 8).is_sliding)
    assert prefill > 0
    assert counter.frame_count == prefill + decoded


def test_attached_pruners_work_as_ever(counter):
    """Ids still begin with the caller's own prompt."""
    model, _ = prepared("llava", shapes=SHALLOW)
    inputs = asked("llava", 9)
    with PRUNER.attached(model):
        plain = model.generate(**inputs, **GREEDY)
        with compiled(model):
            assert torch.equal(model.generate(**inputs, **GREEDY), plain)
    assert counter.frame_count > 0


def test_what_cannot_be_compiled_runs_as_ever(counter):
    """Gradients, attentions that are asked for, and methods that prune between layers."""
    model, _ = prepared("llava", shapes=SHALLOW)
    inputs = asked("llava", 9)
    between = method("fastv", keep=0.75)
    with between.attached(model):
        plain = model.generate(**inputs, **GREEDY)
    with compiled(model):
        model(**inputs)
        with torch.no_grad():
            model(**inputs, output_hidden_states=True)
            # or wanted by the configuration
            model.model.language_model.config.output_hidden_states = True
            assert model(**inputs).hidden_states is not None
            model.model.language_model.config.output_hidden_states = False
        with between.attached(model):
            assert torch.equal(model.generate(**inputs, **GREEDY), plain)
        assert counter.frame_count == 0


def test_the_model_is_given_back(counter):
    """After an exception, too."""
    model, _ = prepared("llava", shapes=SHALLOW)
    with pytest.raises(RuntimeError, match="lost"), compiled(model):
        assert "forward" in vars(model.get_decoder())
        raise RuntimeError("lost")
    assert "forward" not in vars(model.get_decoder())
    with pytest.raises(ValueError, match="pass 1 or more"), compiled(model, bucket=0):
        pass


def test_models_are_given_back_in_any_order():
    """Two of them: what is set for both stays until the second is left, and no longer."""
    first, second = (prepared(kind, shapes=SHALLOW)[0] for kind in ("llava", "qwen2_5_vl"))
    exporting, limit = masking_utils.is_torchdynamo_exporting, torch._dynamo.config.recompile_limit
    contexts = [compiled(first), compiled(second)]
    for context in contexts:
        context.__enter__()
    contexts[0].__exit__(None, None, None)
    assert masking_utils.is_torchdynamo_exporting is not exporting
    assert torch._dynamo.config.recompile_limit != limit
    contexts[1].__exit__(None, None, None)
    assert masking_utils.is_torchdynamo_exporting is exporting
    assert torch._dynamo.config.recompile_limit == limit


def test_inductor_agrees():
    """With the compiler that users have."""
    torch.compiler.reset()
    model, _ = prepared("llava", shapes=SHALLOW)
    inputs = PRUNER(model, asked("llava", 9))
    plain = answers(model, inputs, **GREEDY)
    with compiled(model), torch.no_grad():
        assert answers(model, inputs, **GREEDY) == plain
