"""Answer a file of questions: `adafv batch`, a job over a file.

The HTTP server is another command, see `adafv.cli.serve`.
"""

import os
import sys
from contextlib import redirect_stdout
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adafv.cli.options import (
    Device,
    Dtype,
    Json,
    Keep,
    MaxNewTokens,
    Method,
    Model,
    Tokens,
    complain_of_words,
    pruner_of,
)
from adafv.cli.printing import print_json, quiet, say
from adafv.cli.signals import stop_as_interrupted

if TYPE_CHECKING:
    from adafv.batch.engine import Engine

ENGINES = ("hf", "vllm", "ray")
FAILED = 1  # exit status: some lines have failed


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.jsonl",
            help='Lines of {"image" or "video": FILE, "question": …}; '
            '"id", "method", "keep" or "tokens" if wanted, "frames" of a video.',
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT.jsonl",
            help="A result for each line, in order; - writes to stdout.",
            show_default=False,
        ),
    ],
    method: Method = None,
    keep: Keep = None,
    tokens: Tokens = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine", metavar="E", help="hf (transformers), vllm, or ray (vLLM on a cluster)."
        ),
    ] = "hf",
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="vLLM engines of --engine ray; default: 1.", show_default=False
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Lines answered at once; default: 8 (vllm: 256, ray: 32).",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: MaxNewTokens = 64,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Answer the lines that failed in an earlier run again."
        ),
    ] = False,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Answer a file of questions, a result per line; resumes an interrupted run.

    Lines may be added at the end of IN meanwhile. Exit status 1: some lines have failed, each with
    its reason.
    """
    # check everything that can be wrong before a model is loaded
    _check(engine, workers, device)
    # - stands for standard output
    piped = str(out) == "-"
    if piped and (as_json or retry_failed):
        given = "--json" if as_json else "--retry-failed"
        raise ValueError(
            f"{given} with OUT -, which is the results themselves: "
            f"pass a file, or leave {given} out"
        )
    pruner = pruner_of(method, keep, tokens, model)
    from adafv.batch.job import Batch
    from adafv.utils.files import writable_folder

    quiet()
    plan = Batch(
        source=source,
        out=None if piped else out,
        pruner=pruner,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        retry_failed=retry_failed,
    )
    if not piped:
        # a folder that cannot be written is said now, not after hours
        writable_folder(out.parent)
    stdout = sys.stdout
    # Ray talks, and stdout is for results
    with redirect_stdout(sys.stderr):
        made = _engine(engine, workers or 1, model, device, dtype)
        # now that there is a processor, `skip=template` has its ids
        plan = plan.with_pruner(pruner_of(method, keep, tokens, model, made.processor))
        unknown = complain_of_words(made.processor, plan.questions, model)
        # unbuffered: nothing is left to fail again when Python ends
        stream = FileIO(stdout.fileno(), "wb", closefd=False) if piped else None
        stop_as_interrupted()
        summary = plan.run(made, progress=True, stream=stream)
    if as_json:
        print_json({"out": str(out), "method": pruner.spec, **summary, "unknown_words": unknown})
    else:
        _report(out, piped, summary)
    if summary["failed"]:
        # scripts see that not every line has an answer
        raise typer.Exit(FAILED)


def _report(out: Path, piped: bool, summary: dict[str, Any]) -> None:
    """Print what became of the job."""
    if not piped:
        typer.echo(
            f"written: {out} ({summary['lines']} lines, {summary['resumed']} answered before)"
        )
    if summary["failed"]:
        text = f"failed: {summary['failed']} lines, the first because: {summary['first_error']}"
        if piped:
            typer.echo(text, err=True)
        else:
            say(text)


def _check(engine: str, workers: int | None, device: str | None) -> None:
    """Raise a `ValueError` for an engine that there is not, or an option that it does not have."""
    if engine not in ENGINES:
        raise ValueError(f"--engine {engine!r} is unknown: pass one of {', '.join(ENGINES)}")
    if workers is not None and engine != "ray":
        raise ValueError(
            f"--workers {workers} with --engine {engine}, which has none: pass --engine ray"
        )
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers} is too few: pass 1 or more")
    if device is not None and engine != "hf":
        raise ValueError(
            f"--device {device} with --engine {engine}, which takes the devices it finds: "
            "leave it out"
        )


def _engine(
    name: str, workers: int, model: str | None, device: str | None, dtype: str | None
) -> "Engine":
    """Return an engine by its name; only its own imports are made."""
    if name == "vllm":
        # no process that vLLM starts runs code that lies in the current folder
        os.environ.setdefault("PYTHONSAFEPATH", "1")
        from adafv.batch.vllm import VLLMEngine

        return VLLMEngine(model, dtype)
    if name == "ray":
        from adafv.batch.ray import RayEngine

        return RayEngine(model, dtype, workers=workers)
    from adafv.batch.hf import HuggingFace
    from adafv.models.load import load

    # in this process; the other engines load the model in processes of their own
    return HuggingFace(*load(model, device, dtype), model or "embedded")
