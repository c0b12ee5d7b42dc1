import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import BEFORE, inputs_for, picture, prompt
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adafv import AdaFV, method, viz
from adafv.families.crops import Generic
from adafv.models.ask import ask
from adafv.ops.relevance import text_to_image_attention
from adafv.viz import explained_answer
from adafv.viz.explained_answer import words
from adafv.viz.grids import ranges
from adafv.viz.pieces import pieces

QUESTION = "what color is the anchor ?"


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(
        explained_answer, "ask", lambda *given, max_new_tokens: ask(*given, max_new_tokens=3)
    )


def pruner(name: str):
    return method(name) if name == "none" else method(name, keep=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava_next"], indirect=True)
@pytest.mark.parametrize("name", BEFORE)
def test_every_method_has_a_page(model, processor, tmp_path, name):
    out = tmp_path / "page.png"
    summary = viz.explain(model, processor, picture(60, 40), QUESTION, pruner(name), out)
    assert json.loads(json.dumps(summary)) == summary
    assert list(tmp_path.iterdir()) == [out]
    with Image.open(out) as drawn:
        assert drawn.format == "PNG"
        assert min(drawn.size) > 500
    assert summary["method"] == name
    assert summary["kept_tokens"] <= summary["visual_tokens"]
    assert (summary["k_t"] is not None) == (name == "adafv")
    assert bool(summary["words"]) == (name in ("adafv", "adafv+", "adafv_released", "t2i"))


@pytest.mark.parametrize("name", ["fastv", "pdrop", "sparsevlm"])
def test_what_each_stage_between_layers_drops(model, processor, tmp_path, name):
    """A stage leaves some of what the one before left; their mean over the layers is what the model
    read, and a page that shows every token as kept would mislead.
    """
    chosen = method(name, keep=0.7)
    out = tmp_path / "page.png"
    summary = viz.explain(model, processor, picture(), QUESTION, chosen, out)
    assert json.loads(json.dumps(summary)) == summary
    layers = model.config.text_config.num_hidden_layers
    left = list(range(summary["visual_tokens"]))
    read = start = 0
    for stage in summary["stages"]:
        assert set(stage["kept_indices"]) < set(left)
        read += (stage["layers"] - start) * len(left)
        start = stage["layers"]
        left = stage["kept_indices"]
    read += (layers - start) * len(left)
    assert summary["kept_indices"] == left
    assert summary["kept_tokens"] == round(read / layers)
    everything = viz.explain(model, processor, picture(), QUESTION, method(name, keep=1.0), out)
    assert everything["stages"] == []


@pytest.mark.parametrize("name", ["adafv", "fastv", "tome"])
def test_where_tokens_lie_nowhere_known(model, processor, tmp_path, monkeypatch, name):
    """What is kept is listed, and no map is drawn."""
    monkeypatch.setattr(explained_answer, "family_of", lambda model: Generic())
    chosen = method(name, keep=0.7)
    what = viz.explanation(model, processor, picture(), QUESTION, chosen, 3)
    assert what.scales == what.maps == []
    written = " ".join(text.get_text() for text in what.figure().texts)
    assert ranges(what.kept.tolist())[:20] in written


def test_ranges():
    """Neighbours are written as one run."""
    assert ranges([]) == ""
    assert ranges([3]) == "3"
    assert ranges([0, 1, 2, 5, 8, 9]) == "0-2, 5, 8-9"


@pytest.mark.parametrize(("name", "blue", "orange"), [("fastervlm", 1, 0), ("t2i", 0, 1)])
def test_a_signal_has_its_colour_whatever_method_looks_at_it(model, processor, name, blue, orange):
    """What keeps the most salient tokens keeps them by saliency, and so for relevance."""
    what = viz.explanation(model, processor, picture(), QUESTION, pruner(name), 3)
    by_relevance, by_saliency = what.chosen_by()
    assert by_relevance.mean() == orange
    assert by_saliency.mean() == blue


def test_the_summary_says_what_ask_says(model, processor, tmp_path):
    image = picture(60, 40)
    summary = viz.explain(model, processor, image, QUESTION, AdaFV(keep=0.2), tmp_path / "page.png")
    answer = ask(model, processor, image, QUESTION, AdaFV(keep=0.2), 3)
    assert summary["answer"] == answer.answer
    assert (
        summary["dense_answer"] == ask(model, processor, image, QUESTION, method("none"), 3).answer
    )
    assert (summary["visual_tokens"], summary["kept_tokens"]) == (
        answer.visual_tokens,
        answer.kept_tokens,
    )
    assert [word["word"] for word in summary["words"]] == QUESTION.split()
    assert sum(word["share"] for word in summary["words"]) == pytest.approx(1)


@pytest.mark.parametrize("options", [{}, {"center": True}, {"top": 2, "temperature": 0.1}])
def test_what_is_kept_is_the_union_of_the_two_lists(model, processor, options):
    what = viz.explanation(model, processor, picture(60, 40), QUESTION, AdaFV(keep=0.2, **options))
    by_relevance, by_saliency = what.chosen_by()
    assert (by_relevance | by_saliency).all()
    assert (by_relevance.sum(), by_saliency.sum()) == what.split
    assert len(what.kept) == what.budget == sum(what.split) - (by_relevance & by_saliency).sum()


def test_the_chosen_split_is_the_highest_point_of_the_curve(model, processor):
    what = viz.explanation(model, processor, picture(60, 40), QUESTION, AdaFV(keep=0.2))
    k_t, mass_t, mass_v, mean = viz.split_curves(what.relevance, what.saliency, sum(what.split))
    allowed = (k_t >= what.reserve) & (sum(what.split) - k_t >= what.reserve)
    assert mean[k_t == what.split[0]] == pytest.approx(mean[allowed].max())
    assert (np.diff(mass_t) >= 0).all()
    assert (np.diff(mass_v) <= 0).all()
    assert mass_t.min() >= 0
    assert max(mass_t.max(), mass_v.max()) <= 1 + 1e-9


@pytest.mark.parametrize("family", ["llava_next"], indirect=True)
def test_the_reserve_is_the_one_that_was_mixed(model, processor):
    """0.29 · 100 is 28.999… in floating point, and 29 tokens."""
    pruner = AdaFV(tokens=100, reserve=0.29)
    what = viz.explanation(model, processor, picture(60, 40), QUESTION, pruner)
    assert (what.budget, what.reserve) == (100, 29)


@pytest.mark.parametrize("options", [{"mass": "beyond"}, {"crops": "each"}])
def test_a_split_of_other_sums_is_not_drawn_on_this_curve(model, processor, options):
    """Its mark would lie beside the top; the numbers stay."""
    pruner = AdaFV(keep=0.2, **options)
    what = viz.explanation(model, processor, picture(60, 40), QUESTION, pruner)
    assert what.split is not None
    assert not what.curves
    what.figure()


def test_a_transparent_image_is_explained_as_it_is_asked_about(model, processor):
    """On white, where nothing was said of the hidden colour."""
    hidden = picture(60, 40)
    hidden.putalpha(0)
    white = Image.new("RGB", hidden.size, "white")
    found = viz.explanation(model, processor, hidden, QUESTION, AdaFV(keep=0.2))
    plain = viz.explanation(model, processor, white, QUESTION, AdaFV(keep=0.2))
    assert found.kept.tolist() == plain.kept.tolist()
    assert found.image.getpixel((0, 0)) == (255, 255, 255)


def test_words_reproduce_the_relevance(model, processor):
    inputs = inputs_for(processor, (prompt(), [picture()]))
    tokens = AdaFV(keep=0.2).encode(model, inputs).tokens
    each = text_to_image_attention(
        tokens.text[0][:, None], tokens.features[0].expand(tokens.text.shape[1], -1, -1)
    )
    assert torch.allclose(
        each.max(0).values, text_to_image_attention(tokens.text, tokens.features)[0], atol=1e-6
    )


def test_pieces_of_a_word_count_together():
    by_word = np.array([[0.5, 0.1, 0.0], [0.1, 0.8, 0.0], [0.2, 0.2, 0.3]])
    found = words([("anch", True), ("or", False), ("red", True)], by_word, np.array([0, 1, 2]))
    assert [(w.text, w.strongest) for w in found] == [("anchor", 0.8), ("red", 0.3)]
    assert words([], np.zeros((0, 3)), np.array([0, 1])) == []
    assert [w.share for w in found] == pytest.approx([1.3 / 1.6, 0.3 / 1.6])


def test_words_are_shown_as_they_were_written():
    """Not as names of bytes, into which tokenizers split what is not English."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain)
    text = "the café 你好 ?"
    query = torch.tensor(tokenizer(text)["input_ids"])
    found = pieces(tokenizer, AdaFV(keep=0.2, query=query), None)
    assert len(found) == len(query) == len(text.encode())
    attention = np.ones((len(query), 3))
    assert [word.text for word in words(found, attention, np.arange(3))] == text.split()


def test_colours_where_each_crop_has_a_budget(model, processor):
    """The sums of what crops split are no ranks in the whole image."""
    what = viz.explanation(model, processor, picture(), QUESTION, AdaFV(keep=0.2, crops="each"), 3)
    assert what.split is not None
    assert what.by_crop
    alone = replace(what, split=None)
    for found, expected in zip(what.chosen_by(), alone.chosen_by(), strict=True):
        assert (found == expected).all()


def test_an_image_in_parts_that_lie_nowhere_known(model, processor):
    """One sentence, not a part that stands for all of them."""
    encoding = SimpleNamespace(tokens=SimpleNamespace(counts=(3, 4)))
    with pytest.raises(ValueError, match="reads the image in 2 parts"):
        explained_answer.explained(
            model,
            processor,
            inputs={},
            image=picture(),
            question=QUESTION,
            pruner=AdaFV(keep=1.0),
            encoding=encoding,
            selection=None,
            dense=None,
            pruned=None,
        )


def test_a_tower_that_shows_no_attention(model, processor):
    """Looks nowhere: what is salient differs from the rest."""
    what = viz.explanation(model, processor, picture(), QUESTION, AdaFV(keep=0.2), 3)
    for attention in (True, False):
        page = replace(what, attention=attention).figure()
        written = " ".join(text.get_text() for text in page.texts)
        assert ("where the vision tower looks" in written) == attention
        assert ("what differs from the rest" in written) != attention


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, "where the vision tower looks"),
        ({"saliency": "received"}, "where the vision tower looks"),
        ({"saliency": "received", "heads": "max"}, "where the vision tower looks"),
        ({"depth": 0.5}, "where the vision tower looks"),
        ({"saliency": "distinctness"}, "what differs from the rest"),
    ],
)
def test_saliency_read_elsewhere_is_a_score_as_well(model, processor, options, shown):
    """The K highest of what is drawn are what is kept, and a word says what it is."""
    pruner = method("fastervlm", keep=0.2, **options)
    what = viz.explanation(model, processor, picture(60, 40), QUESTION, pruner, 3)
    assert set(np.argsort(-what.saliency, kind="stable")[: what.budget]) == set(what.kept)
    written = " ".join(text.get_text() for text in what.figure().texts)
    assert shown in written
    assert written.count("whatever the question") == 1


def test_token_map():
    coordinates = torch.tensor([[0, 0, 1], [0, 1, 0]])
    drawn = viz.token_map(coordinates, torch.tensor([3.0, 4.0]), (2, 2))
    assert np.array_equal(drawn, [[np.nan, 3], [4, np.nan]], equal_nan=True)
    with pytest.raises(ValueError, match="shape"):
        viz.token_map(coordinates, torch.ones(2), (1, 2))
    with pytest.raises(ValueError, match="values"):
        viz.token_map(coordinates, torch.ones(3), (2, 2))


def test_scales_of_a_thumbnail_and_a_grid_whose_padding_is_gone():
    thumbnail = [(0, r, c) for r in range(3) for c in range(3)]
    tiles = [(1 + c // 3, r, c) for r in range(1, 3) for c in range(6)]
    grid, small = viz.scales(np.array(thumbnail + tiles))
    assert (grid.shape, small.shape) == ((2, 6), (3, 3))
    values = np.arange(21.0)
    assert np.array_equal(small.map(values).ravel(), values[:9])
    assert np.array_equal(grid.map(values).ravel(), values[9:])


def test_view_is_the_middle_square_for_one_crop_and_everything_for_tiles(model, processor, family):
    what = viz.explanation(model, processor, picture(60, 40), QUESTION, AdaFV(keep=0.2))
    assert what.view == ((10, 0, 50, 40) if family == "llava" else (0, 0, 60, 40))


@pytest.mark.parametrize("out", ["nowhere/page.png", "page.jpg", "folder.png"])
def test_a_place_that_cannot_be_written_is_refused_before_the_model_runs(processor, tmp_path, out):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError) as error:
        viz.explain(None, processor, picture(), QUESTION, AdaFV(keep=0.2), tmp_path / out)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_nothing_is_left_behind_when_the_question_is_refused(model, processor, tmp_path):
    with pytest.raises(ValueError, match="empty"):
        viz.explain(model, processor, picture(), " ", AdaFV(keep=0.2), tmp_path / "page.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (300, 3), (3, 300)])
def test_odd_pictures_and_questions(model, processor, tmp_path, size):
    question = "$what^ color " + "is the anchor " * 20 + "?"
    summary = viz.explain(
        model, processor, picture(*size), question, AdaFV(tokens=1), tmp_path / "page.png"
    )
    assert summary["kept_tokens"] == 1


@pytest.mark.parametrize(("name", "least"), [("adafv", 12), ("random", 8)])
def test_the_type_of_a_page_is_read_where_it_is_900_pixels_wide(model, processor, name, least):
    """On a page of the code host: six panels are two to a row, three panels stand in one."""
    what = viz.explanation(model, processor, picture(60, 40), QUESTION, method(name, keep=0.2))
    page = what.figure()
    smallest = min(text.get_fontsize() for text in page.texts if text.get_text())
    assert smallest / 72 * 900 / page.get_figwidth() >= least


def test_maps_hold_the_scores_and_the_choice_of_every_token(model, processor, family):
    """Nothing is lost or made up on the way to the grids."""
    what = viz.explanation(model, processor, picture(60, 40), QUESTION, AdaFV(keep=0.2))
    assert len(what.maps) == len(what.scales) == (1 if family == "llava" else 2)
    for grid, scale in zip(what.maps, what.scales, strict=True):
        assert grid.saliency.shape == grid.relevance.shape == grid.kept.shape == scale.shape
        assert grid.words.shape == (len(what.words), *scale.shape)
        assert np.allclose(grid.relevance, grid.words.max(0), atol=1e-6, equal_nan=True)
        place = tuple(scale.coordinates.T)
        assert np.array_equal(grid.saliency[place], what.saliency[scale.index].astype(float))
    assert sum(int(grid.kept.sum()) for grid in what.maps) == len(what.kept)
    assert what.maps[0].box == what.view


def test_maps_of_a_method_that_looks_at_neither(model, processor):
    """No map stands for a score that wasn't used."""
    what = viz.explanation(model, processor, picture(60, 40), QUESTION, method("random", keep=0.2))
    assert all(
        m.saliency is None and m.relevance is None and m.words.shape[0] == 0 for m in what.maps
    )
    assert sum(int(m.kept.sum()) for m in what.maps) == len(what.kept)


def test_an_explanation_shows_itself_in_a_notebook(model, processor):
    """As the page that `explain` writes."""
    what = viz.explanation(model, processor, picture(60, 40), QUESTION, AdaFV(keep=0.2))
    with Image.open(io.BytesIO(what._repr_png_())) as shown:
        assert shown.format == "PNG"
        assert shown.size == tuple(round(100 * side) for side in what.figure().get_size_inches())
