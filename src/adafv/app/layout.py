"""Lay out the page, and connect its parts to functions."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import gradio as gr
from gradio.themes import Base
from gradio.themes.utils.fonts import Font

from adafv.app import cards
from adafv.app.blocks import REFUSALS, CarefulBlocks
from adafv.app.page import BUDGET, FIRST, NOTHING, SECOND, Choices, Page, Reply
from adafv.app.playground import LONGEST_QUESTION, Playground
from adafv.app.view import DENSE
from adafv.data.cases import EXPLAINED
from adafv.data.sample import Sample
from adafv.methods import METHODS

__all__ = ["BUDGET", "LAUNCH", "build"]

# Uploaded files are looked through so often, and deleted at that age, in seconds.
CLEAN_EVERY = 600
CLEAN_AFTER = 3600
# There is one model, so calls wait for each other.
CALL: dict[str, Any] = {
    "concurrency_id": "model",
    "concurrency_limit": 1,
    "show_progress": "minimal",
    # no endpoints for programs
    "api_visibility": "private",
}
# Other budgets are tried while visitors go on asking.
AFTERWARDS = CALL | {"concurrency_id": "budgets", "show_progress": "hidden"}


def _own(name: str) -> str:
    """Return a file of the package, which the page holds itself."""
    return files("adafv.app").joinpath(name).read_text(encoding="utf-8")


THEME = Base(
    primary_hue="blue",
    neutral_hue="slate",
    # fonts of the system, for Gradio's own come from Google
    font=(Font("system-ui"), Font("sans-serif")),
    font_mono=(Font("monospace"),),
).set(
    # contrast of at least 4.5 : 1, which WCAG asks for
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_label_text_color="*neutral_600",
    block_title_text_color="*neutral_600",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
)
LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css": _own("style.css"),
    "js": _own("script.js"),
    # more than a photo of a phone
    "max_file_size": "32mb",
    "app_kwargs": {"exception_handlers": REFUSALS},
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "share": False,
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
    "state_session_capacity": 256,
}
"""Gradio's options of the page: shared with nobody, nothing from elsewhere, no record kept."""
HAND_OVER = """(text) => {
  if (text.startsWith("?")) {
    history.replaceState(null, "", text);
    navigator.clipboard?.writeText(location.href);
  } else if (text) {
    const link = document.createElement("a");
    link.href = text;
    link.download = text.startsWith("data:image/png") ? "adafv.png" : "adafv.json";
    link.click();
  }
}"""
"""Puts a link into the address bar and the clipboard, or saves a file."""


class Parts(NamedTuple):
    """The parts of the page.

    Attributes:
        source: where the image comes from: of each visitor's own page.
        gallery, upload, question, suggested, budget, first, second, layer: what is asked.
        notice, image, drawn, words, budgets: what is answered.
        exports: buttons, by what they hand over.
        handed: text that the browser hands over.
    """

    source: gr.State
    gallery: gr.Gallery
    upload: gr.File
    question: gr.Textbox
    suggested: gr.Dataset
    budget: gr.Slider
    first: gr.Dropdown
    second: gr.Dropdown
    layer: gr.Radio
    notice: gr.HTML
    image: gr.HTML
    drawn: gr.HTML
    words: gr.HTML
    budgets: gr.HTML
    exports: dict[str, gr.Button]
    handed: gr.Textbox


def build(playground: Playground) -> gr.Blocks:
    """Return the page of a playground, to be launched with `LAUNCH`."""
    with CarefulBlocks(
        title="adafv",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(CLEAN_EVERY, CLEAN_AFTER),
    ) as app:
        gr.HTML(cards.heading(playground.name, playground.model.device.type))
        # what Gradio falls back to, an hour after a page's connection was lost
        source = gr.State("")
        with gr.Row(elem_classes="session"):
            # to the left: what is asked; to the right: what is answered
            with gr.Column(scale=0, min_width=320, elem_classes="controls"):
                controls = _controls(playground.samples)
            with gr.Column(scale=1, min_width=320, elem_classes="results"):
                results = _results()
        _connect(app, Parts(source, **controls, **results), Page(playground))
    return app


def _controls(samples: Sequence[Sample]) -> dict[str, Any]:
    """Lay out the fields, and the images that the page offers."""
    questions = [question.text for question in samples[EXPLAINED].questions]
    return _images(samples) | _questions(questions) | _choices()


def _images(samples: Sequence[Sample]) -> dict[str, Any]:
    """Lay out the bundled images, each with a question, and the field for an own one."""
    gallery = gr.Gallery(
        [(sample.image, sample.questions[0].text) for sample in samples],
        label="Bundled images",
        show_label=False,
        columns=len(samples),
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
        format="webp",
        elem_classes="bundled",
    )
    upload = gr.File(
        label="An image of yours",
        show_label=False,
        file_types=["image"],
        height=56,
        elem_classes="drop",
    )
    return {"gallery": gallery, "upload": upload}


def _questions(questions: list[str]) -> dict[str, Any]:
    """Lay out the field for a question, and below it those to try; the first is asked."""
    question = gr.Textbox(
        questions[0],
        label="Question",
        max_lines=3,
        max_length=LONGEST_QUESTION,
        submit_btn="Ask",
        elem_classes="question",
    )
    suggested = gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=_samples(questions),
        label="Questions to try",
        elem_classes="suggested",
    )
    return {"question": question, "suggested": suggested}


def _choices() -> dict[str, Any]:
    """Lay out budget, methods, and what is drawn over the image."""
    budget = gr.Slider(
        1,
        100,
        BUDGET,
        step=1,
        label="Visual tokens to keep, in %",
        buttons=[],
        elem_classes="budget",
    )
    # a number out of range is for the page to refuse, in a sentence
    budget.preprocess = lambda payload: payload
    methods = [(f"{name} · {cards.summary(name)}", name) for name in METHODS if name != DENSE]
    with gr.Column(elem_classes="choices"):
        # any method with options may be typed, as in adafv:reserve=0.5
        own = {"allow_custom_value": True, "elem_classes": "method"}
        first = gr.Dropdown(methods, value=FIRST, label="Method", **own)
        second = gr.Dropdown([(NOTHING, NOTHING), *methods], value=SECOND, label="Beside it", **own)
        layer = gr.Radio(
            list(cards.LAYERS),
            value=next(iter(cards.LAYERS)),
            label="Drawn over the image",
        )
    return {"budget": budget, "first": first, "second": second, "layer": layer}


def _results() -> dict[str, Any]:
    """Lay out what is answered."""
    notice = gr.HTML(elem_classes="said")
    image = gr.HTML(elem_classes="stored")
    drawn = gr.HTML(elem_classes="drawn")
    with gr.Row(elem_classes="panels"):
        words = gr.HTML()
        budgets = gr.HTML()
    with gr.Row(elem_classes="exports"):
        exports = {
            "link": gr.Button("Copy a link to this", size="sm", min_width=120),
            "png": gr.Button("Save as PNG", size="sm", min_width=120),
            "json": gr.Button("Save as JSON", size="sm", min_width=120),
        }
    handed = gr.Textbox(visible=False)
    return {
        "notice": notice,
        "image": image,
        "drawn": drawn,
        "words": words,
        "budgets": budgets,
        "exports": exports,
        "handed": handed,
    }


def _connect(app: gr.Blocks, parts: Parts, page: Page) -> None:
    """Let the page answer what visitors do."""
    # what every function gets, and what each may change
    calls = _Calls(page)
    choices = [parts.question, parts.first, parts.second, parts.budget, parts.layer]
    seen = [parts.source, *choices]
    outputs = [parts.notice, parts.drawn, parts.words, parts.budgets, parts.image, parts.source]
    outputs += [*choices, parts.suggested]
    call = CALL | {"show_progress_on": parts.drawn}
    latest = {"trigger_mode": "always_last"}

    # moving the slider calls often: only the last call counts
    redrawn = [parts.budget.change, parts.layer.input]
    gr.on(redrawn, calls.look, seen, outputs, **latest, **call)
    parts.upload.upload(calls.take_file, [parts.upload], [*outputs, parts.upload], **call)

    # where something else is asked, other budgets follow
    asked = [parts.question.submit, parts.first.input, parts.second.input]
    following = [
        app.load(calls.arrive, parts.layer, outputs, **call),
        gr.on(asked, calls.ask, seen, outputs, **latest, **call),
        parts.suggested.click(calls.suggest, [parts.suggested, *seen], outputs, **call),
        parts.gallery.select(calls.take_bundled, choices, outputs, **call),
    ]
    for event in following:
        event.then(calls.budgets, None, parts.budgets, **latest, **AFTERWARDS)

    for kind, button in parts.exports.items():
        saved = button.click(calls.exporting(kind), seen, [parts.notice, parts.handed], **call)
        saved.then(None, parts.handed, js=HAND_OVER)
    # a page that is closed frees its memory
    app.unload(calls.leave)


class _Calls:
    """What a page answers, as Gradio asks it: of a visitor's request, with values of parts."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def arrive(self, request: gr.Request, layer: Any) -> Any:
        return _shown(self.page.arrive(_visitor(request), dict(request.query_params), layer))

    def look(self, request: gr.Request, at: str, *values: Any) -> Any:
        return _shown(self.page.look(_visitor(request), at, Choices(*values)))

    def ask(self, request: gr.Request, at: str, *values: Any) -> Any:
        return _shown(self.page.ask(_visitor(request), at, Choices(*values)))

    def suggest(self, request: gr.Request, sample: list[str] | None, at: str, *values: Any) -> Any:
        # whoever sends no sample asks nothing
        chosen = Choices(*values)._replace(question=sample[0] if sample else "")
        return _shown(self.page.suggest(_visitor(request), at, chosen))

    def take_file(self, request: gr.Request, path: str | None) -> Any:
        # None empties the field for files, ready for another one
        return *_shown(self.page.take_file(_visitor(request), path or "")), None

    def take_bundled(self, request: gr.Request, event: gr.EventData, *values: Any) -> Any:
        # gr.SelectData would fail before this is called, on what no gallery sends
        number = event.index if isinstance(event._data, dict) and "index" in event._data else None
        return _shown(self.page.take_bundled(_visitor(request), number, Choices(*values)))

    def budgets(self, request: gr.Request) -> Any:
        drawn = self.page.budgets(_visitor(request))
        return gr.skip() if drawn is None else drawn

    def exporting(self, kind: str) -> Callable[..., tuple[str, str]]:
        """Return what hands over a link or a file."""

        def export(request: gr.Request, at: str, *values: Any) -> tuple[str, str]:
            return self.page.export(_visitor(request), at, Choices(*values), kind)

        return export

    def leave(self, request: gr.Request) -> None:
        self.page.playground.forget(_visitor(request))


def _visitor(request: gr.Request) -> str:
    """Return what tells a visitor's page from others."""
    return request.session_hash or ""


def _shown(reply: Reply) -> list[Any]:
    """Return a reply as Gradio's outputs; None leaves a part of the page as it is."""
    suggested = None
    if reply.suggested is not None:
        suggested = gr.Dataset(samples=_samples(reply.suggested), visible=bool(reply.suggested))
    parts: list[Any] = [
        reply.notice,
        reply.cards,
        reply.words,
        reply.budgets,
        reply.image,
        reply.source,
    ]
    parts += [reply.question, reply.first, reply.second, reply.budget, reply.layer, suggested]
    return [gr.skip() if part is None else part for part in parts]


def _samples(questions: list[str]) -> list[list[str]]:
    """Return questions as Gradio's rows of samples."""
    return [[question] for question in questions]
