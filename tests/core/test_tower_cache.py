"""The same pixels are encoded once, and what comes back is what the tower would have made."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from zoo.families import ZOO, ask, show, tiny

from adafv import AdaFV, TowerCache, method
from adafv.core import tower_cache
from adafv.core.tower_cache import _digest, open_cache
from adafv.families import FAMILIES

QUESTION, OTHER = "what color is the anchor ?", "is there a red knight left of the anchor ?"


@pytest.fixture
def model() -> nn.Module:
    return deepcopy(tiny("llava").model)


def same(one: object, other: object) -> bool:
    """Whether two inputs are equal to the bit, encoded images included."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("name", sorted(ZOO))
@torch.no_grad()
def test_the_second_encoding_is_the_first_to_the_bit(name):
    """In every family: for the same question, and for another one, in a batch of two images."""
    model = tiny(name).model
    images = ([show(80, 48)], [show(48, 48, seed=1)])
    first = ask(name, (QUESTION, images[0]), (OTHER, images[1]))
    second = ask(name, (OTHER, images[0]), (QUESTION, images[1]))
    pruner = AdaFV(keep=0.3)
    expected = [pruner(model, inputs) for inputs in (first, second)]
    with TowerCache() as cache:
        found = [pruner(model, inputs) for inputs in (first, second, first)]
    assert same(found[0], expected[0])
    assert same(found[1], expected[1])
    assert same(found[2], expected[0])
    assert (cache.hits, cache.misses) == (2, 1)


def test_pixels_in_lists_are_told_apart(model):
    """What `repr` leaves out of large tensors counts, too."""
    pixels = torch.zeros(3, 64, 64)
    other = pixels.clone()
    other[1, 32, 32] = 1
    one, same_again, another = (
        _digest(model, {"pixel_values": [[x], (x,)]}) for x in (pixels, pixels.clone(), other)
    )
    assert one == same_again != another
    assert one != _digest(model, {"pixel_values": [[pixels, pixels]]})


def test_the_tower_does_not_run_again(model):
    runs = []
    FAMILIES["llava"].tower(model).register_forward_hook(lambda *_: runs.append(1))
    inputs = ask("llava", (QUESTION, [show(80, 48)]))
    with TowerCache() as cache, AdaFV(keep=0.3).attached(model):
        for _ in range(3):
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert len(runs) == 1
    assert cache.hits == 2


def test_what_hits_save_is_what_their_encodings_took(model, monkeypatch):
    """So that whoever shows times can say what an image would have taken."""
    seconds = iter([0.0, 2.0, 2.0, 7.0])
    monkeypatch.setattr(tower_cache, "now", lambda device: next(seconds))
    first, second = (ask("llava", (QUESTION, [show(80, 48, seed=seed)])) for seed in (0, 1))
    saved = []
    with TowerCache() as cache:
        for inputs in (first, first, first, second, second):
            AdaFV(keep=0.3)(model, inputs)
            saved.append(cache.seconds_saved)
    assert saved == [0, 2, 4, 4, 9]


def test_other_pixels_are_encoded(model):
    with TowerCache() as cache:
        for seed in (0, 1, 0):
            AdaFV(keep=0.3)(model, ask("llava", (QUESTION, [show(80, 48, seed=seed)])))
    assert (cache.hits, cache.misses) == (1, 2)


def test_methods_that_look_at_other_layers_share_an_encoding(model):
    """The second reads what it lacks; from then on either finds its own."""
    inputs = ask("llava", (QUESTION, [show(80, 48)]))
    methods = [AdaFV(keep=0.3), method("hiprune", keep=0.3)]
    expected = [pruner(model, inputs) for pruner in methods]
    with TowerCache() as cache:
        for pruner, alone in zip([*methods, *methods], [*expected, *expected], strict=True):
            assert same(pruner(model, inputs), alone)
    assert (cache.hits, cache.misses) == (2, 2)
    assert len(cache) == 1


def changed_weights(model):
    with torch.no_grad():
        next(FAMILIES["llava"].tower(model).parameters()).add_(1)


def past_the_version(model):
    next(FAMILIES["llava"].tower(model).parameters()).data.mul_(3)


def other_layer(model):
    model.config.vision_feature_layer = -1


def other_precision(model):
    model.double().float()


def other_attention(model):
    model.set_attn_implementation("eager")


@pytest.mark.parametrize(
    "change", [changed_weights, past_the_version, other_layer, other_precision, other_attention]
)
def test_a_model_that_has_changed_encodes_anew(model, change):
    inputs = ask("llava", (QUESTION, [show(80, 48)]))
    with TowerCache() as cache:
        AdaFV(keep=0.3)(model, inputs)
        change(model)
        found = AdaFV(keep=0.3)(model, inputs)
    assert cache.misses == 2
    assert same(found, AdaFV(keep=0.3)(model, inputs))


def test_a_complex_table_counts_whole(model):
    """As Llama 4's rotary one: what is written to its imaginary part is seen."""
    tower = FAMILIES["llava"].tower(model)
    tower.register_buffer("table", torch.ones(4, dtype=torch.complex64), persistent=False)
    inputs = ask("llava", (QUESTION, [show(80, 48)]))
    with TowerCache() as cache:
        AdaFV(keep=0.3)(model, inputs)
        # past the version counter
        tower.table.data.imag.add_(1)
        AdaFV(keep=0.3)(model, inputs)
    assert cache.misses == 2


def test_two_models_share_nothing(model):
    inputs = ask("llava", (QUESTION, [show(80, 48)]))
    with TowerCache() as cache:
        for one in (model, deepcopy(model)):
            AdaFV(keep=0.3)(one, inputs)
    assert cache.misses == 2


def test_training_and_smaller_images_pass_by(model):
    """Dropout draws anew, and a smaller image is another one."""
    inputs = ask("llava", (QUESTION, [show(80, 48)]))
    with TowerCache() as cache:
        method("resize", keep=0.3)(model, inputs)
        AdaFV(keep=0.3)(model.train(), inputs)
    assert (cache.hits, cache.misses, len(cache)) == (0, 0, 0)


def test_gradients_reach_the_pixels(model):
    """In eval mode, too, if they ask for some; nothing is taken from the cache then."""
    inputs = ask("llava", (QUESTION, [show(80, 48)]))
    inputs["pixel_values"].requires_grad_()
    with TowerCache() as cache:
        for pruner in (AdaFV(keep=1.0), AdaFV(keep=0.3)):
            inputs["pixel_values"].grad = None
            model(**pruner(model, inputs)).logits.sum().backward()
            assert inputs["pixel_values"].grad.abs().sum() > 0
    assert cache.misses == 0


def test_the_least_recently_used_go_first(model):
    prompts = [ask("llava", (QUESTION, [show(80, 48, seed=seed)])) for seed in range(3)]
    with TowerCache() as cache:
        AdaFV(keep=0.3)(model, prompts[0])
    one = cache.bytes
    with TowerCache(megabytes=2.5 * one / 2**20) as cache:
        # the third drops the second, for the first was asked for again
        for number in (0, 1, 0, 2, 0, 1):
            AdaFV(keep=0.3)(model, prompts[number])
        assert (cache.hits, cache.misses) == (2, 4)
        assert cache.bytes == 2 * one
        cache.clear()
        assert (len(cache), cache.bytes) == (0, 0)


def test_what_is_larger_than_the_cache_is_not_kept(model):
    inputs = ask("llava", (QUESTION, [show(80, 48)]))
    with TowerCache(megabytes=1e-3) as cache:
        AdaFV(keep=0.3)(model, inputs)
    assert (cache.misses, len(cache), cache.bytes) == (1, 0, 0)


def test_it_is_open_in_its_own_thread():
    with TowerCache() as outer:
        with TowerCache() as inner:
            assert open_cache() is inner
        assert open_cache() is outer
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(open_cache).result() is None
    assert open_cache() is None


def test_caches_that_are_closed_in_the_order_they_were_opened():
    """The one that was opened last stays the open one."""
    first, second = TowerCache(), TowerCache()
    first.__enter__()
    second.__enter__()
    first.__exit__()
    assert open_cache() is second
    second.__exit__()
    assert open_cache() is None


def test_hooks_that_change_the_tower_are_seen(model):
    """Of whoever looks into it, or steers it; those of this library count for nothing."""
    inputs = ask("llava", (QUESTION, [show(80, 48)]))
    tower = FAMILIES["llava"].tower(model)
    with TowerCache() as cache:
        plain = AdaFV(keep=0.3).encode(model, inputs).features
        handle = tower.register_forward_pre_hook(lambda module, given: (given[0] * 0, *given[1:]))
        blank = AdaFV(keep=0.3).encode(model, inputs).features
        handle.remove()
        again = AdaFV(keep=0.3).encode(model, inputs).features
    assert not torch.equal(plain[0], blank[0])
    assert torch.equal(plain[0], again[0])
    assert (cache.hits, cache.misses) == (1, 2)


def test_a_cache_of_nothing_is_refused():
    with pytest.raises(ValueError, match="megabytes=0 is not positive"):
        TowerCache(megabytes=0)


def test_weights_that_are_elsewhere_between_their_turns(model):
    """As accelerate offloads them: the answer is that without the cache."""
    inputs = ask("llava", (QUESTION, [show(80, 48)]))
    expected = AdaFV(keep=0.3)(model, inputs)
    cpu_offload(model, execution_device="cpu")
    with TowerCache() as cache:
        found = [AdaFV(keep=0.3)(model, inputs) for _ in range(2)]
    assert same(found, [expected] * 2)
    assert cache.hits == 1
