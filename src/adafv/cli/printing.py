"""Print what commands say: lines, tables, JSON, and sentences that are no failure."""

import json
import sys
import textwrap
from collections.abc import Iterable
from copy import copy
from dataclasses import replace
from typing import Any

import typer

WIDE = 10_000
"""Columns: nothing wraps."""


def quiet() -> None:
    """Leave stderr to progress bars and our own sentences."""
    import warnings

    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    from adafv.batch.jsonl import UnfinishedLineWarning
    from adafv.families import UnprovenFamilyWarning
    from adafv.models.images import FirstFrameWarning, TinyImageWarning
    from adafv.models.vocabulary import PhotographWarning
    from adafv.utils.files import UnlockedWarning
    from adafv.viz.fonts import MissingGlyphWarning

    # our own warnings are sentences for the user; those of libraries are for developers
    warnings.simplefilter("ignore")
    ours = (
        UnprovenFamilyWarning,
        MissingGlyphWarning,
        FirstFrameWarning,
        TinyImageWarning,
        PhotographWarning,
        UnlockedWarning,
        UnfinishedLineWarning,
    )
    for kind in ours:
        warnings.simplefilter("once", kind)
    warnings.formatwarning = lambda message, *_, **__: f"adafv: {message}\n"
    # progress of downloads is shown by our own bars
    hub.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def complain(sentence: str) -> None:
    """Print a sentence on stderr that is no failure."""
    typer.echo(f"adafv: {' '.join(sentence.split())}", err=True)


def print_json(value: dict[str, Any]) -> None:
    """Print the one line of --json; what stdout's encoding lacks is an escape."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False)
    typer.echo(text)


def say(text: str, indent: int = 0, markdown: bool = False) -> None:
    """Print a line; on a terminal it breaks between words, and continues under `indent` spaces.

    As Markdown it is a paragraph of its own.
    """
    if markdown:
        text = f"\n{text}"
    width = _terminal_width()
    if width is None or len(text) <= width:
        typer.echo(text)
        return
    # empty lines before the text are no words to wrap
    words = text.lstrip("\n")
    blank = text[: len(text) - len(words)]
    indented = " " * indent
    wrapped = textwrap.fill(words, width, subsequent_indent=indented, break_long_words=False)
    typer.echo(blank + wrapped)


def print_table(table: Any, markdown: bool = False, drop: Iterable[str] = ()) -> None:
    """Print a rich table, with all its columns where the output is no terminal.

    On a terminal that is too narrow columns are left out, those in `drop` first, then the last
    ones, and a line under the table names them; words are never broken. As Markdown a table is as
    wide as it has to be.
    """
    from rich import box
    from rich.console import Console

    width = None if markdown else _terminal_width()
    if markdown:
        # neither titles nor lines between sections are Markdown
        table.box = box.MARKDOWN
        table.title = None
        for row in table.rows:
            row.end_section = False
    left_out: list[str] = []
    if width is not None:
        table, left_out = _narrowed(table, width, list(drop))

    # rich pads every line to the width, which a diff or a paste should not have
    console = Console(width=width or WIDE)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().rstrip().splitlines()]
    text = "\n".join(lines)
    typer.echo(text.strip() if markdown else text)
    if left_out:
        say(
            f"Left out here: {', '.join(left_out)}; "
            "a wider terminal, a pipe or --json has them all."
        )


def _terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is; None: it is not a terminal."""
    from rich.console import Console

    # rich knows terminals, their width, and COLUMNS
    console = Console()
    return console.width if console.is_terminal else None


def _narrowed(table: Any, width: int, drop: list[str]) -> tuple[Any, list[str]]:
    """Return a table with as many columns as fit in `width`, and the names of the others."""
    from rich.cells import cell_len
    from rich.console import Console

    # the least width of a column that does not wrap is that of its widest cell
    console = Console(width=WIDE)
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(cell_len(str(cell)) for cell in (column.header, *column.cells))

    # leave columns out, one after the other, until the rest fits
    left_out: list[str] = []
    while console.measure(table).minimum > width and len(table.columns) > 1:
        # those that may go, then the last
        names = [column.header for column in table.columns]
        gone = next((name for name in drop if name in names), names[-1])
        left_out.append(str(gone))
        columns = [column for column in table.columns if column.header != gone]
        table = copy(table)
        # a column knows its own position in the table
        table.columns = [replace(column, _index=i) for i, column in enumerate(columns)]
    return table, left_out
