"""What a tower is, and what a call may say of it: its attention function, its layer, its precision,
its images.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers.integrations.flex_attention as flex
from torch._subclasses import FakeTensorMode
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask
from transformers.models.clip import modeling_clip
from zoo.families import NAME_A_LAYER, ZOO, ask, show, tiny
from zoo.towers import INTERPOLATE, TOWERS, around, llava_with, noise

from adafv import METHODS, AdaFV, method
from adafv.core.capture import observe
from adafv.core.encode import _check_finite
from adafv.core.layerwise import LayerPruner
from adafv.core.signals import SALIENCY
from adafv.core.visual_tokens import VisualTokens
from adafv.families import FAMILIES
from adafv.ops.saliency import received_attention
from adafv.speed.flops import grids_of

QUESTION, OTHER = "what color is the anchor ?", "is there a red knight left of the anchor ?"
BEFORE = [name for name, cls in METHODS.items() if not issubclass(cls, LayerPruner)]
INSIDE = [name for name in METHODS if name not in BEFORE]
GREEDY = {"max_new_tokens": 3, "do_sample": False}


def kept(pruner, model, inputs, tokens=None) -> list[list[int]]:
    tokens = pruner.encode(model, inputs).tokens if tokens is None else tokens
    selection = pruner.select(tokens, [pruner.budget(n) for n in tokens.counts])
    return [indices.tolist() for indices in selection.kept]


def pruner_of(name: str, keep: float = 0.3, **options: Any):
    return method(name, keep=1 if name == "none" else keep, **options)


@torch.no_grad()
def check_identity(model, inputs: dict) -> None:
    assert torch.equal(model(**AdaFV(keep=1.0)(model, inputs)).logits, model(**inputs).logits)


def attend_with(tower, name: str) -> None:
    """As `set_attn_implementation`, which would look for a kernel on the hub at every name with
    "flash" in it.
    """
    for module in tower.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation_internal = name


def packed(module, query, key, value, attention_mask=None, cu_seq_lens_q=None, **options):
    """A stand-in for flash attention: it reads its name from the configuration and takes bounds in
    place of a mask.
    """
    assert module.config._attn_implementation == "toy_flash_2"
    length = query.shape[2]
    if cu_seq_lens_q is not None:
        number = (
            torch.zeros(length, dtype=torch.long)
            .index_fill_(0, cu_seq_lens_q[1:-1].long(), 1)
            .cumsum(0)
        )
        attention_mask = (number[:, None] == number)[None, None]
    elif attention_mask is not None:
        attention_mask = attention_mask[:, None, None].bool().expand(-1, 1, length, -1)
    for name in ("cu_seq_lens_k", "max_length_q", "max_length_k"):
        options.pop(name, None)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


AttentionInterface.register("toy_flash_2", packed)
AttentionMaskInterface.register("toy_flash_2", flash_attention_mask)


@pytest.mark.parametrize(
    "name", sorted(name for name in ZOO if FAMILIES[name].attention_observable)
)
def test_every_attention_function_keeps_the_same_tokens(name):
    """SDPA, the eager function of the family's own file, and one that packs and pads as flash
    attention does.
    """
    model, pruner = tiny(name).model, AdaFV(keep=0.3)
    inputs = ask(name, (QUESTION, [show(80, 48)]), (OTHER, [show(48, 48, seed=1)]))
    tower = FAMILIES[name].tower(model)
    expected, before = kept(pruner, model, inputs), tower.config._attn_implementation
    for other in ("eager", "toy_flash_2"):
        attend_with(tower, other)
        try:
            assert kept(pruner, model, inputs) == expected, other
            check_identity(model, inputs)
        finally:
            attend_with(tower, before)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
@torch.no_grad()
def test_flex_attention_keeps_the_same_tokens(name, monkeypatch):
    """Not compiled here, which takes long and changes nothing."""
    monkeypatch.setattr(flex.WrappedFlexAttention, "__init__", lambda self, training: None)
    monkeypatch.setattr(flex.WrappedFlexAttention, "__call__", lambda self: flex_attention)
    model, pruner, inputs = tiny(name).model, AdaFV(keep=0.3), ask(name, (QUESTION, [show(80, 48)]))
    expected, tower = kept(pruner, model, inputs), FAMILIES[name].tower(model)
    attend_with(tower, "flex_attention")
    try:
        assert kept(pruner, model, inputs) == expected
    finally:
        attend_with(tower, "sdpa")


def test_the_mask_of_flex_attention_is_read():
    """Who may look at whom, as every other mask says it."""
    query, key, seen = noise(2, 2, 6, 4), noise(2, 2, 6, 4, seed=1), []
    sees = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    sees[1, ..., 4:] = False
    blocks = create_block_mask(
        lambda b, h, q, k: sees[b, 0, q, k], 2, None, 6, 6, "cpu", BLOCK_SIZE=2
    )
    tower = tiny("llava").model.base_model.vision_tower
    AttentionInterface.register(
        "toy", lambda module, query, key, value, mask, **options: (value, None)
    )
    with observe(tower, seen.append):
        AttentionInterface().get_interface("toy", None)(tower, query, key, key, blocks, scaling=0.5)
    (shown,) = seen
    given = received_attention(shown.query, shown.key, shown.scale, shown.mask)
    assert torch.equal(given, received_attention(query, key, 0.5, sees))


def elsewhere(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **options):
    weights = (query * scaling @ key.mT).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class Attention(modeling_clip.CLIPAttention):
    """Attention of one's own file, whose eager function has another name."""

    def forward(self, hidden_states, attention_mask=None, **options):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        heads = [
            f(hidden_states).view(shape).transpose(1, 2)
            for f in (self.q_proj, self.k_proj, self.v_proj)
        ]
        attend = modeling_clip.ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, elsewhere
        )
        out, weights = attend(self, *heads, attention_mask, scaling=self.scale)
        return self.out_proj(out.flatten(2)), weights


class Closed(Attention):
    """Attention that asks nobody for its function."""

    def forward(self, hidden_states, attention_mask=None, **options):
        return self.out_proj(self.v_proj(hidden_states)), None


@pytest.fixture
def swap(monkeypatch):
    """Give the layers of LLaVA's tower another attention."""

    def swapped(cls):
        model = llava_with("clip_vision_model")
        for module in model.base_model.vision_tower.modules():
            if isinstance(module, modeling_clip.CLIPAttention):
                monkeypatch.setattr(module, "__class__", cls)
        return model, around(model, noise(1, 3, 24, 24))

    return swapped


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_an_eager_function_under_another_name_in_another_file(swap, implementation):
    """It is the model's, wherever it stands."""
    plain = llava_with("clip_vision_model")
    expected = kept(AdaFV(keep=0.3), plain, around(plain, noise(1, 3, 24, 24)))
    model, inputs = swap(Attention)
    tower = model.base_model.vision_tower
    attend_with(tower, implementation)
    try:
        assert kept(AdaFV(keep=0.3), model, inputs) == expected
        check_identity(model, inputs)
    finally:
        attend_with(tower, "sdpa")


def test_attention_that_cannot_be_observed(swap):
    """One sentence that names a way out, which works."""
    model, inputs = swap(Closed)
    with pytest.raises(ValueError, match=r"CLIPVisionModel cannot be observed.*divprune"):
        AdaFV(keep=0.3).encode(model, inputs)
    assert len(kept(pruner_of("divprune"), model, inputs)[0]) == 11


@pytest.mark.parametrize(
    ("name", "dtype"), [("llava_next", torch.bfloat16), ("qwen2_vl", torch.float16)]
)
def test_autocast_does_not_touch_scores(name, dtype):
    """Signals are fp32; from the same features every method keeps the same tokens, and merges the
    same.
    """
    model = tiny(name).model
    inputs = ask(name, (QUESTION, [show(80, 48)]), (OTHER, [show(48, 48, seed=1)]))
    for chosen in BEFORE:
        pruner = pruner_of(chosen)
        with torch.autocast("cpu", dtype=dtype):
            tokens = pruner.encode(model, inputs).tokens
            assert SALIENCY not in tokens.signals or tokens.saliency.dtype == torch.float32
            budget = [pruner.budget(n) for n in tokens.counts]
            cast = pruner.select(tokens, budget)
        plain = pruner.select(tokens, budget)
        for one, same in zip(
            cast.kept + (cast.features or []), plain.kept + (plain.features or []), strict=True
        ):
            assert torch.equal(one, same), chosen
    with torch.autocast("cpu", dtype=dtype):
        check_identity(model, inputs)


@pytest.mark.parametrize("chosen", INSIDE)
def test_autocast_between_the_layers(chosen):
    """Whose attention rates, and how much, is the same from the same features."""
    model, inputs, pruner = (
        tiny("llava").model,
        ask("llava", (QUESTION, [show()])),
        method(chosen, keep=0.7),
    )
    encoding = pruner.encode(model, inputs)
    found = []
    for enabled in (False, True):
        with (
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled),
            pruner.between_layers(model, encoding),
        ):
            found.append(pruner.raters(encoding))
            model.generate(**pruner.prune(model, inputs, encoding), **GREEDY)
    if chosen != "sparsevlm":
        assert all(torch.equal(a[1], b[1]) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["llava", "internvl"])
def test_a_prompt_without_a_word_beside_others(name):
    """It keeps what it keeps alone."""
    found = tiny(name)
    silent, asking = (
        (found.marker, [show(80, 48)]),
        (f"{found.marker} {OTHER}", [show(48, 48, seed=1)]),
    )
    words = found.processor.tokenizer(found.marker)["input_ids"]

    def inputs_of(*samples):
        texts, pictures = zip(*samples, strict=True)
        return dict(
            found.processor(text=[*texts], images=[*pictures], return_tensors="pt", padding=True)
        )

    structure = set(inputs_of(silent)["input_ids"][0].tolist()) | set(words)
    for chosen in (name for name in BEFORE if METHODS[name].needs_text):
        pruner = pruner_of(chosen, skip=structure)
        together = kept(pruner, found.model, inputs_of(silent, asking))
        assert together == kept(pruner, found.model, inputs_of(silent)) + kept(
            pruner, found.model, inputs_of(asking)
        )


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "paligemma"])
def test_ids_of_another_integer_type(name, dtype):
    """The same words, the same draws, the same positions."""
    model, inputs = (
        tiny(name).model,
        ask(name, (QUESTION, [show(80, 48)]), (OTHER, [show(48, 48, seed=1)])),
    )
    narrow = {n: x if x.is_floating_point() else x.to(dtype) for n, x in inputs.items()}
    query = torch.tensor([8, 9])
    for chosen in ("adafv", "random"):
        for pruner, same in (
            (pruner_of(chosen), pruner_of(chosen)),
            (pruner_of(chosen, query=query), pruner_of(chosen, query=query.to(dtype))),
        ):
            wide, short = pruner.encode(model, inputs), same.encode(model, narrow)
            assert kept(pruner, model, inputs, wide.tokens) == kept(
                same, model, narrow, short.tokens
            )
            assert wide.tokens.seeds == short.tokens.seeds
            assert wide.positions is None or torch.equal(wide.positions, short.positions)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "llama4", "gemma4", "got_ocr2"])
def test_features_that_are_not_finite(name, bad):
    """One sentence instead of an order among numbers that are none."""
    inputs = ask(name, (QUESTION, [show(80, 48)]))
    inputs["pixel_values"] = inputs["pixel_values"].clone()
    inputs["pixel_values"].view(-1)[5] = bad
    for chosen in ("adafv", "uniform"):
        with pytest.raises(ValueError, match=rf"'{name}' model makes features .* not finite .*NaN"):
            pruner_of(chosen).encode(tiny(name).model, inputs)


def test_on_a_gpu_nobody_waits_to_learn_that_features_are_finite():
    """A fake tensor has no numbers to read back."""
    with FakeTensorMode():
        tokens: Any = SimpleNamespace(features=torch.zeros(1, 3, 4, device="cuda"), signals={})
        _check_finite(tiny("llava").model, tokens)


@pytest.mark.parametrize("name", NAME_A_LAYER)
def test_a_layer_chosen_at_the_call(name, monkeypatch):
    """Features and saliency are that layer's, in `pruner`, `forward` and `generate`; keep=1 is the
    identity.
    """
    model, plain = tiny(name).model, ask(name, (QUESTION, [show(80, 48)]))
    for layer in (-1, 2, -5):
        inputs = plain | {"vision_feature_layer": layer}
        check_identity(model, inputs)
        chosen = AdaFV(keep=0.3).encode(model, inputs).tokens
        with monkeypatch.context() as patch:
            patch.setattr(model.config, "vision_feature_layer", layer)
            patch.setattr(model.base_model.config, "vision_feature_layer", layer)
            configured = AdaFV(keep=0.3).encode(model, plain).tokens
        assert torch.equal(chosen.features, configured.features)
        assert torch.equal(chosen.saliency, configured.saliency)


@torch.no_grad()
def test_a_layer_chosen_while_attached():
    """`forward` and `generate` take it as the plain model does."""
    model, inputs = (
        tiny("llava").model,
        ask("llava", (QUESTION, [show(80, 48)])) | {"vision_feature_layer": -1},
    )
    with AdaFV(keep=1.0).attached(model):
        logits, ids = model(**inputs).logits, model.generate(**inputs, **GREEDY)
    assert torch.equal(logits, model(**inputs).logits)
    assert torch.equal(ids, model.generate(**inputs, **GREEDY))


def test_several_layers_chosen_at_the_call():
    """As many as the projector takes, in another order and depth than the configuration's."""
    model, inputs = tiny("vipllava").model, ask("vipllava", (QUESTION, [show(80, 48)]))
    for layers in ([1, 2, 3], (-1, 2, -4)):
        check_identity(model, inputs | {"vision_feature_layer": layers})


@pytest.mark.parametrize("name", ["aria", "gemma3", "qwen2_vl"])
def test_a_choice_that_the_model_does_not_read(name):
    """It goes where it goes without a pruner."""
    choices = {"vision_feature_layer": -2, "vision_feature_select_strategy": "full"}
    check_identity(tiny(name).model, ask(name, (QUESTION, [show(80, 48)])) | choices)


@pytest.mark.parametrize("chosen", ["adafv", "uniform"])
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"vision_feature_layer": 9},
            "vision_feature_layer=9 is beyond the tower's 4 layers: pass -5 to 4",
        ),
        ({"vision_feature_layer": "last"}, "vision_feature_layer='last' is not a valid layer"),
        ({"vision_feature_layer": []}, "is not a valid layer"),
        ({"vision_feature_layer": [-2, -3]}, "leave vision_feature_layer out"),
        ({"vision_feature_select_strategy": "cls"}, "'cls' is unknown: pass 'default' or 'full'"),
        (
            {"vision_feature_select_strategy": "full"},
            "holds 36 image placeholders, the images make 37 tokens",
        ),
    ],
)
def test_a_choice_that_is_none(chosen, choice, message):
    """One sentence, whether the method looks at the tower or not."""
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        pruner_of(chosen).encode(tiny("llava").model, ask("llava", (QUESTION, [show()])) | choice)


@pytest.mark.parametrize(
    "tower", ["clip_vision_model", "dinov2", "dinov2_with_registers", "siglip_vision_model"]
)
@pytest.mark.parametrize("strategy", ["default", "full"])
def test_a_strategy_chosen_at_the_call(tower, strategy):
    """CLS and registers that become visual tokens are no patches, and a patch that is cut off has
    no token.
    """
    model = llava_with(tower)
    inputs = around(model, noise(1, 3, 24, 24), vision_feature_select_strategy=strategy)
    check_identity(model, inputs)
    encoding = AdaFV(keep=0.3).encode(model, inputs)
    before = {
        "clip_vision_model": 1,
        "dinov2": 1,
        "dinov2_with_registers": 5,
        "siglip_vision_model": 0,
    }[tower]
    lead = before - (strategy == "default")
    assert encoding.tokens.counts == (36 + min(lead, 0),)
    assert len(encoding.structural_indices[0]) == max(lead, 0)
    assert encoding.tokens.coordinates[0][0].tolist() == [0, 0, max(0, -lead)]
    short = AdaFV(keep=0.3, newlines="all").prune(model, inputs, encoding)
    image = int((short["input_ids"] == model.config.image_token_id).sum())
    assert image == AdaFV(keep=0.3).budget(36 + min(lead, 0)) + max(lead, 0)


@pytest.mark.parametrize(
    "tower", [name for name in TOWERS if name not in ("data2vec-vision", "vit_mae")]
)
@torch.no_grad()
def test_the_grid_is_that_of_the_pixels(tower):
    """Images of every size that a tower takes: all patches have a token, and each its own
    saliency.
    """
    model = llava_with(tower)
    for size in ((24, 24), *(((28, 28), (24, 36), (40, 16)) if tower in INTERPOLATE else ())):
        inputs = around(model, noise(2, 3, *size), vision_feature_select_strategy="full")
        check_identity(model, inputs)
        encoding = AdaFV(keep=0.3).encode(model, inputs)
        rows, columns = (n // 4 for n in size)
        assert encoding.tokens.counts == (rows * columns,) * 2
        expected = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
        assert all(
            torch.equal(coordinates[:, 1:], expected) for coordinates in encoding.tokens.coordinates
        )
        attend_with(vision := model.base_model.vision_tower, "eager")
        attention = vision(inputs["pixel_values"], output_attentions=True).attentions[-2].mean(1)
        attend_with(vision, "sdpa")
        before = attention.shape[-1] - rows * columns
        saliency = attention[:, 0, before:] if before else attention.mean(1)
        torch.testing.assert_close(encoding.tokens.saliency, saliency, rtol=1e-4, atol=1e-6)
        assert grids_of(SimpleNamespace(vision_config=SimpleNamespace(patch_size=4)), inputs) == [
            (rows, columns)
        ]
        for chosen in ("adafv+", "hired", "pool", "uniform"):
            few = [len(k) for k in kept(pruner_of(chosen), model, inputs, None)]
            assert few == [AdaFV(keep=0.3).budget(rows * columns)] * 2


@pytest.mark.parametrize(
    ("name", "sizes"), [("internvl", [16, 40]), ("idefics3", [32, 40]), ("chameleon", [8, 24])]
)
def test_crops_of_another_size(name, sizes):
    """Merged and pooled patches, too, and codes of a codebook."""
    model = tiny(name).model
    for size in sizes:
        crops = noise(1, 3, size, size)
        inputs = around(model, crops[None] if name == "idefics3" else crops)
        check_identity(model, inputs)
        (count,) = AdaFV(keep=0.3).encode(model, inputs).tokens.counts
        assert count == (size // (2 if name == "chameleon" else 8)) ** 2


def test_codes_of_a_picture_that_is_not_square():
    """Rows and columns are those of the pixels."""
    model = tiny("chameleon").model
    (coordinates,) = (
        AdaFV(keep=0.3).encode(model, around(model, noise(1, 3, 36, 24))).tokens.coordinates
    )
    assert coordinates.amax(0).tolist() == [0, 17, 11]


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ("data2vec-vision", "attention of Data2VecVisionModel cannot be observed"),
        ("vit_mae", "ViTMAEModel hands features on otherwise"),
    ],
)
def test_towers_that_are_not_known(tower, message):
    """One sentence, never a traceback."""
    model = llava_with(tower)
    with pytest.raises(ValueError, match=message):
        AdaFV(keep=0.3)(model, around(model, noise(1, 3, 24, 24)))


def test_pictures_of_video_llava_by_either_name():
    """The old name and the new one."""
    model, inputs = tiny("video_llava").model, ask("video_llava", (QUESTION, [show()]))
    new = {
        "pixel_values" if name == "pixel_values_images" else name: x for name, x in inputs.items()
    }
    assert kept(AdaFV(keep=0.3), model, inputs) == kept(AdaFV(keep=0.3), model, new)
    check_identity(model, new)


@pytest.mark.parametrize("name", ["aria", "chameleon", "emu3", "got_ocr2", "idefics2", "lfm3_vl"])
def test_what_stands_in_for_attention_is_a_softmax_too(name):
    """Methods weigh features with it: merged ones must not outgrow those that the LLM knows."""
    model, inputs = tiny(name).model, ask(name, (QUESTION, [show(80, 48)]))
    pruner = pruner_of("prumerge", keep=0.3)
    encoding = pruner.encode(model, inputs)
    tokens = encoding.tokens
    assert (tokens.saliency >= 0).all()
    torch.testing.assert_close(tokens.saliency.sum(1), torch.ones(len(tokens.counts)))
    selection = pruner.choose(encoding)
    plain = tokens.features[0, selection.kept[0]].norm(dim=1).mean()
    assert selection.features[0].norm(dim=1).mean() < 3 * plain


def test_embeddings_may_lie_on_another_device_than_the_tower():
    """As in a model that is split over several."""
    tokens = VisualTokens.of(
        features=[torch.zeros(4, 8, device="meta")],
        signals={},
        coordinates=[torch.zeros(4, 3, dtype=torch.long)],
        frames=[1],
        layers=2,
    )
    asked = tokens.asked([torch.tensor([1, 2])], lambda ids: torch.zeros(len(ids), 8))
    assert asked.text.device == tokens.device
    assert asked.text.shape == (1, 2, 8)


def test_rows_of_a_shrunk_grid_are_counted_without_gaps(monkeypatch):
    """OneVision interpolates a large grid: what rounding spreads is one row, one column."""
    model, inputs = (
        tiny("llava_onevision").model,
        ask("llava_onevision", (QUESTION, [show(32, 48)])),
    )
    monkeypatch.setattr(model.config, "vision_aspect_ratio", "anyres_max_1")
    (layout,) = FAMILIES["llava_onevision"].layouts(model, inputs, None, [])
    tiles = layout.coordinates[layout.coordinates[:, 0] > 0]
    rows, columns = tiles[:, 1].unique(), tiles[:, 2].unique()
    assert len(rows) * len(columns) == len(tiles.unique(dim=0)) == len(tiles)
    assert len(tiles) < inputs["pixel_values"].shape[1] * 36 - 36
    assert (rows.diff() == 1).all()
    assert (columns.diff() == 1).all()
