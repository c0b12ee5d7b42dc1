"""The page: what is on it, and what happens when it is touched."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes import Base
from gradio.themes.utils.fonts import Font

from adafv.app import cards
from adafv.app.desk import DENSE, Playground, bundled
from adafv.demo import CASES, EXPLAINED
from adafv.methods import METHODS

__all__ = ["LAUNCH", "Page", "build"]

TITLE = "adafv playground"
NOTHING = "nothing"
FIRST, SECOND, BUDGET = "adafv", "random", 5
UPLOAD = "32mb"
CLEAN_EVERY, CLEAN_AFTER = 600, 3600  # seconds, of uploaded files
QUEUE: dict[str, Any] = {
    "concurrency_id": "model",
    "concurrency_limit": 1,
    "show_progress": "hidden",
    "api_visibility": "private",
}
LAUNCH: dict[str, Any] = {
    "theme": Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=(Font("system-ui"), Font("sans-serif")),
        font_mono=(Font("monospace"),),
    ),
    "css": files("adafv.app").joinpath("style.css").read_text(encoding="utf-8"),
    "max_file_size": UPLOAD,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "share": False,
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
    "state_session_capacity": 256,
}
"""How Gradio is to serve the page: nothing public, nothing recorded, nothing larger than that."""


class Page:
    """What happens on the page, as plain functions: values of the page in, values of the page out.

    Each returns what is wrong first, and then leaves everything else as it is. Choices are the question, two methods,
    the budget in percent, and what is drawn over the picture (of `cards.LAYERS`).
    """

    def __init__(self, playground: Playground) -> None:
        self.playground = playground

    def look(
        self, visitor: str, source: str, question: str, first: str, second: str, budget: float, layer: str
    ) -> tuple[str, Any]:
        """Ask about the picture that is there: notice, cards."""
        names = [name for name in dict.fromkeys((first, second)) if name != NOTHING]
        try:
            sight = self.playground.look(visitor, source, question, names, budget / 100)
        except ValueError as error:
            return cards.notice(_named(error, source)), gr.skip()
        return "", cards.cards(sight, cards.LAYERS[layer])

    def take_file(self, visitor: str, path: str, question: str, *choices: Any) -> tuple[str, Any, Any, Any, Any]:
        """Take a picture of one's own: notice, picture, cards, source, suggested questions."""
        try:
            image = self.playground.picture(visitor, path)
        except ValueError as error:
            return cards.notice(_named(error, path)), gr.skip(), gr.skip(), gr.skip(), gr.skip()
        said, drawn = ("", cards.waiting(image)) if not question.strip() else self.look(visitor, path, question, *choices)
        drawn = cards.waiting(image) if said else drawn
        return said, cards.picture(image), drawn, path, gr.Dataset(samples=[], visible=False)

    def take_bundled(self, visitor: str, number: int, *choices: Any) -> tuple[str, Any, Any, str, Any, str]:
        """Take a bundled picture: as `take_file`, and its first question."""
        sample, source = bundled(number), str(number)
        questions = [question.text for question in sample.questions]
        said, drawn = self.look(visitor, source, questions[0], *choices)
        suggested = gr.Dataset(samples=[[question] for question in questions], visible=True)
        return said, cards.picture(sample.image), drawn, source, suggested, questions[0]


def build(playground: Playground) -> gr.Blocks:
    """The page of a playground, to be launched with `LAUNCH`."""
    page, device = Page(playground), playground.model.device.type
    methods = [name for name in METHODS if name != DENSE]
    start = bundled(EXPLAINED)
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(CLEAN_EVERY, CLEAN_AFTER)) as app:
        gr.HTML(
            '<header class="top"><h1>adafv</h1><p>One question, answered from every visual token and from a few of '
            f"them. <span>{playground.name} on {device}</span></p></header>"
        )
        source = gr.State(str(EXPLAINED))
        with gr.Row(elem_classes="desk"):
            with gr.Column(scale=0, min_width=320, elem_classes="controls"):
                gallery = gr.Gallery(
                    [(bundled(i).image, bundled(i).questions[0].text) for i in range(len(CASES))],
                    label="A bundled picture",
                    columns=6,
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    format="png",
                    elem_classes="bundled",
                )
                upload = gr.File(
                    label="Or drop a picture of yours",
                    file_types=["image"],
                    height=96,
                    elem_classes="drop",
                )
                question = gr.Textbox(
                    start.questions[0].text, label="Question", max_lines=3, submit_btn="Ask", elem_classes="question"
                )
                suggested = gr.Dataset(
                    components=[gr.Textbox(visible=False)],
                    samples=[[q.text] for q in start.questions],
                    label="Questions to try",
                    elem_classes="suggested",
                )
                budget = gr.Slider(1, 100, BUDGET, step=1, label="Budget: % of the visual tokens", buttons=[])
                with gr.Row():
                    first = gr.Dropdown(methods, value=FIRST, label="Method", min_width=120)
                    second = gr.Dropdown([NOTHING, *methods], value=SECOND, label="Beside it", min_width=120)
                layer = gr.Radio(list(cards.LAYERS), value=next(iter(cards.LAYERS)), label="Draw over the picture")
            with gr.Column(scale=1, min_width=320):
                said = gr.HTML()
                shown = gr.HTML(cards.picture(start.image))
                drawn = gr.HTML(elem_classes="drawn")
        choices = [first, second, budget, layer]

        def look(at: str, request: gr.Request, *values: Any) -> Any:
            return page.look(_visitor(request), at, *values)

        def take_file(path: str, request: gr.Request, *values: Any) -> Any:
            return *page.take_file(_visitor(request), path, *values), None

        def take_bundled(event: gr.SelectData, request: gr.Request, *values: Any) -> Any:
            return page.take_bundled(_visitor(request), event.index, *values)

        def suggest(sample: list[str], at: str, request: gr.Request, *values: Any) -> Any:
            return *page.look(_visitor(request), at, sample[0], *values), sample[0]

        def leave(request: gr.Request) -> None:
            playground.forget(_visitor(request))

        touched = [question.submit, budget.change, first.input, second.input, layer.input]
        gr.on(
            [app.load, *touched], look, [source, question, *choices], [said, drawn], trigger_mode="always_last", **QUEUE
        )
        upload.upload(take_file, [upload, question, *choices], [said, shown, drawn, source, suggested, upload], **QUEUE)
        gallery.select(take_bundled, choices, [said, shown, drawn, source, suggested, question], **QUEUE)
        suggested.click(suggest, [suggested, source, *choices], [said, drawn, question], **QUEUE)
        app.unload(leave)
    return app


def _visitor(request: gr.Request) -> str:
    return request.session_hash or ""


def _named(error: ValueError, source: str) -> str:
    """The sentence, with the name that the visitor gave the file."""
    return str(error).replace(source, Path(source).name)
