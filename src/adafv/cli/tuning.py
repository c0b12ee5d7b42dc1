"""Choose a budget on a user's own questions: `adafv tune`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adafv.cli import options, printing

if TYPE_CHECKING:
    from adafv.core.pruner import Pruner
    from adafv.tuning.run import Findings, Tuning


def tune(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="FILE.jsonl",
            help='Lines of {"image": FILE, "question": …}, "answer" where the truth is known; '
            "files relative to it.",
            show_default=False,
        ),
    ],
    out: options.Out,
    min_retention: Annotated[
        str,
        typer.Option(
            "--min-retention",
            metavar="F",
            help="Smallest share of the dense model's correct answers to keep, e.g. 0.98 or 98%.",
        ),
    ] = "0.98",
    model: options.Model = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    methods: options.Methods = "adafv,adafv+,fastervlm,uniform,resize",
    keep: options.Keeps = "0.5,0.35,0.25,0.15,0.1,0.05",
    seed: Annotated[int, typer.Option(help="Random seed of the split of the images.")] = 0,
    batch_size: options.BatchSize = 16,
    max_new_tokens: options.MaxNewTokens = 16,
    as_json: options.Json = False,
) -> None:
    """Find the smallest budget, and its method, that holds on your own questions.

    An answer is right if it equals the line's "answer"; for a line without one, if it equals the
    dense model's answer. The budget is picked on one half of the images and measured on the other.
    If it holds, adafv.json in DIR says it: copy that into the model's folder. An interrupted run
    resumes; lines may be added at the end of FILE.
    """
    from adafv.evaluation.report import meta_of
    from adafv.tuning.pick import verdict
    from adafv.tuning.retention import INTERVAL
    from adafv.tuning.run import Tuning

    # check everything that can be wrong before a model is loaded
    plan = Tuning(
        data=data,
        min_retention=options.share_in(min_retention, "--min-retention"),
        methods=options.names_in(methods, "--methods"),
        keeps=options.shares_in(keep),
        seed=seed,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    _check_folder(out, plan)
    printing.quiet()
    from adafv.models.load import load

    # measure, and pick
    name = model or "embedded"
    start = datetime.now(UTC)
    loaded, processor = load(model, device, dtype)
    findings = plan.run(loaded, processor, out, name=name, progress=True)
    meta = meta_of(loaded, name, start, **_settings(plan, findings))
    results = {
        "meta": meta | {"interval": INTERVAL},
        "rows": findings.rows,
        "chosen": findings.chosen,
        "verdict": verdict(findings.rows, plan.questions, plan.min_retention),
    }

    written = _write(out, results, findings.pruner)
    if as_json:
        printing.print_json(results)
        return
    _print(results)
    typer.echo(f"written: {', '.join(str(out / file) for file in written)}")


def _check_folder(out: Path, plan: "Tuning") -> None:
    """Raise a `ValueError` if results cannot be written, or would replace what is not theirs."""
    from adafv.tuning import report
    from adafv.tuning.pick import COLUMNS
    from adafv.utils.files import check_own, check_unread, writable_folder

    writable_folder(out)
    # another command's results must not be overwritten
    check_own(out / "results.json", COLUMNS, "adafv tune")
    for file in report.FILES:
        check_unread(out / file, [plan.data, *(image.path for image in plan.images)])


def _settings(plan: "Tuning", findings: "Findings") -> dict[str, Any]:
    """Return what a tuning was asked for; what a method refused is named with the reason."""
    left_out = []
    for (method, share), reason in findings.left_out.items():
        left_out.append({"method": method, "keep": share, "reason": reason})
    return {
        "data": str(plan.data),
        "questions": plan.questions,
        "images": len(plan.images),
        "with_answer": plan.with_answer,
        "min_retention": plan.min_retention,
        "seed": plan.seed,
        "batch_size": plan.batch_size,
        "max_new_tokens": plan.max_new_tokens,
        "left_out": left_out,
    }


def _write(out: Path, results: dict[str, Any], pruner: "Pruner | None") -> list[str]:
    """Write the results, and adafv.json for the model's folder if a budget held.

    Returns:
        The names of the files.
    """
    from adafv.models.saved import FILE, save_pretrained
    from adafv.tuning import report

    report.write(out, results)
    written = [*report.FILES]
    if pruner is not None:
        written.append(save_pretrained(pruner, out).name)
    # a budget that held in another run says nothing of this one
    elif (out / FILE).exists():
        typer.echo(f"adafv: {out / FILE} is of another run, and left as it is", err=True)
    return written


def _print(results: dict[str, Any]) -> None:
    """Print the table, what its marks say, what was left out, and the verdict."""
    from adafv.tuning import report

    printing.print_table(report.table(results["rows"]), drop=report.NARROW)
    for line in report.legends(results["rows"]):
        printing.say(line)
    for entry in results["meta"]["left_out"]:
        printing.say(f"left out: {entry['method']} at {entry['keep']}: {entry['reason']}", indent=2)
    printing.say(results["verdict"])
