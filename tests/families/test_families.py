"""Every family that is proven, against all but identity, budget and batch; see test_matrix."""

import json
import warnings
from contextlib import ExitStack
from copy import copy
from functools import partial
from inspect import signature
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers
from conftest import INSIDE
from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import is_torchvision_available
from zoo.base import WORDS
from zoo.families import ZOO, ask, generated, logits, show, tiny

from adafv import AdaFV, families, method
from adafv.cli import main
from adafv.core.encode import encode
from adafv.core.inputs import placeholders
from adafv.families import FAMILIES, IMPOSSIBLE, UNPROVEN, UnprovenFamilyWarning, family_of, record
from adafv.families.base import base_of, layers_of
from adafv.models.ask import ask as answer_question
from adafv.models.load import load
from adafv.models.prompting import build_inputs
from adafv.viz.explained_answer import explanation

QUESTION = "what color is the anchor ?"
OTHER = "is there a red knight left of the anchor ?"
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() }} : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}MARKER {% else %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)
RECURRENT = ("lfm2_vl", "lfm3_vl", "qwen3_5", "qwen3_5_moe")


@pytest.fixture(params=sorted(ZOO))
def name(request) -> str:
    return request.param


@pytest.mark.proves("images")
def test_several_images_in_a_prompt(name):
    """Images with words between them keep a budget each."""
    found = tiny(name)
    compared = "compare the red anchor with the blue knight"
    prompt = f"USER : {found.marker} {compared} {found.marker} {QUESTION} ASSISTANT :"
    pictures = [show(80, 48), show(48, 48, seed=1)]
    inputs = dict(
        found.processor(text=[prompt], images=[pictures], return_tensors="pt", padding=True)
    )
    pruner = AdaFV(keep=0.3)
    encoding = pruner.encode(found.model, inputs)
    assert len(encoding.tokens.counts) == 2
    kept = pruner.select(encoding.tokens, [pruner.budget(n) for n in encoding.tokens.counts]).kept
    assert [len(k) for k in kept] == [pruner.budget(n) for n in encoding.tokens.counts]
    assert generated(name, pruner(found.model, inputs))


@pytest.mark.parametrize("between", [" ", " \n "], ids=["nothing", "newline"])
@pytest.mark.parametrize("kind", ["granite_docling", "idefics3", "llama4", "smolvlm"])
def test_images_side_by_side_keep_a_budget_each(kind, between):
    """A crop's name tells where an image begins or ends, whether the images are tiled or not."""
    found = tiny(kind)
    tiled, small = show(80, 48), show(24, 24, seed=1)
    counts = {}
    for image in (tiled, small):
        encoding = AdaFV(keep=0.3).encode(found.model, ask(kind, (QUESTION, [image])))
        (counts[image.size],) = encoding.tokens.counts
    for images in ([tiled, small], [small, tiled], [small, small], [tiled, tiled]):
        prompt = f"USER : {found.marker}{between}{found.marker} {QUESTION} ASSISTANT :"
        inputs = found.processor(text=[prompt], images=[images], return_tensors="pt")
        tokens = AdaFV(keep=0.3).encode(found.model, dict(inputs)).tokens
        assert tokens.counts == tuple(counts[image.size] for image in images)


@pytest.mark.proves("cache")
@pytest.mark.parametrize("positions", ["packed", "original"])
def test_decoding_from_the_cache_is_reading_everything_again(name, positions):
    """The cache of a shorter prompt goes on at the right position."""
    inputs = ask(name, (QUESTION, [show(80, 48)]))
    pruner = AdaFV(keep=0.3, positions=positions)
    model = tiny(name).model
    if FAMILIES[name].ignores_position_ids and positions == "original":
        with pytest.raises(ValueError, match="number their tokens by counting"):
            pruner(model, inputs)
        pytest.skip("it numbers its tokens itself")
    cached = generated(name, pruner(model, inputs))[0]
    assert cached == read_again(model, pruner(model, inputs), len(cached))


@torch.no_grad()
def read_again(model, inputs: dict, count: int) -> list[int]:
    """A greedy answer without a cache: the whole prompt and the answer so far, read anew for each
    token.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    along = {
        k: x
        for k, x in inputs.items()
        if isinstance(x, torch.Tensor) and x.shape[-1] == ids.shape[1]
    }
    positions = along.setdefault("position_ids", (mask.cumsum(-1) - 1).clamp(min=0))
    answer: list[int] = []
    for step in range(count):
        more = {key: torch.nn.functional.pad(x, (0, step)) for key, x in along.items()}
        # what it says is no part of the prefix, which looks both ways
        if model.config.model_type == "paligemma":
            more["token_type_ids"][:, ids.shape[1] :] = 1
        more["input_ids"][:, ids.shape[1] :] = torch.tensor(answer)
        more["attention_mask"][:, ids.shape[1] :] = 1
        more["position_ids"][..., ids.shape[1] :] = positions[..., -1:] + 1 + torch.arange(step)
        logits = model(
            **inputs | more | {"mm_encoder_outputs": copy(inputs["mm_encoder_outputs"])},
            use_cache=False,
        )
        answer.append(int(logits.logits[0, -1].argmax()))
    return answer


@pytest.mark.proves("hidden")
@torch.no_grad()
def test_a_token_that_is_dropped_is_a_token_that_nobody_sees(name, monkeypatch):
    """The shorter prompt at its original positions gives what the whole prompt gives with the
    dropped tokens masked.

    Position ids of rows and columns, DeepStack planes and bidirectional masks of images have to
    shrink along for that.
    """
    if name in RECURRENT:
        pytest.skip(
            "its language model carries a state from token to token, which a mask doesn't cut out"
        )
    if FAMILIES[name].ignores_position_ids:
        pytest.skip("it numbers its tokens itself")
    model, inputs = tiny(name).model, ask(name, (QUESTION, [show(80, 48)]))
    if getattr(config := model.config.get_text_config(), "sliding_window", None):
        monkeypatch.setattr(config, "sliding_window", 1000)  # it counts the tokens that are left
    pruner = AdaFV(keep=0.3, positions="original")
    encoding = pruner.encode(model, inputs)
    whole = pruner.rebuild(
        model, inputs, encoding, AdaFV(keep=1.0).select(encoding.tokens, [*encoding.tokens.counts])
    )
    if encoding.positions is not None:
        whole["position_ids"] = encoding.positions
    (kept,) = pruner.select(
        encoding.tokens, [pruner.budget(n) for n in encoding.tokens.counts]
    ).kept
    short = pruner.prune(model, inputs, encoding)
    stay = encoding.prompt.mask & ~encoding.prompt.placeholder
    stay[0, encoding.spans[0].positions[encoding.patch_indices[0][kept]]] = True
    masked = model(**whole | {"attention_mask": stay.long()}, use_cache=False).logits[0, stay[0]]
    torch.testing.assert_close(logits(name, short)[0], masked, rtol=1e-3, atol=1e-3)


@pytest.mark.proves("inside")
@pytest.mark.parametrize("chosen", INSIDE)
@torch.no_grad()
def test_every_method_inside_the_language_model(name, chosen, monkeypatch):
    """Layers behind a stage read as many tokens as its plan says, and what they read gives what the
    whole prompt gives with all others masked for them; or one sentence why not.
    """
    model, pruner = tiny(name).model, method(chosen, keep=0.6)
    inputs = ask(name, (QUESTION, [show(80, 48)]))
    if reason := FAMILIES[name].no_layerwise_reason:
        with pytest.raises(ValueError, match=reason), pruner.attached(model):
            model.generate(**inputs, do_sample=False, max_new_tokens=3)
        pytest.skip(reason)
    with pruner.attached(model):
        out = model.generate(**inputs, do_sample=False, max_new_tokens=3)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 3

    if getattr(config := model.config.get_text_config(), "sliding_window", None):
        monkeypatch.setattr(config, "sliding_window", 1000)  # it counts the tokens that are left
    encoding = pruner.encode(model, inputs)
    (count,) = encoding.tokens.counts
    with pruner.between_layers(model, encoding) as decoder:
        read = model(**pruner.prune(model, inputs, encoding), use_cache=True)
    left = pruner.plan(encoding.tokens.layers, count, pruner.budget(count))
    assert [len(view.kept[0]) for view in decoder.views] == [count, *left]
    columns = [decoder.views[0].columns[0]] * decoder.stages[0]
    for view, (start, end) in zip(
        decoder.views[1:], pairwise([*decoder.stages, encoding.tokens.layers]), strict=True
    ):
        columns += [view.columns[0]] * (end - start)
    cache = read.past_key_values
    assert [cache.get_seq_length(layer) for layer in range(len(cache))] == list(map(len, columns))
    masked = read_masked(model, pruner.prune(model, inputs, encoding), columns)
    torch.testing.assert_close(read.logits[0], masked[columns[-1]], rtol=1e-3, atol=1e-3)


def read_masked(model, inputs: dict, columns: list[torch.Tensor]) -> torch.Tensor:
    """The logits (L, words) of a prompt of whose columns each layer sees some."""

    def hide(seen, layer, args, options):
        length = args[0].shape[1]
        # what is hidden sees itself, since a softmax needs something
        visible = torch.eye(length, dtype=torch.bool)
        visible[:, seen] = True
        mask = options["attention_mask"]
        if mask is None:
            mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        if mask.dtype == torch.bool:
            mask = mask & visible
        else:
            mask = mask.masked_fill(~visible, torch.finfo(mask.dtype).min)
        return args, options | {"attention_mask": mask}

    with ExitStack() as hooks:
        for layer, seen in zip(layers_of(model.get_decoder()), columns, strict=True):
            hook = layer.register_forward_pre_hook(partial(hide, seen), with_kwargs=True)
            hooks.callback(hook.remove)
        return model(**inputs, use_cache=False).logits[0]


@pytest.mark.proves("layout")
@torch.no_grad()
def test_a_token_is_made_of_the_patches_its_layout_names(name):
    """Disturb one patch behind the tower's last layer that features are taken from: only its tokens
    change.
    """
    model = tiny(name).model
    kind = family_of(model)
    if not kind.attention_observable:
        pytest.skip("its tokens are no squares of patches")
    inputs = ask(name, (QUESTION, [show(80, 48)]))
    tower = kind.tower(model)
    layers, depth = layers_of(tower), kind.feature_layer(model)
    layer = layers[depth - 1 if depth > 0 else depth]
    cls = 1 if kind.cls_position(model) == 0 else 0
    plain = encode(model, inputs)
    prompt, pieces = plain.prompt, kind.pieces(plain.returned[0].output)
    (layout,) = kind.layouts(model, inputs, prompt, [len(p) for p in pieces])
    patches = layout.patches[layout.patches[:, 0] >= 0]
    for token in (0, len(patches) // 2, len(patches) - 1):
        patch = int(patches[token, -1])

        def disturb(module, args, out, patch=patch):
            hidden = out if isinstance(out, torch.Tensor) else out[0]
            hidden = hidden if hidden.dim() == 3 else hidden[None]
            per_crop = hidden.shape[1] - (kind.cls_position(model) is not None)
            hidden[patch // per_crop, cls + patch % per_crop] += 5 * torch.randn(hidden.shape[-1])

        handle = layer.register_forward_hook(disturb)
        changed = encode(model, inputs).tokens.features[0] - plain.tokens.features[0]
        handle.remove()
        expected = (patches == patch).any(1).nonzero()[:, 0].tolist()
        assert (changed.abs().amax(-1) > 1e-5).nonzero()[:, 0].tolist() == expected
    assert FAMILIES[name] is kind


@pytest.mark.parametrize("stranger", ["llava", "qwen2_vl", "llava_next"])
def test_a_family_that_is_not_proven_warns_once_and_goes_the_generic_way(stranger, monkeypatch):
    """Nothing is known of its tower; budgets and the identity hold all the same."""
    monkeypatch.delitem(FAMILIES, stranger)
    families._warn.cache_clear()
    model, inputs = tiny(stranger).model, ask(stranger, (QUESTION, [show(80, 48)]))
    pruner = AdaFV(keep=0.25)
    with pytest.warns(UnprovenFamilyWarning, match=stranger):
        encoding = pruner.encode(model, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short = pruner.prune(model, inputs, pruner.encode(model, inputs))
        whole = AdaFV(keep=1.0)(model, inputs)
    (count,) = encoding.tokens.counts
    assert int((short["input_ids"] == placeholders(model.config)["image"]).sum()) == pruner.budget(
        count
    )
    assert torch.equal(logits(stranger, whole), logits(stranger, inputs))


@pytest.mark.parametrize(
    ("name", "lost", "message"),
    [
        (
            "qwen2_vl",
            "image_grid_thw",
            "lack image_grid_thw, which models of the family 'qwen2_vl'",
        ),
        ("qwen2_vl", "mm_token_type_ids", "lack mm_token_type_ids"),
        ("llava_next", "image_sizes", "lack image_sizes"),
    ],
)
def test_inputs_of_another_processor(name, lost, message):
    """One sentence that names the family and what is missing."""
    inputs = ask(name, (QUESTION, [show()]))
    del inputs[lost]
    with pytest.raises(ValueError, match=message):
        AdaFV(keep=0.5)(tiny(name).model, inputs)


def test_pictures_of_another_processor():
    """A size that the tower rejects, and images that were flattened for another family."""
    for pixels in (torch.zeros(1, 3, 20, 20), torch.zeros(36, 48)):
        inputs = ask("llava", (QUESTION, [show()])) | {"pixel_values": pixels}
        with pytest.raises(ValueError, match=r"'llava' model refuses the images .*own processor"):
            AdaFV(keep=0.5)(tiny("llava").model, inputs)


def test_placeholders_of_another_processor():
    """More of them than the image has tokens."""
    inputs = ask("qwen2_vl", (QUESTION, [show(48, 48)]))
    larger = ask("qwen2_vl", (QUESTION, [show(80, 48)]))
    with pytest.raises(ValueError, match=r"placeholders.*'qwen2_vl'"):
        AdaFV(keep=0.5)(
            tiny("qwen2_vl").model,
            larger | {k: inputs[k] for k in ("pixel_values", "image_grid_thw")},
        )


@pytest.mark.proves("m-rope")
@torch.no_grad()
def test_rows_and_columns_stay_where_they_were(name):
    """M-RoPE: what is kept has the (t, h, w) of the whole prompt, and a cache is read on from the
    right place.
    """
    model = tiny(name).model
    if not hasattr(base_of(model), "get_rope_index"):
        pytest.skip("its tokens are numbered one after another")
    inputs = ask(name, (QUESTION, [show(80, 48)]), (OTHER, [show(48, 48, seed=1)]))
    number, pruner = base_of(model).get_rope_index, AdaFV(keep=0.3)
    full = number(
        **{name: x for name, x in inputs.items() if name in signature(number).parameters}
    )[0]
    encoding = pruner.encode(model, inputs)
    short = pruner.prune(model, inputs, encoding)
    selected = pruner.select(encoding.tokens, [pruner.budget(n) for n in encoding.tokens.counts])
    stay = encoding.prompt.mask & ~encoding.prompt.placeholder
    for span, patch_indices, kept in zip(
        encoding.spans, encoding.patch_indices, selected.kept, strict=True
    ):
        stay[span.row, span.positions[patch_indices[kept]]] = True
    for row, there in enumerate(short["attention_mask"].bool()):
        assert torch.equal(short["position_ids"][-3:, row, there], full[-3:, row, stay[row]])
    alone = ask(name, (QUESTION, [show(80, 48)]))
    first = model(**pruner(model, alone), use_cache=True)
    token = first.logits[:, -1:].argmax(-1)
    second = model(input_ids=token, past_key_values=first.past_key_values).logits[0, -1].argmax()
    assert generated(name, pruner(model, alone), max_new_tokens=2) == [[int(token), int(second)]]


def words_of(name: str, pruner, prompt: str, pictures: list) -> list[list[str]]:
    """The words that a pruner takes each image of a prompt to be asked about."""
    found = tiny(name)
    inputs = dict(found.processor(text=[prompt], images=[pictures], return_tensors="pt"))
    tokens = pruner.encode(found.model, inputs).tokens
    table = found.model.get_input_embeddings().weight
    ids = [(table == row).all(1).nonzero()[0, 0] for row in tokens.text[tokens.text_mask]]
    lengths = tokens.text_mask.sum(1).tolist()
    return [
        found.processor.tokenizer.convert_ids_to_tokens(part)
        for part in torch.stack(ids).split(lengths)
    ]


@pytest.mark.parametrize("name", ["llava", "internvl", "idefics3"])
def test_the_question_of_a_picture_is_the_users_words_of_its_turn(name):
    """All text where nothing tells the chat template; `query`, as text or as ids, replaces it for
    every image.
    """
    found, pictures = tiny(name), [show(48, 48), show(48, 48, seed=1)]
    first, second = "is there a red knight ?", "how many anchor ?"
    prompt = (
        f"USER : {found.marker} {first} ASSISTANT : a USER : {second} {found.marker} ASSISTANT :"
    )
    spoken = {*WORDS} - {"\n"}  # not what stands between the tiles of an image
    for words in words_of(name, AdaFV(keep=0.3), prompt, pictures):
        assert [w for w in words if w in spoken] == prompt.replace(found.marker, "").split()
    processor = copy(found.processor)
    processor.chat_template = CHAT.replace("MARKER", found.marker)
    for of, said in (("turn", [first, second]), ("chat", [f"{first} {second}", second])):
        found_words = words_of(
            name, AdaFV(keep=0.3, tokenizer=processor, question=of), prompt, pictures
        )
        assert [" ".join(w for w in words if w in spoken) for words in found_words] == said
    for query in (
        "left of",
        found.processor.tokenizer("left of", return_tensors="pt")["input_ids"][0],
    ):
        pruner = AdaFV(keep=0.3, query=query, tokenizer=found.processor)
        assert words_of(name, pruner, prompt, pictures) == [["left", "of"]] * 2
    with pytest.raises(ValueError, match="tokenizer="):
        AdaFV(keep=0.3, query="left of")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "aya_vision",
            "gemma3",
            "glm4v",
            "idefics3",
            "internvl",
            "janus",
            "llava_onevision",
            "deepseek_vl",
        ),
        *("paligemma", "qwen2_5_vl", "qwen2_vl", "qwen3_vl"),
    ],
)
def test_ask_a_saved_checkpoint(name, tmp_path, capsys):
    """`adafv ask --model FOLDER`: weights, configuration and the family's own processor from a
    folder.
    """
    found, processor = tiny(name), copy(tiny(name).processor)
    processor.chat_template = CHAT.replace("MARKER", found.marker)
    found.model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    show(80, 48).save(tmp_path / "picture.png")
    model, loaded = load(tmp_path / "model")
    inputs = build_inputs(loaded, show(80, 48), QUESTION)
    whole = answer_question(model, loaded, show(80, 48), QUESTION, AdaFV(keep=1.0), 4)
    plain = model.generate(**inputs, do_sample=False, max_new_tokens=4)[
        0, inputs["input_ids"].shape[1] :
    ]
    assert whole.answer == loaded.decode(plain, skip_special_tokens=True).strip()
    few = answer_question(model, loaded, show(80, 48), QUESTION, AdaFV(keep=0.3), 4)
    assert few.kept_tokens < few.visual_tokens == whole.kept_tokens
    capsys.readouterr()
    options = ["--model", str(tmp_path / "model"), "--keep", "0.3", "--json"]
    assert main(["ask", str(tmp_path / "picture.png"), QUESTION, *options]) == 0
    assert json.loads(capsys.readouterr().out)["kept_tokens"] == few.kept_tokens


def test_a_processor_that_needs_what_is_not_installed(tmp_path):
    """One sentence that says what; not a traceback.

    (Mistral's processor is written for torchvision.)
    """
    if is_torchvision_available():
        pytest.skip("torchvision is installed")
    tiny("mistral3").model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be loaded \(.*[Tt]orchvision"):
        load(tmp_path)


def test_every_family_that_takes_encoded_images_is_proven_or_has_a_reason():
    """A new one in transformers shows up here."""
    home = Path(transformers.__file__).parent / "models"
    takes = {
        f.parent.name for f in home.glob("*/modeling_*.py") if "mm_encoder_outputs" in f.read_text()
    }
    known = {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    takes |= {name.replace("_", "-") for name in takes}
    # folders have other names than some models
    for config, cls in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.items():
        if "mm_encoder_outputs" in signature(cls.forward).parameters:
            takes.add(config.model_type)
    # in that list of transformers, though nothing of it takes an image
    takes.add("mistral4")
    assert takes & known == {*FAMILIES, *IMPOSSIBLE, *UNPROVEN} & known
    assert len(record()["families"]) == len(FAMILIES) == len(ZOO)


@pytest.mark.parametrize("kind", ["blip-2", "florence2", "instructblip", "mistral4"])
def test_a_family_that_cannot_be_pruned_says_why(kind):
    with pytest.raises(
        ValueError, match=rf"{kind}.*cannot be pruned: .*Load a vision-language model of one of"
    ):
        family_of(CONFIG_MAPPING[kind]())


def test_families_prints_the_record(capsys):
    """From what the tests proved, not from a list."""
    assert main(["families", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["families"].keys() == ZOO.keys()
    assert printed["families"]["llava"]["passed"]["methods"] == 1
    assert main(["families"]) == 0
    assert f"{len(ZOO)} families" in capsys.readouterr().out


def test_a_picture_that_cannot_be_drawn_on():
    """Tiles whose place in the image nobody knows: what is kept is listed, and nothing drawn."""
    found = tiny("internvl")
    what = explanation(found.model, found.processor, show(), QUESTION, AdaFV(keep=0.3))
    said = " ".join(text.get_text().replace("\n", " ") for text in what.figure().texts)
    assert "where they lie is not known" in said
