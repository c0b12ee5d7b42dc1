"""What the commands share: options, their checks, and how they print."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from adafv.pruner import Pruner

DEFAULT_KEEP = 0.1

Picture = Annotated[str, typer.Argument(metavar="IMAGE", help="A picture file.", show_default=False)]
Question = Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.", show_default=False)]
Method = Annotated[
    str | None,
    typer.Option("--method", metavar="M", help="See `adafv methods`; default: that of the model's folder, or adafv."),
]
Keep = Annotated[
    float | None, typer.Option("--keep", metavar="F", help=f"Share of the visual tokens to keep, 0 < F <= 1 "
                               f"default: that of the model's folder, or {DEFAULT_KEEP}.", show_default=False)
]  # fmt: skip
Tokens = Annotated[
    int | None, typer.Option("--tokens", metavar="K", help="Number of visual tokens to keep.", show_default=False)
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="ID_OR_PATH", help="Hub id or folder; default: the embedded model."),
]
Device = Annotated[str | None, typer.Option("--device", metavar="D", help="cpu, cuda, …; default: cuda if present.")]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", metavar="T", help="float32, bfloat16, float16; default: bfloat16 on cuda, else float32."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]


def open_picture(path: str, question: str) -> Any:
    """The picture that a question is about; a `ValueError` before any model is loaded if either is no good."""
    from adafv.images import open_image

    if not question.strip():
        raise ValueError("the question is empty: ask something about the picture")
    return open_image(path)


def pruner_of(name: str | None, keep: float | None, tokens: int | None, model: str | None = None) -> "Pruner":
    """The method at the budget of the command line; what it leaves open is that of the model's folder."""
    from dataclasses import replace

    from adafv.methods import method
    from adafv.saved import DEFAULT_METHOD, carried

    if name == "none":
        if tokens is not None:
            raise ValueError("--tokens with method 'none', which keeps every token: leave it out")
        return method(name, keep=1.0 if keep is None else keep)
    saved = carried(model) if model is not None else None
    if keep is None and tokens is None:
        keep, tokens = (saved.keep, saved.tokens) if saved else (DEFAULT_KEEP, None)
    if saved is None or name is not None:
        return method(name or DEFAULT_METHOD, keep=keep, tokens=tokens)
    return replace(saved, keep=keep, tokens=tokens)


def names_in(text: str) -> list[str]:
    """The entries of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def share_in(text: str) -> float:
    """One entry of --keep as a number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--keep {text!r} is not a number: pass shares such as 1,0.25,0.1") from None


def quiet() -> None:
    """Leave stderr to progress bars and our own sentences."""
    import warnings

    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    from adafv.families import UnprovenFamilyWarning

    warnings.simplefilter("ignore")
    warnings.simplefilter("once", UnprovenFamilyWarning)
    warnings.formatwarning = lambda message, *_, **__: f"adafv: {message}\n"
    hub.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def print_json(value: dict[str, Any]) -> None:
    """The one line of --json."""
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def print_table(table: Any, markdown: bool = False) -> None:
    """A rich table, 160 columns wide where the output is no terminal; as Markdown it is as wide as it has to be."""
    from rich import box
    from rich.console import Console

    console = Console(width=1_000) if markdown else Console()
    if markdown:
        table.box, table.title = box.MARKDOWN, None
        for row in table.rows:
            row.end_section = False
        with console.capture() as capture:
            console.print(table)
        typer.echo(capture.get().strip())
    else:
        console.print(table) if console.is_terminal else Console(width=160).print(table)
