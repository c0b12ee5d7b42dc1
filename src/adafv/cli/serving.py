"""Answering for others: batch."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adafv.cli.options import Device, Dtype, Json, Keep, Method, Model, Tokens, print_json, pruner_of, quiet

if TYPE_CHECKING:
    from adafv.serving.engine import Engine

ENGINES = ("hf", "vllm", "ray")


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
    method: Method = None,
    keep: Keep = None,
    tokens: Tokens = None,
    engine: Annotated[
        str, typer.Option("--engine", metavar="E", help="hf (transformers), vllm, or ray (vLLM on a cluster).")
    ] = "hf",
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="vLLM engines of --engine ray; default: 1.", show_default=False)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Lines answered at once; default: 8 (vllm: 256, ray: 32).", show_default=False),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="Longest answer.")] = 64,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Answer a file of questions, a result per line. Takes up an interrupted run where it stopped."""
    _check(engine, workers, device)
    pruner = pruner_of(method, keep, tokens, model)
    from adafv.files import writable_folder
    from adafv.serving.batch import Batch

    plan = Batch(source=source, out=out, pruner=pruner, batch_size=batch_size, max_new_tokens=max_new_tokens)
    writable_folder(out.parent)
    quiet()
    with redirect_stdout(sys.stderr):  # Ray talks
        summary = plan.run(_engine(engine, workers or 1, model, device, dtype), progress=True)
    if as_json:
        print_json({"out": str(out), "method": pruner.name, **summary})
        return
    typer.echo(f"written: {out} ({summary['lines']} lines, {summary['resumed']} of them were there)")
    if summary["failed"]:
        typer.echo(f"failed: {summary['failed']} lines, the first because: {summary['first_error']}")


def _check(engine: str, workers: int | None, device: str | None) -> None:
    if engine not in ENGINES:
        raise ValueError(f"--engine {engine!r} is unknown: pass one of {', '.join(ENGINES)}")
    if workers is not None and engine != "ray":
        raise ValueError(f"--workers {workers} with --engine {engine}, which has none: pass --engine ray")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers} is too few: pass 1 or more")
    if device is not None and engine != "hf":
        raise ValueError(f"--device {device} with --engine {engine}, which takes the devices it finds: leave it out")


def _engine(name: str, workers: int, model: str | None, device: str | None, dtype: str | None) -> "Engine":
    if name == "vllm":
        from adafv.serving.offline import Offline

        return Offline(model, dtype)
    if name == "ray":
        from adafv.serving.cluster import Cluster

        return Cluster(model, dtype, workers=workers)
    from adafv.load import load
    from adafv.serving.hf import HuggingFace

    return HuggingFace(*load(model, device, dtype), model or "embedded")
