"""Clips in every family that prunes them, as its real processor prepares them."""

import copy

import pytest
import torch
from zoo.families import show, tiny
from zoo.videos import VIDEOS, clip

from adafv import AdaFV
from adafv.core.encode import encode, reask
from adafv.core.inputs import placeholders
from adafv.families import FAMILIES, family_of
from adafv.families.base import layers_of
from adafv.methods import VIDEO_METHODS
from adafv.ops.frames import frame_grid

QUESTION = "what color is the anchor ?"
OTHER = "is there a red knight left of the anchor ?"
# their processors hand frames over as images, each with a budget of its own
FRAMES_ARE_IMAGES = ("internvl", "smolvlm")
PRUNES = tuple(sorted(name for name, family in FAMILIES.items() if family.prunes_video))


def moving(name: str, question: str = QUESTION) -> dict:
    """Four frames, of which none repeats another."""
    return clip(name, [show(48, 32, seed=number) for number in range(4)], question)


@pytest.fixture(params=PRUNES)
def name(request) -> str:
    return request.param


def test_every_family_that_prunes_clips_is_tried():
    """A family is not said to prune clips that no test has shown to it."""
    assert {*PRUNES, *FRAMES_ARE_IMAGES} == {*VIDEOS}


@pytest.mark.proves("clips")
@torch.no_grad()
def test_identity_and_budget(name):
    """keep=1.0 changes no logit, bit for bit; less keeps exactly the budget of the clip, which is
    shared over its frames, and the answer can be written.
    """
    model, inputs = tiny(name).model, moving(name)
    whole = AdaFV(keep=1.0)(model, inputs)
    assert torch.equal(model(**inputs).logits, model(**whole).logits)

    pruner = AdaFV(keep=0.3)
    encoding = pruner.encode(model, inputs)
    (count,) = encoding.tokens.counts
    assert len(encoding.tokens.coordinates[0][:, 0].unique()) > 1
    short = pruner.prune(model, inputs, encoding)
    dropped = inputs["input_ids"].shape[1] - short["input_ids"].shape[1]
    assert dropped == len(encoding.features[0]) - pruner.budget(count)
    out = model.generate(**short, do_sample=False, max_new_tokens=2)
    assert out.shape[1] == short["input_ids"].shape[1] + 2

    with pruner.attached(model):
        attached = model.generate(**inputs, do_sample=False, max_new_tokens=2)
    assert attached[0, -2:].tolist() == out[0, -2:].tolist()


@pytest.mark.proves("clips")
@torch.no_grad()
def test_methods_that_compare_frames(name):
    """They find frames, rows and columns in every family, and keep exactly their budget."""
    model, inputs = tiny(name).model, moving(name)
    tokens = encode(model, inputs, text=False).tokens
    (count,), (frames,) = tokens.counts, tokens.frames
    grid = frame_grid(tokens.coordinates[0], frames)
    assert frames > 1
    assert sorted(grid[grid >= 0].tolist()) == list(range(count))
    for method_name, cls in VIDEO_METHODS.items():
        pruner = cls(tokens=grid.shape[1] + 1)
        (kept,) = pruner.select(tokens, [pruner.budget(count)]).kept
        assert len(kept.unique()) == grid.shape[1] + 1, method_name


@pytest.mark.proves("clips")
def test_asking_again_is_asking_anew(name):
    """The vision tower runs once for two questions about a clip."""
    model, inputs, other = tiny(name).model, moving(name), moving(name, OTHER)
    pruner = AdaFV(keep=0.3)
    encoding = pruner.encode(model, inputs)
    again = reask(model, other, encoding)
    anew = pruner.prune(model, other, pruner.encode(model, other))
    short = pruner.prune(model, other, again)
    assert short["input_ids"].tolist() == anew["input_ids"].tolist()
    with torch.no_grad():
        torch.testing.assert_close(model(**short).logits, model(**anew).logits)


@pytest.mark.proves("clips")
@torch.no_grad()
def test_a_token_is_made_of_the_patches_its_layout_names(name):
    """Disturb one patch of the last frame behind the tower's last layer that features are taken
    from: only its tokens change.
    """
    model, inputs = tiny(name).model, moving(name)
    kind = family_of(model).of_videos
    if not kind.attention_observable:
        pytest.skip("its tower is not looked at")
    layers, depth = layers_of(kind.tower(model)), kind.feature_layer(model)
    layer = layers[depth - 1 if depth > 0 else depth]
    cls = 1 if kind.cls_position(model) == 0 else 0
    plain = encode(model, inputs)
    pieces = kind.pieces(plain.returned[0].output)
    (layout,) = kind.video_layouts(model, inputs, plain.prompt, [len(p) for p in pieces])
    patches = layout.patches[layout.patch_indices]
    for token in (0, len(patches) // 2, len(patches) - 1):
        patch = int(patches[token, -1])

        def disturb(module, args, out, patch=patch):
            hidden = out if isinstance(out, torch.Tensor) else out[0]
            hidden = hidden if hidden.dim() == 3 else hidden[None]
            per_frame = hidden.shape[1] - cls
            hidden[patch // per_frame, cls + patch % per_frame] += 5 * torch.randn(hidden.shape[-1])

        handle = layer.register_forward_hook(disturb)
        changed = encode(model, inputs).features[0] - plain.features[0]
        handle.remove()
        expected = layout.patch_indices[(patches == patch).any(1)]
        assert (changed.abs().amax(-1) > 1e-5).nonzero()[:, 0].tolist() == expected.tolist()


def test_what_a_processor_leaves_out_of_a_prompt_is_left_out():
    """VideoLLaMA 3's compresses: tokens that repeat the frame before have no placeholder."""
    model = tiny("video_llama_3").model
    inputs = clip("video_llama_3", [show(48, 32, seed=number) for number in (0, 0, 1)], QUESTION)
    assert not inputs["video_compression_mask"].all()
    with torch.no_grad():
        plain = model(**inputs).logits
        assert torch.equal(plain, model(**AdaFV(keep=1.0)(model, inputs)).logits)
    pruner = AdaFV(keep=0.3)
    encoding = pruner.encode(model, inputs)
    assert encoding.tokens.counts == (int(inputs["video_compression_mask"].sum()),)
    short = pruner.prune(model, inputs, encoding)
    token = placeholders(model.config)["video"]
    assert int((short["input_ids"] == token).sum()) == pruner.budget(encoding.tokens.counts[0])


def test_a_picture_beside_a_clip_where_one_token_stands_for_both():
    """GLM-4V has one placeholder: one sentence, no wrong frame."""
    model, inputs = tiny("glm4v").model, moving("glm4v")
    both = inputs | {"pixel_values": inputs["pixel_values_videos"]}
    with pytest.raises(ValueError, match=r"both an image and a video.*'glm4v'"):
        AdaFV(keep=0.3)(model, both)


@pytest.mark.parametrize("name", FRAMES_ARE_IMAGES)
@torch.no_grad()
def test_frames_that_are_images_have_a_budget_each(name):
    """Their processors return no videos: nothing of a clip is left unpruned."""
    if name == "smolvlm":
        pytest.importorskip("num2words", reason="its processor writes how many frames there are")
    model, inputs = tiny(name).model, moving(name)
    assert "pixel_values_videos" not in inputs
    whole = AdaFV(keep=1.0)(model, inputs)
    assert torch.equal(model(**inputs).logits, model(**whole).logits)

    pruner = AdaFV(keep=0.3)
    encoding = pruner.encode(model, inputs)
    assert encoding.tokens.counts == (9, 9, 9, 9)
    short = copy.copy(pruner.prune(model, inputs, encoding))
    dropped = inputs["input_ids"].shape[1] - short["input_ids"].shape[1]
    assert dropped == 4 * (9 - pruner.budget(9))

    other = moving(name, OTHER)
    again = pruner.prune(model, other, reask(model, other, encoding))
    anew = pruner.prune(model, other, pruner.encode(model, other))
    assert again["input_ids"].tolist() == anew["input_ids"].tolist()
