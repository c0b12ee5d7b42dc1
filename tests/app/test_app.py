"""The playground without a browser: what its callbacks answer and refuse, what is computed once,
who sees what.
"""

import itertools
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl
from urllib.request import urlopen

import pytest
import torch
from conftest import INSIDE, picture, tiny_model, tiny_processor
from PIL import Image

from adafv import METHODS, method
from adafv.app import cards, curve, exports
from adafv.app import playground as playgrounds
from adafv.app.page import NOTHING, Choices, Page, Reply
from adafv.app.playground import Playground
from adafv.app.server import free_port
from adafv.app.view import DENSE
from adafv.cli import main
from adafv.data.cases import CASES
from adafv.data.judging import same_answer
from adafv.data.photographs import photographs
from adafv.embedded import NAME as EMBEDDED
from adafv.methods import from_spec
from adafv.models.ask import Answer, ask
from adafv.models.boilerplate import boilerplate
from adafv.models.images import FirstFrameWarning, TinyImageWarning
from adafv.viz import side_by_side
from adafv.viz.figure import SALIENCY

QUESTION = "what color is the anchor ?"
CHOICES = Choices(QUESTION, "adafv", "random", 20, "what is kept")


@pytest.fixture
def playground(model, processor) -> Playground:
    return Playground(model, processor, "tiny", max_new_tokens=3)


@pytest.fixture
def page(playground) -> Page:
    return Page(playground)


@pytest.fixture
def image(tmp_path) -> str:
    path = tmp_path / "picture.png"
    picture(60, 40).save(path)
    return str(path)


def asked(page: Page, visitor: str, path: str, choices: Choices) -> Reply:
    """An image of one's own, and then its question."""
    assert page.take_file(visitor, path).notice == ""
    return page.look(visitor, path, choices)


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """A number for every time that a vision tower runs."""
    runs: list[int] = []
    plain = playgrounds.encode
    monkeypatch.setattr(playgrounds, "encode", lambda *a, **k: runs.append(1) or plain(*a, **k))
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("name", [m for m in METHODS if m != DENSE])
def test_answers_are_those_of_ask(playground, model, processor, image, name):
    """Reusing an encoding changes no answer and no count, for any method; the dense answer stands
    beside it.
    """
    keep = 0.6 if name in INSIDE else 0.2
    dense, result = playground.look("a", image, QUESTION, [name], keep).results
    for found, pruner in ((dense, method(DENSE)), (result, method(name, keep=keep))):
        expected = ask(model, processor, picture(60, 40), QUESTION, pruner, max_new_tokens=3)
        assert found.answer is not None
        assert found.answer.answer == expected.answer
        assert found.answer.kept_tokens == expected.kept_tokens
        assert found.answer.visual_tokens == expected.visual_tokens
    assert result.explanation is not None
    assert not result.note
    assert bool(result.explanation.stages) == (name in INSIDE)


def test_the_picture_is_encoded_once(playground, image, encoded):
    """Whatever is asked, with whichever budget; once more where a method looks at something not
    read yet.
    """
    for question in (QUESTION, "how many ?", QUESTION):
        for keep in (1.0, 0.1, 0.01):
            playground.look("a", image, question, ["adafv", "random"], keep)
    assert len(encoded) == 1
    playground.look("a", image, QUESTION, ["visionzip"], 0.1)
    playground.look("a", image, QUESTION, ["visionzip", "adafv"], 0.2)
    assert len(encoded) == 2
    playground.look("b", image, QUESTION, ["adafv"], 0.1)
    assert len(encoded) == 3


def test_the_tower_runs_once_for_the_same_pixels(playground, model, image, tmp_path):
    """Whoever shows them, under whatever name; the time that is shown is that of a tower that
    runs.
    """
    copied = tmp_path / "copy.png"
    picture(60, 40).save(copied)
    other = tmp_path / "other.png"
    picture(60, 40, seed=1).save(other)
    runs = []

    def slow(*_: object) -> None:
        runs.append(1)
        time.sleep(0.1)

    hook = model.model.vision_tower.register_forward_hook(slow)
    try:
        first = playground.look("a", image, QUESTION, ["adafv"], 0.2)
        second = playground.look("b", str(copied), QUESTION, ["adafv"], 0.2)
        assert len(runs) == 1
        assert (playground.cache.hits, playground.cache.misses) == (1, 1)
        playground.look("a", str(other), QUESTION, ["adafv"], 0.2)
        again = playground.look("a", image, QUESTION, ["adafv"], 0.2)
    finally:
        hook.remove()
    assert len(runs) == 2
    assert (playground.cache.hits, playground.cache.misses) == (2, 2)
    for view in (first, second, again):
        assert view.vision_ms > 100
        assert [r.answer.answer for r in view.results] == [r.answer.answer for r in first.results]


def test_an_answer_is_computed_once(playground, image, monkeypatch):
    """So that another map over the image costs nothing, and its time stays the time it took."""
    first = playground.look("a", image, QUESTION, ["adafv"], 0.2)
    monkeypatch.setattr(playgrounds, "ask_encoded", lambda *_: pytest.fail("asked again"))
    assert playground.look("a", image, QUESTION, ["adafv"], 0.2).results == first.results


def test_a_failure_is_tried_again(playground, image, monkeypatch):
    """Memory that another process held is there the next time."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    playground.look("a", image, QUESTION, ["random"], 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(playgrounds, "ask_encoded", full)
        failed = playground.look("a", image, QUESTION, ["adafv"], 0.2).results[1]
    assert failed.answer is None
    assert "memory" in failed.note
    assert playground.look("a", image, QUESTION, ["adafv"], 0.2).results[1].answer is not None


def test_without_the_dense_answer(page, image, monkeypatch):
    """No other answer is shown in its place; it is asked again the next time."""
    playground = page.playground
    plain = playgrounds.ask_encoded

    def too_long(model, processor, inputs, encoding, pruner, longest):
        if pruner.name == DENSE:
            raise ValueError("the prompt is too long")
        return plain(model, processor, inputs, encoding, pruner, longest)

    def draw(whats):
        drawn.append(whats)
        return side_by_side(whats)

    drawn: list = []
    monkeypatch.setattr(exports, "side_by_side", draw)
    with monkeypatch.context() as patch:
        patch.setattr(playgrounds, "ask_encoded", too_long)
        view = playground.look("a", image, QUESTION, ["adafv", "random"], 0.2)
        dense, first, second = view.results
        assert dense.answer is None
        assert first.explanation.dense is second.explanation.dense is None
        assert page.export("a", image, CHOICES, "png")[0] == ""
    [shown] = drawn
    assert [what.method for what in shown] == ["adafv", "random"]
    written = " ".join(text.get_text() for text in first.explanation.figure().texts)
    assert "every visual token" not in written
    assert first.answer.answer in written
    dense, first, _ = playground.look("a", image, QUESTION, ["adafv", "random"], 0.2).results
    assert first.explanation.dense == dense.answer


def test_a_method_that_shrinks_images_is_refused(playground, image):
    """The page encodes an image once, whole."""
    found = playground.look("a", image, QUESTION, ["resize"], 0.2).results[1]
    assert found.answer is None
    assert "shrinks the whole image" in found.note


def test_what_another_question_changes(playground, image):
    """How many tokens were not kept for the question before, also at a budget that it never had."""
    first = playground.look("a", image, QUESTION, ["adafv"], 0.2)
    assert first.before is None
    assert first.results[1].others is None
    playground.look("a", image, "how many ?", ["adafv"], 0.2)
    again = playground.look("a", image, "how many ?", ["adafv", "fastervlm", "fastv"], 0.1)
    dense, adafv, fastervlm, fastv = again.results
    assert again.before == QUESTION
    assert dense.others == fastervlm.others == 0
    assert fastv.others is None  # it chooses when the model reads
    before = playground.look("b", image, QUESTION, ["adafv"], 0.1).results[1].explanation
    assert adafv.explanation is not None
    assert before is not None
    assert adafv.others == len(set(adafv.explanation.kept.tolist()) - set(before.kept.tolist()))


def test_visitors_do_not_mix(page, image, tmp_path):
    """Each has an image and questions of their own."""
    other = tmp_path / "other.png"
    picture(40, 60, seed=1).save(other)
    mine = asked(page, "a", image, CHOICES)
    asked(page, "b", str(other), CHOICES._replace(question="how many ?"))
    again = page.look("a", image, CHOICES)
    assert again.cards == mine.cards
    assert page.playground.sessions["a"].image.size == (60, 40)
    assert page.playground.sessions["b"].image.size == (40, 60)


def test_whoever_leaves_is_forgotten(playground, image):
    """And whoever comes back finds everything made again."""
    first = playground.look("a", image, QUESTION, ["adafv"], 0.2)
    playground.forget("a")
    playground.forget("nobody")
    assert not playground.sessions
    again = playground.look("a", image, QUESTION, ["adafv"], 0.2)
    assert [r.answer.answer for r in again.results] == [r.answer.answer for r in first.results]


def test_memory_is_bounded(playground, image, monkeypatch):
    """Visitors, questions and answers, the oldest first."""
    monkeypatch.setattr(playgrounds, "VISITORS", 2)
    monkeypatch.setattr(playgrounds, "RESULTS", 5)
    for visitor in "abac":
        playground.look(visitor, image, QUESTION, ["random"], 0.1)
    assert list(playground.sessions) == ["a", "c"]
    for number in range(1, 9):
        playground.look("a", image, f"how many {'?' * number}", ["random"], number / 10)
    mine = playground.sessions["a"]
    assert len(mine.questions) == playgrounds.QUESTIONS
    assert len(mine.results) == 5


@pytest.mark.slow
@pytest.mark.parametrize("layer", cards.LAYERS)
@pytest.mark.parametrize("second", [NOTHING, "adafv", "t2i", "fastv", "tome"])
def test_every_layer_of_every_kind_of_method(page, image, layer, second):
    """Cards for the dense model and each method, whatever is drawn over the image; twice the same
    is one.
    """
    taken = page.take_file("a", image)
    assert taken.notice == ""
    assert taken.source == image
    assert taken.suggested == []
    reply = page.look("a", image, CHOICES._replace(second=second, layer=layer, budget=60))
    drawn = reply.cards or ""
    assert drawn.count("<article") == (2 if second in (NOTHING, "adafv") else 3)
    assert ("data:image/png" in drawn) == (cards.LAYERS[layer] in ("saliency", "relevance"))
    assert "data:image/webp" in (taken.image or "")
    assert "data:image/webp" not in drawn
    blind = {
        "what stands out": ("t2i", "tome", "fastv"),
        "what the words point at": ("tome", "fastv"),
    }.get(layer, ())
    assert ("has no such score" in drawn) == (second in blind)


@pytest.mark.parametrize("budget", [1, 37, 100])
def test_kept_tokens_are_drawn_where_they_lie(page, image, budget):
    """As many frames as tokens, none where nothing was dropped, and the split that was found."""
    drawn = asked(page, "a", image, CHOICES._replace(second=NOTHING, budget=budget)).cards or ""
    answers = page.playground.sessions["a"].results
    what = answers[QUESTION, "adafv", budget / 100].explanation
    frames = re.findall(r'stroke="#\w+" stroke-width="[\d.]+" d="([^"]*)"', drawn)
    kept = len(what.kept)
    assert sum(path.count("M") for path in frames) == (0 if budget == 100 else kept)
    k_t, k_v = what.split
    assert f"{k_t} most relevant" in drawn
    assert f"{k_v} most salient" in drawn
    assert f"{kept:,} of" in drawn or f"All {kept:,} tokens" in drawn


def test_a_bundled_picture(page):
    """It comes with its first question; all its questions are proposed."""
    for number, sample in enumerate(photographs()):
        reply = page.take_bundled("a", number, CHOICES)
        expected = [question.text for question in sample.questions]
        assert reply.notice == ""
        assert reply.source == str(number)
        assert reply.question == expected[0]
        assert reply.suggested == expected
    asked = page.suggest("a", "0", CHOICES._replace(question=expected[0]))
    assert asked.question == expected[0]
    assert asked.cards
    assert asked.image is None


def test_pictures_suit_the_model(model, processor):
    """The embedded model knows drawn scenes alone: others get photographs, at once and by link."""
    drawn, real = (
        Page(Playground(model, processor, name, max_new_tokens=3)) for name in (EMBEDDED, "photo")
    )
    assert [sample.id.partition("/")[0] for sample in real.samples] == ["photographs"] * 4
    assert [sample.image for sample in drawn.samples] == [case.load()[0].image for case in CASES]
    assert real.arrive("a", {}, CHOICES.layer).question == photographs()[0].questions[0].text
    assert real.playground.sessions["a"].image is photographs()[0].image
    assert drawn.arrive("a", {"image": "5"}, CHOICES.layer).source == "5"
    assert "is none of 0 to 3" in real.arrive("a", {"image": "5"}, CHOICES.layer).notice


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"text", "is not an image"), (b"", "is empty"), (b"half", "save it again as PNG or JPEG")],
)
def test_files_that_are_no_pictures(page, image, tmp_path, content, words):
    """One sentence with the visitor's name for the file, and what was there stays."""
    page.take_file("a", image)
    before = page.playground.sessions["a"]
    bad = tmp_path / "holiday.png"
    bad.write_bytes(Path(image).read_bytes()[:4000] if content == b"half" else content)
    reply = page.take_file("a", str(bad))
    assert words in reply.notice
    assert "holiday.png" in reply.notice
    assert str(tmp_path) not in reply.notice
    assert (reply.cards, reply.image, reply.source, reply.question, reply.suggested) == (None,) * 5
    assert page.playground.sessions["a"] is before


def test_huge_pictures(page, tmp_path):
    """Refused by their header: a few kilobytes can hold gigabytes of pixels."""
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert "pixels" in page.take_file("a", str(path)).notice


@pytest.mark.parametrize("question", ["", "  ", "what <image> is", "what </s>"])
def test_bad_questions(page, image, question):
    """One sentence; the answers that are there stay."""
    asked(page, "a", image, CHOICES)
    reply = page.look("a", image, CHOICES._replace(question=question))
    assert "question" in reply.notice
    assert 'role="alert"' in reply.notice
    assert "<image>" not in reply.notice
    assert reply.cards is None


def test_a_new_picture_clears_the_question(page, image):
    """It was about the image before; asked of the new one, its answer would be nonsense."""
    page.take_bundled("a", 0, CHOICES)
    reply = page.take_file("a", image)
    assert reply.question == ""
    assert reply.suggested == []
    assert reply.source == image
    assert "Ask something" in (reply.cards or "")
    assert reply.notice == ""
    assert not page.playground.sessions["a"].results


@pytest.mark.parametrize(
    ("budget", "said"), [(0, "0 %"), (150, "150 %"), (-1, "-1 %"), (None, "Nothing")]
)
def test_numbers_that_are_no_share(page, image, budget, said):
    """Typed into the slider's field: one sentence, and what is there stays."""
    page.take_file("a", image)
    reply = page.look("a", image, CHOICES._replace(budget=budget))
    assert f"{said} is no share" in reply.notice
    assert "1 to 100" in reply.notice
    assert reply.cards is None


def test_methods_with_options(page, image):
    """As everywhere on the command line, beside the same method without; an unknown option is one
    sentence.
    """
    options = "adafv:reserve=0.5:skip=template"
    page.take_file("a", image)
    reply = page.look("a", image, CHOICES._replace(second=options))
    assert reply.notice == ""
    assert f">{options}</h3>" in (reply.cards or "")
    assert (reply.cards or "").count("<h3") == 3
    found = page.playground.sessions["a"].results[QUESTION, options, 0.2]
    pruner = from_spec(options, lambda: boilerplate(page.playground.processor), keep=0.2)
    alone = ask(
        page.playground.model,
        page.playground.processor,
        picture(60, 40),
        QUESTION,
        pruner,
        max_new_tokens=3,
    )
    assert found.answer is not None
    assert found.answer.answer == alone.answer
    for bad in ("adafv:reserve=2", "adafv:nothing=1", "adafw", "adafv:keep=0.5", ""):
        assert page.look("a", image, CHOICES._replace(second=bad)).notice, bad


def test_the_sentence_on_top_says_what_was_measured(page, image):
    """Tokens and times of this request, and whether the answer stays."""
    drawn = asked(page, "a", image, CHOICES).cards or ""
    dense, pruned, _ = page.playground.look("a", image, QUESTION, ["adafv", "random"], 0.2).results
    factor = dense.answer.kept_tokens / pruned.answer.kept_tokens
    verdict = "same answer" if dense.answer.answer == pruned.answer.answer else "another answer"
    headline = drawn.partition("</h2>")[0]
    assert f"adafv: {factor:.1f} times fewer tokens" in headline
    assert "to the first token" in headline
    assert headline.endswith(f"{verdict}.")
    assert f"{pruned.answer.prefill_ms:,.0f} ms instead of {dense.answer.prefill_ms:,.0f}" in drawn
    alone = page.look("a", image, CHOICES._replace(first=NOTHING, second=NOTHING)).cards or ""
    assert "headline" not in alone


def test_times_say_that_they_leave_the_tower_out(page, model, image):
    """On the page and in the file, whose names are not those of an answer's whole times."""
    hook = model.model.vision_tower.register_forward_hook(lambda *_: time.sleep(2))
    try:
        drawn = asked(page, "a", image, CHOICES).cards or ""
    finally:
        hook.remove()
    assert re.findall(r"<span>[\d,]+ ms ([a-z ]+)<", drawn) == ["after encoding"] * 3
    assert "from encoding to the first token" in drawn.partition("</h2>")[0]
    facts = json.loads(urlopen(page.export("a", image, CHOICES, "json")[1]).read())
    assert facts["vision_ms"] > 2000
    for row in facts["results"]:
        assert {"prefill_ms", "total_ms"}.isdisjoint(row)
        assert row["first_token_ms_after_encoding"] <= row["total_ms_after_encoding"] < 2000


def test_the_legend_names_the_colours_that_occur(page, image):
    """Salient tokens are blue whatever method keeps them."""
    page.take_file("a", image)
    drawn = page.look("a", image, CHOICES._replace(first="fastervlm", second=NOTHING)).cards or ""
    legend = drawn.partition('<ul class="legend')[2].partition("</ul>")[0]
    assert legend.count("<li>") == 1
    assert SALIENCY in legend
    assert f'stroke="{SALIENCY}"' in drawn


@pytest.mark.parametrize("first", ["adafv", "fastv", "tome", "resize"])
def test_the_legend_names_no_other_colours(page, image, first):
    """Than those of the frames: none at 100 %, on other layers, and where all refuse."""
    page.take_file("a", image)
    for budget, layer in itertools.product((1, 20, 100), cards.LAYERS):
        choices = CHOICES._replace(first=first, second=NOTHING, budget=budget, layer=layer)
        drawn = page.look("a", image, choices).cards or ""
        legend = drawn.partition('<ul class="legend')[2].partition("</ul>")[0]
        explained = re.findall(r"background:(#\w+)", legend)
        assert set(explained) == set(re.findall(r'stroke="(#\w+)"', drawn))
        assert bool(explained) == bool(legend)


def test_the_legend_of_tokens_without_a_place(page, image):
    """Where nothing is framed, no colour is explained."""
    view = page.playground.look("a", image, QUESTION, ["adafv"], 0.2)
    listed = [
        replace(result, explanation=replace(result.explanation, scales=[]))
        for result in view.results
    ]
    drawn = cards.cards(replace(view, results=listed), cards.KEPT)
    assert "where they lie is not known" in drawn
    assert "legend" not in drawn


def test_every_word_has_a_map(page, image):
    """Of the question, as it was asked; punctuation has none."""
    page.take_file("a", image)
    words = page.ask("a", image, CHOICES).words or ""
    assert re.findall(r'class="word">(\w+)<', words) == QUESTION.split()[:-1]
    assert words.count("data:image/png") == len(QUESTION.split())


def test_answers_at_other_budgets(page, image):
    """Those of `look`, held against the answer from all tokens; none for whoever has left."""
    page.take_file("a", image)
    assert page.budgets("a") == ""
    page.ask("a", image, CHOICES)
    drawn = page.budgets("a")
    dense = page.playground.look("a", image, QUESTION, [], 1.0).results[0].answer
    same = 0
    for share in playgrounds.SHARES:
        view = page.playground.look("a", image, QUESTION, ["adafv", "random"], share)
        for result in view.results[1:]:
            same += same_answer(result.answer.answer, dense.answer)
    every = 2 * len(playgrounds.SHARES)
    assert drawn.count('class="mark same"') == drawn.count("the answer of all tokens</td>") == same
    assert drawn.count('class="mark other"') == drawn.count("another answer</td>") == every - same
    assert drawn.count("<circle") == drawn.count("<td>") == every
    # what cannot be asked leaves the page as it is
    assert page.ask("a", image, CHOICES._replace(question="")).notice
    assert page.budgets("a") == drawn
    page.ask("a", image, CHOICES._replace(first=NOTHING, second=None))
    assert page.budgets("a") == ""
    page.playground.forget("a")
    assert page.budgets("a") == ""
    assert not page.playground.sessions


@pytest.mark.parametrize(
    "other",
    [{"question": "how many ?"}, {"first": "fastervlm"}, {"second": NOTHING}],
    ids=["question", "first", "second"],
)
@pytest.mark.parametrize("late", [False, True])
def test_no_curve_under_another_answer(page, image, monkeypatch, other, late):
    """Something else is asked while budgets are tried: the page keeps what it says of that, also
    where the time for them is over.
    """
    page.take_file("a", image)
    page.ask("a", image, CHOICES)
    newer = CHOICES._replace(**other)
    with monkeypatch.context() as patch:

        def ask_else() -> None:
            page.ask("a", image, newer)
            patch.setattr(playgrounds, "SECONDS", 0.0 if late else playgrounds.SECONDS)

        meanwhile(page, patch, ask_else)
        assert page.budgets("a") is None
    assert "<svg" in page.budgets("a")


@pytest.mark.parametrize("kind", ["file", "bundled"])
def test_no_curve_under_another_image(page, image, monkeypatch, kind):
    page.take_bundled("a", 0, CHOICES)

    def take() -> None:
        if kind == "file":
            page.take_file("a", image)
        else:
            page.take_bundled("a", 1, CHOICES)

    meanwhile(page, monkeypatch, take)
    assert page.budgets("a") is None


def meanwhile(page: Page, patch: pytest.MonkeyPatch, call: Callable[[], object]) -> None:
    """Let a visitor do something after the second budget that is tried."""
    plain = page.playground.look
    tried = []

    def look(*given):
        view = plain(*given)
        tried.append(view)
        if len(tried) == 2:
            call()
        return view

    patch.setattr(page.playground, "look", look)


def test_another_budget_or_layer_keeps_the_curve(page, image, monkeypatch):
    """They change the cards alone."""
    page.take_file("a", image)
    page.ask("a", image, CHOICES)
    drawn = page.budgets("a")
    newer = CHOICES._replace(budget=50, layer="the image alone")
    meanwhile(page, monkeypatch, lambda: page.look("a", image, newer))
    assert page.budgets("a") == drawn


def test_files_hold_what_the_page_shows(page, image):
    """A question that was written and not asked is no part of it, and is not taken for asked."""
    page.take_file("a", image)
    page.ask("a", image, CHOICES)
    for kind in ("png", "json"):
        notice, file = page.export("a", image, CHOICES._replace(question="how many ?"), kind)
        assert "ask it, then save" in notice
        assert file == ""
    assert page.playground.last_question("a", image) == QUESTION
    assert page.export("a", image, CHOICES._replace(question=f" {QUESTION} "), "json")[0] == ""


def test_fields_that_are_older_than_the_image(page, image):
    """Whoever moves the slider while another image comes sees the question that was asked."""
    page.take_file("a", image)
    late = page.look("a", image, CHOICES)
    assert late.question == QUESTION
    assert late.words
    again = page.look("a", image, CHOICES._replace(budget=50))
    assert again.question is again.words is None


def test_a_page_whose_image_is_forgotten(page, image):
    """No other image answers in its place: one sentence, and what is there stays."""
    asked(page, "a", image, CHOICES)
    for reply in (page.look("a", "", CHOICES), page.ask("a", "", CHOICES)):
        assert "This page has slept" in reply.notice
        assert replace(reply, notice="") == Reply()
    assert "slept" in page.suggest("a", "", CHOICES).notice
    for kind in ("link", "png", "json"):
        notice, file = page.export("a", "", CHOICES, kind)
        assert "slept" in notice
        assert file == ""
    assert asked(page, "a", image, CHOICES).cards


def test_long_questions(page, image):
    """What each word resembles takes memory: bounded before it is taken."""
    page.take_file("a", image)
    reply = page.ask("a", image, CHOICES._replace(question="what " * 1000))
    assert "5,000 characters, more than 2,000" in reply.notice
    assert page.playground.last_question("a", image) is None


def test_maps_of_words_are_kept_once(playground, image):
    """Those of the question; an answer keeps what each word's share is."""
    view = playground.look("a", image, QUESTION, ["adafv"], 0.2)
    explanation = view.results[1].explanation
    assert [word.text for word in explanation.words] == QUESTION.split()
    assert all(word.attention.size == 0 for word in explanation.words)
    assert all(word.attention.size == len(view.relevance) for word in view.words)


def test_what_was_not_asked_is_no_other_answer(page, image, monkeypatch):
    """The sentence speaks of budgets that were asked, up to the largest of them."""
    page.take_file("a", image)
    page.ask("a", image, CHOICES)
    asked = page.playground.budgets
    monkeypatch.setattr(page.playground, "budgets", lambda *given: asked(*given)[:3])
    monkeypatch.setattr(curve, "same", lambda *_: True)
    drawn = page.budgets("a")
    assert (
        f"at {playgrounds.SHARES[0]:.0%} and at more, up to {playgrounds.SHARES[2]:.0%}." in drawn
    )
    monkeypatch.setattr(curve, "same", lambda *_: False)
    drawn = page.budgets("a")
    assert f"another answer than all tokens, still at {playgrounds.SHARES[2]:.0%}." in drawn


def told(text: str) -> Answer:
    """An answer that says this."""
    return Answer(text, "adafv", 10, 1, prefill_ms=1.0, total_ms=1.0)


def test_the_curve_of_an_answer():
    """Filled where all tokens answer so, hollow with the other answer under it if that is short;
    equal factors of the budget lie equally far apart.
    """
    said = ["blue", "a blue and white cup", "red", None, "Red"]
    shares = (0.01, 0.1, 0.2, 0.4, 1.0)
    answers = [told(text) if text else None for text in said]
    row = curve.Row("<adafv>", shares, answers, told("red"))
    assert (row.holds_from(), row.largest()) == (0.2, 1.0)
    drawn = curve.curve([row])
    assert re.findall(r'class="mark (\w+)"', drawn) == ["other", "other", "same", "none", "same"]
    assert re.findall(r'<circle cx="([\d.]+)%"', drawn) == ["7.0", "50.0", "62.9", "75.9", "93.0"]
    assert re.findall(r"</text></g>", drawn) == ["</text></g>"]
    assert ">blue</text></g>" in drawn
    assert 'class="holds" x1="62.9%" x2="93.0%"' in drawn
    assert "<title>&lt;adafv&gt; at 10%: a blue and white cup, another answer</title>" in drawn
    assert "at 40%: not asked, or refused</title>" in drawn
    assert "<adafv>" not in drawn
    never = curve.curve([curve.Row("adafv", shares, [None] * 5, told("red"))])
    assert "holds" not in never


@pytest.mark.parametrize("name", ["resize", "evs", "unheard-of"])
def test_methods_that_a_link_names_are_answered_or_refused_in_a_sentence(page, image, name):
    page.take_file("a", image)
    reply = page.ask("a", image, CHOICES._replace(first=name))
    assert reply.notice or name in (reply.cards or "")


def test_slow_models_are_not_asked_at_every_budget(page, image, monkeypatch):
    """Where nothing was asked, nothing is drawn."""
    monkeypatch.setattr(playgrounds, "SECONDS", 0.0)
    page.take_file("a", image)
    page.ask("a", image, CHOICES)
    assert page.budgets("a") == ""


def test_a_link_leads_to_what_is_on_the_page(page):
    """Image, question, methods, budget and layer; of one's own image there is none."""
    choices = CHOICES._replace(
        question="is there a cup & a key?", first="adafv:reserve=0.5", layer="what stands out"
    )
    notice, link = page.export("a", "3", choices, "link")
    assert notice == ""
    reply = page.arrive("b", dict(parse_qsl(link[1:])), CHOICES.layer)
    assert (reply.layer, "heat" in (reply.cards or "")) == (choices.layer, True)
    assert (reply.source, reply.question, reply.budget) == ("3", choices.question, 20)
    assert (reply.first, reply.second) == (choices.first, choices.second)
    assert reply.cards == page.look("b", "3", choices).cards
    notice, link = page.export("a", "/tmp/mine.png", choices, "link")
    assert "no link" in notice
    assert link == ""


@pytest.mark.parametrize("written", ["5", "5%", "5 %", "5.0"])
def test_a_link_may_say_percent(page, written):
    """As the field and its notices write it."""
    reply = page.arrive("a", {"budget": written}, CHOICES.layer)
    assert reply.notice == ""
    assert reply.budget == 5
    assert reply.cards == page.arrive("a", {}, CHOICES.layer).cards


def test_fields_that_were_emptied(page):
    """No method, which a link then doesn't name; no budget, to which no link leads; a number that
    no JSON holds stays one.
    """
    page.take_bundled("a", 0, CHOICES)
    said, query = page.export("a", "0", CHOICES._replace(second=None), "link")
    assert said == ""
    link = dict(parse_qsl(query[1:]))
    assert link["beside"] == NOTHING
    assert page.arrive("b", link, CHOICES.layer).notice == ""
    said, query = page.export("a", "0", CHOICES._replace(budget=None), "link")
    assert "Nothing is no share" in said
    assert query == ""
    far = page.arrive("b", link | {"budget": "1e300"}, CHOICES.layer)
    assert isinstance(far.budget, float)
    assert "no share" in far.notice


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ({"image": "99"}, "no bundled image"),
        ({"image": "/etc/passwd"}, "no bundled image"),
        ({"budget": "much"}, "&#x27;much&#x27; is no share"),
        ({"budget": "105%"}, "105 % is no share"),
        ({"budget": ""}, "&#x27;&#x27; is no share"),
        ({"layer": "saliency"}, "saliency&#x27; is unknown: choose one of what is kept"),
        ({"layer": ""}, "choose one of what is kept"),
        ({"method": "adafv:tokens=5"}, "leave tokens out, for the slider"),
        ({"beside": "adafv:keep=5%"}, "leave keep out, for the slider"),
        ({"budget": "nan"}, "no share"),
        ({"budget": "inf"}, "no share"),
        ({"method": "adafw"}, "adafw"),
        ({"question": ""}, "empty"),
    ],
)
def test_links_that_lead_nowhere(page, link, words):
    """One sentence, and an image to go on with."""
    reply = page.arrive("a", link, CHOICES.layer)
    assert words in reply.notice
    assert reply.image
    assert reply.cards
    # fields hold what they can
    assert not isinstance(reply.budget, str)
    assert reply.layer in (None, *cards.LAYERS)
    assert page.arrive("a", {}, CHOICES.layer).notice == ""


def test_files_to_keep(page, image):
    """JSON holds what the cards say, PNG is a picture of it; nothing is written to disk."""
    page.take_file("a", image)
    notice, url = page.export("a", image, CHOICES, "json")
    assert notice == ""
    facts = json.loads(urlopen(url).read())
    view = page.playground.look("a", image, QUESTION, ["adafv", "random"], 0.2)
    assert [row["answer"] for row in facts["results"]] == [r.answer.answer for r in view.results]
    assert facts["results"][1]["kept_indices"] == view.results[1].explanation.kept.tolist()
    assert image not in json.dumps(facts)
    notice, url = page.export("a", image, CHOICES, "png")
    assert notice == ""
    assert Image.open(urlopen(url)).format == "PNG"
    assert "question" in page.export("a", image, CHOICES._replace(question=""), "json")[0]


@pytest.mark.parametrize("odd", [None, 7, [], {}, "<image>"])
def test_whatever_a_program_sends_is_a_sentence(page, image, odd):
    """In any field, and for the image."""
    page.take_file("a", image)
    for field in ("question", "first", "layer", "budget"):
        choices = CHOICES._replace(**{field: odd})
        # nothing to compare, seven percent
        if (field, odd) not in (("first", None), ("budget", 7)):
            assert page.ask("a", image, choices).notice
            assert page.export("a", image, choices, "json")[0]
            assert page.budgets("a") == ""
    assert page.take_bundled("a", odd, CHOICES).notice


def test_a_cut_answer_says_so(model, processor, image):
    """Three tokens are no end of a sentence."""
    page = Page(Playground(model, processor, "tiny", max_new_tokens=3))
    assert (asked(page, "a", image, CHOICES).cards or "").count("The answer was cut") == 3


def test_words_that_the_embedded_model_does_not_know(processor, model, image):
    """One sentence that names --model; of other models nothing is said."""
    strange = CHOICES._replace(question="what color is the zebra ?")
    known, other = (
        Page(Playground(model, processor, name, max_new_tokens=3)) for name in (EMBEDDED, "tiny")
    )
    notice = asked(known, "a", image, strange).notice
    assert "&#x27;zebra&#x27; is not among" in notice
    assert "--model" in notice
    assert (
        asked(known, "a", image, CHOICES).notice == "" == asked(other, "a", image, strange).notice
    )


def test_an_animation_says_so(page, tmp_path):
    """The first frame is what is looked at."""
    path = tmp_path / "dance.gif"
    picture(48, 48).save(path, save_all=True, append_images=[picture(48, 48, seed=1)])
    with pytest.warns(FirstFrameWarning, match=r"dance\.gif is an animation"):
        reply = page.take_file("a", str(path))
    assert "dance.gif is an animation, of which the first frame is taken" in reply.notice
    assert reply.cards


def test_a_dot_says_so(page, tmp_path):
    """An answer about one pixel is worth nothing."""
    path = tmp_path / "dot.png"
    picture(1, 1).save(path)
    with pytest.warns(TinyImageWarning):
        reply = page.take_file("a", str(path))
    assert "dot.png is 1×1 pixels, smaller than one patch" in reply.notice
    assert reply.cards


def test_a_budget_that_one_method_refuses(page, image):
    """Its own card says so; the others answer."""
    reply = asked(page, "a", image, CHOICES._replace(second="fastv", budget=1))
    drawn = reply.cards or ""
    assert reply.notice == ""
    assert drawn.count('class="answer"') == 2
    assert "below its least" in drawn


def test_what_people_write_is_text():
    """Markup in questions and answers is shown, not run."""
    page = Page(
        Playground(tiny_model("llava"), tiny_processor("llava"), "<b>tiny", max_new_tokens=3)
    )
    assert "<b>" not in cards.heading("<b>tiny", "cpu")
    assert "&lt;b&gt;tiny" in cards.heading("<b>tiny", "cpu")
    page.take_bundled("a", 0, CHOICES._replace(second=NOTHING))
    page.look("a", "0", CHOICES._replace(question="<script>alert(1)</script> ?"))
    drawn = page.look("a", "0", CHOICES).cards or ""
    assert "<script" not in drawn
    assert "&lt;script&gt;alert(1)" in drawn


def test_ports(monkeypatch):
    """A port that is taken, or a host that isn't ours, is said before any model is loaded."""
    import socket

    monkeypatch.setattr("adafv.models.load.load", lambda *_: pytest.fail("loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port} cannot be listened on"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port
    assert free_port("127.0.0.1", 0) > 1023
    for host in ("no-such-host.invalid", "192.0.2.1"):
        with pytest.raises(ValueError, match="no address of this machine"):
            free_port(host, None)
    with pytest.raises(ValueError, match="--port 70000"):
        free_port("127.0.0.1", 70_000)


def test_without_gradio(monkeypatch, capsys):
    """One line that says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["ui"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "adafv: adafv ui needs Gradio: pip install 'adafv[ui]'\n"
