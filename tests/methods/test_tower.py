"""The methods that read the vision tower against their papers in plain loops."""

from dataclasses import replace

import pytest
import torch
from conftest import inputs_for, picture, prompt
from oracles import tower as tower_oracle
from transformers import CLIPVisionConfig, Qwen2_5_VLConfig, SiglipVisionConfig
from zoo.families import ask, tiny

from adafv import method
from adafv.core.capture import FULL_ATTENTION
from adafv.core.encode import encode
from adafv.core.signals import HIDDEN, KEYS, SALIENCY, Signal
from adafv.methods.hiprune import DEEP, MIDDLE, HiPrune
from adafv.methods.hired import CONTENT, HiRED
from adafv.methods.prumerge import PruMerge, PruMergePlus
from adafv.methods.visionzip import VisionZip
from adafv.methods.vispruner import VisPruner

METHODS = (VisPruner, VisionZip, PruMerge, PruMergePlus, HiRED, HiPrune)
SIGNALS = frozenset().union(*(cls.signals for cls in METHODS))
BUDGETS = (1, 2, 3, 5, 8, 20, -1, 0)  # those below 1 are added to N

each_method = pytest.mark.parametrize("cls", METHODS, ids=lambda cls: cls.name)
each_budget = pytest.mark.parametrize("k", BUDGETS)


@pytest.fixture(scope="module")
def samples():
    return (
        (prompt("what color is the knight ?"), [picture()]),
        (prompt(), [picture(30, 60, 1)]),
    )


@pytest.fixture(scope="module")
def inputs(processor, samples):
    return inputs_for(processor, *samples)


@pytest.fixture(scope="module")
def tokens(model, inputs):
    return encode(model, inputs, signals=SIGNALS).tokens


def budgets(tokens, k):
    return [k if k > 0 else n + k for n in tokens.counts]


def scores(tokens, image, signal):
    return tokens.signals[signal][image, : tokens.counts[image]].tolist()


def vectors(tokens, image, signal):
    return tuple(map(tuple, scores(tokens, image, signal)))


def features(tokens, image):
    return tokens.features[image, : tokens.counts[image]].tolist()


def places(tokens, image):
    return [tuple(p) for p in tokens.coordinates[image].tolist()]


def check(selection, expected):
    for i, (kept, merged) in enumerate(expected):
        assert selection.kept[i].tolist() == kept
        torch.testing.assert_close(
            selection.features[i], torch.tensor(merged), rtol=1e-4, atol=1e-5
        )


@each_budget
@pytest.mark.parametrize("important", [0.0, 0.5, 1.0])
def test_vispruner(tokens, k, important):
    """Important tokens first, then round after round without the most duplicated ones."""
    budget = budgets(tokens, k)
    for i, kept in enumerate(VisPruner(keep=0.5, important=important).select(tokens, budget).kept):
        signals = scores(tokens, i, SALIENCY), vectors(tokens, i, HIDDEN)
        assert kept.tolist() == tower_oracle.vispruner(*signals, budget[i], important)


@each_budget
def test_visionzip(tokens, k):
    """Dominant tokens as they are, contextual ones with the mean of what went to them."""
    budget, pruner = budgets(tokens, k), VisionZip(keep=0.5)
    expected = [
        tower_oracle.visionzip(
            scores(tokens, i, SALIENCY),
            vectors(tokens, i, KEYS),
            features(tokens, i),
            n,
            pruner.contextual_tokens(n),
        )
        for i, n in enumerate(budget)
    ]
    check(pruner.select(tokens, budget), expected)


@pytest.mark.parametrize(
    ("k", "contextual"), [(1, 0), (2, 1), (6, 1), (64, 10), (128, 20), (192, 30)]
)
def test_visionzip_divides_the_budget_as_in_the_paper(k, contextual):
    """54 + 10, 108 + 20 and 162 + 30; and never a summary alone."""
    assert VisionZip(tokens=k).contextual_tokens(k) == contextual


@each_budget
@pytest.mark.parametrize(
    ("pruner", "spread"), [(PruMerge(keep=0.5), 0.0), (PruMergePlus(keep=0.5), 0.75)]
)
@pytest.mark.parametrize("neighbours", [4, 32])
def test_prumerge(tokens, k, pruner, spread, neighbours):
    """Salient tokens, for `prumerge+` strided ones too, each with its weighted neighbours."""
    budget, pruner = budgets(tokens, k), replace(pruner, neighbours=neighbours)
    expected = [
        tower_oracle.prumerge(
            scores(tokens, i, SALIENCY),
            vectors(tokens, i, KEYS),
            features(tokens, i),
            n,
            spread,
            neighbours,
        )
        for i, n in enumerate(budget)
    ]
    check(pruner.select(tokens, budget), expected)


def test_the_strided_share_is_not_off_by_one():
    """0.58 · 50 is 28.999… in floating point: 21 salient tokens and a stride of 29."""
    order = PruMergePlus(tokens=50, spread=0.58)._order(-torch.arange(108.0), 50)
    assert order[:50].sort().values.tolist() == [*range(21), *range(21, 108, 3)]


@each_budget
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_hired(tokens, k, alpha):
    """The thumbnail's share, the tiles' shares by votes, and the most salient of each crop."""
    budget = budgets(tokens, k)
    for i, kept in enumerate(HiRED(keep=0.5, alpha=alpha).select(tokens, budget).kept):
        signals = scores(tokens, i, SALIENCY), scores(tokens, i, CONTENT), places(tokens, i)
        assert kept.tolist() == tower_oracle.hired(*signals, budget[i], alpha)


@pytest.mark.parametrize("family", ["llava_next"], indirect=True)
@pytest.mark.parametrize(
    ("k", "of_each_crop"),
    [(20, [15, 5]), (60, [36, 24]), (72, [36, 36]), (100, [36, 36, 10, 9, 9]), (180, [36] * 5)],
)
def test_hired_fills_the_tile_with_the_votes(tokens, k, of_each_crop):
    """A quarter of the thumbnail has all votes: its tile is filled first, the others get what it
    can't hold.
    """
    corner = [
        j
        for j, (crop, row, column) in enumerate(places(tokens, 0))
        if crop == 0 and row < 3 and column < 3
    ]
    assert crops_of(tokens, corner, k, alpha=0.75) == of_each_crop


@pytest.mark.parametrize("family", ["llava_next"], indirect=True)
def test_hired_rounds_shares_to_the_nearest(tokens):
    """9 votes to 2 are 3.3 to 0.7 of four tokens, hence 3 to 1."""
    row_by_row = [*range(3), *range(6, 9), *range(12, 15)]
    assert crops_of(tokens, [*row_by_row, 34, 35], 10, alpha=0.69) == [6, 3, 0, 0, 1]


def crops_of(tokens, voters, k, alpha):
    """How many tokens HiRED keeps of each crop of the first image, if these tokens of its thumbnail
    stand out.
    """
    content = torch.zeros_like(tokens.saliency)
    content[0, voters] = 1
    marked = replace(tokens, signals=dict(tokens.signals) | {CONTENT: content})
    kept = HiRED(tokens=k, alpha=alpha).select(marked, [k, 1]).kept[0]
    return tokens.coordinates[0][kept, 0].bincount().tolist()


@each_budget
@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_hiprune(tokens, k, alpha):
    """Anchors with their neighbours in the crop, then the highest of a deep layer."""
    budget = budgets(tokens, k)
    for i, kept in enumerate(HiPrune(keep=0.5, alpha=alpha).select(tokens, budget).kept):
        signals = scores(tokens, i, MIDDLE), scores(tokens, i, DEEP), places(tokens, i)
        assert kept.tolist() == tower_oracle.hiprune(*signals, budget[i], alpha)


@pytest.mark.parametrize(
    ("tower", "layers", "of_features", "middle"),
    [
        # the authors' attentions[9 - 1] and attentions[-2]
        (CLIPVisionConfig(num_hidden_layers=24), 24, 22, 8),
        (SiglipVisionConfig(num_hidden_layers=27), 27, 26, 9),
        # the authors' attentions[16 - 1]: 11 sees windows alone
        (Qwen2_5_VLConfig().vision_config, 32, 31, 15),
    ],
    ids=("clip-l", "siglip", "qwen2.5-vl"),
)
def test_the_layers_of_real_towers(tower, layers, of_features, middle):
    """By index: what HiPrune, HiRED and all others look at in towers of 24, 27 and 32 layers."""
    whole = getattr(tower, FULL_ATTENTION, None)
    assert MIDDLE.layer(layers, of_features, whole) == middle
    for signal in (DEEP, SALIENCY, KEYS, HIDDEN):
        assert signal.layer(layers, of_features, whole) == of_features
    assert CONTENT.layer(layers, of_features, whole) == (0 if whole is None else 7)


def test_a_tower_of_windows_shows_a_layer_that_sees_all():
    """Attention within windows says nothing of the image: the next full layer is watched."""
    small = tiny("qwen2_5_vl")  # of three layers the second sees the whole image
    first, middle, last = (Signal("received", depth) for depth in (0.0, 0.5, 1.0))
    inputs = ask("qwen2_5_vl", ("what color is the anchor ?", [picture()]))
    signals = encode(small.model, inputs, signals={first, middle, last}).tokens.signals
    assert torch.equal(signals[first], signals[middle])
    assert torch.equal(signals[last], signals[middle])


@each_method
@each_budget
def test_budget_is_exact(tokens, cls, k):
    """K different tokens, ascending, and one feature for each where a method merges."""
    budget = budgets(tokens, k)
    selection = cls(keep=0.5).select(tokens, budget)
    for i, kept in enumerate(selection.kept):
        assert len(kept) == budget[i]
        assert (kept.diff() > 0).all()
        assert kept[0] >= 0
        assert kept[-1] < tokens.counts[i]
        if selection.features is not None:
            assert selection.features[i].shape == (budget[i], tokens.features.shape[-1])


@each_method
def test_all_tokens_stay_as_they_are(tokens, cls):
    """With nothing to drop nothing merges: features bit for bit."""
    selection = cls(keep=1.0).select(tokens, list(tokens.counts))
    for i, count in enumerate(tokens.counts):
        assert selection.kept[i].tolist() == list(range(count))
        if selection.features is not None:
            assert torch.equal(selection.features[i], tokens.features[i, :count])


@each_method
def test_ties_go_to_the_lower_index(tokens, cls):
    """A dead tower: no score, keys without a direction; K tokens all the same, none of them NaN."""
    dead = replace(tokens, signals={s: torch.zeros_like(x) for s, x in tokens.signals.items()})
    for k in (1, 7, 30):
        pruner = cls(tokens=k)
        selection = pruner.select(dead, [k, k])
        assert [len(kept.unique()) for kept in selection.kept] == [k, k]
        if selection.features is not None:
            assert all(f.isfinite().all() for f in selection.features)
        if cls in (PruMerge, HiPrune):
            assert [kept.tolist() for kept in selection.kept] == [list(range(k))] * 2
        for i, kept in enumerate(selection.kept):
            assert kept.tolist() == kept_by_loops(pruner, dead, i, k)


def kept_by_loops(pruner, tokens, i, k):
    """What the plain loops keep, whose sorts are stable."""
    saliency = scores(tokens, i, SALIENCY)
    if isinstance(pruner, VisPruner):
        hidden = vectors(tokens, i, HIDDEN)
        return tower_oracle.vispruner(saliency, hidden, k, pruner.important)
    if isinstance(pruner, HiRED):
        signals = saliency, scores(tokens, i, CONTENT), places(tokens, i)
        return tower_oracle.hired(*signals, k, pruner.alpha)
    if isinstance(pruner, HiPrune):
        signals = scores(tokens, i, MIDDLE), scores(tokens, i, DEEP), places(tokens, i)
        return tower_oracle.hiprune(*signals, k, pruner.alpha)
    signals = saliency, vectors(tokens, i, KEYS), features(tokens, i)
    if isinstance(pruner, VisionZip):
        return tower_oracle.visionzip(*signals, k, pruner.contextual_tokens(k))[0]
    spread = getattr(pruner, "spread", 0.0)
    return tower_oracle.prumerge(*signals, k, spread, pruner.neighbours)[0]


@each_method
def test_half_precision(tokens, cls):
    """Features and hidden states of a bfloat16 model: merged features are bfloat16 too."""
    half = {s: x.bfloat16() if s == HIDDEN else x for s, x in tokens.signals.items()}
    selection = cls(tokens=9).select(
        replace(tokens, features=tokens.features.bfloat16(), signals=half), [9, 9]
    )
    assert [len(kept.unique()) for kept in selection.kept] == [9, 9]
    for features_of_image in selection.features or ():
        assert features_of_image.dtype == torch.bfloat16


@each_method
def test_generation_goes_through(model, inputs, cls):
    """From pixels to two new tokens per prompt."""
    pruned = cls(keep=0.2)(model, inputs)
    generated = model.generate(**pruned, max_new_tokens=2)
    assert generated.shape == (2, pruned["input_ids"].shape[1] + 2)


@each_method
@each_budget
def test_nothing_is_read_back_from_the_device(tokens, cls, k):
    """Selection runs on the meta device, which holds no data to read."""
    tensors = {
        name: x.to("meta") for name, x in vars(tokens).items() if isinstance(x, torch.Tensor)
    }
    on_meta = replace(
        tokens, **tensors, signals={s: x.to("meta") for s, x in tokens.signals.items()}
    )
    budget = budgets(tokens, k)
    assert [kept.shape for kept in cls(keep=0.5).select(on_meta, budget).kept] == [
        (n,) for n in budget
    ]


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (VisPruner, {"important": 1.5}),
        (VisionZip, {"contextual": 1}),
        (VisionZip, {"contextual": 0}),
        (PruMerge, {"neighbours": 0}),
        (PruMergePlus, {"spread": 1}),
        (PruMergePlus, {"neighbours": 0}),
        (HiRED, {"alpha": -0.1}),
        (HiPrune, {"alpha": 1.1}),
    ],
)
def test_options_out_of_range_are_errors(cls, options):
    """The message names the option, its value and what to pass."""
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name}={value} .*pass"):
        cls(keep=0.1, **options)


@pytest.mark.parametrize("saliency", ["attention", "received", "distinctness"])
def test_fastervlm_of_another_saliency(model, inputs, saliency):
    """Which layer and which reduction is asked of the tower; distinctness asks nothing of it."""
    pruner = method("fastervlm", keep=0.2, saliency=saliency, depth=0.5)
    tokens = pruner.encode(model, inputs).tokens
    if saliency == "distinctness":
        assert not tokens.signals
        unit = torch.nn.functional.normalize(tokens.features[0, : tokens.counts[0]], dim=-1)
        expected = torch.stack([1 - torch.stack([a @ b for b in unit]).mean() for a in unit])
    else:
        expected = tokens.signals[Signal(saliency, 0.5)][0, : tokens.counts[0]]
    torch.testing.assert_close(
        pruner.score(tokens)[0, : tokens.counts[0]], expected, rtol=1e-4, atol=1e-6
    )


def test_a_saliency_that_does_not_exist():
    for options in ({"saliency": "loud"}, {"depth": 2.0}, {"heads": "sum"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            method("fastervlm", keep=0.2, **options)
