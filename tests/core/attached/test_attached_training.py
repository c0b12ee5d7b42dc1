"""Models that are trained, shared by threads and given settings of their own, with a pruner
attached or without.
"""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from zoo.families import ask, show, tiny
from zoo.videos import clip

from adafv import AdaFV, method
from adafv.core.encode import reask

QUESTION = "what color is the anchor ?"


@pytest.fixture(params=["llava", "qwen2_vl"])
def name(request) -> str:
    return request.param


@pytest.fixture
def inputs(name) -> dict:
    return ask(name, (QUESTION, [show(80, 48)]))


def test_training_with_gradient_checkpointing(name, inputs):
    """What is recomputed on the way back is what was computed: reading the saliency leaves no trace
    in the graph.
    """
    model = deepcopy(tiny(name).model).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    pruner = AdaFV(keep=0.5)
    model(**pruner(model, inputs | {"labels": inputs["input_ids"]})).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("chosen", ["pool", "prumerge", "prumerge+", "tome", "visionzip"])
def test_merged_features_are_not_silently_cut_from_what_made_them(chosen):
    """Where the projector trains one sentence says so; where it is frozen the rest trains."""
    model = deepcopy(tiny("llava").model)
    inputs = ask("llava", (QUESTION, [show(80, 48)]))
    inputs["labels"] = inputs["input_ids"]
    pruner = method(chosen, keep=0.5)
    with pytest.raises(ValueError, match=r"merges tokens without gradients.*freeze both"):
        pruner(model, inputs)
    with torch.no_grad():
        assert model(**pruner(model, inputs)).loss.isfinite()
    for part in (model.model.vision_tower, model.model.multi_modal_projector):
        part.requires_grad_(False)
    model.train()
    model(**pruner(model, inputs)).loss.backward()
    assert model.lm_head.weight.grad.abs().sum() > 0


def test_threads_take_turns(name, inputs):
    """Pruning from several threads gives what one gives, and leaves the tower as it was."""
    model, pruner = tiny(name).model, AdaFV(keep=0.3)
    before = [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")]
    alone = pruner(model, inputs)["input_ids"].tolist()
    with ThreadPoolExecutor(4) as pool:
        found = [f.result() for f in [pool.submit(pruner, model, inputs) for _ in range(24)]]
    assert all(x["input_ids"].tolist() == alone for x in found)
    assert [
        m.config._attn_implementation for m in model.modules() if hasattr(m, "config")
    ] == before


def test_the_models_own_max_length_counts_the_whole_prompt(name, inputs):
    """As one that is passed does."""
    model = deepcopy(tiny(name).model)
    model.generation_config.max_length = inputs["input_ids"].shape[1] + 3
    plain = model.generate(**inputs, do_sample=False)
    with AdaFV(keep=0.3).attached(model):
        assert model.generate(**inputs, do_sample=False).shape == plain.shape
    assert model.generation_config.max_length == inputs["input_ids"].shape[1] + 3


def test_nothing_is_silently_not_pruned(name, inputs):
    """Images beside embeddings, and with `strict` a prompt without an image."""
    model = tiny(name).model
    embeds = {
        "inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]),
        "pixel_values": inputs["pixel_values"],
    }
    with AdaFV(keep=0.3, strict=True).attached(model):
        for call in (model.generate, model):
            with pytest.raises(ValueError, match="inputs_embeds cannot be pruned"):
                call(**embeds)
        with pytest.raises(ValueError, match="no image to prune"):
            model.generate(input_ids=torch.tensor([[4, 5]]), max_new_tokens=1)
        with pytest.raises(ValueError, match="no image to prune"):
            model(input_ids=torch.tensor([[4, 5]]))
    # one row of a batch
    beside = ask(name, (QUESTION, [show(80, 48)]), ("what?", []))
    with pytest.raises(ValueError, match="no image to prune"):
        AdaFV(keep=0.3, strict=True)(model, beside)


@torch.no_grad()
def test_position_ids_of_the_caller_are_kept(name, inputs):
    """keep=1.0 is the identity with them, too."""
    model = tiny(name).model
    positions = 2 * torch.arange(inputs["input_ids"].shape[1])[None]
    positions = positions if name == "llava" else positions.expand(3, 1, -1)
    given = inputs | {"position_ids": positions}
    for mode in ("packed", "original"):
        whole = AdaFV(keep=1.0, positions=mode)(model, given)
        assert torch.equal(model(**whole).logits, model(**given).logits)
    short = AdaFV(keep=0.3, positions="original")(model, given)["position_ids"]
    assert (short % 2 == 0).all()
    assert short.max() == positions.max()


def test_leaving_restores_where_decoding_goes_on():
    """`rope_deltas` of a model with M-RoPE."""
    model, inputs = deepcopy(tiny("qwen2_vl").model), ask("qwen2_vl", (QUESTION, [show(80, 48)]))
    model.model.rope_deltas = before = torch.tensor([[7]])
    with AdaFV(keep=0.3).attached(model):
        model.generate(**inputs, max_new_tokens=1)
    assert model.model.rope_deltas is before


def test_a_clip_and_a_picture_of_one_encoding_are_not_asked_about_again():
    """One sentence: which of them a new prompt shows is not known."""
    model = tiny("qwen2_vl").model
    inputs = clip("qwen2_vl", [show(48, 32, seed=number) for number in range(2)], QUESTION)
    still = ask("qwen2_vl", (QUESTION, [show(48, 32)]))
    both = still | inputs
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        both[name] = torch.cat([still[name], inputs[name]], dim=1)
    with pytest.raises(ValueError, match="images and videos that were encoded together"):
        reask(model, inputs, AdaFV(keep=0.3).encode(model, both))


@pytest.mark.parametrize("keep", [0.3, 1.0])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "glm4v", "qwen3_vl"])
@torch.no_grad()
def test_prompts_that_ask_again_need_no_grid(name, keep):
    """The encoding knows it: of the images that are shown, in the order in which they are."""
    model, pruner = tiny(name).model, AdaFV(keep=keep)
    pictures = [show(80, 48), show(48, 48, 1)]
    encoding = pruner.encode(model, ask(name, *[(QUESTION, [image]) for image in pictures]))
    inputs = ask(name, ("is there a red anchor ?", [pictures[1], pictures[0], pictures[1]]))
    told = {x: inputs[x] for x in ("input_ids", "attention_mask", "mm_token_type_ids")}

    again = pruner.reask(model, told, encoding, [1, 0, 1])
    anew = pruner.encode(model, inputs)
    assert torch.equal(again.positions, anew.positions)
    greedy = {"do_sample": False, "max_new_tokens": 3}
    answer = model.generate(**pruner.prune(model, told, again), **greedy)
    assert torch.equal(answer, model.generate(**pruner.prune(model, inputs, anew), **greedy))
    with pytest.raises(ValueError, match="lack image_grid_thw"):
        pruner.reask(model, told, replace(encoding, grids={}), [1, 0, 1])
