"""Answering for others: batch."""

from pathlib import Path
from typing import Annotated

import typer

from adafv.cli.options import Device, Dtype, Json, Keep, Method, Model, Tokens, print_json, pruner_of, quiet


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.jsonl",
            help='Lines of {"image": FILE, "question": …}, "id" and "keep" if wanted; files relative to its folder.',
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT.jsonl", help="A result for each line, in order.", show_default=False)
    ],
    method: Method = "adafv",
    keep: Keep = None,
    tokens: Tokens = None,
    engine: Annotated[str, typer.Option("--engine", metavar="E", help="What runs the model: hf.")] = "hf",
    batch_size: Annotated[int, typer.Option(metavar="N", help="Lines answered and written at once.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="Longest answer.")] = 64,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Answer a file of questions, a result per line. Takes up an interrupted run where it stopped."""
    if engine in ("vllm", "ray"):
        raise ValueError(f"--engine {engine} is not built yet: pass --engine hf, which runs stock transformers models")
    if engine != "hf":
        raise ValueError(f"--engine {engine!r} is unknown: pass hf")
    pruner = pruner_of(method, keep, tokens)
    from adafv.files import writable_folder
    from adafv.serving.batch import Batch

    plan = Batch(source=source, out=out, pruner=pruner, batch_size=batch_size, max_new_tokens=max_new_tokens)
    writable_folder(out.parent)
    quiet()
    from adafv.load import load

    summary = plan.run(*load(model, device, dtype), name=model or "embedded", progress=True)
    if as_json:
        print_json({"out": str(out), "method": pruner.name, **summary})
        return
    typer.echo(f"written: {out} ({summary['lines']} lines, {summary['resumed']} of them were there)")
    if summary["failed"]:
        typer.echo(f"failed: {summary['failed']} lines, the first because: {summary['first_error']}")
