"""One matrix: identity, budget and batch (invariants 1 to 3), for every family and every method.

In the whole model every family is tried with AdaFV, and every method on two families, with prompts
of no picture, one and two. `test_every_method` tries each method on each family, up to what the
language model reads.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from conftest import BEFORE, inputs_for
from zoo.base import ALONG
from zoo.families import ZOO, ask, generated, logits, show, tiny

from adafv import METHODS, method
from adafv.core.encode import encode
from adafv.core.inputs import placeholders
from adafv.core.pruner import Pruner

MIXED = ("llava", "llava_next")
PRUNING = [name for name in BEFORE if name != "none"]
EXACT = [name for name in PRUNING if METHODS[name].exact]

QUESTION = "what color is the anchor ?"
OTHER = "is there a red knight left of the anchor ?"


def cells(methods: Iterable[str], *sides: str) -> pytest.MarkDecorator:
    """Parametrize a test: every family with AdaFV, and the mixed ones with each of the methods.

    Only batches of mixed prompts are padded on the right, too.
    """
    found: dict[tuple[str, ...], Any] = {(name, "adafv", "left"): () for name in sorted(ZOO)}
    for name in MIXED:
        for side in sides:
            marks = pytest.mark.slow if side == "right" else ()
            found |= {(name, chosen, side): marks for chosen in methods}
    cells = [pytest.param(*cell, marks=marks) for cell, marks in found.items()]
    return pytest.mark.parametrize(("name", "chosen", "side"), cells)


def samples(name: str) -> list[tuple[str, list]]:
    """Return prompts of different lengths, with pictures of different shapes."""
    if name in MIXED:
        return [
            ("what color is the knight ?", [show(48, 48)]),
            ("how many ?", []),
            ("compare the red and the blue", [show(24, 48, seed=1), show(50, 24, seed=2)]),
            (OTHER, [show(33, 48, seed=3)]),
        ]
    width = 80 if name == "emu3" else 48  # whose encoder looks at the padding of smaller pictures
    return [(QUESTION, [show(80, 48)]), (OTHER, [show(width, 48, seed=1)])]


def batch(name: str, side: str, *prompts: tuple[str, list]) -> dict[str, Any]:
    """Return inputs of prompts, padded on one side."""
    if name not in MIXED:
        return ask(name, *prompts)
    texts = []
    for question, pictures in prompts:
        texts.append(f"USER : {'<image> ' * len(pictures)}{question} ASSISTANT :")
    flat = [pictures for _, pictures in prompts]
    return inputs_for(tiny(name).processor, *zip(texts, flat, strict=True), side=side)


@cache
def plain(name: str, side: str) -> tuple[torch.Tensor, list[list[int]]]:
    """Return the model's own logits and answers."""
    inputs = batch(name, side, *samples(name))
    return logits(name, inputs), generated(name, inputs)


@pytest.mark.proves("identity")
@cells(METHODS, "left", "right")
def test_keeping_everything_is_the_identity(name, chosen, side):
    """keep=1.0 changes no tensor, no logit and no generated token, bit for bit."""
    inputs = batch(name, side, *samples(name))
    expected, answers = plain(name, side)
    for positions in ("packed", "original"):
        whole = method(chosen, keep=1.0, positions=positions)(tiny(name).model, inputs)
        for key in ("input_ids", "attention_mask"):
            assert torch.equal(whole[key], inputs[key])
        assert torch.equal(logits(name, whole), expected)
    if side == "left":
        whole = method(chosen, keep=1.0)(tiny(name).model, inputs)
        assert generated(name, whole) == answers


@pytest.mark.proves("budget")
@pytest.mark.parametrize(
    "option", [{"keep": 0.05}, {"keep": 0.4}, {"tokens": 7}, {"tokens": 10_000}]
)
@cells(EXACT, "left")
def test_each_picture_keeps_its_budget_and_the_text_stays(name, chosen, side, option):
    """min(K, N) tokens of every picture, unique and in order, and no structural token among them
    unless everything stays; not a word is lost or moved.
    """
    inputs = batch(name, side, *samples(name))
    model, pruner = tiny(name).model, method(chosen, **option)
    encoding = pruner.encode(model, inputs)
    counts = encoding.tokens.counts
    budget = [pruner.budget(count) for count in counts]
    kept = pruner.select(encoding.tokens, budget).kept
    for k, n, indices in zip(budget, counts, kept, strict=True):
        assert k == min(n, option.get("tokens", max(1, int(option.get("keep", 0) * n + 0.5))))
        assert len(indices) == k
        assert (indices.diff() > 0).all()
        assert indices[0] >= 0
        assert indices[-1] < n

    short = pruner.prune(model, inputs, encoding)
    image = placeholders(model.config)["image"]
    placed = 0
    for row, mask in enumerate(short["attention_mask"].bool()):
        ids = short["input_ids"][row, mask]
        before = inputs["input_ids"][row, inputs["attention_mask"][row].bool()]
        assert ids[ids != image].tolist() == before[before != image].tolist()
        if name in MIXED:
            assert runs(ids, image) == runs(before, image)
        placed += int((ids == image).sum())
    whole = int((inputs["input_ids"] == image).sum())
    assert placed == (whole if budget == list(counts) else sum(budget))


def runs(ids: torch.Tensor, image: int) -> list[int]:
    """Return a prompt's ids with the placeholders of a picture as one."""
    shown = ids.tolist()
    before = [None, *shown[:-1]]
    return [i for i, last in zip(shown, before, strict=True) if i != image or last != image]


def answered(
    name: str, pruner: Pruner, inputs: dict[str, Any]
) -> tuple[dict[str, Any], torch.Tensor, list[list[int]]]:
    """Return pruned inputs, their logits and their answers.

    Logits come without a cache, with which MiniMax-M3's differ where prompts are padded.
    """
    answers = generated(name, pruner(tiny(name).model, inputs))
    short = pruner(tiny(name).model, inputs)
    return short, logits(name, short), answers


@pytest.mark.proves("batch")
@cells(PRUNING, "left", "right")
def test_a_batch_is_its_prompts(name, chosen, side):
    """Prompts read together give what each gives alone, whatever the padding and the number of
    pictures.
    """
    model, pruner = tiny(name).model, method(chosen, keep=0.3)
    together = batch(name, side, *samples(name))
    tokens = pruner.encode(model, together).tokens
    short, scores, answers = answered(name, pruner, together)
    image = 0
    for row, sample in enumerate(samples(name)):
        alone = batch(name, side, sample)
        own_short, own_scores, own_answers = answered(name, pruner, alone)
        real = short["attention_mask"][row].bool()
        assert torch.equal(short["input_ids"][row, real], own_short["input_ids"][0])
        torch.testing.assert_close(scores[row, real], own_scores[0], rtol=1e-3, atol=1e-3)
        if side == "left":
            assert answers[row] == own_answers[0]
        if not sample[1]:
            continue

        own = pruner.encode(model, alone).tokens
        for i, count in enumerate(own.counts):
            assert tokens.counts[image] == count
            for signal, found in own.signals.items():
                torch.testing.assert_close(
                    tokens.signals[signal][image, :count], found[i, :count], rtol=1e-3, atol=1e-6
                )
            image += 1


@pytest.mark.proves("methods")
@pytest.mark.parametrize("name", sorted(ZOO))
@torch.no_grad()
def test_every_method(name):
    """The invariants of DESIGN 1 to 4 and 8, for every method: it knows nothing of models, and
    models nothing of it.

    Budgets are exact, what is kept is in order and no text is lost; keep=1 gives back the inputs; a
    batch keeps what its prompts keep alone; all that runs along the sequence shrinks together; an
    answer changes nothing.
    """
    model = tiny(name).model
    width = 80 if name == "emu3" else 48  # whose encoder looks at the padding of smaller images
    samples = [(QUESTION, [show(80, 48)]), (OTHER, [show(width, 48, seed=1)])]
    signals = frozenset().union(*(METHODS[chosen](keep=1.0).signals for chosen in BEFORE))
    inputs = ask(name, *samples)
    together = encode(model, inputs, signals=signals)
    alone = [encode(model, ask(name, sample), signals=signals) for sample in samples]
    labelled = labelled_with(name, inputs, "red and blue")
    with_answer = encode(model, labelled, signals=signals)
    image = placeholders(model.config)["image"]

    for chosen in BEFORE:
        pruner = method(chosen, keep=1 if chosen == "none" else 0.3)
        budget = [pruner.budget(count) for count in together.tokens.counts]
        selection = pruner.select(together.tokens, budget)
        if METHODS[chosen].exact and chosen != "adafv_released":
            assert [len(kept) for kept in selection.kept] == budget, chosen
        for i, kept in enumerate(selection.kept):
            assert len(kept) <= budget[i], chosen
            if chosen != "adafv_released":  # feeds some twice, as its authors' code does
                assert kept.tolist() == sorted(set(kept.tolist())), chosen
            (same,) = pruner.select(alone[i].tokens, [budget[i]]).kept
            assert kept.tolist() == same.tolist(), f"{chosen}: a batch keeps other tokens"
        later = pruner.select(with_answer.tokens, budget).kept
        assert all(map(torch.equal, selection.kept, later)), (
            f"{chosen}: an answer changes what is kept"
        )

        whole = method(chosen, keep=1.0).prune(model, inputs, together)
        assert all(torch.equal(whole[key], x) for key, x in inputs.items() if key in ALONG), chosen
        if selection.features is not None and not together.merges:
            with pytest.raises(ValueError, match="merges tokens"):
                pruner.prune(model, inputs, together)
            continue
        short = pruner.prune(model, labelled, with_answer)
        lengths = {
            x.shape[-1] for key, x in short.items() if key in (*ALONG, "labels", "position_ids")
        }
        assert lengths == {short["input_ids"].shape[1]}, chosen
        for row, mask in enumerate(short["attention_mask"].bool()):
            ids = short["input_ids"][row, mask]
            before = labelled["input_ids"][row, labelled["attention_mask"][row].bool()]
            assert ids[ids != image].tolist() == before[before != image].tolist(), chosen
        if chosen in ("adafv+", "tome", "visionzip"):
            assert torch.isfinite(logits(name, pruner.prune(model, inputs, together))).all(), chosen


def labelled_with(name: str, inputs: dict, answer: str) -> dict:
    """Prompts with an answer behind them, which labels point at."""
    words = tiny(name).processor.tokenizer(answer, return_tensors="pt", add_special_tokens=False)[
        "input_ids"
    ]
    words = words.expand(len(inputs["input_ids"]), -1)
    longer = {
        key: torch.nn.functional.pad(x, (0, words.shape[1]))
        for key, x in inputs.items()
        if key in ALONG
    }
    longer["input_ids"] = torch.cat([inputs["input_ids"], words], dim=1)
    longer["attention_mask"][:, -words.shape[1] :] = 1
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), words], dim=1)
    return inputs | longer | {"labels": labels}
