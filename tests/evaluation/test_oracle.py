"""The oracle and the places it needs: where tokens lie, in pixels, and which boxes hold them."""

import torch
from conftest import picture, tiny_model, tiny_processor

from adafv.core.encode import encode
from adafv.data.scenes import draw
from adafv.evaluation.boxes import distances, patches
from adafv.evaluation.oracle import Oracle, inside_out
from adafv.models.prompting import build_inputs


def where_of(size, family="llava_next"):
    model, processor = tiny_model(family), tiny_processor(family)
    inputs = build_inputs(processor, picture(*size), "what color is the anchor ?")
    return processor, encode(model, inputs, signals=()).tokens


def test_tokens_lie_where_their_patches_do():
    """A square image under a thumbnail and four tiles of 6 x 6 patches: half-patch steps from the
    corner.
    """
    processor, tokens = where_of((96, 96))
    place = patches(processor, (96, 96), tokens.coordinates[0])[:, :2]
    thumbnail, tiles = place[:36], place[36:]
    assert thumbnail[0].tolist() == [8, 8]
    assert thumbnail[-1].tolist() == [88, 88]
    assert tiles[0].tolist() == [4, 4]
    assert tiles[1].tolist() == [12, 4]
    assert tiles[-1].tolist() == [92, 92]


def test_boxes_hold_the_tokens_whose_middle_is_inside():
    """The left and upper edge belong to a box, the right and lower ones to its neighbour."""
    place = patches(*where_of((96, 96))[:1], (96, 96), where_of((96, 96))[1].coordinates[0])
    inside = distances(place, ((4, 4, 12, 12),))[:, 0].isfinite()
    assert {tuple(xy) for xy in place[inside.numpy(), :2].tolist()} == {(8, 8), (4, 4)}
    assert distances(place, ()).shape == (len(place), 0)


def test_a_small_box_has_the_patches_that_show_its_middle():
    """Between the middles of four patches: a question about it is not one without boxes."""
    processor, tokens = where_of((96, 96))
    place = patches(processor, (96, 96), tokens.coordinates[0])
    named = distances(place, ((5, 5, 7, 7), (200, 200, 202, 202)))
    inside = named[:, 0].isfinite()
    # a patch of the thumbnail, and one of a tile
    assert place[inside.numpy()].tolist() == [[8, 8, 8, 8], [4, 4, 4, 4]]
    assert named[inside, 0].tolist() == [8**0.5, 8**0.5]
    assert not named[:, 1].isfinite().any()


def test_boxes_take_turns_from_the_middle_outwards():
    """A small thing beside a large one gets its tokens too."""
    inf = float("inf")
    distance = torch.tensor(
        [[3.0, inf], [1.0, inf], [2.0, inf], [inf, 5.0], [4.0, 4.0], [inf, inf]]
    )
    assert inside_out(distance).tolist() == [1, 4, 2, 3, 0]
    assert inside_out(distance[:, :0]).tolist() == []


def test_oracle_keeps_what_is_asked_about_first():
    """All of it where the budget allows, nothing but it where it doesn't, an even stride over the
    rest.
    """
    processor, tokens = where_of((96, 96))
    named = distances(
        patches(processor, (96, 96), tokens.coordinates[0]), ((0, 0, 33, 33), (60, 60, 96, 96))
    )
    inside = set(named.isfinite().any(1).nonzero()[:, 0].tolist())
    for k in (1, 7, len(inside), len(inside) + 20, tokens.counts[0]):
        (kept,) = Oracle(tokens=k, distances=[named]).select(tokens, [k]).kept
        assert len(set(kept.tolist())) == k
        assert kept.tolist() == sorted(kept.tolist())
        assert len(inside & set(kept.tolist())) == min(k, len(inside))


def test_boxes_of_the_scenes_hold_tokens():
    """Every box that a question names has a token in an image of the embedded model's grid."""
    from adafv.models.load import load

    model, processor = load()
    for seed in range(5):
        sample = draw(seed, split="test", suite="scenes-small")
        tokens = encode(
            model, build_inputs(processor, sample.image, "is there a cup?"), signals=()
        ).tokens
        place = patches(processor, sample.image.size, tokens.coordinates[0])
        for question in sample.questions:
            assert distances(place, question.boxes).isfinite().any(0).all()
