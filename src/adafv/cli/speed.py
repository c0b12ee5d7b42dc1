"""Measure stage times of pruned prompts against what the arithmetic allows: `adafv speed`."""

import os
from datetime import UTC, datetime
from typing import Annotated

import typer

from adafv.cli import options, printing
from adafv.core.config import DEFAULT_METHOD


def speed(
    out: options.Out,
    shape: Annotated[
        str,
        typer.Option(
            metavar="S",
            help="tiny, llava-1.5-7b, llava-1.5-13b, llava-next-7b, qwen2.5-vl-7b or qwen3-vl-8b; "
            "random weights.",
        ),
    ] = "tiny",
    layers: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Cut the language model to its first N layers; default: all."
        ),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="B,…", help="How many prompts at once.")] = "1",
    keep: options.Keeps = "1,0.25,0.1,0.05",
    methods: Annotated[
        str,
        typer.Option(
            metavar="M,…",
            help="See `adafv methods`; eager: adafv by full maps; listed: adafv by Python lists.",
        ),
    ] = DEFAULT_METHOD,
    repeats: Annotated[int, typer.Option(metavar="N", help="Repetitions of everything.")] = 10,
    answer: Annotated[
        int, typer.Option(metavar="N", help="Tokens of an answer, the first included.")
    ] = 8,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the LLM; on cuda as CUDA graphs.")
    ] = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Measure time: stages, TTFT, memory, and the share of the ideal speed-up.

    Resumes an interrupted run.
    """
    # PyTorch's profiler reads it once, when torch is imported: stderr is the progress bar's
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from adafv.models.load import device_of, dtype_of
    from adafv.speed import report, tables
    from adafv.speed.rows import REQUIRED, rows_of
    from adafv.speed.run import Measurement
    from adafv.utils.files import check_own, writable_folder

    # check everything that can be wrong before a model is made
    measurement = Measurement(
        shape=shape,
        layers=layers,
        batches=[_number(text) for text in options.names_in(batch, "--batch")],
        methods=options.names_in(methods, "--methods"),
        keeps=options.shares_in(keep),
        repeats=repeats,
        answer=answer,
        compile=compile_,
    )
    target = device_of(device)
    precision = dtype_of(dtype, target)
    writable_folder(out)
    # another command's results must not be overwritten
    check_own(out / "results.json", REQUIRED, "adafv speed")
    printing.quiet()
    start = datetime.now(UTC)
    # measure, then compare with what the arithmetic allows
    records, settings = measurement.run(target, precision, out, progress=True)
    rows = rows_of(records, settings, measurement.config)
    meta = report.meta_of(records, settings, start)
    report.write(out, meta, rows)
    if as_json:
        printing.print_json({"meta": meta, "rows": rows})
        return
    printing.print_table(tables.table(rows, meta), drop=tables.NARROW)
    printing.say(tables.LEGEND)
    for count, (low, middle, high) in meta["noise_floor"].items():
        typer.echo(
            f"noise floor, dense against dense, batch {count}: "
            f"{low:.2f} to {high:.2f}, median {middle:.2f}"
        )
    for entry in meta["left_out"]:
        typer.echo(
            f"left out: {entry['method']} at {entry['keep']}, "
            f"batch {entry['batch']}: {entry['reason']}"
        )
    written = [str(out / file) for file in ("results.json", "results.csv", "speed.png")]
    typer.echo(f"written: {', '.join(written)}")


def _number(text: str) -> int:
    """Return an entry of --batch as a number."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"--batch {text!r} is not a number of prompts: pass numbers such as 1,8,32"
        ) from None
