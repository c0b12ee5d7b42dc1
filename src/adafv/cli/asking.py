"""Ask one question about one image or video: `adafv ask` and `adafv explain`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from adafv.cli.extras import need
from adafv.cli.options import (
    Device,
    Dtype,
    Frames,
    ImageOrVideo,
    Json,
    Keep,
    MaxNewTokens,
    Method,
    ModelForImage,
    Question,
    Tokens,
    complain_of_words,
    model_for,
    name_of,
    open_image_or_video,
    pruner_of,
)
from adafv.cli.printing import print_json, quiet

# Said of an answer that has reached the limit.
CUT = " cut after {} tokens: a larger --max-new-tokens lets it continue"


def ask(
    file: ImageOrVideo,
    question: Question,
    method: Method = None,
    keep: Keep = None,
    tokens: Tokens = None,
    frames: Frames = None,
    max_new_tokens: MaxNewTokens = 64,
    model: ModelForImage = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Answer a question about an image or a video."""
    # check everything that can be wrong before a model is loaded
    opened = open_image_or_video(file, question, frames, model)
    model = model_for(opened, model)
    pruner_of(method, keep, tokens, model)
    loaded, processor = _loaded(question, max_new_tokens, model, device, dtype)
    from adafv.models.ask import ask as answer_question

    # now that there is a processor, `skip=template` has its ids
    pruner = pruner_of(method, keep, tokens, model, processor)
    answer = answer_question(loaded, processor, opened, question, pruner, max_new_tokens)
    if as_json:
        print_json({"model": name_of(model), **asdict(answer)})
        return
    # an answer that was cut ends in an ellipsis
    cut = f";{CUT.format(max_new_tokens)}" if answer.cut else ""
    typer.echo(f"{answer.answer} …" if cut else answer.answer)
    typer.echo(
        f"({name_of(model)}, {answer.method}: {answer.kept_tokens} of {answer.visual_tokens} "
        f"visual tokens, "
        f"first token after {answer.prefill_ms:.0f} ms, {answer.total_ms:.0f} ms in all{cut})"
    )


def explain(
    file: ImageOrVideo,
    question: Question,
    *,
    method: Method = None,
    keep: Keep = None,
    tokens: Tokens = None,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE.png", help="Where to draw it.", show_default=False),
    ],
    frames: Frames = None,
    model: ModelForImage = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
    max_new_tokens: MaxNewTokens = 64,
) -> None:
    """Draw how the visual tokens were chosen, and the answers with and without the rest."""
    need("matplotlib")
    from adafv.utils.files import check_png, check_unread, writable_folder

    # check everything that can be wrong before a model is loaded
    opened = open_image_or_video(file, question, frames, model)
    model = model_for(opened, model)
    pruner_of(method, keep, tokens, model)
    check_png(out)
    check_unread(out, [file])
    writable_folder(out.parent)
    loaded, processor = _loaded(question, max_new_tokens, model, device, dtype)
    from adafv import viz

    # answer with and without pruning, and draw
    pruner = pruner_of(method, keep, tokens, model, processor)
    summary = viz.explain(loaded, processor, opened, question, pruner, out, max_new_tokens)
    if as_json:
        print_json({"model": name_of(model), **summary})
    else:
        typer.echo(f"drawn: {out}")
        if summary["cut"]:
            typer.echo(f"an answer on it was{CUT.format(max_new_tokens)}")


def _loaded(
    question: str,
    max_new_tokens: int,
    model: str | None,
    device: str | None,
    dtype: str | None,
) -> tuple[Any, Any]:
    """Return model and processor, having said what the model does not know of a question."""
    quiet()
    # imported after the checks: PyTorch takes seconds
    from adafv.models.generation import check_answer_length
    from adafv.models.load import load

    check_answer_length(max_new_tokens)
    loaded, processor = load(model, device, dtype)
    complain_of_words(processor, [question], model)
    return loaded, processor
