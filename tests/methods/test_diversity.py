"""The methods that look at the visual tokens themselves, each against its paper in plain loops."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from conftest import inputs_for, picture, prompt
from oracles import diversity

from adafv.core.encode import encode
from adafv.core.signals import HIDDEN, KEYS, SALIENCY
from adafv.methods.cdpruner import CDPruner
from adafv.methods.coverpruner import CoverPruner
from adafv.methods.dart import DART
from adafv.methods.divprune import DivPrune
from adafv.methods.mmr import MMR
from adafv.methods.mmtok import MMTok
from adafv.methods.prunesid import PruneSID
from adafv.methods.scope import Scope
from adafv.methods.sfpruner import SFPruner
from adafv.methods.stacktok import StackTok
from adafv.methods.tome import ToMe

METHODS = (
    *(DivPrune, CDPruner, Scope, MMTok, DART, ToMe),
    *(SFPruner, PruneSID, CoverPruner, MMR, StackTok),
)
GREEDY = (DivPrune, CDPruner, Scope, MMTok)
BUDGETS = (1, 2, 5, 20, -1, 0)  # the last two: all but one, all


@pytest.fixture(scope="module")
def inputs(processor):
    """Two images; where tiles differ, of different numbers of tokens; six words and three."""
    return inputs_for(
        processor,
        (prompt("what color is the knight ?"), [picture(24, 24)]),
        (prompt("red"), [picture(72, 24, 1)]),
    )


@pytest.fixture(scope="module")
def tokens(model, inputs):
    return encode(model, inputs, signals={SALIENCY, KEYS, HIDDEN}).tokens


@pytest.fixture(scope="module")
def images(tokens):
    """What the oracles read of each image: lists of floats."""
    return [
        dict(
            visual=tokens.features[i, :n].double().tolist(),
            words=tokens.text[i, tokens.text_mask[i]].double().tolist(),
            saliency=tokens.saliency[i, :n].double().tolist(),
            keys=tokens.signals[KEYS][i, :n].double().tolist(),
            hidden=tokens.signals[HIDDEN][i, :n].double().tolist(),
        )
        for i, n in enumerate(tokens.counts)
    ]


@pytest.fixture(scope="module")
def oracle(images):
    """The tokens that each greedy method picks, in the order of picking."""

    @cache
    def picks(cls, i):
        image = images[i]
        if cls is DivPrune:
            return diversity.divprune(image["visual"])
        if cls is CDPruner:
            return diversity.cdpruner(image["visual"], image["words"])
        if cls is Scope:
            return diversity.scope(image["visual"], image["saliency"], 1.0)
        return diversity.mmtok(image["visual"], image["hidden"], image["words"])

    return picks


def budgets(tokens, k):
    return [k if k > 0 else n + k for n in tokens.counts]


def mapped(tokens, change):
    """The tokens with every device tensor changed."""
    own = {
        name: change(getattr(tokens, name)) for name in ("features", "mask", "text", "text_mask")
    }
    return replace(tokens, **own, signals={s: change(x) for s, x in tokens.signals.items()})


def alone(tokens, i):
    """Image i without the rest of its batch and without padding."""
    n, m = tokens.counts[i], int(tokens.text_mask[i].sum())
    return replace(
        tokens,
        features=tokens.features[i : i + 1, :n],
        mask=tokens.mask[i : i + 1, :n],
        counts=(n,),
        signals={s: x[i : i + 1, :n] for s, x in tokens.signals.items()},
        text=tokens.text[i : i + 1, :m],
        text_mask=tokens.text_mask[i : i + 1, :m],
        coordinates=tokens.coordinates[i : i + 1],
        seeds=tokens.seeds[i : i + 1],
    )


def assert_exact(selection, counts, budget):
    for kept, n, k in zip(selection.kept, counts, budget, strict=True):
        assert len(kept) == k
        assert (kept.diff() > 0).all()
        assert kept[0] >= 0
        assert kept[-1] < n
    for features, k in zip(selection.features or [], budget, strict=bool(selection.features)):
        assert features.shape[0] == k
        assert features.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("k", BUDGETS)
@pytest.mark.parametrize("cls", GREEDY)
def test_greedy_methods_pick_what_their_papers_pick(tokens, oracle, cls, k):
    """Every budget is the beginning of the same order; beyond the rank of CDPruner's
    kernel, too.
    """
    budget = budgets(tokens, k)
    selection = cls(tokens=1).select(tokens, budget)
    assert_exact(selection, tokens.counts, budget)
    for i, kept in enumerate(selection.kept):
        assert kept.tolist() == sorted(oracle(cls, i)[: budget[i]])


@pytest.mark.parametrize("k", [*BUDGETS, 13])
@pytest.mark.parametrize("pivots", [1, 4, 6])
def test_dart_is_the_paper_before_the_llm(tokens, images, k, pivots):
    """With fewer words than pivots and budgets below the pivots, too."""
    budget = budgets(tokens, k)
    for i, kept in enumerate(DART(tokens=1, pivots=pivots).select(tokens, budget).kept):
        assert kept.tolist() == diversity.dart(
            images[i]["visual"], images[i]["words"], budget[i], pivots
        )


@pytest.mark.parametrize("k", BUDGETS)
def test_tome_merges_what_the_paper_merges(tokens, images, k):
    """Places and means, weighted with how many tokens each stands for."""
    budget = budgets(tokens, k)
    selection = ToMe(tokens=1).select(tokens, budget)
    for i, (kept, features) in enumerate(zip(selection.kept, selection.features, strict=True)):
        places, merged = diversity.tome(images[i]["visual"], images[i]["keys"], budget[i])
        assert kept.tolist() == places
        torch.testing.assert_close(features, torch.tensor(merged), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"alpha": 2.5}])
def test_scope_weighs_saliency_by_its_power(tokens, images, options):
    """Alpha = 0 is coverage alone."""
    for i, kept in enumerate(Scope(tokens=9, **options).select(tokens, [9, 9]).kept):
        order = diversity.scope(images[i]["visual"], images[i]["saliency"], options["alpha"])
        assert kept.tolist() == sorted(order[:9])


def test_mmtok_takes_its_temperatures_and_its_weight(tokens, images):
    """Each option reaches its term."""
    pruner = MMTok(tokens=9, text_temperature=0.3, visual_temperature=0.05, weight=2.0)
    for i, kept in enumerate(pruner.select(tokens, [9, 9]).kept):
        order = diversity.mmtok(
            images[i]["visual"], images[i]["hidden"], images[i]["words"], 0.3, 0.05, 2.0
        )
        assert kept.tolist() == sorted(order[:9])


def test_mmtok_goes_on_beside_a_hidden_state_of_zeros(tokens, images):
    """It resembles nothing, not even itself, however cold the softmax is."""
    hidden = tokens.signals[HIDDEN].clone()
    hidden[0, 3] = 0
    dead = replace(tokens, signals={**tokens.signals, HIDDEN: hidden})
    order = diversity.mmtok(images[0]["visual"], hidden[0].tolist(), images[0]["words"])
    assert MMTok(tokens=9).select(dead, [9, 9]).kept[0].tolist() == sorted(order[:9])
    for temperature in (0.0014, 1e-3, 1e-30):
        gains = next(MMTok(tokens=9, visual_temperature=temperature).gains(dead, 9))
        assert gains.isfinite().all()
        assert (gains[dead.mask] > 0).all()


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize("k", [1, 7, 36])
def test_a_batch_is_its_images_one_by_one(tokens, cls, k):
    """Padded tokens and padded words take part in nothing."""
    together = cls(tokens=k).select(tokens, [k, k])
    for i in range(2):
        single = cls(tokens=k).select(alone(tokens, i), [k])
        assert torch.equal(together.kept[i], single.kept[0])
        if single.features is not None:
            torch.testing.assert_close(together.features[i], single.features[0])


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize("k", [1, 20, 0])
@pytest.mark.parametrize(
    "content", [torch.zeros_like, torch.ones_like, lambda x: x[:, :1].expand_as(x)]
)
def test_dead_and_identical_tokens(tokens, cls, k, content):
    """Nothing tells the tokens apart: still K of them and no NaN, the lowest indices where the
    method only picks.
    """
    flat = replace(
        tokens,
        features=content(tokens.features),
        signals={s: content(x) for s, x in tokens.signals.items()},
    )
    budget = budgets(tokens, k)
    selection = cls(tokens=1).select(flat, budget)
    assert_exact(selection, tokens.counts, budget)
    for kept, coordinates in zip(selection.kept, tokens.coordinates, strict=True):
        if cls is StackTok:  # in each crop
            for crop in coordinates[:, 0].unique():
                members = (coordinates[:, 0] == crop).nonzero()[:, 0]
                of_crop = kept[torch.isin(kept, members)]
                assert of_crop.tolist() == members[: len(of_crop)].tolist()
        elif cls is not ToMe:
            assert kept.tolist() == list(range(len(kept)))


@pytest.mark.parametrize("cls", METHODS)
def test_every_token_twice(tokens, cls):
    """A copy ties with its original, which goes first; after that it adds nothing."""
    one = alone(tokens, 0)
    twice = replace(
        one,
        counts=(2 * one.counts[0],),
        features=one.features.repeat(1, 2, 1),
        mask=one.mask.repeat(1, 2),
        signals={s: torch.cat([x, x], dim=1) for s, x in one.signals.items()},
        coordinates=(one.coordinates[0].repeat(2, 1),),
    )
    selection = cls(tokens=1).select(twice, [6])
    assert_exact(selection, twice.counts, [6])
    if cls in (*GREEDY, SFPruner, CoverPruner):
        assert len((selection.kept[0] % one.counts[0]).unique()) == 6
    if cls in (Scope, MMTok):
        assert selection.kept[0].tolist() == cls(tokens=1).select(one, [6]).kept[0].tolist()


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize("padded", [True, False])
def test_a_question_without_words(tokens, cls, padded):
    """Beside one that has some, and where no question of the batch has any."""
    mask = tokens.text_mask.clone()
    mask[0] = False
    silent = replace(tokens, text_mask=mask)
    if not padded:
        silent = replace(tokens, text=tokens.text[:, :0], text_mask=mask[:, :0])
    for k in (3, 11):
        selection = cls(tokens=k).select(silent, [k, k])
        assert_exact(selection, tokens.counts, [k, k])
    if cls is CDPruner:
        visual = tokens.features[0, : tokens.counts[0]].double().tolist()
        assert selection.kept[0].tolist() == sorted(diversity.cdpruner(visual, [])[:11])


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize("k", [1, 3, 36])
def test_nothing_is_read_back_from_the_device(tokens, cls, k):
    """Selection runs on the meta device, which holds no data to read."""
    selection = cls(tokens=k).select(mapped(tokens, lambda x: x.to("meta")), [k, k])
    assert [kept.shape for kept in selection.kept] == [(k,), (k,)]
    assert all(kept.is_meta for kept in selection.kept)


@pytest.mark.parametrize("cls", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features(tokens, cls, dtype):
    """What is merged stays in the model's dtype."""
    half = replace(tokens, features=tokens.features.to(dtype), text=tokens.text.to(dtype))
    selection = cls(tokens=9).select(half, [9, 9])
    assert_exact(selection, tokens.counts, [9, 9])
    assert all(f.dtype == dtype for f in selection.features or [])


@pytest.mark.parametrize("cls", METHODS)
def test_generation_goes_through(model, inputs, cls):
    """From pixels to new tokens, with the signals and the text that the method itself asks for."""
    for options in ({"tokens": 1}, {"keep": 0.3}, {"keep": 1.0}):
        pruned = cls(**options)(model, inputs)
        assert model.generate(**pruned, max_new_tokens=2).shape == (
            2,
            pruned["input_ids"].shape[1] + 2,
        )


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (Scope, {"alpha": -1}),
        (Scope, {"alpha": float("nan")}),
        (MMTok, {"text_temperature": 0}),
        (MMTok, {"visual_temperature": -0.2}),
        (MMTok, {"weight": -1}),
        (SFPruner, {"ridge": 0}),
        (SFPruner, {"ridge": 1e-18}),
        (CoverPruner, {"temperature": 0}),
        (MMR, {"diversity": -1}),
        (StackTok, {"text_temperature": 0}),
        (StackTok, {"beta_min": 0.95}),
        (StackTok, {"swaps": -1}),
        (DART, {"pivots": 0}),
        (DART, {"pivots": 2.5}),
    ],
)
def test_options_out_of_range_are_errors(cls, options):
    """The message names the option, its value and what to pass."""
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name}={value}.*pass"):
        cls(keep=0.1, **options)
