"""The eight invariants of the pruner, for every family and every method before the LLM; see also
test_inside.
"""

from dataclasses import replace

import pytest
import torch
from conftest import BEFORE, inputs_for, picture, prompt, tiny_model, tiny_processor

from adafv import METHODS, AdaFV, FasterVLM, NoPruning, method
from adafv.core.signals import SALIENCY

PRUNING = [name for name in BEFORE if name != "none"]
EXACT = [name for name in PRUNING if METHODS[name].exact]
GREEDY = {"max_new_tokens": 5, "do_sample": False}


def mixed_batch(processor, side="left"):
    """Prompts with 1, 0, 2 and 1 images, of four shapes, and of different lengths."""
    return inputs_for(
        processor,
        (prompt("what color is the knight ?"), [picture()]),
        (prompt("how many ?", images=0), []),
        (
            prompt("compare the red and the blue", images=2),
            [picture(24, 48, 1), picture(50, 24, 2)],
        ),
        (prompt("is there a anchor left of the knight ?"), [picture(33, 48, 3)]),
        side=side,
    )


def image_token(model):
    return model.config.image_token_id


def test_1_kept_features_are_those_of_the_kept_tokens_in_order(model, processor):
    """Invariant 1: the i-th placeholder left is the i-th kept token of the full prompt."""
    inputs, pruner = mixed_batch(processor), AdaFV(keep=0.2)
    encoding = pruner.encode(model, inputs)
    kept = pruner.select(encoding.tokens, [pruner.budget(n) for n in encoding.tokens.counts]).kept
    pruned = pruner.prune(model, inputs, encoding)
    for i, features in enumerate(pruned["mm_encoder_outputs"]["image"].pooler_output):
        assert torch.equal(features, encoding.tokens.features[i, kept[i]])


def test_2_fixed_padding_is_kept(model, processor):
    """Invariant 2: a prompt padded beyond its longest row stays so."""
    inputs = inputs_for(processor, (prompt(), [picture()]))
    for key, fill in (("input_ids", 1), ("attention_mask", 0)):
        inputs[key] = torch.nn.functional.pad(inputs[key], (5, 0), value=fill)
    assert torch.equal(NoPruning()(model, inputs)["input_ids"], inputs["input_ids"])


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_3_beams_are_those_of_the_sample_alone(model, processor, options):
    """Invariant 3: beams and returned sequences of a batch are those of its samples."""
    samples = [
        (prompt(), [picture()]),
        (prompt(images=2), [picture(24, 48, 1), picture(48, 24, 2)]),
    ]
    pruner, options = AdaFV(keep=0.3), options | {"max_new_tokens": 4, "do_sample": False}
    together = model.generate(**pruner(model, inputs_for(processor, *samples)), **options)
    alone = [model.generate(**pruner(model, inputs_for(processor, s)), **options) for s in samples]
    assert together[:, -4:].tolist() == torch.cat([a[:, -4:] for a in alone]).tolist()


def test_3_sampling_with_a_seed(model, processor):
    """Invariant 3: a seeded sample through `attached` is the sample of the pruned inputs."""
    inputs, pruner = inputs_for(processor, (prompt(), [picture()])), AdaFV(keep=0.3)
    options = dict(max_new_tokens=6, do_sample=True, num_return_sequences=3)
    torch.manual_seed(3)
    expected = model.generate(**pruner(model, inputs), **options)
    torch.manual_seed(3)
    with pruner.attached(model):
        sampled = model.generate(**inputs, **options)
    assert sampled[:, -6:].tolist() == expected[:, -6:].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_4_everything_along_the_sequence_shrinks_together(model, processor, side):
    """Invariant 4: ids, mask, positions, token types and labels keep describing the same tokens."""
    inputs = mixed_batch(processor, side)
    length = inputs["input_ids"].shape[1]
    inputs["labels"] = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], -100)
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == image_token(model)).long()
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    coordinates = inputs["position_ids"].clone()

    packed = AdaFV(keep=0.2)(model, inputs)
    original = AdaFV(keep=0.2, positions="original")(model, inputs)
    for pruned in (packed, original):
        real = pruned["attention_mask"].bool()
        assert pruned["input_ids"].shape[1] < length
        for key in ("labels", "mm_token_type_ids", "position_ids", "attention_mask"):
            assert pruned[key].shape == pruned["input_ids"].shape
        assert torch.equal(pruned["labels"][real], pruned["input_ids"][real])
        assert (pruned["labels"][~real] == -100).all()
        assert torch.equal(
            pruned["mm_token_type_ids"].bool(), pruned["input_ids"] == image_token(model)
        )
        assert (real[:, 0] if side == "right" else real[:, -1]).all()
    for row in range(len(coordinates)):
        real = packed["attention_mask"][row].bool()
        assert packed["position_ids"][row, real].tolist() == list(range(int(real.sum())))
        ids = inputs["input_ids"][row, inputs["attention_mask"][row].bool()]
        positions = original["position_ids"][row, real]
        assert (positions.diff() > 0).all()
        assert torch.equal(ids[positions], original["input_ids"][row, real])


def test_5_leaving_attached_restores_the_model(model, processor):
    """Invariant 5: bit for bit, after an exception too."""
    inputs = inputs_for(processor, (prompt(), [picture()]))
    before, attributes = model(**inputs).logits, dict(vars(model))
    with pytest.raises(KeyError), AdaFV(keep=0.1).attached(model):
        assert model(**inputs).logits.shape[1] < before.shape[1]
        raise KeyError
    assert vars(model) == attributes
    assert torch.equal(model(**inputs).logits, before)


def test_5_a_forward_of_the_instances_own_comes_back(model, processor):
    """Invariant 5: hooks of accelerate, which replace `forward` on the instance, survive."""
    mine = model.forward
    model.forward = mine
    try:
        with AdaFV(keep=0.1).attached(model):
            assert model.forward is not mine
        assert vars(model)["forward"] is mine
    finally:
        del model.forward


def test_5_two_pruners_at_once_are_an_error(model):
    """Invariant 5: pruning what is pruned already would silently change the budget."""
    plain = type(model)
    with AdaFV(keep=0.1).attached(model):
        with (
            pytest.raises(ValueError, match="AdaFV is attached"),
            FasterVLM(keep=0.1).attached(model),
        ):
            pass
        # the first one goes on
        assert type(model) is not plain


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"positions": "original"}, marks=pytest.mark.slow),
        pytest.param({"newlines": "all"}, marks=pytest.mark.slow),
    ],
)
def test_6_nothing_is_read_back_from_the_device(model, processor, name, options):
    """Invariant 6: selection and rebuilding run on the meta device, which holds no data to read."""
    inputs, pruner = mixed_batch(processor), method(name, keep=0.3, **options)
    encoding = pruner.encode(model, inputs)
    moved = {k: v.to("meta") for k, v in inputs.items()}
    tokens = encoding.tokens
    on_meta = replace(
        tokens,
        **{k: v.to("meta") for k, v in vars(tokens).items() if isinstance(v, torch.Tensor)},
        signals={s: x.to("meta") for s, x in tokens.signals.items()},
    )
    meta = type(encoding)(
        **vars(encoding)
        | {"tokens": on_meta}
        | {
            k: [t.to("meta") for t in getattr(encoding, k)]
            for k in ("features", "patch_indices", "structural_indices")
        }
    )
    assert (
        pruner.prune(model, moved, meta)["input_ids"].shape
        == pruner(model, inputs)["input_ids"].shape
    )


@pytest.mark.parametrize("keep", [0, -1, 1.5, float("nan"), float("inf")])
def test_7_keep_outside_0_1_is_an_error(keep):
    """Invariant 7."""
    with pytest.raises(ValueError, match="pass 0 < keep <= 1"):
        AdaFV(keep=keep)


@pytest.mark.parametrize("tokens", [0, -3, 2.5])
def test_7_tokens_below_1_is_an_error(tokens):
    """Invariant 7."""
    with pytest.raises(ValueError, match="pass an integer of 1 or more"):
        AdaFV(tokens=tokens)


@pytest.mark.parametrize("both", [{"keep": 0.1, "tokens": 10}, {}])
def test_7_both_budgets_or_none_is_an_error(both):
    """Invariant 7."""
    with pytest.raises(ValueError, match=r"either keep .* or tokens"):
        AdaFV(**both)


def test_7_a_prompt_without_an_image(model, processor):
    """Invariant 7: passes through as it is; with `strict` it is an error."""
    inputs = inputs_for(processor, (prompt(images=0), []))
    assert AdaFV(keep=0.1)(model, inputs) == inputs
    with pytest.raises(ValueError, match="no image"):
        AdaFV(keep=0.1, strict=True)(model, inputs)


def test_7_an_unknown_family_is_an_error(model, processor):
    """Invariant 7: a text model, and a vision-language model that reads no encoded images."""
    from transformers import BlipConfig, BlipForQuestionAnswering, LlamaConfig, LlamaForCausalLM

    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    inputs = inputs_for(processor, (prompt(), [picture()]))
    with pytest.raises(ValueError, match="no vision tower"):
        AdaFV(keep=0.1)(LlamaForCausalLM(LlamaConfig(vocab_size=30, **sizes)), inputs)
    blip = BlipForQuestionAnswering(
        BlipConfig(text_config=sizes, vision_config=sizes | {"image_size": 16})
    )
    with pytest.raises(ValueError, match=r"'blip' reads no encoded images.*llava"):
        AdaFV(keep=0.1)(blip, inputs)


def test_7_placeholders_that_do_not_match_the_images(model, processor):
    """Invariant 7: a truncated prompt is not pruned by guesswork."""
    inputs = inputs_for(processor, (prompt(), [picture()]))
    for key in ("input_ids", "attention_mask"):
        inputs[key] = inputs[key][:, -20:]
    with pytest.raises(ValueError, match="without truncation"):
        AdaFV(keep=0.1)(model, inputs)


def test_8_ties_go_to_the_lower_index(model, processor):
    """Invariant 8: a dead tower scores every token the same; the first ones stay."""
    inputs = inputs_for(processor, (prompt(), [picture()]))
    encoding = FasterVLM(tokens=5).encode(model, inputs)
    flat = replace(encoding.tokens, signals={SALIENCY: torch.ones_like(encoding.tokens.saliency)})
    assert FasterVLM(tokens=5).select(flat, [5]).kept[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", EXACT)
def test_8_same_inputs_same_output(name):
    """Invariant 8: from one process state to the next, also for the methods that draw."""
    kept = []
    model, processor = tiny_model("llava_next"), tiny_processor("llava_next")
    for seed in (1, 2):
        torch.manual_seed(seed)
        kept.append(
            method(name, keep=0.2)(model, mixed_batch(processor))["mm_encoder_outputs"][
                "image"
            ].pooler_output
        )
    for one, other in zip(*kept, strict=True):
        assert torch.equal(one, other)
