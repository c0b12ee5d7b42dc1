"""The command line. Heavy imports happen inside the commands: `adafv --help` needs no torch."""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adafv import __version__

if TYPE_CHECKING:
    from adafv.pruner import Pruner

__all__ = ["main"]

DEFAULT_KEEP = 0.1
BAD_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Fewer visual tokens for vision-language models: AdaFV and its rivals.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Picture = Annotated[str, typer.Argument(metavar="IMAGE", help="A picture file.", show_default=False)]
Question = Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.", show_default=False)]
Method = Annotated[str, typer.Option("--method", metavar="M", help="See `adafv methods`.")]
Keep = Annotated[
    float | None, typer.Option("--keep", metavar="F", help=f"Share of the visual tokens to keep, 0 < F <= 1 "
                               f"(without --tokens: {DEFAULT_KEEP}).", show_default=False)
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


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _adafv(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def ask(
    image: Picture,
    question: Question,
    method: Method = "adafv",
    keep: Keep = None,
    tokens: Tokens = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Answer a question about a picture."""
    picture, pruner = _picture(image, question), _pruner(method, keep, tokens)
    _quiet()
    from adafv.ask import ask as answer_question
    from adafv.load import load

    answer = answer_question(*load(model, device, dtype), picture, question, pruner)
    if as_json:
        _print_json(asdict(answer))
        return
    typer.echo(answer.answer)
    typer.echo(
        f"({answer.method}: {answer.kept_tokens} of {answer.visual_tokens} visual tokens, "
        f"first token after {answer.prefill_ms:.0f} ms, {answer.total_ms:.0f} ms in all)"
    )


@app.command()
def explain(
    image: Picture,
    question: Question,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.png", help="Where to draw it.", show_default=False)],
    method: Method = "adafv",
    keep: Keep = None,
    tokens: Tokens = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Draw how the visual tokens were chosen, and the answers with and without the rest."""
    from adafv.files import writable_folder

    picture, pruner = _picture(image, question), _pruner(method, keep, tokens)
    writable_folder(out.parent)
    _quiet()
    from adafv import viz
    from adafv.load import load

    summary = viz.explain(*load(model, device, dtype), picture, question, pruner, out)
    if as_json:
        _print_json(summary)
    else:
        typer.echo(f"drawn: {out}")


@app.command()
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
        _print_json({"methods": known})
        return
    from rich.table import Table

    table = Table("method", "what it does", "paper", box=None, pad_edge=False)
    for entry in known:
        table.add_row(entry["name"], entry["summary"], entry["paper"])
    _print_table(table)


@app.command(name="eval")
def evaluate(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.", show_default=False)],
    methods: Annotated[str, typer.Option(metavar="M,…", help="Methods; default: all.")] = "",
    keep: Annotated[str, typer.Option(metavar="F,…", help="Shares of the visual tokens; 1 is dense.")] = (
        "1,0.25,0.1,0.05"
    ),
    suite: Annotated[str, typer.Option(metavar="S,…", help="Suites of questions; default: all.")] = "",
    limit: Annotated[int | None, typer.Option(metavar="N", help="Questions of each suite; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the suites that are drawn.")] = 0,
    split: Annotated[str, typer.Option(metavar="S", help="validation to make choices, test to report.")] = "test",
    batch_size: Annotated[int, typer.Option(help="Prompts read at once.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 16,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy: methods x budgets x suites. Takes up an interrupted run where it stopped."""
    from adafv.evaluation import report
    from adafv.evaluation.evaluate import Evaluation
    from adafv.evaluation.paired import paired
    from adafv.evaluation.suites import suites_of
    from adafv.files import writable_folder
    from adafv.methods import METHODS

    plan = Evaluation(
        methods=_names(methods) or [*METHODS, "oracle"],
        keeps=[_share(text) for text in _names(keep)],
        suites=_names(suite) or suites_of(split),
        limit=limit,
        seed=seed,
        split=split,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    writable_folder(out)
    _quiet()
    from adafv.load import load

    name, start = model or "embedded", datetime.now(UTC)
    loaded, processor = load(model, device, dtype)
    records = plan.run(loaded, processor, out, name=name, progress=True)
    rows, pairs = report.rows_of(records), paired(records, ("adafv", "adafv+"))
    settings = {key: getattr(plan, key) for key in ("seed", "split", "limit", "batch_size", "max_new_tokens")}
    left_out = [{"method": m, "keep": k, "reason": reason} for (m, k), reason in plan.left_out.items()]
    meta = report.meta_of(loaded, name, start, **settings, left_out=left_out)
    report.write(out, meta, rows, pairs)
    if as_json:
        _print_json({"meta": meta, "rows": rows, "pairs": pairs})
        return
    _print_table(report.table(rows, pairs))
    typer.echo(report.LEGEND)
    for entry in left_out:
        typer.echo(f"left out: {entry['method']} at {entry['keep']}: {entry['reason']}")
    typer.echo(f"written: {', '.join(str(out / name) for name in ('results.json', 'results.csv', 'accuracy.png'))}")


@app.command()
def analyze(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the figures.", show_default=False)],
    results: Annotated[
        Path | None, typer.Option("--results", metavar="FILE", help="results.json of `adafv eval`, for Fig. 1.")
    ] = None,
    suite: Annotated[
        str, typer.Option(metavar="S,…", help="Suites of questions; default: the scenes, or with --boxes none.")
    ] = "",
    boxes: Annotated[
        Path | None,
        typer.Option(
            "--boxes",
            metavar="FILE",
            help='Your own: JSONL of {"image": …, "question": …, "boxes": [[left, top, right, bottom], …]}.',
        ),
    ] = None,
    methods: Annotated[str, typer.Option(metavar="M,…", help="Methods of Fig. 4, that choose before the LLM.")] = (
        "adafv,fastervlm,t2i,random,uniform"
    ),
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Questions of each suite; default: 200, of --boxes all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the suites that are drawn and of what is left to chance.")] = 0,
    split: Annotated[str, typer.Option(metavar="S", help="validation to make choices, test to report.")] = "test",
    batch_size: Annotated[int, typer.Option(help="Prompts read at once.")] = 8,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Draw the paper's Figs. 1 to 4 from measurements: who can tell what a question is about, and how soon."""
    from adafv.analysis import report
    from adafv.analysis.measure import Analysis
    from adafv.analysis.sources import SUITE_QUESTIONS, from_boxes, from_suite
    from adafv.analysis.tables import read_results
    from adafv.evaluation.report import meta_of
    from adafv.evaluation.scenes import SCENE_SUITES
    from adafv.files import writable_folder

    names = _names(suite) or ([] if boxes else list(SCENE_SUITES))
    questions = SUITE_QUESTIONS if limit is None else limit
    sources = [from_suite(name, questions, seed, split) for name in dict.fromkeys(names)]
    sources += [from_boxes(boxes, limit)] if boxes else []
    scores = read_results(results) if results else None
    plan = Analysis(sources=sources, methods=_names(methods), seed=seed, batch_size=batch_size)
    writable_folder(out)
    _quiet()
    from adafv.load import load

    name, start = model or "embedded", datetime.now(UTC)
    loaded, processor = load(model, device, dtype)
    findings = plan.run(loaded, processor, progress=True)
    settings = {
        "suites": [source.name for source in sources], "methods": list(plan.pruners), "limit": limit, "seed": seed,
        "split": split, "batch_size": batch_size, "results": str(results) if results else None,
    }  # fmt: skip
    meta = meta_of(loaded, name, start, **settings) | {"interval": report.INTERVAL}
    drawings, notes = report.drawings_of(findings, scores, seed), report.notes_of(findings, scores)
    whole = report.write(out, meta, drawings, findings, notes)
    if as_json:
        _print_json(whole)
        return
    for drawing in drawings:
        typer.echo(f"{out / drawing.name}.png, .csv\n  {drawing.caption}")
    for note in notes:
        typer.echo(note)


@app.command()
def table(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.json", help="Of `adafv eval`.", show_default=False)],
    keep: Annotated[str, typer.Option(metavar="F,…", help="Shares of the visual tokens; default: all.")] = "",
    as_json: Json = False,
) -> None:
    """Print what an evaluation found."""
    from adafv.evaluation import report

    found = report.read(results)
    keeps = {_share(text) for text in _names(keep)}
    rows = [row for row in found["rows"] if not keeps or row["keep"] in keeps | {0, 1}]
    if as_json:
        _print_json(found | {"rows": rows})
        return
    _print_table(report.table(rows, found["pairs"]))
    typer.echo(report.LEGEND)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for bad input (one line on stderr), 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status = typer.main.get_command(app).main(arguments, prog_name="adafv", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except ValueError as error:
        return _fail(str(error), BAD_INPUT)
    except BrokenPipeError:
        sys.stderr.close()  # keeps the interpreter from complaining about the closed stdout
        return 0
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's usage errors, which have no public base class
            raise
        return _fail(f"{error.format_message()} See 'adafv --help'.", BAD_INPUT)
    return _fail("stopped", status) if status == INTERRUPTED else status or 0


def _fail(message: str, status: int) -> int:
    typer.echo(f"adafv: {' '.join(message.split())}", err=True)
    return status


def _picture(path: str, question: str) -> Any:
    from adafv.images import open_image

    if not question.strip():
        raise ValueError("the question is empty: ask something about the picture")
    return open_image(path)


def _pruner(name: str, keep: float | None, tokens: int | None) -> "Pruner":
    from adafv.methods import method

    if name == "none":
        if tokens is not None:
            raise ValueError("--tokens with method 'none', which keeps every token: leave it out")
        return method(name, keep=1.0 if keep is None else keep)
    return method(name, keep=DEFAULT_KEEP if keep is None and tokens is None else keep, tokens=tokens)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--keep {text!r} is not a number: pass shares such as 1,0.25,0.1") from None


def _quiet() -> None:
    """Leave stderr to progress bars and our own sentences."""
    import warnings

    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    warnings.simplefilter("ignore")
    hub.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _print_table(table: Any) -> None:
    from rich.console import Console

    console = Console()
    console.print(table) if console.is_terminal else Console(width=160).print(table)
