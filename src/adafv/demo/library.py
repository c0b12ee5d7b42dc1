"""The main job on a few questions: `python -m adafv.demo.library [--out DIR]`, or `make demo`."""

import argparse
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
from adafv.data.sample import Question, Sample
from adafv.methods import method
from adafv.models.ask import Answer, ask
from adafv.models.load import load
from adafv.utils.checks import checked
from adafv.utils.files import atomic, writable_folder
from adafv.viz import explain
from adafv.viz.figure import FAINT, GREY, INK, PLAIN, RELEVANCE, PixelFigure

__all__ = ["main", "run"]

KEEPS = (1.0, 0.25, 0.1, 0.05)
RIVALS = ("adafv+", "adafv", "fastervlm", "t2i", "random", "uniform")
REPEATS = 3


Loaded = list[tuple[Sample, Question]]


@checked
def run(model: Any, processor: Any, out: Path, console: Console) -> None:
    """Answer the bundled questions at every budget, print the tables, draw the pages.

    Raises:
        ValueError: `out` cannot be written.
    """
    writable_folder(out)
    loaded = [case.load() for case in CASES]
    for keep in KEEPS:
        _timed(model, processor, *loaded[0], keep, repeats=1)
    answers = []
    for sample, question in loaded:
        console.print(f"[dim]asking: {question.text}[/dim]", highlight=False)
        answers.append([_timed(model, processor, sample, question, keep) for keep in KEEPS])
    console.print(_table(loaded, answers))
    console.print(
        f"ms: vision tower, selection and language model, median of {REPEATS}, on {model.device.type}. "
        "[bold red]✗[/bold red] marks a wrong answer.\n",
        highlight=False,
    )
    right = {name: _right(model, processor, loaded, name) for name in RIVALS}
    console.print(_rivals(right))
    console.print(
        f"An illustration: {len(CASES)} questions picked by hand. The real table:\n"
        f"  adafv eval --methods {','.join(RIVALS)} --keep 1,0.25,0.1,0.05 "
        "--suite scenes,scenes-small,scenes-text,easy-vqa --out out/eval\n",
        highlight=False,
        soft_wrap=True,
    )
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
        contact_sheet(loaded, answers).figure.savefig(temporary, format="png")
    console.print(
        f"How the first one was answered:  {out / 'explain.png'}", soft_wrap=True, highlight=False
    )
    console.print(
        f"All the images and questions:  {out / 'questions.png'}", soft_wrap=True, highlight=False
    )


def contact_sheet(loaded: Loaded, answers: list[list[Answer]]) -> PixelFigure:
    """The images with their questions, the truth, and the answer at every budget."""
    side, gap, margin, foot = 300, 48, 48, 232
    columns = 3
    rows = -(-len(loaded) // columns)
    width = 2 * margin + columns * side + (columns - 1) * gap
    sheet = PixelFigure(width, 2 * margin - 24 + rows * (side + foot))
    for i, ((sample, question), given) in enumerate(zip(loaded, answers, strict=True)):
        x, y = margin + i % columns * (side + gap), margin + i // columns * (side + foot)
        scale = side / max(sample.image.size)
        size = sample.image.width * scale, sample.image.height * scale
        axes = sheet.axes(x, y, *size)
        axes.imshow(
            sample.image, extent=(0, size[0], size[1], 0), aspect="auto", interpolation="nearest"
        )
        for j, line in enumerate(textwrap.wrap(question.text, 34, max_lines=2, placeholder=" …")):
            sheet.text(x, y + side + 22 + 20 * j, line, 15, INK, weight="bold")
        sheet.text(x, y + side + 66, f"truth: {question.answer}", 13, GREY)
        for j, (keep, answer) in enumerate(zip(KEEPS, given, strict=True)):
            line_y, good = y + side + 96 + 22 * j, _correct(answer, question)
            sheet.bar(x, line_y + 10, side, 1, FAINT)
            sheet.text(x, line_y, f"{keep:.0%}", 13, GREY)
            sheet.text(x + 56, line_y, answer.answer[:22], 13, INK if good else RELEVANCE)
            mark, hue = ("✓", PLAIN) if good else ("✗", RELEVANCE)
            sheet.text(x + side, line_y, mark, 13, hue, ha="right")
    return sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo on the embedded model; 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m adafv.demo.library", description="AdaFV on a few bundled questions."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for the images (%(default)s)"
    )
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    try:
        writable_folder(options.out)
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
    """An answer with the median of the times that it took."""
    pruner = method("none") if keep == 1 else method("adafv", keep=keep)
    runs = [ask(model, processor, sample.image, question.text, pruner) for _ in range(repeats)]
    return replace(runs[0], total_ms=median(run.total_ms for run in runs))


def _right(model: Any, processor: Any, loaded: Loaded, name: str) -> list[bool]:
    pruner = method(name, keep=KEEPS[-1])
    return [_correct(ask(model, processor, s.image, q.text, pruner), q) for s, q in loaded]


def _correct(answer: Answer, question: Question) -> bool:
    return answer.answer.strip().casefold() == question.answer.strip().casefold()


def _table(loaded: Loaded, answers: list[list[Answer]]) -> Table:
    table = Table(
        title="AdaFV: the answer and its time, by share of the visual tokens kept",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("question")
    table.add_column("truth")
    for keep, column in zip(KEEPS, zip(*answers, strict=True), strict=True):
        counts = sorted({answer.kept_tokens for answer in column})
        span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
        table.add_column(f"{keep:.0%}\n{span} tokens")
    for number, (case, (_, question), given) in enumerate(
        zip(CASES, loaded, answers, strict=True), 1
    ):
        asked = Text.assemble(question.text, "\n", (f"{case.suite}: {case.why}", "dim"))
        table.add_row(
            str(number), asked, question.answer, *(_cell(answer, question) for answer in given)
        )
        table.add_section()
    return table


def _cell(answer: Answer, question: Question) -> Text:
    text = answer.answer if len(answer.answer) <= 16 else answer.answer[:15] + "…"
    said = (text, "green") if _correct(answer, question) else (f"✗ {text}", "bold red")
    return Text.assemble(said, "\n", (f"{answer.total_ms:.0f} ms", "dim"))


def _rivals(right: dict[str, list[bool]]) -> Table:
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
