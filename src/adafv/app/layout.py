"""Lay out the page, and connect its parts to functions: the only module that knows Gradio."""

from importlib.resources import files
from typing import Any

import gradio as gr
from gradio.themes import Base
from gradio.themes.utils.fonts import Font

from adafv.app import cards
from adafv.app.page import NOTHING, Choices, Page, Reply
from adafv.app.session import Playground, bundled
from adafv.app.view import DENSE
from adafv.data.cases import CASES, EXPLAINED
from adafv.methods import METHODS

__all__ = ["LAUNCH", "build"]

# What is chosen when the page opens: two methods, and percent of the visual tokens.
FIRST = "adafv"
SECOND = "random"
BUDGET = 5
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
LAUNCH: dict[str, Any] = {
    # fonts of the system, for Gradio's own come from Google
    "theme": Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=(Font("system-ui"), Font("sans-serif")),
        font_mono=(Font("monospace"),),
    ),
    # the package's own style, in the page itself
    "css": files("adafv.app").joinpath("style.css").read_text(encoding="utf-8"),
    # more than a photo of a phone
    "max_file_size": "32mb",
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


def build(playground: Playground) -> gr.Blocks:
    """Return the page of a playground, to be launched with `LAUNCH`."""
    page = Page(playground)
    start = bundled(EXPLAINED)
    shown = [(bundled(i).image, bundled(i).questions[0].text) for i in range(len(CASES))]
    methods = [name for name in METHODS if name != DENSE]
    with gr.Blocks(
        title="adafv",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(CLEAN_EVERY, CLEAN_AFTER),
    ) as app:
        gr.HTML(cards.heading(playground.name, playground.model.device.type))
        # where the image comes from: of each visitor's own page, so it is part of the page
        source = gr.State(str(EXPLAINED))
        with gr.Row(elem_classes="session"):
            # to the left: what is asked
            with gr.Column(scale=0, min_width=320, elem_classes="controls"):
                gallery = gr.Gallery(
                    shown,
                    label="Bundled images",
                    show_label=False,
                    columns=len(CASES),
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    format="png",
                    elem_classes="bundled",
                )
                upload = gr.File(
                    label="An image of yours",
                    show_label=False,
                    file_types=["image"],
                    height=56,
                    elem_classes="drop",
                )
                question = gr.Textbox(
                    start.questions[0].text,
                    label="Question",
                    max_lines=3,
                    submit_btn="Ask",
                    elem_classes="question",
                )
                suggested = gr.Dataset(
                    components=[gr.Textbox(visible=False)],
                    samples=_samples([q.text for q in start.questions]),
                    label="Questions to try",
                    elem_classes="suggested",
                )
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
                with gr.Row():
                    # any method with options may be typed
                    own = {"min_width": 120, "allow_custom_value": True}  # adafv:reserve=0.5
                    first = gr.Dropdown(methods, value=FIRST, label="Method", **own)
                    second = gr.Dropdown(
                        [NOTHING, *methods], value=SECOND, label="Beside it", **own
                    )
                layer = gr.Radio(
                    list(cards.LAYERS),
                    value=next(iter(cards.LAYERS)),
                    label="Drawn over the image",
                )
            # to the right: what is answered
            with gr.Column(scale=1, min_width=320, elem_classes="results"):
                notice = gr.HTML(elem_classes="said")
                image = gr.HTML(cards.image(start.image), elem_classes="stored")
                drawn = gr.HTML()

        # what every function gets, and what each may change
        choices = [question, first, second, budget, layer]
        outputs = [notice, drawn, image, source, question, suggested]

        def look(request: gr.Request, at: str, *values: Any) -> Any:
            return _shown(page.look(_visitor(request), at, Choices(*values)))

        def suggest(request: gr.Request, sample: list[str], at: str, *values: Any) -> Any:
            chosen = Choices(*values)._replace(question=sample[0])
            return _shown(page.suggest(_visitor(request), at, chosen))

        def take_file(request: gr.Request, path: str, *values: Any) -> Any:
            # None empties the field for files, ready for another one
            return *_shown(page.take_file(_visitor(request), path, Choices(*values))), None

        def take_bundled(request: gr.Request, event: gr.SelectData, *values: Any) -> Any:
            return _shown(page.take_bundled(_visitor(request), event.index, Choices(*values)))

        def leave(request: gr.Request) -> None:
            playground.forget(_visitor(request))

        # moving the slider calls often: only the last call counts
        touched = [app.load, question.submit, budget.change, first.input, second.input, layer.input]
        call = CALL | {"show_progress_on": drawn}
        gr.on(touched, look, [source, *choices], outputs, trigger_mode="always_last", **call)
        suggested.click(suggest, [suggested, source, *choices], outputs, **call)
        upload.upload(take_file, [upload, *choices], [*outputs, upload], **call)
        gallery.select(take_bundled, choices, outputs, **call)
        # a page that is closed frees its memory
        app.unload(leave)
    return app


def _visitor(request: gr.Request) -> str:
    """Return what tells a visitor's page from others."""
    return request.session_hash or ""


def _shown(reply: Reply) -> list[Any]:
    """Return a reply as Gradio's outputs; None leaves a part of the page as it is."""
    suggested = None
    if reply.suggested is not None:
        suggested = gr.Dataset(samples=_samples(reply.suggested), visible=bool(reply.suggested))
    parts = [reply.notice, reply.cards, reply.image, reply.source, reply.question, suggested]
    return [gr.skip() if part is None else part for part in parts]


def _samples(questions: list[str]) -> list[list[str]]:
    """Return questions as Gradio's rows of samples."""
    return [[question] for question in questions]
