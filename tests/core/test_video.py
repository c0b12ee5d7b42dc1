"""Clips: a budget each, shared over their frames; what stands still is paid for once."""

from copy import deepcopy

import pytest
import torch
from zoo.families import ask, show, tiny
from zoo.videos import clip

from adafv import METHODS, AdaFV, method
from adafv.core.candidates import candidates
from adafv.core.inputs import placeholders
from adafv.core.layerwise import LayerPruner
from adafv.core.prompt import Prompt
from adafv.core.rebuild import kept_positions
from adafv.families import FAMILIES as ALL
from adafv.families.crop_layout import join, raster

FAMILIES = tuple(sorted(name for name in ALL if name.startswith("qwen")))
QUESTION = "what color is the anchor ?"


@pytest.fixture(params=FAMILIES)
def name(request) -> str:
    return request.param


def film(name: str, *frames: int) -> dict:
    """A question about a clip whose frames show images of these numbers, as the processor would
    prepare it.
    """
    stills = [ask(name, (QUESTION, [show(48, 32, seed=number)])) for number in frames]
    ids, tokens = stills[0]["input_ids"][0], placeholders(tiny(name).model.config)
    image = ids == tokens["image"]
    first, last = int(image.nonzero()[0]), int(image.nonzero()[-1])
    before, frame, after = (
        ids[:first],
        torch.full((int(image.sum()),), tokens["video"]),
        ids[last + 1 :],
    )
    if name.startswith("qwen3"):  # frames stand apart, with their times between them
        between = torch.cat([after[:1], before[-1:]])
        ids = torch.cat([before, frame, *[torch.cat([between, frame])] * (len(frames) - 1), after])[
            None
        ]
    else:
        ids = torch.cat([before, *[frame] * len(frames), after])[None]
    grid = stills[0]["image_grid_thw"] * torch.tensor([len(frames), 1, 1])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == tokens["video"]).long() * 2,
        "pixel_values_videos": torch.cat([still["pixel_values"] for still in stills]),
        "video_grid_thw": grid,
    }


def kept(name: str, inputs: dict, pruner) -> torch.Tensor:
    encoding = pruner.encode(tiny(name).model, inputs)
    return pruner.select(encoding.tokens, [pruner.budget(n) for n in encoding.tokens.counts]).kept[
        0
    ]


def test_keeping_everything_is_the_identity(name):
    """keep=1.0 changes no logit of a clip, moving or not, bit for bit."""
    model = tiny(name).model
    for frames in ((0, 1, 2), (0, 0, 1)):
        inputs = film(name, *frames)
        with torch.no_grad():
            plain, whole = model(**inputs).logits, model(**AdaFV(keep=1.0)(model, inputs)).logits
        assert torch.equal(plain, whole)


def test_a_clip_that_stands_still_costs_what_a_still_costs(name):
    """Frames that repeat the one before are neither counted nor kept."""
    model, pruner = tiny(name).model, AdaFV(keep=0.3)
    still = ask(name, (QUESTION, [show(48, 32, seed=3)]))
    token = placeholders(model.config)
    of_still = (pruner(model, still)["input_ids"] == token["image"]).sum()
    of_clip = (pruner(model, film(name, 3, 3, 3, 3))["input_ids"] == token["video"]).sum()
    assert of_still == of_clip


def test_a_clip_that_changes_slowly_is_not_a_still():
    """No step is a change of its own, all together turn around: a token is compared with the last
    one kept at its place. One place turns by half a degree a frame, the other stands still.
    """
    frames = 720
    angle = torch.deg2rad(torch.arange(frames) / 2)
    turning = torch.stack([angle.cos(), angle.sin()], dim=1)
    features = torch.stack([turning, torch.ones(frames, 2)], dim=1).flatten(0, 1)
    layout = join([raster(1, 2)] * frames, frames=frames)
    kept = candidates(layout, features)
    assert kept[:2].tolist() == [0, 1]
    assert (kept[2:] % 2 == 0).all()
    # an angle of arccos(0.9999), 0.81 degrees, is passed every second frame
    assert kept[2:].tolist() == [*range(4, 2 * frames, 4)]


def test_a_budget_above_what_is_new_drops_the_repeats_all_the_same(name):
    """Whatever the budget counts: as many as there are, more, or nearly all. All of them is all."""
    model = tiny(name).model
    inputs = film(name, 3, 3, 3, 3)
    token = placeholders(model.config)["video"]
    everything = int((inputs["input_ids"] == token).sum())
    encoding = AdaFV(keep=0.3).encode(model, inputs)
    [new] = encoding.tokens.counts
    assert new < everything
    for pruner in (AdaFV(tokens=new), AdaFV(tokens=new + 1), AdaFV(keep=0.9999)):
        short = pruner(model, inputs)
        assert int((short["input_ids"] == token).sum()) == new
        with pruner.attached(model):
            out = model.generate(**inputs, do_sample=False, max_new_tokens=2)
        alone = model.generate(**short, do_sample=False, max_new_tokens=2)
        assert torch.equal(out[:, -2:], alone[:, -2:])
    whole = AdaFV(tokens=everything)(model, inputs)
    assert int((whole["input_ids"] == token).sum()) == everything


@pytest.mark.parametrize("chosen", ["fastv", "sparsevlm", "pdrop"])
@pytest.mark.parametrize("options", [{"keep": 0.8}, {"keep": 0.99}, {"tokens": 10_000}])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl"])
@torch.no_grad()
def test_methods_between_layers_read_no_repeats(name, chosen, options):
    """A clip costs what they say; answers by `generate` are those by hand and without a cache."""
    model, pruner = tiny(name).model, method(chosen, **options)
    inputs = film(name, 3, 3, 4, 4)
    video = placeholders(model.config)["video"]
    text = int((inputs["input_ids"] != video).sum())
    encoding = pruner.encode(model, inputs)
    seen: list[int] = []

    def note(layer, args, given, out):
        seen.append((out if isinstance(out, torch.Tensor) else out[0]).shape[1] - text)

    layers = model.get_decoder().layers
    with pruner.pruned(model, inputs, encoding) as (short, selection):
        hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
        model(**short)
    for hook in hooks:
        hook.remove()
    everything = len(encoding.features[0])
    [budget] = [pruner.budget(count) for count in encoding.tokens.counts]
    if "tokens" in options:
        assert seen == [everything] * len(layers)
        return
    assert seen[0] == encoding.tokens.counts[0] < everything
    assert sum(seen) / len(layers) == pytest.approx(selection.tokens_read[0])
    assert sum(seen) / len(layers) == pytest.approx(budget, abs=0.5)

    greedy = {"do_sample": False, "max_new_tokens": 4, "suppress_tokens": [video]}
    with pruner.pruned(model, inputs, encoding) as (short, _):
        expected = model.generate(**short, **greedy, use_cache=False)[:, -4:]
    with pruner.attached(model):
        output = model.generate(**inputs, **greedy, return_dict_in_generate=True)
        assert torch.equal(output.sequences[:, -4:], expected)
        # a turn goes on from the layers' caches
        ids = torch.cat([output.sequences, inputs["input_ids"][:, :2]], dim=1)
        turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        again = model.generate(**turn, **greedy, past_key_values=deepcopy(output.past_key_values))
        assert again.shape[1] == ids.shape[1] + 4


@pytest.mark.parametrize("newlines", ["drop", "rows", "all"])
def test_what_opens_a_frame_goes_with_it(newlines):
    """Video-LLaVA puts CLS before each frame: with "rows" those stay of which a token is kept."""
    model = tiny("video_llava").model
    inputs = clip("video_llava", [show(24, 24, seed=number) for number in range(4)], QUESTION)
    pruner = method("uniform", tokens=2, newlines=newlines)
    encoding = pruner.encode(model, inputs)
    selection = pruner.choose(encoding)
    opening = encoding.structural_indices[0]
    tokens = encoding.patch_indices[0][selection.kept[0]]
    assert opening[0] == 0
    own = torch.searchsorted(opening, tokens) - 1
    expected = {"drop": opening[:0], "rows": opening[own.unique()], "all": opening}[newlines]

    [(_, columns)] = kept_positions(encoding, selection.kept, newlines, [False])
    found = torch.isin(encoding.spans[0].positions, columns).nonzero()[:, 0]
    assert found.tolist() == torch.cat([tokens, expected]).sort().values.tolist()


def test_the_budget_of_a_clip_is_shared_over_its_frames(name):
    """One mixture chooses among all frames: a frame may get more than its share, the clip
    gets K.
    """
    model, inputs = tiny(name).model, film(name, 0, 1, 2)
    pruner = AdaFV(keep=0.2)
    encoding = pruner.encode(model, inputs)
    (count,) = encoding.tokens.counts
    short = pruner.prune(model, inputs, encoding)
    assert int((short["input_ids"] == placeholders(model.config)["video"]).sum()) == pruner.budget(
        count
    )
    assert encoding.tokens.coordinates[0][:, 0].unique().tolist() == [1, 2, 3]
    out = model.generate(**short, do_sample=False, max_new_tokens=3)
    assert out.shape[1] == short["input_ids"].shape[1] + 3


def test_a_clip_and_a_picture_keep_a_budget_each(name):
    """Both modalities in one prompt."""
    model, clip = tiny(name).model, film(name, 0, 1)
    still = ask(name, (QUESTION, [show(48, 32, seed=5)]))
    both = {
        key: torch.cat([still[key], clip[key]], dim=1)
        for key in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    pixels = {k: x for part in (still, clip) for k, x in part.items() if k not in both}
    pruner = AdaFV(keep=0.3)
    encoding = pruner.encode(model, both | pixels)
    assert len(encoding.tokens.counts) == 2
    assert encoding.tokens.counts[1] == 2 * encoding.tokens.counts[0]
    short = pruner.prune(model, both | pixels, encoding)
    for modality, count in zip(("image", "video"), encoding.tokens.counts, strict=True):
        assert int(
            (short["input_ids"] == placeholders(model.config)[modality]).sum()
        ) == pruner.budget(count)
    with pruner.attached(model):
        out = model.generate(**both, **pixels, do_sample=False, max_new_tokens=2)
    assert out[:, : both["input_ids"].shape[1]].tolist() == both["input_ids"].tolist()


@pytest.mark.parametrize(
    "chosen", [name for name, cls in METHODS.items() if not issubclass(cls, LayerPruner)]
)
def test_every_method_prunes_a_clip(chosen):
    """With a frame that repeats another, so that the tokens to choose from fill no rectangle."""
    name, pruner = "qwen2_vl", method(chosen, keep=1 if chosen == "none" else 0.3)
    model, inputs = tiny(name).model, film(name, 0, 0, 1)
    encoding = pruner.encode(model, inputs)
    chosen_tokens, budget = kept(name, inputs, pruner), pruner.budget(encoding.tokens.counts[0])
    assert len(chosen_tokens) == budget if pruner.exact else len(chosen_tokens) <= budget
    assert len(chosen_tokens.unique()) == len(chosen_tokens)
    with torch.no_grad():
        assert torch.isfinite(model(**pruner.prune(model, inputs, encoding)).logits).all()


def test_a_family_whose_clips_nobody_has_looked_at():
    """Never silently not pruned."""
    inputs = ask("kimi_k25", (QUESTION, [show(48, 32)]))
    ids = inputs["input_ids"].where(
        inputs["input_ids"] != placeholders(tiny("kimi_k25").model.config)["image"], 5
    )
    clip = {"input_ids": ids, "pixel_values_videos": torch.zeros(1, 2, 3, 24, 24)}
    with pytest.raises(ValueError, match=r"videos are not pruned.*pass frames as images"):
        AdaFV(keep=0.5)(tiny("kimi_k25").model, clip)


def test_a_clip_of_a_later_turn():
    """It is pruned with its own pixels; with those of earlier turns besides it is refused, for
    nothing tells the times of some clips from those of others.
    """
    name = "qwen2_vl"
    model, first, second = tiny(name).model, film(name, 0, 1), film(name, 2, 3)
    options = {"do_sample": False, "max_new_tokens": 2}
    with AdaFV(keep=0.3).attached(model):
        said = model.generate(**first, **options, return_dict_in_generate=True)
        answer = torch.zeros_like(said.sequences[:, -2:])
        later = {
            "input_ids": torch.cat([said.sequences, second["input_ids"]], dim=1),
            "attention_mask": torch.cat(
                [first["attention_mask"], answer + 1, second["attention_mask"]], dim=1
            ),
            "mm_token_type_ids": torch.cat(
                [first["mm_token_type_ids"], answer, second["mm_token_type_ids"]], dim=1
            ),
        }
        alone, both = {}, {}
        for key in ("pixel_values_videos", "video_grid_thw"):
            alone[key] = second[key]
            both[key] = torch.cat([first[key], second[key]])
        cache = said.past_key_values
        with pytest.raises(ValueError, match="needs the pixels of its new videos alone"):
            model.generate(**later, **both, **options, past_key_values=deepcopy(cache))
        out = model.generate(**later, **alone, **options, past_key_values=cache)
    assert out.shape[1] == later["input_ids"].shape[1] + 2


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "glm4v"])
def test_the_times_of_frames_are_no_text_of_the_question(name):
    """Qwen3-VL writes one before the first frame, GLM-4.1V one behind the last: nobody said it."""
    model = tiny(name).model
    inputs = clip(name, [show(48, 32, seed=number) for number in range(4)], QUESTION)
    # the tiny vocabulary has no numbers
    tokenizer = tiny(name).processor.tokenizer
    ids = inputs["input_ids"]
    ids[ids == tokenizer.unk_token_id] = tokenizer.convert_tokens_to_ids("knight")
    encoding = AdaFV(keep=0.3).encode(model, inputs)
    prompt = encoding.prompt
    [span] = encoding.spans
    asked = prompt.ids[0, prompt.question(span)].tolist()
    words = tokenizer.convert_ids_to_tokens(asked)
    assert [word for word in words if word not in ("USER", ":", "ASSISTANT")] == QUESTION.split()


def test_text_between_an_image_and_a_video_is_asked():
    """Times are inside of the nearest bounds that are open, and no further."""
    opening, closing, image, video, time, word = range(10, 16)
    ids = [word, opening, image, closing, word, opening, time, opening, video]
    ids += [closing, time, opening, video, closing, closing, word]
    tokens = {"image": image, "video": video}
    inputs = {"input_ids": torch.tensor([ids])}
    prompt = Prompt(inputs, tokens, "a family", bounds=(opening, closing))
    spans = [*prompt.spans([1]), *prompt.spans([2], "video")]
    for span in spans:
        asked = prompt.ids[0, prompt.question(span, frozenset({opening, closing}))]
        assert asked.tolist() == [word] * 3
