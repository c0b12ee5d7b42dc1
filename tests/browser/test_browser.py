"""The playground as a person meets it, in a real Chromium."""

import gc
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("playwright", reason="needs Playwright: make test-ui")
pytest.importorskip("gradio", reason="needs Gradio: make test-ui")

from chromium import chromium, serious
from gradio import Blocks
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from adafv import NoPruning, method
from adafv.app.layout import BUDGET, CLEAN_AFTER, CLEAN_EVERY, LAUNCH, build
from adafv.app.page import FIRST
from adafv.app.playground import SHARES, Playground
from adafv.app.samples import bundled
from adafv.embedded import NAME as EMBEDDED
from adafv.models.ask import ask
from adafv.models.load import load

expect.set_options(timeout=20_000)
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
FOCUSED = """() => {
    const at = document.activeElement;
    return [at.type, at.getAttribute("role"), getComputedStyle(at).outlineStyle];
}"""
DRAWN = bundled(EMBEDDED)
# what no field of the page would send
ODD = (None, [], {"path": "/etc/passwd"}, "x" * 5000)


@pytest.fixture(scope="module")
def playground() -> Playground:
    made = Playground(*load(None, "cpu"), "embedded")
    made.warm_up()
    return made


@pytest.fixture(scope="module")
def app(playground) -> Iterator[Blocks]:
    made = build(playground)
    made.launch(server_port=free(), prevent_thread_lock=True, quiet=True, **LAUNCH)
    yield made
    made.close(verbose=False)


@pytest.fixture(scope="module")
def url(app) -> str:
    return app.local_url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser, url) -> Iterator[Page]:
    yield from opened(browser, url, viewport=DESK)


@pytest.fixture
def phone(browser, url) -> Iterator[Page]:
    options = {"viewport": PHONE, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}
    yield from opened(browser, url, **options)


@pytest.fixture
def drawing(tmp_path) -> str:
    """An image of one's own, wider than high."""
    path = tmp_path / "mine.png"
    sample = DRAWN[4].image
    sample.resize((288, 192)).save(path)
    return str(path)


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def opened(browser: Browser, url: str, link: str = "", **options) -> Iterator[Page]:
    """A visitor's own window, in which nothing may go wrong and nothing is asked of another
    host.
    """
    context = browser.new_context(**options)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console", lambda message: wrong.append(message.text) if message.type == "error" else None
    )
    page.on(
        "request", lambda request: wrong.append(request.url) if foreign(request.url, url) else None
    )
    page.goto(url + link)
    expect(page.locator(".card")).to_have_count(3)
    yield page
    context.close()
    assert not wrong


def foreign(address: str, url: str) -> bool:
    return not address.startswith((url, "data:", "blob:"))


def answers(page: Page) -> dict[str, str]:
    """What each card says."""
    cards = page.locator(".card")
    found = {}
    for i in range(cards.count()):
        said = (
            cards.nth(i).locator(".answer").evaluate("node => node.firstChild.textContent.trim()")
        )
        found[cards.nth(i).locator("h3").inner_text()] = said
    return found


def tokens(page: Page, card: int = 1) -> int:
    return int(
        re.sub(r"\D", "", page.locator(".card").nth(card).locator(".bar span").first.inner_text())
    )


def field(page: Page) -> Locator:
    return page.locator(".question textarea")


def slider(page: Page) -> Locator:
    return page.locator("input[type=range]")


def inside(page: Page, width: int) -> bool:
    """Whether every mark and label of the curve lies on the page, labels beside each other."""
    boxes = [box.bounding_box() for box in page.locator(".curve circle, .curve text").all()]
    ticks = [box.bounding_box() for box in page.locator(".curve .tick").all()]
    apart = all(one["x"] + one["width"] <= other["x"] for one, other in itertools.pairwise(ticks))
    return apart and all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)


def ask_for(page: Page, question: str) -> None:
    field(page).fill(question)
    page.get_by_role("button", name="Ask").click()


def test_the_first_look(page, playground):
    """The bundled question is answered at once, from every token and from a few, as the library
    answers it.
    """
    sample = DRAWN[0]
    said = answers(page)
    expected = [
        ask(playground.model, playground.processor, sample.image, sample.questions[0].text, pruner)
        for pruner in (NoPruning(), method(FIRST, keep=BUDGET / 100))
    ]
    assert [said["every token"], said[FIRST]] == [answer.answer for answer in expected]
    assert [tokens(page, i) for i in range(2)] == [answer.kept_tokens for answer in expected]
    assert "same answer" in page.locator(".card").nth(1).inner_text()
    assert "words that point" in page.locator(".card").nth(1).inner_text()
    assert (
        page.locator(".card svg use").first.evaluate("node => node.getBBox().width")
        == sample.image.width
    )
    headline = page.locator(".headline h2").inner_text()
    assert headline.startswith(f"{FIRST}: 20 times fewer tokens, ")
    assert headline.endswith("to the first token, same answer.")
    assert page.locator(".legend li").count() >= 1
    expect(page.locator(".curve .mark")).to_have_count(2 * len(SHARES))
    assert inside(page, DESK["width"])
    assert serious(page) == []
    for width in (1000, 700):
        page.set_viewport_size({"width": width, "height": 900})
        boxes = [card.bounding_box() for card in page.locator(".card").all()]
        # no holes: side by side, as far as the page reaches
        assert len({box["y"] for box in boxes}) == 1
        assert boxes[-1]["x"] + boxes[-1]["width"] > 0.95 * (width - 32)


@pytest.mark.parametrize(
    ("scheme", "size"), [("light", DESK), ("dark", DESK), ("light", PHONE), ("dark", PHONE)]
)
def test_every_state_is_accessible(browser, url, drawing, scheme, size):
    """Not only the first look: axe-core finds nothing serious whatever is shown or open."""
    for page in opened(browser, url, viewport=size, color_scheme=scheme):
        found = {"first look": serious(page)}

        word = page.locator(".word").nth(4)
        word.hover()
        expect(word.locator(".view")).to_be_visible()
        found["a word pointed at"] = serious(page)

        menu = page.get_by_label("Method", exact=True)
        menu.click()
        expect(page.get_by_role("listbox")).to_have_count(1)
        found["an open menu"] = serious(page)
        menu.press("Tab")

        choose(page, "Beside it", "pool")
        expect(page.locator(".curve .other").first).to_be_attached()
        found["a curve with misses"] = serious(page)

        ask_for(page, "")
        expect(page.get_by_role("alert")).to_be_visible()
        found["an alert"] = serious(page)

        page.locator("input[type=file]").set_input_files(drawing)
        expect(page.locator(".card")).to_have_count(1)
        found["an upload"] = serious(page)
        assert not any(found.values()), found


@pytest.mark.parametrize("width", [DESK["width"], PHONE["width"]])
def test_maps_of_many_words(page, width):
    """However many words there are, the map of each covers that of all of them."""
    page.set_viewport_size({"width": width, "height": 800})
    ask_for(page, f"is there {', '.join(['a red cup', 'a blue crown'] * 3)}?")
    expect(page.locator(".word")).to_have_count(20)
    everything = page.locator(".map .view")
    for number in (0, 19):
        word = page.locator(".word").nth(number)
        word.focus()
        expect(word.locator(".view")).to_be_visible()
        assert word.locator(".view").bounding_box() == everything.bounding_box()
    words = page.locator(".words .list").bounding_box()
    assert words["height"] > everything.bounding_box()["height"]


def test_a_word_and_its_map(page):
    """Pointing at it shows its map instead of that of all words; so does the keyboard."""
    word = page.locator(".word").nth(4)
    expect(word).to_have_text("cup")
    expect(word.locator(".view")).to_be_hidden()
    word.hover()
    expect(word.locator(".view")).to_be_visible()
    assert word.locator(".view").bounding_box() == page.locator(".map .view").bounding_box()
    page.mouse.move(0, 0)
    word.focus()
    expect(word.locator(".view")).to_be_visible()


def test_share_and_save(page, browser, url, drawing):
    """The address becomes a link that leads here; JSON and PNG are downloads."""
    page.locator(".bundled button").nth(2).click()
    expect(field(page)).to_have_value(DRAWN[2].questions[0].text)
    slider(page).fill("40")
    expect(page.locator(".card").nth(1)).to_contain_text("288 of 720 tokens")
    page.get_by_label("what stands out").check()
    expect(page.locator(".card .heat")).to_have_count(6)
    for name, kept in (("JSON", "adafv.json"), ("PNG", "adafv.png")):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save as {name}").click()
        assert download.value.suggested_filename == kept
    page.get_by_role("button", name="Copy a link to this").click()
    page.wait_for_url("**/?image=2&*budget=40&layer=what+stands+out")
    for visitor in opened(browser, url, page.url.removeprefix(url), viewport=DESK):
        expect(field(visitor)).to_have_value(DRAWN[2].questions[0].text)
        expect(slider(visitor)).to_have_value("40")
        expect(visitor.get_by_label("what stands out")).to_be_checked()
        expect(visitor.locator(".card .heat")).to_have_count(6)
        assert answers(visitor) == answers(page)
    page.locator("input[type=file]").set_input_files(drawing)
    expect(page.locator(".card")).to_have_count(1)
    page.get_by_role("button", name="Copy a link to this").click()
    expect(page.get_by_role("alert")).to_contain_text("no link leads to it")


def test_whatever_is_sent_is_no_fault_of_the_server(url, capfd):
    """Odd values for every function, and functions that are not there: no traceback in its log."""
    with urlopen(f"{url}config") as config:
        functions = [
            (part["id"], len(part["inputs"])) for part in json.load(config)["dependencies"]
        ]
    for number, inputs in (*functions, (9999, 1)):
        for odd in ODD:
            sent = {"fn_index": number, "data": [odd] * inputs, "event_data": odd}
            visitor = f"odd-{number}-{ODD.index(odd)}"
            posted(f"{url}gradio_api/queue/join", sent | {"session_hash": visitor})
            if number != 9999:
                finished(f"{url}gradio_api/queue/data?session_hash={visitor}")
    posted(f"{url}gradio_api/run/predict", {"fn_index": 0, "data": []})
    written = "".join(capfd.readouterr())
    assert "Traceback" not in written
    assert "Error" not in written


def test_no_endpoints_and_no_files_of_yesterday(app, url):
    """Programs are offered nothing; what was uploaded is deleted at the age of an hour."""
    with urlopen(f"{url}gradio_api/info") as info:
        assert json.load(info) == {"named_endpoints": {}, "unnamed_endpoints": {}}
    assert app.delete_cache == (CLEAN_EVERY, CLEAN_AFTER)
    assert CLEAN_AFTER == 3600


def posted(address: str, sent: object) -> None:
    """Send JSON, whatever the server thinks of it."""
    request = Request(address, json.dumps(sent).encode(), {"Content-Type": "application/json"})
    with suppress(HTTPError):
        urlopen(request, timeout=20).close()


def finished(address: str) -> None:
    """Wait for the end of a call."""
    with urlopen(address, timeout=20) as events:
        for line in events:
            if b"process_completed" in line or b"close_stream" in line:
                return


def test_a_tab_that_was_away_for_an_hour(page, app, drawing):
    """Gradio has forgotten its image: no answer is about another one, and another one may be
    chosen.
    """
    page.locator("input[type=file]").set_input_files(drawing)
    expect(page.locator(".card")).to_have_count(1)
    ask_for(page, "is there a cup?")
    expect(page.locator(".card")).to_have_count(3)
    before = page.locator(".cards").inner_html()
    forget_states(app)
    ask_for(page, "is there a club?")
    expect(page.get_by_role("alert")).to_contain_text("This page has slept")
    slider(page).fill("50")
    page.wait_for_timeout(1500)
    assert page.locator(".cards").inner_html() == before
    for name in ("Copy a link to this", "Save as JSON"):
        page.get_by_role("button", name=name).click()
        expect(page.get_by_role("alert")).to_contain_text("This page has slept")
    page.locator(".bundled button").nth(2).click()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert len(answers(page)) == 3


def forget_states(app: Blocks) -> None:
    """Let the hour pass after which Gradio deletes what lost pages have stored."""
    for session in app.state_holder.session_data.values():
        session.is_closed = True
        session.STATE_TTL_WHEN_CLOSED = 0
    app.state_holder.delete_all_expired_state()


def test_ready_in_seconds(browser, url):
    """From the address to the answers."""
    start = time.perf_counter()
    for _ in opened(browser, url, viewport=DESK):
        assert time.perf_counter() - start < 10


def test_ask(page):
    """Enter and the button; the encoding is used again, and the page tells what the question
    changed.
    """
    question = field(page)
    question.fill("is there a club?")
    question.press("Enter")
    expect(page.locator(".card").nth(1)).to_contain_text("not kept for “what color is the cup?”")
    ask_for(page, "are the crown and the cup the same color?")
    expect(page.locator(".card").nth(1)).to_contain_text("not kept for “is there a club?”")
    assert answers(page)["every token"] in ("yes", "no")


def test_suggested_questions(page):
    """One click asks; they belong to the image."""
    page.get_by_role("button", name="is there a blue cup?").click()
    expect(field(page)).to_have_value("is there a blue cup?")
    expect(page.locator(".card").nth(1)).to_contain_text("were not kept for")
    page.locator(".bundled button").nth(2).click()
    expect(field(page)).to_have_value(DRAWN[2].questions[0].text)
    expect(page.get_by_role("button", name=DRAWN[2].questions[1].text)).to_be_visible()


def test_drag_the_budget(page, playground):
    """From 100 % to 1 % in one movement: fewer and fewer tokens while the mouse moves, and no other
    encoding.
    """
    slider(page).fill("100")
    expect(page.locator(".card").nth(1)).to_contain_text("All 720 tokens")
    visitor = next(reversed(playground.sessions))
    encoding = playground.sessions[visitor].encoding
    box = slider(page).bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] - 8, middle)
    page.mouse.down()
    seen = []
    for step in range(20, -1, -1):
        page.mouse.move(box["x"] + 8 + (box["width"] - 16) * step / 20, middle)
        page.wait_for_timeout(250)
        seen.append(tokens(page))
    page.mouse.up()
    slider(page).fill("1")
    expect(page.locator(".card").nth(1)).to_contain_text("7 of 720 tokens")
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) > 4
    assert playground.sessions[visitor].encoding is encoding


def test_two_methods(page):
    """Any two side by side; the same twice, or nothing, is one card less."""
    choose(page, "Method", "adafv+")
    choose(page, "Beside it", "fastervlm")
    expect(page.locator(".card h3")).to_have_text(["every token", "adafv+", "fastervlm"])
    choose(page, "Beside it", "nothing")
    expect(page.locator(".card h3")).to_have_text(["every token", "adafv+"])


def choose(page: Page, label: str, name: str) -> None:
    page.get_by_label(label, exact=True).click()
    # with what it keeps
    start = re.compile(rf"^{re.escape(name)}( · |$)")
    page.get_by_role("option", name=start).click()
    expect(page.get_by_role("option")).to_have_count(0)


def test_maps(page):
    """Saliency, relevance, the image alone, and back."""
    for name, heats in (
        ("what stands out", 6),
        ("what the words point at", 6),
        ("the image alone", 0),
    ):
        page.get_by_label(name).check()
        expect(page.locator(".card .heat")).to_have_count(heats)
        expect(page.locator(".card path")).to_have_count(0)
    page.get_by_label("what is kept").check()
    expect(page.locator(".card path").first).to_be_visible()


def test_upload(page, drawing):
    """By the file dialog and by a drop: the image takes the place of the one before, whose
    question goes with it.
    """
    page.locator("input[type=file]").set_input_files(drawing)
    expect(page.locator(".card .view").first).to_have_attribute("viewBox", "0 0 288 192")
    expect(field(page)).to_have_value("")
    expect(page.locator(".card")).to_have_count(1)
    ask_for(page, "is there a cup?")
    expect(page.locator(".card")).to_have_count(3)
    transfer = page.evaluate_handle(
        """() => { const transfer = new DataTransfer();
        const canvas = document.createElement('canvas');
        canvas.width = 90; canvas.height = 120;
        const data = atob(canvas.toDataURL('image/png').split(',')[1]);
        const bytes = Uint8Array.from(data, c => c.charCodeAt(0));
        transfer.items.add(new File([bytes], 'dropped.png', {type: 'image/png'}));
        return transfer; }"""
    )
    page.locator(".drop button").first.dispatch_event("drop", {"dataTransfer": transfer})
    expect(page.locator(".card .view").first).to_have_attribute("viewBox", "0 0 90 120")


def test_bad_files(page, tmp_path):
    """One sentence in the page; the image, the question and the answers stay.

    The next good file clears it.
    """
    before = page.locator(".cards").inner_html()
    bad = tmp_path / "holiday.png"
    bad.write_bytes(b"no image")
    page.locator("input[type=file]").set_input_files(str(bad))
    expect(page.get_by_role("alert")).to_contain_text("holiday.png is not an image")
    assert page.locator(".cards").inner_html() == before
    huge = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(huge)
    page.locator("input[type=file]").set_input_files(str(huge))
    expect(page.get_by_role("alert")).to_contain_text("pixels")
    assert page.locator(".cards").inner_html() == before
    page.locator(".bundled button").nth(1).click()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert len(answers(page)) == 3


def test_files_that_are_too_large(browser, url, tmp_path):
    """Said before they are read; nothing is lost."""
    large = tmp_path / "large.png"
    large.write_bytes(b"\x89PNG" + bytes(33 * 2**20))
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    page.goto(url)
    expect(page.locator(".card")).to_have_count(3)
    page.locator("input[type=file]").set_input_files(str(large))
    expect(page.get_by_text(re.compile("exceed", re.IGNORECASE)).first).to_be_visible()
    assert len(answers(page)) == 3
    context.close()


@pytest.mark.parametrize(
    ("question", "word"), [("", "empty"), ("what <image> is", "control token")]
)
def test_bad_questions(page, question, word):
    """One sentence; the next good question clears it."""
    ask_for(page, question)
    expect(page.get_by_role("alert")).to_contain_text(word)
    assert len(answers(page)) == 3
    ask_for(page, "is there a club?")
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("typed", ["0", "150", ""])
def test_numbers_that_are_no_share(page, capfd, typed):
    """Typed beside the slider: one sentence or the nearest number, no traceback on the server; the
    next clears it.
    """
    number = page.locator(".budget input[type=number]")
    number.fill(typed)
    number.press("Enter")
    page.wait_for_timeout(1500)
    assert "Traceback" not in "".join(capfd.readouterr())
    slider(page).fill("50")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator(".card").nth(1)).to_contain_text("360 of 720 tokens")


def test_a_method_with_options(page):
    """Typed where a method is chosen."""
    chosen = page.get_by_label("Method", exact=True)
    chosen.fill("adafv:reserve=0.5")
    chosen.press("Enter")
    expect(page.locator(".card h3").nth(1)).to_have_text("adafv:reserve=0.5")


def test_keyboard(page):
    """Without a mouse: pick an image, ask, change the budget, a method and the map."""
    seen = []
    page.locator(".bundled button").nth(1).focus()
    page.keyboard.press("Enter")
    expect(field(page)).to_have_value(DRAWN[1].questions[0].text)
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(FOCUSED))
        # a menu that opened is closed again
        menus = 1 if seen[-1][1] == "combobox" else 0
        expect(page.get_by_role("listbox")).to_have_count(menus)
    kinds = [kind for kind, _, _ in seen]
    assert {"range", "radio", "textarea"} <= set(kinds)
    assert kinds.count("radio") == 1
    assert {outline for kind, _, outline in seen if kind} == {"solid"}
    slider(page).focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".card").nth(1)).to_contain_text("43 of 720 tokens")
    page.get_by_label("Method", exact=True).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".card h3").nth(1)).to_have_text("adafv+")
    # the menu takes focus until it is closed
    expect(page.get_by_role("listbox")).to_have_count(0)
    page.get_by_label("what is kept").press("ArrowRight")
    expect(page.locator(".card .heat")).to_have_count(6)


def test_small_screens(phone, drawing):
    """Nothing is wider than the screen, everything works by touch."""
    # the image in colour and the answers are on the first screen
    for shown in (".headline h2", ".dense .view >> nth=0", ".dense .answer"):
        box = phone.locator(shown).bounding_box()
        assert box["y"] + box["height"] <= PHONE["height"]
    expect(phone.locator(".curve .mark")).to_have_count(2 * len(SHARES))
    assert inside(phone, PHONE["width"])
    assert serious(phone) == []
    width = phone.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"]
    phone.locator(".bundled button").nth(2).tap()
    expect(field(phone)).to_have_value(DRAWN[2].questions[0].text)
    slider(phone).fill("50")
    expect(phone.locator(".card").nth(1)).to_contain_text("360 of 720 tokens")
    for card in (1, 2):
        view = phone.locator(".card").nth(card).locator(".view").first
        view.scroll_into_view_if_needed()
        assert view.bounding_box()["width"] > 0.8 * PHONE["width"]
        expect(slider(phone)).to_be_in_viewport()
    for control in phone.locator("button:visible, input[type=range]").all():
        box = control.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"] + 1


def test_two_visitors(browser, url, drawing):
    """Images, questions and budgets are each visitor's own, whoever was last."""
    one, two = (opened(browser, url, viewport=DESK) for _ in range(2))
    first, second = next(one), next(two)
    first.locator("input[type=file]").set_input_files(drawing)
    expect(first.locator(".card .view").first).to_have_attribute("viewBox", "0 0 288 192")
    second.locator(".bundled button").nth(5).click()
    expect(second.locator(".card .view").first).to_have_attribute("viewBox", "0 0 64 64")
    slider(second).fill("50")
    expect(second.locator(".card").nth(1)).to_contain_text("144 of 288 tokens")
    ask_for(first, "is there a cup?")
    slider(first).fill("10")
    expect(first.locator(".card").nth(1).locator(".caption")).not_to_have_text("")
    expect(first.locator(".card .view").first).to_have_attribute("viewBox", "0 0 288 192")
    expect(second.locator(".card .view").first).to_have_attribute("viewBox", "0 0 64 64")
    for visitor in (one, two):
        assert next(visitor, None) is None


def test_a_closed_tab_frees_its_memory(browser, url, playground):
    """The encoding goes, not only the name; reloading the page is leaving, too."""
    for _ in opened(browser, url, viewport=DESK):
        visitor = next(reversed(playground.sessions))
        features = weakref.ref(playground.sessions[visitor].encoding.features[0])
    # a look that had begun before the tab closed holds its encoding until it ends
    end = time.monotonic() + 30
    while time.monotonic() < end and (visitor in playground.sessions or features() is not None):
        gc.collect()
        time.sleep(0.1)
    assert visitor not in playground.sessions
    assert features() is None


def test_the_command(browser, tmp_path):
    """`adafv ui` as a process: one JSON line, loopback only, nothing asked of the network, a clean
    end.
    """
    proxy = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), address)
    process = subprocess.Popen(
        [sys.executable, "-m", "adafv", "ui", "--port", "0", "--device", "cpu", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | proxies | {"TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    assert said["model"] == "embedded"
    assert said["url"].startswith("http://127.0.0.1:")
    for page in opened(browser, said["url"], viewport=DESK):
        assert len(answers(page)) == 3
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    counts, stopped = err.splitlines()
    assert re.fullmatch(r"adafv: encodings made: [1-9]\d*, reused for the same pixels: \d+", counts)
    assert stopped == "adafv: stopped"
    assert not list(tmp_path.iterdir())
    proxy.settimeout(0.1)
    with pytest.raises(TimeoutError):
        proxy.accept()
