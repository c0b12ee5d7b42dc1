"""Pruning between the layers: the same as plain loops, at the same cost as pruning before them,
whatever the batch.
"""

import math
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from functools import cache, partial
from itertools import pairwise
from threading import Thread

import pytest
import torch
from conftest import BACKBONES, inputs_for, picture, prompt, tiny_model, tiny_processor, tokenizer
from oracles import layerwise as layerwise_oracle
from transformers import AttentionInterface, AutoConfig
from zoo import base

from adafv import AdaFV
from adafv.methods.fastv import FastV
from adafv.methods.pdrop import PyramidDrop
from adafv.methods.sparsevlm import SparseVLM, rating_words

METHODS = (FastV, SparseVLM, PyramidDrop)
GREEDY = dict(max_new_tokens=5, do_sample=False, suppress_tokens=[4])  # <image>
ONE = (prompt("what color is the knight ?"), [picture()])
NONE = (prompt("how many ?", images=0), [])
TWO = (prompt("compare the red and the blue", images=2), [picture(24, 48, 1), picture(50, 24, 2)])


@cache
def deep_model(family: str, backbone: str = "llama", layers: int = 8, **text):
    """The tiny model with enough layers for every stage."""
    config = tiny_model(family, backbone).config
    options = config.text_config.to_dict() | {"num_hidden_layers": layers} | text
    options.pop("layer_types", None)
    config.text_config = type(config.text_config)(**options)
    torch.manual_seed(0)
    model = type(tiny_model(family, backbone))(config).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 1
    return model


def read(pruner, model, inputs, run=None):
    """The model's output (or `run`'s) while it prunes."""
    encoding = pruner.encode(model, inputs)
    with torch.no_grad(), pruner.between_layers(model, encoding):
        return (run or model)(**pruner.prune(model, inputs, encoding))


def hooks_of(model):
    return [
        (list(module._forward_pre_hooks), list(module._forward_hooks)) for module in model.modules()
    ]


def answer(model, **options):
    return lambda **short: model.generate(**short, **GREEDY, **options)


@contextmanager
def attending(model, implementation):
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def plain_loops(pruner, model, inputs):
    """`oracles.layerwise.run` on one prompt: logits, and the columns each layer reads."""
    encoding = pruner.encode(model, inputs)
    tokens, layers = encoding.tokens, encoding.tokens.layers
    ids = inputs["input_ids"]
    embeddings = model.get_input_embeddings()(ids).clone()
    embeddings[ids == model.config.image_token_id] = torch.cat(encoding.features)
    images, raters, plans = [], [], []
    for i, span in enumerate(encoding.spans):
        patches = set(span.positions[encoding.patch_indices[i]].tolist())
        images.append({c: c in patches for c in span.positions.tolist()})
        words = encoding.prompt.question(span)
        if isinstance(pruner, SparseVLM):
            visual = tokens.features[i, : tokens.counts[i]]
            behind = (words > span.positions[-1]).nonzero()[:, 0]
            rating = layerwise_oracle.rating_words(tokens.text[i, behind], visual)
            raters.append([int(words[behind[m]]) for m in rating])
        else:
            raters.append([ids.shape[1] - 1])
        left = pruner.plan(layers, tokens.counts[i], pruner.budget(tokens.counts[i]))
        plans.append(dict(zip(pruner.stages(layers), left, strict=True)))
    return layerwise_oracle.run(
        model, embeddings, images, raters, plans, isinstance(pruner, PyramidDrop)
    )


@pytest.mark.parametrize(
    ("backbone", "sample"), zip(BACKBONES, (ONE, TWO, TWO), strict=True), ids=BACKBONES
)
@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_plain_loop(family, backbone, method, sample):
    """Ranking, dropping, newlines and original positions: against layers that are called one by
    one.
    """
    model, pruner = deep_model(family, backbone), method(keep=0.6)
    inputs = inputs_for(tiny_processor(family), sample)
    with torch.no_grad():
        expected, columns = plain_loops(pruner, model, inputs)
        logits = read(pruner, model, inputs).logits
    assert len(columns[-1]) < len(columns[0])
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep", [0.4, 0.5, 0.77, 1.0])
def test_the_mean_over_layers_is_the_budget(family, method, keep):
    """Equal compute: what the layers read, counted in the plain loop, is what the selection says
    and what was asked.
    """
    model, pruner = deep_model(family), method(keep=keep)
    inputs = inputs_for(tiny_processor(family), TWO)
    tokens = pruner.encode(model, inputs).tokens
    budget = [pruner.budget(n) for n in tokens.counts]
    selection = pruner.select(tokens, budget)
    assert [k.tolist() for k in selection.kept] == [list(range(n)) for n in tokens.counts]
    for k, claimed in zip(budget, selection.tokens_read, strict=True):
        assert abs(claimed - k) <= 0.5
    with torch.no_grad():
        _, columns = plain_loops(pruner, model, inputs)
    text = (inputs["input_ids"] != model.config.image_token_id).sum()
    newlines = sum(map(len, pruner.encode(model, inputs).structural_indices))
    whole = [c for c in columns if len(c) == inputs["input_ids"].shape[1]]
    counted = sum(len(c) - int(text) for c in columns) - newlines * len(whole)
    assert counted / len(columns) == pytest.approx(sum(selection.tokens_read))


@pytest.mark.parametrize("layers", [3, 6, 8, 32, 40])
@pytest.mark.parametrize("method", METHODS)
def test_plans_of_every_depth(method, layers):
    """Stages ascend within the model; an image keeps ever fewer tokens, by a constant share up to
    rounding.
    """
    stages = method(keep=0.5).stages(layers)
    assert stages == sorted(set(stages))
    assert stages[0] >= 1
    assert stages[-1] < layers
    for count in (36, 577, 2880):
        for keep in (0.45, 0.7, 0.99):
            pruner = method(keep=keep)
            left = [count, *pruner.plan(layers, count, pruner.budget(count))]
            assert all(1 <= b <= a for a, b in pairwise(left))
            lengths = [b - a for a, b in pairwise([0, *stages, layers])]
            mean = sum(n * k for n, k in zip(lengths, left, strict=True))
            assert abs(mean / layers - pruner.budget(count)) <= 0.5
            low, high = ((left[1] + rounding) / count for rounding in (-0.5, 0.5))
            assert all(count * low**s - 2 <= k <= count * high**s + 2 for s, k in enumerate(left))


def test_the_papers_depths():
    """Of LLaMA's 32 layers: after 2 have run; after those of index 2, 6 and 15; after each
    quarter.
    """
    assert FastV(keep=0.5).stages(32) == [2]
    assert FastV(keep=0.5, layer=3).stages(32) == [3]
    assert SparseVLM(keep=0.5).stages(32) == [3, 7, 16]
    assert PyramidDrop(keep=0.5).stages(32) == [8, 16, 24]
    assert FastV(keep=0.5).plan(32, 576, 288) == [269]  # 2 · 576 + 30 · 269 = 32 · 288 and a bit


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_its_samples_one_by_one(family, method, side):
    """Rows of different lengths, with 0, 1 and 2 images, that keep different numbers of tokens."""
    model, pruner, processor = deep_model(family), method(keep=0.6), tiny_processor(family)
    together = read(pruner, model, inputs_for(processor, ONE, NONE, TWO, side=side)).logits
    for row, sample in enumerate((ONE, NONE, TWO)):
        inputs = inputs_for(processor, sample)
        with torch.no_grad():
            alone = (read(pruner, model, inputs) if sample[1] else model(**inputs)).logits[0]
        mine = together[row, : len(alone)] if side == "right" else together[row, -len(alone) :]
        torch.testing.assert_close(mine, alone, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "attention"), zip(BACKBONES, ("sdpa", "eager", "sdpa"), strict=True)
)
@pytest.mark.parametrize("method", METHODS)
def test_cached_decoding_is_decoding_without_a_cache(family, backbone, attention, method):
    """Layers with caches of different lengths, in a batch that pads.

    Only tokens of the prompt rate, and they don't see the answer, so a pass over prompt and answer
    decides as the prefill did.
    """
    model, pruner = deep_model(family, backbone), method(keep=0.6)
    inputs = inputs_for(tiny_processor(family), ONE, NONE, TWO)
    with attending(model, attention):
        cached, again = (
            read(pruner, model, inputs, answer(model, use_cache=c)) for c in (True, False)
        )
    assert torch.equal(cached, again)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "beams", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}]
)
def test_answers_in_a_batch_are_those_of_the_sample_alone(family, method, beams):
    """The prefill reads each prompt once per beam, and beams change places in every layer's
    cache.
    """
    model, pruner, processor = deep_model(family), method(keep=0.6), tiny_processor(family)
    together = read(pruner, model, inputs_for(processor, ONE, TWO), answer(model, **beams))
    alone = [
        read(pruner, model, inputs_for(processor, s), answer(model, **beams)) for s in (ONE, TWO)
    ]
    assert together[:, -5:].tolist() == torch.cat([a[:, -5:] for a in alone]).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_caches_are_as_long_as_what_layers_read(method):
    """The memory that pruning saves is really saved, layer by layer."""
    model, pruner = deep_model("llava"), method(keep=0.6)
    inputs = inputs_for(tiny_processor("llava"), ONE)
    past = read(
        pruner, model, inputs, lambda **short: model(**short, use_cache=True)
    ).past_key_values
    with torch.no_grad():
        _, columns = plain_loops(pruner, model, inputs)
    assert [past.get_seq_length(i) for i in range(len(columns))] == list(map(len, columns))


def test_words_before_the_image_do_not_rate():
    """They cannot see it: the words behind it rate, and where there are none the last token."""
    model, processor = deep_model("llava"), tiny_processor("llava")
    pruner = SparseVLM(keep=0.6, tokenizer=processor)
    question = "what color is the knight ?"

    # the question before the image and behind it
    twice = f"USER : {question} <image> {question} ASSISTANT :"
    inputs = inputs_for(processor, (twice, [picture()]))
    ((words, weights),) = pruner.raters(pruner.encode(model, inputs))
    half = len(words) // 2
    assert (weights[:half] == 0).all()
    torch.testing.assert_close(weights[half:].sum(), torch.tensor(1.0))

    # before it alone
    inputs = inputs_for(processor, (f"USER : {question} <image> ASSISTANT :", [picture()]))
    encoding = pruner.encode(model, inputs)
    ((rater, weight),) = pruner.raters(encoding)
    assert rater.tolist() == [inputs["input_ids"].shape[1] - 1]
    assert weight.tolist() == [1]
    with torch.no_grad(), pruner.between_layers(model, encoding) as decoder:
        model(**pruner.prune(model, inputs, encoding))
    (last,) = decoder.views[-1].kept
    assert last.tolist() != list(range(len(last)))


def test_words_are_those_of_the_encoding():
    """Encodings are shared: a pruner that skips other words ranks by those that are embedded."""
    model, inputs = deep_model("llava"), inputs_for(tiny_processor("llava"), ONE)
    encoding = SparseVLM(keep=0.6).encode(model, inputs)
    skip = {int(inputs["input_ids"][0, -4])}
    [(expected, weights)] = SparseVLM(keep=0.6).raters(encoding)
    [(words, shared)] = SparseVLM(keep=0.6, skip=skip).raters(encoding)
    assert torch.equal(words, expected)
    assert torch.equal(shared, weights)
    query = AdaFV(keep=0.6, query=torch.tensor([10])).encode(model, inputs)
    with pytest.raises(ValueError, match="without the words of their prompts"):
        SparseVLM(keep=0.6).raters(query)


@pytest.mark.parametrize("window", [None, 16])
def test_ranking_attention_is_that_of_the_layer(window):
    """Within its window: against the map that eager attention returns for the whole prompt."""
    model, pruner = deep_model("llava", "mistral", sliding_window=window), FastV(keep=0.6, layer=2)
    inputs = inputs_for(tiny_processor("llava"), ONE)
    encoding = pruner.encode(model, inputs)
    with torch.no_grad(), pruner.between_layers(model, encoding) as decoder:
        model(**pruner.prune(model, inputs, encoding))
    (kept,) = decoder.views[1].kept
    with torch.no_grad(), attending(model, "eager"):
        attention = model(**inputs, output_attentions=True).attentions[1]  # (1, H, L, L)
    scores = attention[0, :, -1].mean(0)[encoding.spans[0].positions]
    highest = scores.sort(descending=True, stable=True).indices[: len(kept)]
    assert kept.tolist() == highest.sort().values.tolist()


@pytest.mark.parametrize("backbone", ["mistral", "qwen2"])
def test_a_sliding_window_goes_over_what_is_left(backbone):
    """Masks of layers with a window shorter than the prompt, in the prefill and in decoding from a
    cut cache.
    """
    window = {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 3}
    model = deep_model("llava", backbone, **window)
    inputs = inputs_for(tiny_processor("llava"), ONE, NONE, TWO)
    pruner = PyramidDrop(keep=0.6)
    cached, again = (read(pruner, model, inputs, answer(model, use_cache=c)) for c in (True, False))
    assert torch.equal(cached, again)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_attached_returns_the_callers_prompt(family, method):
    """Ids begin with the prompt and go on as inside the context; a prompt without an image passes
    through.
    """
    model, pruner, processor = deep_model(family), method(keep=0.6), tiny_processor(family)
    inputs, text = inputs_for(processor, NONE, ONE, TWO), inputs_for(processor, NONE)
    expected = read(pruner, model, inputs, answer(model))
    logits, plain = read(pruner, model, inputs).logits, model.generate(**text, **GREEDY)
    with pruner.attached(model), torch.no_grad():
        ids = model.generate(**inputs, **GREEDY)
        assert torch.equal(model.generate(**text, **GREEDY), plain)
        assert torch.equal(model(**inputs).logits, logits)
        assert logits.shape[1] < inputs["input_ids"].shape[1]
        longest = inputs["input_ids"].shape[1] + 3
        assert model.generate(**inputs, max_length=longest, do_sample=False).shape[1] == longest
    assert torch.equal(ids[:, :-5], inputs["input_ids"])
    assert torch.equal(ids, expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_is_as_it_was_after_an_exception(family, method, attention):
    """Hooks, attention function, attributes and every bit of the output."""
    model, pruner, processor = deep_model(family), method(keep=0.6), tiny_processor(family)
    inputs = inputs_for(processor, ONE)
    with attending(model, attention), torch.no_grad():
        before, attributes, hooks = model(**inputs).logits, dict(vars(model)), hooks_of(model)
        look_up = AttentionInterface.get_interface
        with (
            pytest.raises(RuntimeError, match="lost"),
            pruner.between_layers(model, pruner.encode(model, inputs)),
        ):
            assert AttentionInterface.get_interface is not look_up
            raise RuntimeError("lost")
        assert hooks_of(model) == hooks
        assert AttentionInterface.get_interface is look_up
        assert vars(model) == attributes
        assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [{"keep": 1.0}, {"tokens": 10_000}])
def test_keeping_all_is_the_identity(family, method, budget):
    """Every logit and id, bit for bit, while attached; test_invariants.py prunes beforehand."""
    model, pruner, processor = deep_model(family), method(**budget), tiny_processor(family)
    inputs = inputs_for(processor, ONE, NONE, TWO)
    with torch.no_grad():
        assert torch.equal(read(pruner, model, inputs).logits, model(**inputs).logits)
    with pruner.attached(model):
        ids = model.generate(**inputs, **GREEDY)
    assert torch.equal(ids, model.generate(**inputs, **GREEDY))


def test_an_image_that_keeps_all_beside_one_that_does_not():
    """A budget in tokens can be more than a small image has."""
    model, processor = deep_model("llava_next"), tiny_processor("llava_next")
    inputs = inputs_for(processor, (prompt(images=2), [picture(24, 24), picture(48, 48, 1)]))
    pruner = FastV(tokens=100)
    counts = pruner.encode(model, inputs).tokens.counts
    assert min(counts) <= 100 < max(counts)
    with torch.no_grad():
        expected, _ = plain_loops(pruner, model, inputs)
    torch.testing.assert_close(read(pruner, model, inputs).logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("option", ["keep", "tokens"])
def test_a_budget_below_the_first_layers_is_an_error(family, method, option):
    """It names the least that works, and that does work."""
    model, processor = deep_model(family), tiny_processor(family)
    inputs = inputs_for(processor, ONE)
    tokens = method(keep=1).encode(model, inputs).tokens
    low = {"keep": 0.05, "tokens": 2}[option]
    with pytest.raises(
        ValueError, match=rf"of 8 layers read everything: {option}={low} is below"
    ) as error:
        method(**{option: low}).select(
            tokens, [method(**{option: low}).budget(n) for n in tokens.counts]
        )
    least = float(str(error.value).split(f"pass {option}=")[1].split(" ")[0])
    assert low < least < (0.5 if option == "keep" else tokens.counts[0])
    pruner = method(**{option: least})
    pruner.select(tokens, [pruner.budget(n) for n in tokens.counts])
    if option == "tokens":
        with pytest.raises(ValueError, match="below its least"):
            method(tokens=least - 1).plan(8, tokens.counts[0], int(least) - 1)
    with (
        pytest.raises(ValueError, match="below its least"),
        method(**{option: low}).attached(model),
    ):
        model.generate(**inputs, **GREEDY)


@pytest.mark.parametrize("method", METHODS)
def test_a_call_without_a_context_is_an_error(family, method):
    """Shorter inputs can't say what happens between layers: nothing is silently left unpruned."""
    model, processor = deep_model(family), tiny_processor(family)
    with pytest.raises(ValueError, match=r"with pruner.attached\(model\)"):
        method(keep=0.6)(model, inputs_for(processor, ONE))
    text = inputs_for(processor, NONE)
    assert method(keep=0.6)(model, text) == text


def test_what_cannot_work_is_an_error():
    """A layer that isn't there, labels, a prompt in chunks, a question that isn't in the prompt."""
    model, inputs = deep_model("llava"), inputs_for(tiny_processor("llava"), ONE)
    for layer, match in ((0, "layer=0.*pass 1"), (8, "after layer 8, the model has 8")):
        with pytest.raises(ValueError, match=match):
            read(FastV(keep=0.5, layer=layer), model, inputs)
    with pytest.raises(ValueError, match="labels"), FastV(keep=0.5).attached(model):
        model(**inputs, labels=inputs["input_ids"])
    with pytest.raises(ValueError, match="prefill_chunk_size"), FastV(keep=0.5).attached(model):
        model.generate(**inputs, **GREEDY, prefill_chunk_size=16)
    with pytest.raises(ValueError, match="query"):
        SparseVLM(keep=0.5, query=torch.tensor([1]))


@pytest.mark.parametrize("newlines", ["drop", "rows", "all"])
def test_newlines_follow_the_option(newlines):
    """They go with the first patch of their image, with the last one of their row, or never."""
    model, inputs = deep_model("llava_next"), inputs_for(tiny_processor("llava_next"), ONE)
    pruner = FastV(keep=0.4, newlines=newlines)
    encoding = pruner.encode(model, inputs)
    text = int((inputs["input_ids"] != model.config.image_token_id).sum())
    (left,) = pruner.plan(8, encoding.tokens.counts[0], pruner.budget(encoding.tokens.counts[0]))
    extra = read(pruner, model, inputs).logits.shape[1] - text - left
    every = len(encoding.structural_indices[0])
    assert {"drop": extra == 0, "rows": 0 < extra <= every, "all": extra == every}[newlines]


def test_words_that_rate_are_the_papers():
    """Against loops over words and tokens, in a batch that pads; words that are all equal
    all rate.
    """
    model, processor = deep_model("llava"), tiny_processor("llava")
    tokens = SparseVLM(keep=0.5).encode(model, inputs_for(processor, ONE, TWO)).tokens
    for i, weights in enumerate(rating_words(tokens)):
        words = tokens.text[i, tokens.text_mask[i]]
        rates = layerwise_oracle.rating_words(words, tokens.features[i, : tokens.counts[i]])
        assert weights.nonzero()[:, 0].tolist() == rates
        assert math.isclose(weights.sum(), 1, rel_tol=1e-6)
    same = tokens.text[:, :1].expand(-1, 7, -1)
    mask = torch.ones(same.shape[:2], dtype=torch.bool)
    equal = rating_words(type(tokens)(**vars(tokens) | {"text": same, "text_mask": mask}))
    torch.testing.assert_close(equal, torch.full_like(equal, 1 / 7))
    none = rating_words(
        type(tokens)(**vars(tokens) | {"text_mask": torch.zeros_like(tokens.text_mask)})
    )
    assert (none == 0).all()


def test_prompts_without_a_word_are_pruned_all_the_same():
    """Nobody rates: the first tokens stay, and nothing is NaN."""
    model, processor = deep_model("llava"), tiny_processor("llava")
    skip = range(len(processor.tokenizer))
    assert (
        read(SparseVLM(keep=0.5, skip=skip), model, inputs_for(processor, ONE))
        .logits.isfinite()
        .all()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Ranks are fp32; hidden states keep the model's dtype."""
    model = deep_model("llava", layers=6).to(dtype)
    try:
        inputs = inputs_for(tiny_processor("llava"), ONE, TWO)
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        assert read(PyramidDrop(keep=0.6), model, inputs).logits.dtype == dtype
    finally:
        model.float()


def test_methods_before_the_model_have_nothing_inside():
    """One way to run them all: `inside` of the others does nothing."""
    model = deep_model("llava")
    encoding = AdaFV(keep=0.5).encode(model, inputs_for(tiny_processor("llava"), ONE))
    assert isinstance(AdaFV(keep=0.5).between_layers(model, encoding), nullcontext)


def on(backbone: str, **text):
    """The tiny LLaVA model, in front of another language model."""
    config = tiny_model("llava").config
    options = base.text(tokenizer()) | {"head_dim": 8} | text
    config.text_config = AutoConfig.for_model(backbone, **options)
    torch.manual_seed(0)
    model = type(tiny_model("llava"))(config).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 1
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("first", ["full_attention", "sliding_attention"])
def test_each_layer_has_its_own_rotary_embedding(first, method):
    """Decoders with one for each type of layer: the last token's is that of the full prompt."""
    types = [first, "full_attention", "sliding_attention"]
    model = on("gemma3_text", layer_types=types, sliding_window=64)
    pruner = method(keep=0.8)
    inputs = inputs_for(tiny_processor("llava"), ONE)
    seen: dict[int, torch.Tensor] = {}

    def note(index, module, args, options):
        seen[index] = options["position_embeddings"][0][0, -1].clone()

    with ExitStack() as hooks:
        for index, layer in enumerate(model.get_decoder().layers):
            attention = layer.self_attn
            hook = attention.register_forward_pre_hook(partial(note, index), with_kwargs=True)
            hooks.callback(hook.remove)
        with torch.no_grad():
            model(**inputs)
            full = dict(seen)
            read(pruner, model, inputs)
    assert not torch.equal(full[1], full[2])
    for index, embedding in full.items():
        assert torch.equal(seen[index], embedding)


def sinking(model) -> None:
    for layer in model.get_decoder().layers:
        layer.self_attn.sinks.data = torch.tensor([-9.0, 0.0, 6.0, 12.0])


@pytest.mark.parametrize(
    ("backbone", "options", "prepare"),
    [
        ("gemma2", {"attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 8}, None),
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1}, sinking),
    ],
)
def test_ranking_attention_is_bounded_as_the_layers_is(backbone, options, prepare):
    """Soft-capped logits and sinks: against the map that eager attention returns."""
    model, pruner = on(backbone, **options), FastV(tokens=20, layer=1)
    if prepare:
        prepare(model)
    model.set_attn_implementation("eager")
    inputs = inputs_for(tiny_processor("llava"), ONE)
    encoding = pruner.encode(model, inputs)
    with torch.no_grad(), pruner.between_layers(model, encoding) as decoder:
        model(**pruner.prune(model, inputs, encoding))
    (kept,) = decoder.views[1].kept
    with torch.no_grad():
        attention = model(**inputs, output_attentions=True).attentions[0]  # (1, H, L, L)
    scores = attention[0, :, -1].mean(0)[encoding.spans[0].positions]
    highest = scores.sort(descending=True, stable=True).indices[: len(kept)]
    assert kept.tolist() == highest.sort().values.tolist()


def widths(model, run) -> list[int]:
    """How many tokens each layer reads at first."""
    seen: list[int] = []

    def note(module, args, options):
        seen.append((args[0] if args else options["hidden_states"]).shape[1])

    with ExitStack() as hooks:
        for layer in model.get_decoder().layers:
            hook = layer.self_attn.register_forward_pre_hook(note, with_kwargs=True)
            hooks.callback(hook.remove)
        run()
    return seen[: len(model.get_decoder().layers)]


@pytest.mark.parametrize("method", METHODS)
def test_another_thread_prunes_what_it_is_handed(method):
    """As one that generates while its text is streamed; other prompts there are read as a whole."""
    model, pruner = deep_model("llava"), method(keep=0.6)
    inputs = inputs_for(tiny_processor("llava"), ONE)
    expected = read(pruner, model, inputs, answer(model))
    answers = []

    def run(*arguments) -> None:
        thread = Thread(target=lambda: answers.append(model.generate(**arguments[0], **GREEDY)))
        thread.start()
        thread.join()

    plain = model.generate(**inputs, **GREEDY)
    encoding = pruner.encode(model, inputs)
    with pruner.pruned(model, inputs, encoding) as (short, _):
        run(inputs)
        first, *_, last = widths(model, lambda: run(short))
    assert torch.equal(answers[0], plain)
    assert torch.equal(answers[1], expected)
    assert last < first


def test_images_of_another_encoding_are_no_silent_matter():
    """Neither those of another encoding nor pixels are read as a whole unnoticed."""
    model, pruner = deep_model("llava"), FastV(keep=0.6)
    inputs = inputs_for(tiny_processor("llava"), ONE)
    encoding = pruner.encode(model, inputs)
    other = pruner.prune(model, inputs, pruner.encode(model, inputs))
    with pytest.raises(ValueError, match="another encoding"):  # noqa: SIM117
        with pruner.between_layers(model, encoding):
            model(**other)
    with pytest.raises(ValueError, match="not encoded"), pruner.between_layers(model, encoding):
        model(**inputs)


@pytest.mark.parametrize("method", METHODS)
def test_guidance_reads_the_prompt_without_images_as_a_whole(method):
    """Classifier-free guidance: attached as by hand, and not the unguided answer."""
    model, pruner = deep_model("llava"), method(keep=0.6)
    inputs = inputs_for(tiny_processor("llava"), ONE)
    guided = answer(model, guidance_scale=3.0)
    expected = read(pruner, model, inputs, guided)
    with pruner.attached(model):
        out = model.generate(**inputs, **GREEDY, guidance_scale=3.0)
    new = GREEDY["max_new_tokens"]
    assert torch.equal(out[:, -new:], expected[:, -new:])

    # the guided scores of the first token, put together by hand
    with torch.no_grad():
        [with_image] = read(pruner, model, inputs).logits[:, -1].log_softmax(-1)
        [without] = model(inputs["input_ids"][:, -1:]).logits[:, -1].log_softmax(-1)
    scores = without + 3.0 * (with_image - without)
    scores[GREEDY["suppress_tokens"]] = -torch.inf
    assert int(expected[0, -new]) == int(scores.argmax())


def test_contexts_that_are_closed_in_the_order_they_were_opened():
    """Nothing of transformers stays patched, and the one that is left still sees its model."""
    look_up = AttentionInterface.get_interface
    models = [deep_model("llava"), deepcopy(deep_model("llava"))]
    pruner, inputs = FastV(keep=0.6), inputs_for(tiny_processor("llava"), ONE)
    expected = read(pruner, models[1], inputs).logits
    encodings = [pruner.encode(model, inputs) for model in models]
    first, second = map(pruner.between_layers, models, encodings)
    with torch.no_grad():
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        logits = models[1](**pruner.prune(models[1], inputs, encodings[1])).logits
        second.__exit__(None, None, None)
    assert torch.equal(logits, expected)
    assert AttentionInterface.get_interface is look_up
