"""One picture, one question: ask, explain. And what methods and model families there are."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from adafv.cli.options import (
    Device,
    Dtype,
    Json,
    Keep,
    Method,
    Model,
    Picture,
    Question,
    Tokens,
    open_picture,
    print_json,
    print_table,
    pruner_of,
    quiet,
)


def ask(
    image: Picture,
    question: Question,
    method: Method = None,
    keep: Keep = None,
    tokens: Tokens = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Answer a question about a picture."""
    picture, pruner = open_picture(image, question), pruner_of(method, keep, tokens, model)
    quiet()
    from adafv.ask import ask as answer_question
    from adafv.load import load

    answer = answer_question(*load(model, device, dtype), picture, question, pruner)
    if as_json:
        print_json(asdict(answer))
        return
    typer.echo(answer.answer)
    typer.echo(
        f"({answer.method}: {answer.kept_tokens} of {answer.visual_tokens} visual tokens, "
        f"first token after {answer.prefill_ms:.0f} ms, {answer.total_ms:.0f} ms in all)"
    )


def explain(
    image: Picture,
    question: Question,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.png", help="Where to draw it.", show_default=False)],
    method: Method = None,
    keep: Keep = None,
    tokens: Tokens = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Draw how the visual tokens were chosen, and the answers with and without the rest."""
    from adafv.files import writable_folder

    picture, pruner = open_picture(image, question), pruner_of(method, keep, tokens, model)
    writable_folder(out.parent)
    quiet()
    from adafv import viz
    from adafv.load import load

    summary = viz.explain(*load(model, device, dtype), picture, question, pruner, out)
    if as_json:
        print_json(summary)
    else:
        typer.echo(f"drawn: {out}")


def methods(
    model: Annotated[str | None, typer.Option("--model", hidden=True)] = None,
    device: Annotated[str | None, typer.Option("--device", hidden=True)] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """List the methods, each with its paper."""
    from adafv.methods import METHODS

    known = [
        {"name": name, "paper": cls.paper, "summary": (cls.__doc__ or "").strip().splitlines()[0]}
        for name, cls in METHODS.items()
    ]
    if as_json:
        print_json({"methods": known})
        return
    from rich.table import Table

    table = Table("method", "what it does", "paper", box=None, pad_edge=False)
    for entry in known:
        table.add_row(entry["name"], entry["summary"], entry["paper"])
    print_table(table)


def families(
    model: Annotated[str | None, typer.Option("--model", hidden=True)] = None,
    device: Annotated[str | None, typer.Option("--device", hidden=True)] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """List the model families that the test matrix covers, with what it proved of each."""
    from adafv.families import IMPOSSIBLE, UNPROVEN, record

    found = record()
    if as_json:
        print_json({**found, "unproven": UNPROVEN, "impossible": IMPOSSIBLE})
        return
    from rich.table import Table

    checks = sorted({check for family in found["families"].values() for check in family["passed"]})
    table = Table("family", "model", "saliency", *checks, box=None, pad_edge=False)
    for name, family in found["families"].items():
        cells = [str(count) if (count := family["passed"][check]) else "–" for check in checks]
        table.add_row(name, family["model"], family["saliency"], *cells)
    print_table(table)
    typer.echo(f"\n{len(found['families'])} families, tests passed of each kind (transformers {found['transformers']})")
    for title, reasons in (("Not proven, with a warning", UNPROVEN), ("Refused", IMPOSSIBLE)):
        typer.echo(f"\n{title}:")
        for name, reason in reasons.items():
            typer.echo(f"  {name}: {reason}")
