"""Measure methods on many questions: `adafv eval`, its `table`, and `analyze`."""

from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adafv.cli import options, printing
from adafv.cli.extras import need
from adafv.cli.signals import stop_as_interrupted

if TYPE_CHECKING:
    from adafv.analysis.sources import Source
    from adafv.evaluation.evaluate import Evaluation
    from adafv.evaluation.workers import Workers


def evaluate(
    out: options.Out,
    methods: options.OptionalMethods = None,
    keep: options.Keeps = "1,0.25,0.1,0.05",
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="S,…",
            help="Suites of questions: scenes, scenes-small, scenes-text, easy-vqa, pages, clips, "
            "or own ones: FILE.jsonl; default: all scenes, easy-vqa.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="M,…",
            help="Methods that all others are compared with, in pairs.csv and, the first, in the "
            "table; default: adafv, adafv+, or else the first.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Questions of each suite; default: all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the generated suites.")] = 0,
    split: options.Split = "test",
    batch_size: options.BatchSize = 16,
    max_new_tokens: options.MaxNewTokens = 16,
    processes: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Processes that answer side by side, each with its own model.",
        ),
    ] = 1,
    entry: Annotated[
        Path | None,
        typer.Option(
            "--entry", metavar="FOLDER", help="Also write an entry of the leaderboard here."
        ),
    ] = None,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Measure accuracy: methods x budgets x suites; resumes an interrupted run.

    Without --methods every method is measured. DIR may have results of other methods, budgets or
    suites: they are kept, and the table shows all.
    """
    suites = options.names_in(suite, "--suite")
    if "easy-vqa" in suites:
        need("easy_vqa")
    from adafv.data.suites import suites_of
    from adafv.evaluation.entry import check_repeatable
    from adafv.evaluation.evaluate import Evaluation
    from adafv.evaluation.report import reference
    from adafv.evaluation.run import EvaluationRun
    from adafv.methods import BASELINES, METHODS

    # check everything that can be wrong before a model is loaded
    plan = Evaluation(
        methods=options.names_in(methods, "--methods") or [*METHODS, *BASELINES, "oracle"],
        keeps=options.shares_in(keep),
        suites=suites or suites_of(split),
        limit=limit,
        seed=seed,
        split=split,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    if entry is not None:
        check_repeatable(model, plan.suites, split)
    references = options.names_in(against, "--against")
    run = EvaluationRun(plan=plan, out=out, against=references, entry=entry)
    answering = _workers(processes, plan, model, device, dtype)
    stop_as_interrupted()
    printing.quiet()
    from adafv.models.load import load

    name = model or "embedded"
    start = datetime.now(UTC)
    loaded, processor = load(model, device, dtype)
    run.check(loaded, processor, name)
    options.complain_of_words(processor, plan.questions(), model)
    with answering as workers:
        found = run.run(loaded, processor, name=name, start=start, progress=True, workers=workers)
    _complain_of_outdated(found.outdated)
    if as_json:
        printing.print_json({"meta": found.meta, "rows": found.rows, "pairs": found.pairs})
        return
    _print_evaluation(found.rows, found.pairs, reference(found.meta, found.pairs))
    for refused in found.refusals:
        what = f"{refused['method']} at {refused['keep']} on {refused['suite']}"
        printing.say(f"left out: {what}: {refused['reason']}", indent=2)
    typer.echo(f"written: {', '.join(map(str, found.files))}")


def _workers(
    count: int, plan: "Evaluation", model: str | None, device: str | None, dtype: str | None
) -> "AbstractContextManager[Workers | None]":
    """Return processes that answer in place of this one; of a single one there is no need."""
    from adafv.evaluation.workers import Workers

    if count == 1:
        return nullcontext()
    return Workers(count, plan, model, device, dtype)


def analyze(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Folder for the figures.", show_default=False),
    ],
    results: Annotated[
        Path | None,
        typer.Option("--results", metavar="FILE", help="results.json of `adafv eval`, for Fig. 1."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="S,…",
            help="Suites of questions, own ones with boxes, too: FILE.jsonl or a folder; default: "
            "the scenes, or with --boxes none.",
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            "--boxes",
            metavar="FILE",
            help='Your own: JSONL of {"image": …, "question": …, '
            '"boxes": [[left, top, right, bottom], …]}.',
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(metavar="M,…", help="Methods of Fig. 4, that choose before the LLM.")
    ] = ("adafv,fastervlm,t2i,random,uniform"),
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Questions of each suite; default: 200, of --boxes all."),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Random seed of the generated suites, of chance and of intervals.")
    ] = 0,
    split: options.Split = "test",
    batch_size: options.BatchSize = 8,
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Draw the paper's figures 1 to 4.

    They show which signals locate what a question is about, and at what budget.
    """
    need("sklearn")
    from adafv.analysis import report
    from adafv.analysis.measure import Analysis
    from adafv.analysis.tables import read_results
    from adafv.evaluation.report import meta_of

    # check everything that can be wrong before a model is loaded
    sources = _sources(options.names_in(suite, "--suite"), boxes, limit, seed, split)
    # accuracy of an evaluation, for the first figure
    scores = read_results(results) if results else None
    plan = Analysis(
        sources=sources,
        methods=options.names_in(methods, "--methods"),
        seed=seed,
        batch_size=batch_size,
    )
    _check_figures(out, sources, results)
    printing.quiet()
    from adafv.models.load import load

    # measure, then draw
    name = model or "embedded"
    start = datetime.now(UTC)
    loaded, processor = load(model, device, dtype)
    findings = plan.run(loaded, processor, progress=True)
    settings = {
        "suites": [source.name for source in sources],
        "methods": list(plan.pruners),
        "limit": limit,
        "seed": seed,
        "split": split,
        "batch_size": batch_size,
        "results": str(results) if results else None,
    }
    meta = meta_of(loaded, name, start, **settings) | {"interval": report.INTERVAL}
    drawings = report.drawings_of(findings, scores, seed)
    notes = report.notes_of(findings, scores)
    written = report.write(out, meta, drawings, findings, notes)

    if as_json:
        printing.print_json(written)
        return
    for drawing in drawings:
        typer.echo(f"{out / drawing.name}.png, .csv\n  {drawing.caption}")
    for note in notes:
        printing.say(note, indent=2)


def _sources(
    suites: list[str], boxes: Path | None, limit: int | None, seed: int, split: str
) -> "list[Source]":
    """Return the questions, each with the boxes that its answer depends on."""
    from adafv.analysis.sources import SUITE_QUESTIONS, from_boxes, from_suite
    from adafv.data.scenes import SCENE_SUITES

    if not suites and boxes is None:
        suites = list(SCENE_SUITES)
    questions = SUITE_QUESTIONS if limit is None else limit
    sources = [from_suite(name, questions, seed, split) for name in dict.fromkeys(suites)]
    if boxes is not None:
        sources.append(from_boxes(boxes, limit))
    return sources


def _check_figures(out: Path, sources: "list[Source]", results: Path | None) -> None:
    """Raise a `ValueError` if figures cannot be written, or would replace what they are made of."""
    from adafv.analysis import report
    from adafv.utils.files import check_unread, writable_folder

    read = [results] if results else []
    for source in sources:
        read += source.files
    writable_folder(out)
    for file in report.FILES:
        check_unread(out / file, read)


def _complain_of_outdated(outdated: set[tuple[str, str, float]]) -> None:
    """Name the methods whose answers to earlier questions have left the table."""
    for suite in sorted({suite for suite, _, _ in outdated}):
        names = sorted({method for own, method, _ in outdated if own == suite})
        printing.complain(
            f"the questions of {suite!r} have changed: {', '.join(names)} answered other ones and "
            "left the table, measure them again"
        )


def table(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="RESULTS.json", help="Of `adafv eval` or `adafv tune`.", show_default=False
        ),
    ],
    keep: Annotated[
        str | None, typer.Option(metavar="F,…", help="Shares of the visual tokens; default: all.")
    ] = None,
    question_type: Annotated[
        str,
        typer.Option(
            "--type",
            metavar="T",
            help="Questions of a type; 'beyond resize': those that all tokens answer and an image "
            "shrunk to the same budget does not.",
        ),
    ] = "all",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As Markdown, e.g. for a model card.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Print what an evaluation or a tuning found."""
    from adafv.evaluation import report
    from adafv.tuning import report as tuning

    if markdown and as_json:
        raise ValueError("--markdown prints a table, --json does not: leave one of them out")
    # a tuning's file says so itself; any other is taken for an evaluation's
    tuned = tuning.read(results)
    found = tuned or report.read(results)
    if tuned and question_type != "all":
        raise ValueError(
            "--type is for results of `adafv eval`, which a tuning is not: leave it out"
        )
    # 10% and 0.1 are the same share
    keeps = set(options.shares_in(keep))
    _check_shares(keeps, found["rows"])
    # the dense row and the blind one are what the others are compared with
    rows = [row for row in found["rows"] if not keeps or row["keep"] in keeps | {0, 1}]
    if as_json:
        if keeps and not tuned:
            pairs = [pair for pair in found["pairs"] if pair["keep"] in keeps]
            found = found | {"pairs": pairs}
        if question_type != "all":
            # differences are of all questions
            rows = report.of_type(rows, question_type)
            found = found | {"pairs": []}
        printing.print_json(found | {"rows": rows})
    elif tuned:
        printing.print_table(tuning.table(rows), markdown, tuning.NARROW)
        for line in (*tuning.legends(rows), tuned["verdict"]):
            printing.say(line, markdown=markdown)
    else:
        pairs = [pair for pair in found["pairs"] if not keeps or pair["keep"] in keeps]
        against = report.reference(found["meta"], pairs)
        _print_evaluation(rows, pairs, against, question_type, markdown)


def _print_evaluation(
    rows: list[dict[str, Any]],
    pairs: list[dict[str, Any]],
    against: str | None,
    question_type: str = "all",
    markdown: bool = False,
) -> None:
    """Print the table of an evaluation, and below it what its marks say, where it has some."""
    from adafv.evaluation import report

    table = report.table(rows, pairs, against, question_type)
    printing.print_table(table, markdown, report.NARROW)
    # differences are of all questions
    if against is not None and question_type == "all":
        printing.say(report.legend(against), markdown=markdown)


def _check_shares(keeps: set[float], rows: list[dict[str, Any]]) -> None:
    """Raise a `ValueError` for a share that rows of results don't have."""
    measured = {row["keep"] for row in rows}
    for keep in sorted(keeps):
        if not 0 <= keep <= 1:
            raise ValueError(f"--keep {keep:g} is no share: pass 0 to 1, e.g. 0.1 or 10%")
        if keep not in measured:
            known = ", ".join(f"{share:g}" for share in sorted(measured, reverse=True))
            raise ValueError(f"--keep {keep:g} is not in these results: pass some of {known}")
