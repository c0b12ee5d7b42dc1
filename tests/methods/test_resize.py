"""Resize: what the language model reads is what the tower makes of a smaller image."""

import pytest
import torch
import torch.nn.functional as F
from conftest import picture, prompt, tiny_model, tiny_processor

from adafv.core.downsample import grid_within, middles
from adafv.methods import Pool, Resize, method
from adafv.ops.budget import BudgetError
from adafv.viz import check_drawable

QUESTIONS = ("what color is the anchor ?", "is there a ball ?")


@pytest.fixture(scope="module")
def model():
    return tiny_model("llava")


def ask(*questions: str) -> dict:
    images = [picture(seed=i) for i, _ in enumerate(questions)]
    texts = [prompt(question) for question in questions]
    return tiny_processor("llava")(text=texts, images=images, return_tensors="pt", padding=True)


@pytest.mark.parametrize(
    ("budget", "grid"),
    [(1, (1, 1)), (2, (1, 1)), (14, (3, 4)), (29, (5, 5)), (58, (7, 8)), (144, (12, 12))],
)
def test_the_finest_grid_within_a_budget(budget, grid):
    assert grid_within(24, 24, budget) == grid
    assert grid_within(24, 24, 576) == (24, 24)


def test_the_middles_of_a_grid_are_tokens_of_the_full_image():
    """As many as the grid has cells, each its own, in order."""
    for rows, columns, budget in ((24, 24, 58), (6, 6, 9), (5, 7, 35), (4, 9, 11)):
        grid = grid_within(rows, columns, budget)
        found = middles(rows, columns, grid).tolist()
        assert found == sorted(set(found))
        assert len(found) == grid[0] * grid[1] <= budget
        assert found[-1] < rows * columns


def test_features_are_those_of_the_smaller_image(model):
    """Read off the model's own encoder, given the shrunk pixels."""
    inputs = ask(*QUESTIONS)
    short = Resize(keep=0.25)(model, inputs)
    small = F.interpolate(inputs["pixel_values"], (12, 12), mode="bicubic", antialias=True)
    expected = model.model.get_image_features(
        small, return_dict=True, interpolate_pos_encoding=True
    ).pooler_output
    found = short["mm_encoder_outputs"]["image"].pooler_output
    assert torch.equal(torch.stack(list(found)), torch.stack(list(expected)))
    # 36 placeholders have become 9
    assert inputs["input_ids"].shape[1] - short["input_ids"].shape[1] == 27


def test_all_of_it_is_the_plain_model(model):
    inputs = ask(*QUESTIONS)
    with torch.inference_mode():
        assert torch.equal(model(**Resize(keep=1.0)(model, inputs)).logits, model(**inputs).logits)


def test_a_batch_and_a_context_give_the_same(model):
    """One by one, in a batch, and attached."""
    pruner = method("resize", keep=0.25)
    inputs = ask(*QUESTIONS)
    options = {"max_new_tokens": 5, "do_sample": False}
    together = model.generate(**pruner(model, inputs), **options)[:, -5:]
    with pruner.attached(model):
        attached = model.generate(**inputs, **options)[:, -5:]
    assert torch.equal(together, attached)
    for row, question in enumerate(QUESTIONS):
        alone = ask(question) | {"pixel_values": inputs["pixel_values"][row : row + 1]}
        output = model.generate(**pruner(model, alone), **options)[0, -5:]
        assert torch.equal(output, together[row])


def test_what_cannot_be_shrunk_is_refused(model):
    """Several crops; tokens of a full image, from which no smaller one can be had."""
    crops = tiny_processor("llava_next")(
        text=[prompt(QUESTIONS[0])], images=[picture()], return_tensors="pt"
    )
    with pytest.raises(BudgetError, match="one crop of square patches"):
        Resize(keep=0.25)(tiny_model("llava_next"), crops)
    inputs = ask(*QUESTIONS)
    encoding = Pool(keep=0.25).encode(model, inputs)
    with pytest.raises(ValueError, match="encoded whole"):
        Resize(keep=0.25).prune(model, inputs, encoding)
    # and the other way round: most of its tokens are empty
    shrunk = Resize(keep=0.25).encode(model, inputs)
    with pytest.raises(ValueError, match="encoded shrunk"):
        Pool(keep=0.25).prune(model, inputs, shrunk)
    # a page would frame patches of the full image, which nobody has read
    with pytest.raises(ValueError, match="no patch of it is kept"):
        check_drawable(Resize(keep=0.25))
