"""Each method against its paper in plain loops, and the options they share."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import inputs_for, picture, prompt
from oracles import sacmam as oracle

from adafv import (
    METHODS,
    AdaFV,
    AdaFVPlus,
    AdaFVReleased,
    FasterVLM,
    NoPruning,
    Pool,
    Random,
    TextToImage,
    Uniform,
    VisPruner,
    method,
)
from adafv.core.signals import SALIENCY
from adafv.methods import adafv_plus, from_spec
from adafv.methods.adafv_plus import redundancy
from adafv.ops.grid import cells
from adafv.ops.relevance import text_to_image_attention


@pytest.fixture(scope="module")
def inputs(processor):
    return inputs_for(
        processor,
        (prompt("what color is the knight ?"), [picture()]),
        (prompt(), [picture(30, 60, 1)]),
    )


@pytest.fixture(scope="module")
def tokens(model, inputs):
    return AdaFV(keep=0.5).encode(model, inputs).tokens


def scores_of(tokens, image):
    n = tokens.counts[image]
    relevance = text_to_image_attention(tokens.text, tokens.features, tokens.text_mask, tokens.mask)
    return relevance[image, :n].tolist(), tokens.saliency[image, :n].tolist()


@pytest.mark.parametrize("k", [1, 5, 20, 30])
@pytest.mark.parametrize("reserve", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("mass", ["whole", "beyond"])
def test_adafv_is_sacmam(tokens, k, reserve, mass):
    """Relevance and saliency of a real prompt, mixed as the reference mixes them; with the authors'
    product, too.
    """
    selection = AdaFV(tokens=k, reserve=reserve, mass=mass).select(tokens, [k, k])
    for i, kept in enumerate(selection.kept):
        expected, k_t, k_v = oracle.sacmam(*scores_of(tokens, i), k, reserve, mass)
        assert (kept.tolist(), selection.split[i].tolist()) == (expected, [k_t, k_v])


@pytest.mark.parametrize(("k", "spread"), [(1, 0.2), (3, 0.05), (9, 0.2), (20, 2.0)])
def test_adafv_plus_keeps_what_nothing_better_says(tokens, k, spread):
    """Nearness, score and redundancy of a real prompt, step by step, in both grids of an image."""
    pruner = AdaFVPlus(tokens=k, spread=spread)
    relevance = pruner.relevance(tokens)
    nearness = pruner.nearness(tokens)
    kept = pruner.select(tokens, [k, k]).kept
    for i, n in enumerate(tokens.counts):
        at = oracle.places(tokens.coordinates[i].tolist())
        expected = oracle.nearness(relevance[i, :n].tolist(), at, spread)
        torch.testing.assert_close(
            nearness[i, :n], torch.tensor(expected).double(), rtol=1e-5, atol=1e-7
        )
        saliency = tokens.saliency[i, :n].tolist()
        scores = [a * (0.1 + b) ** 0.5 for a, b in zip(saliency, expected, strict=True)]
        crops = tokens.coordinates[i][:, 0].tolist()
        assert kept[i].tolist() == oracle.unsaid(scores, tokens.features[i, :n], crops, k)


def test_adafv_plus_keeps_the_best_of_copies(tokens):
    """Of copies in the thumbnail, and of those in the tiles, the best comes before what differs."""
    copies = torch.arange(tokens.features.shape[1]) % 20 == 0
    saliency = torch.where(copies, 2.0, tokens.saliency)
    features = torch.eye(tokens.features.shape[2])[torch.arange(len(copies)) % 7 + 1]
    features[copies] = torch.eye(features.shape[1])[0]
    some = replace(
        tokens,
        features=features.expand_as(tokens.features),
        signals={**tokens.signals, SALIENCY: saliency},
    )
    kept = AdaFVPlus(tokens=8).select(some, [8, 8]).kept[0]
    thumbnail = tokens.coordinates[0][:, 0] == 0
    for scale in (thumbnail, ~thumbnail):
        own = kept[scale[kept]]
        assert copies[own].sum() == scale.any()
        assert len(features[own].unique(dim=0)) == len(own)


def test_adafv_plus_shows_what_resembles_the_words(tokens):
    """Evidence is the relevance itself: what is near it resembles nothing."""
    pruner = AdaFVPlus(tokens=9)
    evidence = pruner.evidence(tokens)
    torch.testing.assert_close(evidence.relevance, pruner.relevance(tokens))
    assert not torch.allclose(evidence.relevance.double(), pruner.nearness(tokens).double())


def test_adafv_plus_without_its_discount_ranks_by_score(tokens):
    """The ablation keeps the highest products of saliency and nearness."""
    pruner = AdaFVPlus(tokens=9, distinct=False)
    score = tokens.saliency * (0.1 + pruner.nearness(tokens)).sqrt()
    for i, kept in enumerate(pruner.select(tokens, [9, 9]).kept):
        best = oracle.descending(score[i, : tokens.counts[i]].tolist())[:9]
        assert kept.tolist() == sorted(best)


def test_adafv_plus_compares_strip_by_strip(monkeypatch):
    """Each token with all before it, whatever the strips; with a window, with the latest at
    least.
    """
    features = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))
    unit = features / features.norm(dim=-1, keepdim=True)
    scale = torch.arange(50).expand(2, 50) % 3 == 0
    cosine = (unit @ unit.mT) * (scale[:, :, None] == scale[:, None])
    monkeypatch.setattr(adafv_plus, "STRIP", 8)
    for window, least in ((1024, 50), (24, 16)):
        monkeypatch.setattr(adafv_plus, "WINDOW", window)
        found = torch.cat(list(redundancy(features, scale)), dim=1)
        latest = cosine.tril(-1).amax(2).clamp(min=0)
        nearest = cosine.tril(-1).triu(-least).amax(2).clamp(min=0)
        assert (found <= latest + 1e-5).all()
        assert (found >= nearest - 1e-5).all()


@pytest.mark.parametrize("power", [8, 0.1, 0])
def test_adafv_plus_stops_once_it_knows(monkeypatch, tokens, power):
    """On a CPU what cannot be kept any more is not compared; the same tokens are kept."""
    saliency = torch.rand(tokens.saliency.shape, generator=torch.Generator().manual_seed(0))
    tokens = replace(tokens, signals={**tokens.signals, SALIENCY: saliency**power})
    monkeypatch.setattr(adafv_plus, "STRIP", 4)
    pruner, budget = AdaFVPlus(tokens=3), [1, 3]
    compared: list[int] = []

    def counted(features: torch.Tensor, scale: torch.Tensor):
        for said in redundancy(features, scale):
            compared.append(said.shape[1])
            yield said

    monkeypatch.setattr(adafv_plus, "redundancy", counted)
    quick = pruner.select(tokens, budget).kept
    some = sum(compared)
    monkeypatch.setattr(adafv_plus, "_is_settled", lambda *given: False)
    compared.clear()
    thorough = pruner.select(tokens, budget).kept
    assert [kept.tolist() for kept in quick] == [kept.tolist() for kept in thorough]
    assert sum(compared) == 8 * 3
    assert some < 8 * 3 or power < 8


def test_adafv_plus_looks_near_what_is_named(tokens):
    """Of tokens that stand out alike, those around the one that a word names are kept."""
    n = tokens.counts[0]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(tokens.features.shape, generator=generator)
    named = n - 1
    text = features[:, named : named + 1]
    alike = replace(
        tokens,
        features=features,
        text=text,
        text_mask=torch.ones(2, 1, dtype=torch.bool),
        signals={**tokens.signals, SALIENCY: torch.ones_like(tokens.saliency)},
    )
    nearness = AdaFVPlus(tokens=4, spread=0.1).nearness(alike)[0, :n]
    at = torch.tensor(oracle.places(tokens.coordinates[0].tolist()))
    away = (at - at[named]).norm(dim=1)
    assert nearness[away < 0.1].min() > nearness[away > 0.4].max()


def test_adafv_plus_puts_words_on_one_scale(tokens):
    """Standardised word by word, over the image's own tokens, whatever the padding."""
    pruner = AdaFVPlus(tokens=9)
    relevance = pruner.relevance(tokens)
    for i, n in enumerate(tokens.counts):
        text = tokens.text[i, tokens.text_mask[i]]
        expected = oracle.standing_out(text, tokens.features[i, :n], pruner.temperature)
        torch.testing.assert_close(relevance[i, :n], torch.tensor(expected), rtol=1e-3, atol=1e-6)
        assert not relevance[i, n:].any()


def test_adafv_plus_without_words_or_differences(tokens):
    """No word, or an image of one colour: no NaN, and exactly K."""
    blank = replace(tokens, features=torch.zeros_like(tokens.features))
    wordless = replace(tokens, text=tokens.text[:, :0], text_mask=tokens.text_mask[:, :0])
    masked = replace(tokens, text_mask=torch.zeros_like(tokens.text_mask))
    for odd in (blank, wordless, masked):
        assert AdaFVPlus(tokens=9).nearness(odd).isfinite().all()
        assert [len(k) for k in AdaFVPlus(tokens=9).select(odd, [9, 9]).kept] == [9, 9]


@pytest.mark.parametrize("option", ["temperature", "spread"])
def test_adafv_plus_refuses_what_is_not_positive(option):
    """The sentence names the option."""
    with pytest.raises(ValueError, match=f"{option}=0 is not positive"):
        AdaFVPlus(keep=0.1, **{option: 0})


@pytest.mark.parametrize("k", [12, 21, 30, 60])
def test_adafv_released_is_the_authors_code(model, processor, tokens, k):
    """With its faults: truncated budget, offset crops, a reserve of the first crops, tokens fed
    twice.

    In images that fill their tiles and in images that padding was cut from, whose tokens are
    not numbered as there.
    """
    padded = inputs_for(
        processor, (prompt("what ?"), [picture(60, 40)]), (prompt(), [picture(20, 64, 1)])
    )
    for some in (tokens, AdaFV(keep=0.5).encode(model, padded).tokens):
        budget = [min(k, n - 1) for n in some.counts]
        for i, kept in enumerate(AdaFVReleased(tokens=k).select(some, budget).kept):
            expected = oracle.released(
                *scores_of(some, i), some.coordinates[i].tolist(), budget[i], 0.25
            )
            assert kept.tolist() == expected


@pytest.mark.parametrize(
    "name", ["adafv", "adafv+", "adafv_released", "t2i", "fastervlm", "random"]
)
def test_evidence_is_what_the_method_weighs(tokens, name):
    """Of the tokens' shape; words where a method reads them, and each word's part makes up a_t."""
    pruner = method(name, tokens=9)
    evidence = pruner.evidence(tokens)
    for scores in (evidence.saliency, evidence.relevance):
        assert scores is None or scores.shape == tokens.mask.shape
    assert (evidence.saliency is not None) == bool(pruner.signals)
    assert (evidence.relevance is not None) == pruner.needs_text
    if pruner.needs_text:
        assert evidence.words.shape == (*tokens.text.shape[:2], tokens.mask.shape[1])
        assert evidence.words.isfinite().all()
    if name in ("adafv", "t2i"):
        torch.testing.assert_close(evidence.words.amax(1), evidence.relevance)
    assert evidence.reserve == getattr(pruner, "reserve", 0)


def test_adafv_released_feeds_tokens_twice(model, inputs):
    """What makes it different is really there, and generation goes through with it."""
    pruner = AdaFVReleased(keep=0.9)
    encoding = pruner.encode(model, inputs)
    kept = pruner.select(encoding.tokens, [pruner.budget(n) for n in encoding.tokens.counts]).kept
    assert any(len(k.unique()) < len(k) for k in kept)
    model.generate(**pruner(model, inputs), max_new_tokens=2)


def test_adafv_released_says_when_it_keeps_nothing(model, processor):
    """2 · floor(floor(K / 2) / crops) · crops is 0 for K below two tokens per crop."""
    with pytest.raises(ValueError, match="adafv_released keeps nothing"):
        AdaFVReleased(tokens=1)(model, inputs_for(processor, (prompt(), [picture()])))


@pytest.mark.parametrize(
    ("pruner", "which"), [(TextToImage(tokens=7), 0), (FasterVLM(tokens=7), 1)]
)
def test_one_sided_methods_keep_the_top_of_one_list(tokens, pruner, which):
    """`t2i` and `fastervlm` are the two halves of the mixture."""
    for i, kept in enumerate(pruner.select(tokens, [7, 7]).kept):
        assert kept.tolist() == sorted(oracle.descending(scores_of(tokens, i)[which])[:7])


def test_saliency_stands_beside_its_own_token(model, inputs):
    """Through tiles, unpadding and newlines: the score of a token is that of the patch it was made
    from.
    """
    encoding = FasterVLM(keep=0.5).encode(model, inputs)
    tower, patches = model.base_model.vision_tower, []
    tower.register_forward_hook(
        lambda _, __, output: patches.append(output.hidden_states[-2][:, 1:])
    )
    try:
        again = FasterVLM(keep=0.5).encode(model, inputs)
    finally:
        tower._forward_hooks.clear()
    projected = model.base_model.multi_modal_projector(patches[0]).flatten(0, 1)
    tower.set_attn_implementation("eager")
    pixels = inputs["pixel_values"]
    if pixels.dim() == 5:
        crops = [len(g.unique()) for g in (w[:, 0] for w in encoding.tokens.coordinates)]
        pixels = torch.cat([p[:c] for p, c in zip(pixels, crops, strict=True)])
    row = tower(pixels, output_attentions=True).attentions[-2].mean(1)[:, 0, 1:].flatten()
    tower.set_attn_implementation("sdpa")
    for i, n in enumerate(again.tokens.counts):
        for feature, saliency in zip(
            again.tokens.features[i, :n], again.tokens.saliency[i, :n], strict=True
        ):
            origin = (projected - feature).abs().sum(1).argmin()
            torch.testing.assert_close(saliency, row[origin], rtol=1e-4, atol=1e-6)


def test_random_differs_by_seed_and_question(model, processor):
    """A draw of its own for each question, or one mask would stand for chance."""
    drawn = set()
    for seed, question in ((0, "how many ?"), (1, "how many ?"), (0, "is there a knight ?")):
        pruner = Random(tokens=6, seed=seed)
        encoding = pruner.encode(model, inputs_for(processor, (prompt(question), [picture()])))
        drawn.add(tuple(pruner.select(encoding.tokens, [6]).kept[0].tolist()))
    assert len(drawn) == 3


@pytest.mark.parametrize("k", [1, 2, 6, 12, 25, 36])
def test_cells_are_even_and_cover_the_picture(tokens, k):
    """K cells, none empty, each a stretch of one scale; sizes differ by the rounding of bands
    alone.
    """
    for coordinates in tokens.coordinates:
        cell = cells(coordinates, k)
        members = defaultdict(list)
        for place, c in zip(coordinates.tolist(), cell.tolist(), strict=True):
            if c >= 0:
                members[c].append(place)
        assert sorted(members) == list(range(k))
        for places in members.values():
            assert len({crop > 0 for crop, _, _ in places}) == 1
            rows = {r for _, r, _ in places}
            columns = {c for _, _, c in places}
            assert len(rows) * len(columns) == len(places)


@pytest.mark.parametrize("k", [4, 6, 10, 20, 64])
def test_no_cell_reaches_into_two_frames(k):
    """Of a clip with as many cells as frames, or more."""
    frame, row, column = torch.meshgrid(torch.arange(4), torch.arange(4), torch.arange(4))
    coordinates = torch.stack([frame + 1, 4 * frame + row, column], -1).flatten(0, 2)  # (64, 3)
    cell = cells(coordinates, k, frames=4)
    assert sorted(set(cell.tolist())) == list(range(k))
    for number in range(k):
        assert len(coordinates[cell == number, 0].unique()) == 1
    assert sorted(set(cells(coordinates, 3, frames=4).tolist())) == [0, 1, 2]


def test_uniform_keeps_the_middle_of_each_cell_and_pool_its_average(tokens, monkeypatch):
    """Against loops over the cells, of which a few at a time are averaged."""
    monkeypatch.setattr("adafv.methods.pool.CHUNK", 4)
    k = 9
    uniform, pool = Uniform(tokens=k).select(tokens, [k, k]), Pool(tokens=k).select(tokens, [k, k])
    for i, coordinates in enumerate(tokens.coordinates):
        cell = cells(coordinates, k)
        middles = []
        for c in range(k):
            inside = (cell == c).nonzero()[:, 0].tolist()
            place = coordinates[inside, 1:].double()
            distance = (place - place.mean(0)).square().sum(1).tolist()
            middles.append(
                (inside[distance.index(min(distance))], tokens.features[i, inside].mean(0))
            )
        middles.sort(key=lambda m: m[0])
        assert uniform.kept[i].tolist() == pool.kept[i].tolist() == [m[0] for m in middles]
        torch.testing.assert_close(
            pool.features[i], torch.stack([m[1] for m in middles]), rtol=1e-4, atol=1e-5
        )


def test_newlines_of_a_pruned_image(model, processor):
    """Dropped as the authors do, kept for rows that keep a token, or all kept; an unpruned image
    keeps all.
    """
    inputs = inputs_for(processor, (prompt(), [picture()]))
    encoding = FasterVLM(tokens=8).encode(model, inputs)
    newlines = len(encoding.structural_indices[0])
    fed = {
        option: int(
            (
                FasterVLM(tokens=8, newlines=option)(model, inputs)["input_ids"]
                == model.config.image_token_id
            ).sum()
        )
        for option in ("drop", "rows", "all")
    }
    kept = FasterVLM(tokens=8).select(encoding.tokens, [8]).kept[0]
    rows = {int(r) for crop, r, _ in encoding.tokens.coordinates[0][kept].tolist() if crop > 0}
    assert fed == {"drop": 8, "rows": 8 + len(rows) if newlines else 8, "all": 8 + newlines}


def test_query_and_skip_change_the_words(model, inputs, processor):
    """`query` replaces the text after the image, `skip` takes words out of it."""
    words = processor.tokenizer("is there a anchor", return_tensors="pt")["input_ids"][0]
    encoding = TextToImage(tokens=5, query=words).encode(model, inputs)
    assert torch.equal(encoding.tokens.text[1], model.get_input_embeddings()(words))
    color = processor.tokenizer.convert_tokens_to_ids("color")
    every, fewer = (
        TextToImage(tokens=5).encode(model, inputs),
        TextToImage(tokens=5, skip=[color]).encode(model, inputs),
    )
    assert (every.tokens.text_mask.sum(1) - fewer.tokens.text_mask.sum(1)).tolist() == [1, 1]


def test_question_before_the_image_counts_when_nothing_follows(model, processor):
    """Text after an image is its question; where none follows, all text is."""
    encoding = TextToImage(tokens=5).encode(
        model, inputs_for(processor, ("how many red <image>", [picture()]))
    )
    assert encoding.tokens.text_mask.sum() == 3


def test_a_unknown_method_suggests_the_closest():
    """A typo costs one look."""
    with pytest.raises(ValueError, match="did you mean 'fastervlm'"):
        method("fastvlm", keep=0.1)
    with pytest.raises(ValueError, match="there are adafv, "):
        method("zzz", keep=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_introduces_itself(name):
    """`adafv methods` prints these."""
    cls = METHODS[name]
    assert cls.name == name
    assert cls.__doc__
    assert cls.__doc__.split("\n")[0].endswith(".")


@pytest.mark.parametrize(
    "options",
    [
        *({"reserve": 0.6}, {"temperature": 0}, {"top": 0}, {"mass": "some"}, {"crops": "some"}),
        *({"positions": "moved"}, {"newlines": "some"}),
    ],
)
def test_options_out_of_range_are_errors(options):
    """The message names the option and what to pass."""
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.*pass"):
        AdaFV(keep=0.1, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adafv", {"tokens": float("inf")}),
        ("adafv", {"tokens": float("nan")}),
        ("adafv", {"tokens": 10**400}),
        ("adafv", {"reserve": 10**400}),
        ("adafv", {"reserve": "0.5"}),
        ("adafv", {"temperature": "warm"}),
        ("adafv", {"temperature": 1e-44}),
        ("adafv", {"top": 1.5}),
        ("adafv", {"top": float("nan")}),
        ("adafv", {"center": "yes"}),
        ("adafv", {"skip": 5}),
        ("adafv", {"skip": "template"}),
        ("adafv+", {"temperature": 1e-44}),
        ("adafv+", {"spread": float("inf")}),
        ("mmtok", {"text_temperature": 1e-40}),
        ("mmtok", {"weight": 8}),
        ("dart", {"pivots": "4"}),
        ("random", {"seed": 1.5}),
        ("prumerge", {"neighbours": 1.5}),
        ("prumerge+", {"spread": None}),
        ("fastv", {"layer": 1.5}),
        ("fastervlm", {"depth": "deep"}),
        ("hired", {"alpha": True}),
    ],
)
def test_values_of_a_wrong_kind_are_errors(name, options):
    """When the pruner is made, in one sentence that names the option and what to pass."""
    budget = {} if "tokens" in options else {"keep": 0.1}
    with pytest.raises(ValueError, match=f"^{next(iter(options))}=.*pass"):
        method(name, **budget, **options)


def test_numbers_of_other_libraries_are_numbers():
    """Those of NumPy and PyTorch, and ids in a tensor."""
    pruner = AdaFV(tokens=np.int64(9), temperature=np.float32(0.5), top=torch.tensor(2))
    assert pruner == AdaFV(tokens=9, temperature=0.5, top=2)
    assert AdaFV(keep=0.1, skip=torch.tensor([3, 4])).skip == frozenset({3, 4})


@pytest.mark.parametrize("name", ["adafv", "t2i", "cdpruner", "dart", "adafv+", "random"])
def test_a_query_may_be_what_a_tokenizer_returns(model, processor, name):
    """(1, M) is the same question as (M,)."""
    inputs = inputs_for(processor, (prompt(), [picture()]))
    ids = torch.tensor([[10, 11]])
    kept = []
    for query in (ids, ids[0], ids.int()):
        pruner = method(name, tokens=5, query=query)
        kept.append(pruner.choose(pruner.encode(model, inputs)).kept[0].tolist())
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) == 5


@pytest.mark.parametrize(
    "query", [torch.tensor([10.7, 3.0]), torch.tensor([[1, 2], [3, 4]]), torch.tensor(10), [1, 2]]
)
def test_a_query_that_is_no_list_of_ids_is_an_error(query):
    with pytest.raises(ValueError, match=r"query.*pass"):
        AdaFV(keep=0.1, query=query)


def test_an_encoding_without_what_a_method_looks_at_is_an_error(model, processor):
    """One sentence names what is lacking."""
    inputs = inputs_for(processor, (prompt(), [picture()]))
    silent = method("fastervlm", keep=0.3).encode(model, inputs)
    with pytest.raises(ValueError, match="without the text of their question, which adafv needs"):
        AdaFV(keep=0.3).prune(model, inputs, silent)
    asked = AdaFV(keep=0.3).encode(model, inputs)
    with pytest.raises(ValueError, match="without 'hidden' of the vision tower"):
        method("mmtok", keep=0.3).prune(model, inputs, asked)


def test_unknown_options_are_errors():
    """A typo in an option is named, with what there is."""
    with pytest.raises(ValueError, match=r"kep=0.1 is no option of adafv: it takes keep, tokens"):
        method("adafv", kep=0.1)


def test_none_refuses_a_budget():
    """Asking the dense model for a tenth would silently not prune; what was asked is named."""
    with pytest.raises(ValueError, match=r"keep=0.1 .*keeps every token: leave keep out"):
        NoPruning(keep=0.1)
    # as a line of a job or a command line does that gives the default method another budget
    with pytest.raises(ValueError, match=r"tokens=5000 .*keeps every token: leave tokens out"):
        replace(NoPruning(), keep=None, tokens=5000)


def test_from_spec_is_method_with_options():
    """What a list of methods says is what the class gets, each value as its option's type."""
    pruner = from_spec("adafv:reserve=0.5:top=3:center=true:crops=each:newlines=rows", keep=0.1)
    assert pruner == AdaFV(keep=0.1, reserve=0.5, top=3, center=True, crops="each", newlines="rows")
    assert from_spec("vispruner:crops=each", keep=0.1) == VisPruner(keep=0.1, crops="each")
    assert from_spec("adafv+", tokens=9) == AdaFVPlus(tokens=9)
    assert from_spec("fastv:layer=3", keep=0.5) == method("fastv", layer=3, keep=0.5)
    assert from_spec("fastervlm:depth=0.5", keep=0.1) == FasterVLM(keep=0.1, depth=0.5)
    assert from_spec("adafv:skip=template", lambda: {3, 4}, keep=0.1).skip == frozenset({3, 4})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("adafw:top=1", "did you mean 'adafv'"),
        ("adafv:reserved=1", "no option of adafv"),
        ("adafv:name=y", "name='y' is no option of adafv"),
        ("adafv:top", "option=value"),
        ("adafv:top=", "option=value"),
        ("adafv:", "option=value"),
        ("adafv:top=1.5", "is not an integer"),
        ("adafv:top=0", "too few"),
        (f"adafv:top={2**63}", "top=9223372036854775808 is out of range: pass"),
        (f"adafv:reserve={10**400}", "reserve=1000.*… is out of range"),
        ("adafv:center=1", "true or false"),
        ("adafv:crops=some", "'global', 'each'"),
        ("adafv:skip=words", "skip=template"),
        ("adafv:query=3", "in Python"),
        ("adafv:top=1:top=2", "given already"),
        ("adafv:keep=0.2", "given already"),
    ],
)
def test_from_spec_refuses(spec, words):
    """One sentence that names what is wrong and what to write instead."""
    with pytest.raises(ValueError, match=words):
        from_spec(spec, keep=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("keep", 40), ("keep", None), ("tokens", 3), ("crops", "eech"), ("top", 0.5)],
)
def test_an_option_that_is_assigned_is_checked(model, inputs, name, value):
    """A budget of 40 times the tokens would prune nothing, in silence."""
    pruner = AdaFV(keep=0.4)
    setattr(pruner, name, value)
    with pytest.raises(ValueError, match=name):
        pruner(model, inputs)
