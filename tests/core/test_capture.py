"""Relevance and saliency: what they are, and that reading them changes nothing."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from conftest import FAMILIES, inputs_for, picture, prompt, tiny_model, tiny_processor
from oracles import sacmam as oracle
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from zoo.families import NAME_A_LAYER, ZOO, ask, show, tiny

from adafv import AdaFV, families
from adafv.core.capture import capture, observe
from adafv.core.encode import encode
from adafv.core.encoder import without_later_layers
from adafv.core.signals import HIDDEN, KEYS, SALIENCY, Signal
from adafv.families import family_of
from adafv.families.base import layers_of
from adafv.ops.relevance import text_to_image_attention
from adafv.ops.saliency import received_attention

QUESTION = "what color is the anchor ?"
OBSERVED = [name for name in sorted(ZOO) if families.FAMILIES[name].attention_observable]
"""Families whose tower is looked at."""


def test_text_to_image_attention_is_the_papers():
    """Cosine, softmax over the tokens at 0.01, maximum over the words: against plain loops."""
    torch.manual_seed(0)
    text, visual = torch.randn(5, 16), torch.randn(20, 16)
    fast = text_to_image_attention(text[None], visual[None])[0]
    torch.testing.assert_close(
        fast.double(), torch.tensor(oracle.text_to_image_attention(text, visual)).double()
    )


def test_padding_does_not_change_it():
    """Other images and questions of a batch stay outside the softmax and the maximum."""
    torch.manual_seed(0)
    text, visual = torch.randn(1, 5, 16), torch.randn(1, 20, 16)
    padded = text_to_image_attention(
        torch.cat([text, torch.randn(1, 3, 16)], 1),
        torch.cat([visual, torch.randn(1, 9, 16)], 1),
        torch.arange(8)[None] < 5,
        torch.arange(29)[None] < 20,
    )
    torch.testing.assert_close(padded[:, :20], text_to_image_attention(text, visual))
    assert (padded[:, 20:] == 0).all()


def test_no_nan_for_empty_questions_and_zero_vectors():
    """A prompt without a word, a dead token: zeros or a flat row, never NaN."""
    visual = torch.zeros(1, 4, 8)
    for text in (torch.zeros(1, 0, 8), torch.zeros(1, 3, 8)):
        assert text_to_image_attention(text, visual).isfinite().all()
    words = torch.randn(2, 3, 8)
    none_counts = text_to_image_attention(
        words, torch.randn(2, 4, 8), torch.tensor([[True] * 3, [False] * 3])
    )
    assert (none_counts[1] == 0).all()
    assert none_counts.isfinite().all()


def test_centering_and_top_words():
    """`center` removes what all share; `top` averages the strongest words."""
    torch.manual_seed(0)
    text, visual, shift = torch.randn(1, 5, 16), torch.randn(1, 20, 16), 10 * torch.randn(16)
    torch.testing.assert_close(
        text_to_image_attention(text, visual + shift, center=True),
        text_to_image_attention(text, visual, center=True),
        rtol=1e-3,
        atol=1e-4,
    )
    one_word = torch.stack([text_to_image_attention(text[:, i : i + 1], visual) for i in range(5)])
    torch.testing.assert_close(
        text_to_image_attention(text, visual, top=2),
        one_word.sort(0, descending=True).values[:2].mean(0),
    )


def test_received_attention_in_chunks_is_the_column_mean():
    """Memory stays linear: the chunked mean equals that of the whole map."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 50, 8), torch.randn(2, 3, 50, 8)
    whole = (query * 8**-0.5 @ key.mT).softmax(-1).mean((1, 2))
    torch.testing.assert_close(received_attention(query, key, 8**-0.5, chunk=7), whole)
    strongest = (query * 8**-0.5 @ key.mT).softmax(-1).amax(1).mean(1)
    torch.testing.assert_close(
        received_attention(query, key, 8**-0.5, heads="max", chunk=7), strongest
    )


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_signals_are_the_eager_towers_and_features_are_untouched(family, implementation):
    """What is captured is what a full attention map would say; the tower computes what it always
    computes.
    """
    model, processor = tiny_model(family), tiny_processor(family)
    tower, kind = model.base_model.vision_tower, family_of(model)
    pixels = inputs_for(processor, (prompt(), [picture()]))["pixel_values"].flatten(0, -4)
    tower.set_attn_implementation("eager")
    maps = [layer.mean(1) for layer in tower(pixels, output_attentions=True).attentions]
    tower.set_attn_implementation(implementation)
    plain = tower(pixels, output_hidden_states=True).hidden_states[-2]
    first, received, middle = Signal("attention", 0.0), Signal("received"), Signal("received", 0.34)
    wanted = {SALIENCY, KEYS, HIDDEN, first, received, middle}
    with capture(tower, kind.feature_layer(model), kind.cls_position(model), wanted) as found:
        captured = tower(pixels, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(plain, captured)
    assert tower.config._attn_implementation == implementation
    layer = next(m for n, m in tower.named_modules() if n.endswith("layers.2.self_attn"))
    hidden = tower(pixels, output_hidden_states=True).hidden_states[2]
    norm = next(m for n, m in tower.named_modules() if n.endswith("layers.2.layer_norm1"))
    keys = layer.k_proj(norm(hidden)).unflatten(-1, (layer.num_heads, -1)).mean(2)
    expected = {
        SALIENCY: maps[2][:, 0, 1:],
        first: maps[0][:, 0, 1:],
        KEYS: keys[:, 1:],
        HIDDEN: plain[:, 1:],
        received: maps[2].mean(1)[:, 1:],
        middle: maps[1].mean(1)[:, 1:],
    }
    assert found.keys() == expected.keys() == wanted
    for signal, value in expected.items():
        torch.testing.assert_close(
            found[signal], value.flatten(0, 1), rtol=1e-4, atol=1e-6, msg=str(signal)
        )


def test_capture_restores_the_tower_after_an_exception():
    """A failing image doesn't leave the tower watched."""
    model = tiny_model("llava")
    tower = model.base_model.vision_tower
    with pytest.raises(RuntimeError, match="lost"), capture(tower, -2, 0, [SALIENCY, HIDDEN]):
        raise RuntimeError("lost")
    assert tower.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks for module in tower.modules())


def test_the_tower_ends_where_the_features_are_taken():
    """Layers above it are not computed, unless a signal looks at them; in other threads, and
    afterwards, all are.
    """
    model, processor = tiny_model("llava"), tiny_processor("llava")
    tower, pixels = (
        model.base_model.vision_tower,
        inputs_for(processor, (prompt(), [picture()]))["pixel_values"],
    )
    layers = layers_of(tower)
    ran: list[int] = []
    for i, layer in enumerate(layers):
        layer.mlp.register_forward_hook(lambda *_, i=i: ran.append(i))

    def features():
        ran.clear()
        return tower(pixels, output_hidden_states=True).hidden_states[-2]

    whole, every = features(), list(range(len(layers)))
    hooks = [dict(layer._forward_hooks) for layer in layers]
    with without_later_layers(tower, -2, [SALIENCY]):
        assert torch.equal(features(), whole)
        assert ran == every[:-1]
        with ThreadPoolExecutor(1) as other:
            assert torch.equal(other.submit(features).result(), whole)
            assert ran == every
    with without_later_layers(tower, -2, [Signal("hidden", 1.0)]):
        assert torch.equal(features(), whole)
        assert ran == every
    with pytest.raises(RuntimeError, match="lost"), without_later_layers(tower, -2, []):
        raise RuntimeError("lost")
    assert torch.equal(features(), whole)
    assert ran == every
    assert [dict(layer._forward_hooks) for layer in layers] == hooks
    assert not any("forward" in vars(layer) for layer in layers)


@contextmanager
def running(layers):
    """The indices of the layers that compute something, while open."""
    ran: set[int] = set()
    handles = []
    for i, layer in enumerate(layers):
        for module in layer.modules():
            # what a layer hands on unchanged passes none of its weights
            if module is not layer and next(module.parameters(recurse=False), None) is not None:
                handles.append(module.register_forward_hook(lambda *_, i=i: ran.add(i)))
    yield ran
    for handle in handles:
        handle.remove()


def last_layer_of(config, count: int) -> int:
    """The deepest layer that a configuration takes features from, DeepStack's included."""
    chosen = getattr(config, "vision_feature_layer", -1)
    chosen = [chosen] if isinstance(chosen, int) else chosen
    # hidden_states[0] is what the first layer reads
    layers = [layer % (count + 1) - 1 for layer in chosen]
    layers += getattr(config.vision_config, "deepstack_visual_indexes", [])
    return max(layers)


@pytest.mark.parametrize("name", OBSERVED)
def test_no_layer_runs_above_the_last_one_that_is_needed(name):
    """In any family: the plain model's own gradient tells which layers its logits hang on."""
    model, inputs = tiny(name).model, ask(name, (QUESTION, [show()]))
    layers = layers_of(family_of(model).tower(model))
    model(**inputs, use_cache=False).logits.sum().backward()
    needed = set()
    for i, layer in enumerate(layers):
        if any(weight.grad is not None for weight in layer.parameters()):
            needed.add(i)
    model.zero_grad()
    last = last_layer_of(model.config, len(layers))
    assert needed == set(range(last + 1))
    # what is read above the features needs its layer, too, and what is read below needs no more
    for signals, deepest in (
        ([], last),
        ([SALIENCY, KEYS], last),
        ([Signal("hidden", 0.0)], last),
        ([Signal("hidden", 1.0)], len(layers) - 1),
    ):
        with running(layers) as ran:
            encode(model, inputs, signals=signals)
        assert ran == set(range(deepest + 1)), signals


@pytest.mark.parametrize("name", OBSERVED)
def test_a_pruned_answer_runs_no_layer_above_the_features(name):
    """In any family, with shorter inputs of the caller's, and while a pruner is attached."""
    model, inputs = tiny(name).model, ask(name, (QUESTION, [show()]))
    layers = layers_of(family_of(model).tower(model))
    needed = set(range(last_layer_of(model.config, len(layers)) + 1))
    pruner = AdaFV(keep=0.5)
    with running(layers) as ran:
        model.generate(**pruner(model, inputs), max_new_tokens=1, do_sample=False)
    assert ran == needed
    with running(layers) as ran, pruner.attached(model):
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert ran == needed


@pytest.mark.parametrize("layer", [1, 2, -2, -1])
@pytest.mark.parametrize("name", NAME_A_LAYER)
def test_no_layer_runs_above_the_one_that_a_configuration_names(name, layer, monkeypatch):
    """As released models of these families choose one."""
    model, inputs = tiny(name).model, ask(name, (QUESTION, [show()]))
    layers = layers_of(family_of(model).tower(model))
    for config in (model.config, model.base_model.config):
        monkeypatch.setattr(config, "vision_feature_layer", layer)
    with running(layers) as ran:
        encode(model, inputs)
    assert ran == set(range(last_layer_of(model.config, len(layers)) + 1))


@pytest.mark.parametrize("name", sorted(set(ZOO) - set(OBSERVED)))
def test_a_tower_that_is_not_looked_at_has_no_layer_to_leave_out(name):
    """Its features are the last layer's."""
    config = tiny(name).model.config
    assert getattr(config, "vision_feature_layer", -1) == -1
    # a codebook has no tower
    vision = getattr(config, "vision_config", None)
    assert not getattr(vision, "deepstack_visual_indexes", [])


@pytest.mark.parametrize("layer", [0, 5, -5])
def test_a_layer_without_attention_is_refused(layer):
    """hidden_states[0] is the embedding: no attention produced it."""
    tower = tiny_model("llava").base_model.vision_tower
    with (
        pytest.raises(ValueError, match="vision_feature_layer"),
        capture(tower, layer, 0, [SALIENCY]),
    ):
        pass


@pytest.mark.parametrize("kind", ["padding", "additive", "blocks"])
def test_received_attention_counts_only_those_who_may_look(kind):
    """Padding neither gives nor gets; images packed into one sequence don't look at each other."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 2, 7, 4), torch.randn(2, 2, 7, 4)
    sees = torch.ones(2, 7, 7, dtype=torch.bool)
    if kind == "blocks":
        sees = torch.block_diag(torch.ones(3, 3), torch.ones(4, 4)).bool().expand(2, 7, 7)
    else:
        sees[1, :, 5:] = False
    mask = sees[:, None]
    if kind == "padding":
        mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
        sees[1, 5:] = False
    if kind == "additive":
        mask = torch.zeros(2, 1, 7, 7).masked_fill(~sees[:, None], torch.finfo(torch.float32).min)
    got = received_attention(query, key, 0.5, mask, chunk=3)
    torch.testing.assert_close(got, oracle.received_attention(query, key, 0.5, sees))


def test_a_sequence_packed_for_flash_attention_is_shown_image_by_image():
    """Flash attention gets one sequence and the bounds of the images in it."""
    torch.manual_seed(0)
    query, key, seen = torch.randn(1, 2, 9, 4), torch.randn(1, 2, 9, 4), []
    ALL_ATTENTION_FUNCTIONS.register(
        "toy_flash", lambda module, q, k, v, mask, **options: (v, None)
    )
    tower = tiny_model("llava").base_model.vision_tower
    with observe(tower, seen.append):
        attention = ALL_ATTENTION_FUNCTIONS.get_interface("toy_flash", None)
        attention(
            layers_of(tower)[0].self_attn,
            query,
            key,
            key,
            None,
            scaling=0.5,
            cu_seq_lens_q=torch.tensor([0, 4, 9]),
        )
        # of another model, in the same thread
        attention(torch.nn.Identity(), query, key, key, None, scaling=0.5)
    for shown, part in zip(seen, (slice(0, 4), slice(4, 9)), strict=True):
        assert torch.equal(shown.query, query[:, :, part])
        assert torch.equal(shown.key, key[:, :, part])
        assert shown.scale == 0.5
