"""Show the library on a few questions: `python -m adafv.demo.library`, or `make demo`."""

import argparse
import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.utils import logging

from adafv.data.cases import CASES, EXPLAINED
from adafv.data.judging import same_answer
from adafv.data.sample import Question, Sample
from adafv.methods import method
from adafv.models.ask import Answer, ask
from adafv.models.load import load
from adafv.utils.checks import checked
from adafv.utils.files import atomic, writable_folder
from adafv.viz import explain
from adafv.viz.figure import FAINT, GREY, INK, RIGHT, WRONG, PixelFigure

__all__ = ["main", "run"]

KEEPS = (1.0, 0.25, 0.1, 0.05)
# Methods that are compared at the smallest budget.
RIVALS = ("adafv+", "adafv", "fastervlm", "t2i", "random", "uniform")
REPEATS = 3  # of every answer, for a median of its times

# Of the page with all questions, in pixels: an image, what is under it, and between them.
SIDE = 300
FOOT = 232
GAP = 48
MARGIN = 48
COLUMNS = 3

Loaded = list[tuple[Sample, Question]]


@checked
def run(model: Any, processor: Any, out: Path, console: Console) -> None:
    """Answer the bundled questions at every budget, print the tables, draw the pages.

    Raises:
        ValueError: `out` cannot be written.
    """
    writable_folder(out)
    loaded = [case.load() for case in CASES]
    # what a process does once is not to count as an answer's time
    for keep in KEEPS:
        _timed(model, processor, *loaded[0], keep, repeats=1)

    # answer every question at every budget
    answers = []
    for sample, question in loaded:
        console.print(f"[dim]asking: {question.text}[/dim]", highlight=False)
        answers.append([_timed(model, processor, sample, question, keep) for keep in KEEPS])
    console.print(_table(loaded, answers))
    console.print(
        f"ms: vision tower, selection and language model, median of {REPEATS}, "
        f"on {model.device.type}. [bold red]✗[/bold red] marks a wrong answer.\n",
        highlight=False,
    )

    # the same questions by every method, at the smallest budget
    right = {name: _right(model, processor, loaded, name) for name in RIVALS}
    console.print(_rivals(right))
    console.print(
        f"An illustration: {len(CASES)} questions picked by hand. The real table:\n"
        f"  adafv eval --methods {','.join(RIVALS)} --keep 1,0.25,0.1,0.05 "
        "--suite scenes,scenes-small,scenes-text,easy-vqa --out out/eval\n",
        highlight=False,
        soft_wrap=True,
    )

    # draw how one of them was answered, and all of them on a page
    sample, question = loaded[EXPLAINED]
    explain(
        model,
        processor,
        sample.image,
        question.text,
        method("adafv", keep=KEEPS[-1]),
        out / "explain.png",
    )
    with atomic(out / "questions.png") as temporary:
        overview(loaded, answers).figure.savefig(temporary, format="png")
    console.print(
        f"How the first one was answered:  {out / 'explain.png'}", soft_wrap=True, highlight=False
    )
    console.print(
        f"All the images and questions:  {out / 'questions.png'}", soft_wrap=True, highlight=False
    )


def overview(loaded: Loaded, answers: list[list[Answer]]) -> PixelFigure:
    """Draw the images with their questions, the truth, and the answer at every budget."""
    rows = math.ceil(len(loaded) / COLUMNS)
    width = 2 * MARGIN + COLUMNS * SIDE + (COLUMNS - 1) * GAP
    figure = PixelFigure(width, 2 * MARGIN - 24 + rows * (SIDE + FOOT))
    for i, ((sample, question), given) in enumerate(zip(loaded, answers, strict=True)):
        # row by row, three images each
        x = MARGIN + i % COLUMNS * (SIDE + GAP)
        y = MARGIN + i // COLUMNS * (SIDE + FOOT)
        _draw_image(figure, x, y, sample)
        _draw_answers(figure, x, y + SIDE, question, given)
    return figure


def _draw_image(figure: PixelFigure, x: float, y: float, sample: Sample) -> None:
    """Draw an image with its longer side as long as the others'."""
    scale = SIDE / max(sample.image.size)
    width = sample.image.width * scale
    height = sample.image.height * scale
    axes = figure.axes(x, y, width, height)
    extent = (0, width, height, 0)
    axes.imshow(sample.image, extent=extent, aspect="auto", interpolation="nearest")


def _draw_answers(
    figure: PixelFigure, x: float, y: float, question: Question, given: list[Answer]
) -> None:
    """Draw a question, the truth, and a line for the answer at each budget."""
    lines = textwrap.wrap(question.text, 34, max_lines=2, placeholder=" …")
    for i, line in enumerate(lines):
        figure.text(x, y + 22 + 20 * i, line, 15, INK, weight="bold")
    figure.text(x, y + 66, f"truth: {question.answer}", 13, GREY)
    for i, (keep, answer) in enumerate(zip(KEEPS, given, strict=True)):
        line_y = y + 96 + 22 * i
        good = _correct(answer, question)
        figure.bar(x, line_y + 10, SIDE, 1, FAINT)
        figure.text(x, line_y, f"{keep:.0%}", 13, GREY)
        figure.text(x + 56, line_y, answer.answer[:22], 13, INK if good else WRONG)
        mark = "✓" if good else "✗"
        figure.text(x + SIDE, line_y, mark, 13, RIGHT if good else WRONG, ha="right")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo on the embedded model; 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m adafv.demo.library", description="AdaFV on a few bundled questions."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for the images (%(default)s)"
    )
    options = parser.parse_args(arguments)
    # the tables are what is to be seen
    logging.disable_progress_bar()
    try:
        writable_folder(options.out)
        # in a file or a pipe, as wide as the tables are
        run(*load(), options.out, Console(width=None if sys.stdout.isatty() else 150))
    except ValueError as error:
        print(f"adafv: {error}", file=sys.stderr)
        return 2
    return 0


def _timed(
    model: Any,
    processor: Any,
    sample: Sample,
    question: Question,
    keep: float,
    repeats: int = REPEATS,
) -> Answer:
    """Return an answer with the median of the times that it took."""
    pruner = method("none") if keep == 1 else method("adafv", keep=keep)
    runs = [ask(model, processor, sample.image, question.text, pruner) for _ in range(repeats)]
    return replace(runs[0], total_ms=median(run.total_ms for run in runs))


def _right(model: Any, processor: Any, loaded: Loaded, name: str) -> list[bool]:
    """Return which questions a method answers rightly at the smallest budget."""
    pruner = method(name, keep=KEEPS[-1])
    marks = []
    for sample, question in loaded:
        # greedy, as everywhere
        answer = ask(model, processor, sample.image, question.text, pruner)
        marks.append(_correct(answer, question))
    return marks


def _correct(answer: Answer, question: Question) -> bool:
    """Return whether an answer is the truth."""
    return same_answer(answer.answer, question.answer)


def _table(loaded: Loaded, answers: list[list[Answer]]) -> Table:
    """Return a table of questions by budgets."""
    table = Table(
        title="AdaFV: the answer and its time, by share of the visual tokens kept",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("question")
    table.add_column("truth")
    # a column for each budget, with how many tokens that is of the images
    for keep, column in zip(KEEPS, zip(*answers, strict=True), strict=True):
        # images of several sizes have several numbers of tokens
        counts = sorted({answer.kept_tokens for answer in column})
        span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
        table.add_column(f"{keep:.0%}\n{span} tokens")

    # a row for each question
    for i, (case, given) in enumerate(zip(CASES, answers, strict=True)):
        _, question = loaded[i]
        text = Text.assemble(question.text, "\n", (f"{case.suite}: {case.why}", "dim"))
        cells = [_cell(answer, question) for answer in given]
        table.add_row(str(i + 1), text, question.answer, *cells)
        table.add_section()
    return table


def _cell(answer: Answer, question: Question) -> Text:
    """Return an answer and its time, green if it is right."""
    # a long answer would make its column wider than the others
    text = answer.answer if len(answer.answer) <= 16 else answer.answer[:15] + "…"
    said = (text, "green") if _correct(answer, question) else (f"✗ {text}", "bold red")
    return Text.assemble(said, "\n", (f"{answer.total_ms:.0f} ms", "dim"))


def _rivals(right: dict[str, list[bool]]) -> Table:
    """Return a table of methods by questions, and how many each has right."""
    title = f"The same questions with {KEEPS[-1]:.0%} of the tokens, by method"
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for number in range(len(CASES)):
        table.add_column(str(number + 1), justify="center")
    table.add_column("right", justify="right")
    for name, marks in right.items():
        cells = [Text("✓", "green") if good else Text("✗", "bold red") for good in marks]
        table.add_row(name, *cells, f"{sum(marks)} of {len(marks)}")
    return table


if __name__ == "__main__":
    sys.exit(main())
