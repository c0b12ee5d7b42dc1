"""Define the options that commands share, and read what they say."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adafv import embedded
from adafv.cli.printing import complain
from adafv.core.config import DEFAULT_METHOD, PruneConfig, share_of
from adafv.models import photo
from adafv.models.hub import check_available

if TYPE_CHECKING:
    from adafv.core.pruner import Pruner

# Share of the visual tokens where nothing is said.
DEFAULT_KEEP = 0.1


def _available(model: str | None) -> str | None:
    """Refuse a model that cannot be downloaded, before PyTorch is imported."""
    if model is not None:
        check_available(model)
    return model


# Arguments and options that several commands have.
Image = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE", help="An image file; - reads it from standard input.", show_default=False
    ),
]
ImageOrVideo = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="An image or a video; - reads an image from standard input.",
        show_default=False,
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        "--frames",
        metavar="N",
        help="Frames of a video, evenly over its length; default: 8.",
        show_default=False,
    ),
]
Question = Annotated[
    str, typer.Argument(metavar="QUESTION", help="What to ask about it.", show_default=False)
]
Out = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", help="Folder for the results.", show_default=False),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="M",
        help="See `adafv methods`; with options as adafv:reserve=0.5; "
        f"default: that of the model's folder, or {DEFAULT_METHOD}.",
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="F",
        help="Share of the visual tokens to keep, e.g. 0.1 or 10%; "
        f"default: that of the model's folder, or {DEFAULT_KEEP}.",
        show_default=False,
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(
        "--tokens", metavar="K", help="Number of visual tokens to keep.", show_default=False
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option("--max-new-tokens", metavar="N", help="Longest answer, in tokens.")
]
# Lists of what a measurement tries.
_METHODS = typer.Option(
    "--methods", metavar="M,…", help="Methods, with options as in adafv:reserve=0.5:top=3."
)
Methods = Annotated[str, _METHODS]
OptionalMethods = Annotated[str | None, _METHODS]  # where none is named
Keeps = Annotated[
    str, typer.Option("--keep", metavar="F,…", help="Shares of the visual tokens; 1 is dense.")
]
Split = Annotated[
    str,
    typer.Option("--split", metavar="S", help="validation to make choices, test to report."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Prompts read at once.")]


def _model(default: str) -> typer.models.OptionInfo:
    """Return the option for a model, whose help says which it is by default."""
    return typer.Option(
        "--model",
        metavar="ID_OR_PATH",
        help=f"Hub id or folder, photo or embedded; default: {default}.",
        callback=_available,
    )


Model = Annotated[str | None, _model("embedded")]
ModelForImage = Annotated[
    str | None, _model("embedded, or photo for larger images where it was fetched")
]
ModelForPage = Annotated[str | None, _model("photo where it was fetched, else embedded")]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="D", help="cpu, cuda, …; default: cuda if present."),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="T",
        help="float32, bfloat16, float16; default: bfloat16 on cuda, else float32.",
    ),
]
# Taken by commands that run no model, so that a script may pass what it passes to `ask`: whatever
# these say, the output is the same.
UnusedModel = Annotated[str | None, typer.Option("--model", hidden=True)]
UnusedDevice = Annotated[str | None, typer.Option("--device", hidden=True)]
UnusedDtype = Annotated[str | None, typer.Option("--dtype", hidden=True)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]


def open_image(path: str, question: str) -> Any:
    """Return the image that a question is about.

    Raises:
        ValueError: either cannot be used; said before any model is loaded.
    """
    import warnings

    from adafv.models.images import (
        FirstFrameWarning,
        TinyImageWarning,
        first_frame,
        open_image,
        tiny_image,
    )

    if not question.strip():
        raise ValueError("the question is empty: ask something about the image")
    piped = path == "-"
    with warnings.catch_warnings():
        # said below, as our own sentence
        warnings.simplefilter("ignore", FirstFrameWarning)
        warnings.simplefilter("ignore", TinyImageWarning)
        image = open_image(_standard_input() if piped else path)
    name = "the image" if piped else path
    for note in filter(None, (first_frame(image, name), tiny_image(image, name))):
        complain(note)
    return image


def open_image_or_video(path: str, question: str, frames: int | None, model: str | None) -> Any:
    """Return the image, or the video, that a question is about.

    Raises:
        ValueError: it cannot be used, or not by the model; said before that is loaded.
    """
    from adafv.models.videos import FRAMES, is_video, open_video

    if not is_video(path):
        if frames is not None:
            raise ValueError(f"--frames {frames} with an image, which is one: leave it out")
        return open_image(path, question)
    if not question.strip():
        raise ValueError("the question is empty: ask something about the video")
    if model in (None, embedded.NAME):
        raise ValueError(
            f"{path} is a video, and the built-in model reads images alone: pass --model with one "
            "that reads videos, such as a Qwen2.5-VL, or ask about a frame as an image"
        )
    return open_video(path, FRAMES if frames is None else frames)


def _standard_input() -> bytes:
    """Return what is piped in."""
    # a terminal would wait for a person to type an image
    if sys.stdin is None or sys.stdin.isatty():
        raise ValueError(
            "IMAGE is -, and nothing is piped in: pass a file, "
            "or e.g. adafv ask - QUESTION < image.png"
        )
    return sys.stdin.buffer.read()


def pruner_of(
    name: str | None,
    keep: str | None,
    tokens: int | None,
    model: str | None = None,
    processor: Any = None,
) -> "Pruner":
    """Return the method at the budget of the command line, or else the one that the model carries.

    Args:
        name: as `adafv.methods.from_spec` reads it, with options and perhaps the budget.
        keep, tokens: the budget.
        model: the folder.
        processor: of the model, whose template's words `skip=template` leaves out; None: before it
            is loaded.

    Raises:
        ValueError: an unknown method, or a budget that is not valid.
    """
    from adafv.methods import from_config
    from adafv.models.boilerplate import boilerplate
    from adafv.models.saved import carried

    def template() -> Iterable[int]:
        return () if processor is None else boilerplate(processor)

    share = None if keep is None else share_in(keep)
    # the budget on the command line: options of their own, or part of the method's name
    config = PruneConfig.from_spec(DEFAULT_METHOD if name is None else name)
    dense = config.method == "none"
    if dense and tokens is not None:
        raise ValueError("--tokens with method 'none', which keeps every token: leave it out")
    for option, value in (("keep", share), ("tokens", tokens)):
        if value is not None:
            config = config.given({option: value})

    # else that of the model's folder, or the default
    saved = carried(model, template) if model is not None else None
    if not config.budget and not dense:
        config = config.over(PruneConfig(keep=DEFAULT_KEEP) if saved is None else saved.config)

    # the folder's method has options of its own; one that is named here does not get them
    if saved is not None and name is None:
        return replace(saved, keep=config.keep, tokens=config.tokens)
    return from_config(config, template)


def names_in(text: str | None, option: str) -> list[str]:
    """Return the entries of an option's comma-separated list; None: it was left out.

    Raises:
        ValueError: it is there, and names nothing, as an unset variable of a shell does.
    """
    if text is None:
        return []
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"{option} {text!r} names nothing: name something, or leave {option} out")
    return names


def shares_in(text: str | None) -> list[float]:
    """Return the shares of a comma-separated list of --keep; None: it was left out."""
    return [share_in(name) for name in names_in(text, "--keep")]


def share_in(text: str, option: str = "--keep") -> float:
    """Return one share of an option as a number; 10% is 0.1."""
    try:
        # the error names the option, which the library does not know
        return share_of(text)
    except ValueError as error:
        raise ValueError(f"{option} {error}") from None


def complain_of_words(processor: Any, questions: Iterable[str], model: str | None) -> list[str]:
    """Say which words of some questions the embedded model doesn't know; return them."""
    from adafv.models.vocabulary import unknown_words, unknown_words_notice

    if model not in (None, embedded.NAME):
        return []
    # each word once, in the order of the questions
    found: dict[str, None] = {}
    for question in questions:
        found |= dict.fromkeys(unknown_words(processor, question))
    unknown = list(found)
    if unknown:
        complain(unknown_words_notice(processor, unknown))
    return unknown


def name_of(model: str | None) -> str:
    """Return what to call a model that `model_for` has chosen."""
    if model is None:
        return "embedded"
    return "photo" if photo.fetched() and Path(model) == photo.folder() else model


def model_for(image: Any, model: str | None) -> str | None:
    """Return the model for an image; None: the embedded one.

    What is larger than that one's own scenes goes to the photo model where it was fetched and no
    model was named; otherwise a sentence says that the embedded model guesses.

    Raises:
        ValueError: it was fetched by another version.
    """
    from adafv.models.photo.record import check_current
    from adafv.models.vocabulary import photograph_notice

    if model not in (None, embedded.NAME):
        return model
    beyond = photograph_notice(image)
    if beyond and model is None and photo.fetched():
        check_current()
        # by its path: a folder here may have its name
        return str(photo.folder())
    if beyond:
        complain(beyond)
    return model
