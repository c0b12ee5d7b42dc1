"""The model that ships with the package: loads by the ordinary classes, fits, and its training
resumes exactly.
"""

import shutil

import easy_vqa
import numpy as np
import pytest
import torch

from adafv.data.scenes import draw
from adafv.embedded import MODEL_DIR
from training.embedded import data as training_data
from training.embedded import recipe
from training.embedded.recipe import CROP, build_model, build_processor, vocabulary

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    return AutoModelForImageTextToText.from_pretrained(MODEL_DIR), AutoProcessor.from_pretrained(
        MODEL_DIR
    )


def test_files_are_small_and_bf16(loaded):
    assert sum(f.stat().st_size for f in MODEL_DIR.rglob("*") if f.is_file()) <= 20e6
    from transformers import AutoConfig

    assert AutoConfig.from_pretrained(MODEL_DIR).dtype == torch.bfloat16


def test_a_square_picture_is_many_tokens(loaded):
    model, processor = loaded
    inputs = processor(
        images=draw(0, split="test").image,
        text="USER: <image>\nhi? ASSISTANT:",
        return_tensors="pt",
    )
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 744
    assert inputs["pixel_values"].shape == (1, 5, 3, CROP, CROP)


@pytest.mark.parametrize("size", [(64, 64), (192, 96), (96, 288), (300, 200)])
def test_answers_one_word_whatever_the_shape(loaded, size):
    model, processor = loaded
    from PIL import Image

    chat = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "what color is the sun?"}],
        }
    ]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == "<s>USER: <image>\nwhat color is the sun? ASSISTANT:"
    inputs = processor(
        images=Image.new("RGB", size, "teal"),
        text=text,
        add_special_tokens=False,
        return_tensors="pt",
    )
    out = model.generate(**inputs.to(model.dtype), max_new_tokens=3, do_sample=False)
    new = out[0, inputs["input_ids"].shape[1] :]
    assert new[-1] == processor.tokenizer.eos_token_id
    assert len(processor.decode(new, skip_special_tokens=True).split()) == 1


def test_shipped_tokenizer_is_the_recipes(loaded):
    tokenizer, built = loaded[1].tokenizer, build_processor().tokenizer
    assert (
        tokenizer.get_vocab()
        == built.get_vocab()
        == {word: i for i, word in enumerate(vocabulary())}
    )
    text = "Are the Snowflake and the plane the same color?"
    assert tokenizer(text).input_ids == built(text).input_ids
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == (
        "are the snowflake and the plane the same color ?"
    )
    assert tokenizer.unk_token_id not in tokenizer(text).input_ids


def test_training_sees_what_the_processor_gives():
    """Crops of training and of the real processor are the same pixels, for scenes and for
    easy-vqa.
    """
    from easy_vqa import get_train_image_paths
    from PIL import Image

    processor, scenes = build_processor(), training_data.render(0, 2, workers=1)
    ours = np.concatenate([scenes.thumb[:1], training_data.crops_of(scenes.full)[0]])
    square = Image.open(get_train_image_paths()[0]).convert("RGB")
    big = np.asarray(square.resize((CROP, CROP), Image.Resampling.BICUBIC))
    for picture, crops in (
        (Image.fromarray(scenes.full[0]), ours),
        (square, training_data._easy_crops(big, 0)),
    ):
        theirs = processor(images=picture, text="<image>", return_tensors="np")["pixel_values"][0]
        assert np.abs(theirs - (crops.transpose(0, 3, 1, 2) / 127.5 - 1)).max() < 1e-3


def test_stage_2_reads_tokens_in_the_models_order():
    from training.embedded.stage2 import packing

    model = build_model()
    cells = torch.arange(5 * 144, dtype=torch.float)[:, None].reshape(5, 144, 1)
    packed = model.model.pack_image_features(
        [cells], torch.tensor([[192, 192]]), "default", image_newline=torch.tensor([-1.0])
    )[0][0]
    assert packed[:, 0].long().tolist() == packing().tolist()
    packed = model.model.pack_image_features(
        [cells[:3]], torch.tensor([[64, 64]]), "default", image_newline=torch.tensor([-1.0])
    )[0][0]
    assert packed[:, 0].long().tolist() == packing(12, 12, 6).tolist()


@pytest.fixture
def small(monkeypatch):
    """A shallow model, and few of the images that training looks at besides its own."""
    monkeypatch.setattr(recipe, "VISION_LAYERS", 3)
    monkeypatch.setattr(recipe, "TEXT_LAYERS", 4)
    render, asked = training_data.render, easy_vqa.get_train_questions()
    monkeypatch.setattr(
        training_data,
        "render",
        lambda first, count, workers: render(first, min(count, 4), workers),
    )
    few = [row for row in zip(*asked, strict=True) if row[2] < 12]
    monkeypatch.setattr(easy_vqa, "get_train_questions", lambda: list(zip(*few, strict=True)))


@pytest.mark.parametrize("stage", ["1", "2"])
def test_training_resumes_to_the_identical_state(tmp_path, stage, small):
    from training.embedded.train import main

    common = ["--scenes", "4", "--scenes2", "4", "--batch1", "3", "--batch2", "3"]
    common += ["--workers", "1", "--every", "100", "--steps1", "2", "--steps2", "2"]
    if stage == "2":
        main(["--out", str(tmp_path), "--stage", "1", *common])
    states = []
    for name, stops in (("straight", [2]), ("resumed", [1, 2])):
        out = tmp_path / name
        out.mkdir()
        if stage == "2":
            shutil.copy(tmp_path / "stage1.pt", out)
        for stop in stops:
            main(["--out", str(out), "--stage", stage, *common, "--until", str(stop)])
        states.append(torch.load(out / f"stage{stage}.pt", weights_only=True))
    assert states[0]["step"] == states[1]["step"] == 2
    assert all(torch.equal(a, states[1]["module"][k]) for k, a in states[0]["module"].items())


SHORT = [*("--scenes", "4", "--scenes2", "4", "--batch1", "3", "--batch2", "3", "--workers", "1")]
SHORT += ["--every", "100", "--steps1", "2", "--steps2", "1"]


def test_nothing_is_built_on_a_stage_that_was_stopped(tmp_path, small, capsys):
    """Neither in the call that stopped it, nor by a stage that is asked for by name."""
    from training.embedded.train import main

    out = ["--out", str(tmp_path), *SHORT]
    main([*out, "--until", "1"])
    assert "stage 1 stopped at step 1 of 2" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["stage1.pt"]
    with pytest.raises(ValueError, match="is of step 1 of 2: train stage 1 to its end"):
        main([*out, "--stage", "2"])
    main(out)
    assert torch.load(tmp_path / "stage1.pt")["step"] == 2
    assert (tmp_path / "model").is_dir()


def test_a_checkpoint_is_gone_on_from_with_its_own_settings(tmp_path, small):
    from training.embedded.train import main

    out = ["--out", str(tmp_path), *SHORT, "--stage", "1"]
    main([*out, "--until", "1"])
    with pytest.raises(ValueError, match=r"began with seed=0 \(now 1\)"):
        main([*out, "--seed", "1"])
    with pytest.raises(ValueError, match=r"began with steps1=2 \(now 5\)"):
        main([*out, "--steps1", "5"])


def test_stage_2_computes_what_the_shipped_model_computes():
    """Several questions after one shared picture: the logits of the plain model asked one question
    at a time.
    """
    from training.embedded import stage1 as tower
    from training.embedded import stage2 as lm
    from training.embedded.train import restore_attention

    model, processor = build_model().eval(), build_processor()
    scenes = training_data.render(0, 2, workers=1)
    stage = lm.Stage2(model, tower.Stage1(model))
    first = tower.Stage1(model)
    bank = lm.encode(first, *lm.scene_crops(scenes, slice(None)), lm.packing(), "cpu")
    questions = lm.scene_questions(scenes, 0, 2)
    asked = [
        lm.encode_questions(q, things) for q, things in zip(questions, scenes.things, strict=True)
    ]
    batch = lm.make_batch(bank, asked, np.arange(2), np.random.default_rng(0), None, 3, None, "cpu")
    with torch.no_grad():
        hidden = stage(batch.image, batch.newline, batch.ids, batch.mask, batch.positions)[-1]
        assert stage.loss(batch)[0].isfinite()
    ours = stage.head(hidden)[1, batch.last[1, 2]]
    text = processor.tokenizer.decode(batch.ids[1, 2 * lm.LENGTH : batch.last[1, 2] + 1])
    restore_attention(model)
    from PIL import Image

    inputs = processor(
        images=Image.fromarray(scenes.full[1]), text=f"USER: <image>\n{text}", return_tensors="pt"
    )
    with torch.no_grad():
        theirs = model(**inputs).logits[0, -1]
    assert (ours - theirs).abs().max() < 0.05 * theirs.abs().max()  # bf16 features


def test_a_grown_language_model_begins_as_the_shallower_one():
    """Layers that are added change nothing until they are trained."""
    from training.embedded import stage1 as tower
    from training.embedded import stage2 as lm

    model, deep = build_model(seed=1), build_model(seed=2)
    shallow, stage = (lm.Stage2(m, tower.Stage1(m)) for m in (model, deep))
    stage.grow({k: v for k, v in shallow.state_dict().items() if not k.startswith("lm.layers.5.")})
    shallow.lm.layers = shallow.lm.layers[:5]
    prompt = dict(
        image=torch.randn(1, 4, 192),
        newline=torch.zeros(1, 4, dtype=torch.bool),
        ids=torch.arange(3)[None],
        mask=torch.zeros(1, 1, 10, 10),
        positions=torch.arange(10)[None],
    )
    with torch.no_grad():
        assert torch.equal(stage(**prompt)[-1], shallow(**prompt)[-1])


def test_an_answer_without_a_word_decodes(loaded):
    """A model that ends at once says nothing, and that is no error."""
    tokenizer = loaded[1].tokenizer
    assert tokenizer.decode([tokenizer.eos_token_id], skip_special_tokens=True) == ""
