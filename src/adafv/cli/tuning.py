"""Choose a budget on a user's own questions: `adafv tune`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from adafv.cli import options, printing


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
    from adafv.models.saved import FILE, save_pretrained
    from adafv.tuning import report
    from adafv.tuning.pick import COLUMNS, verdict
    from adafv.tuning.retention import INTERVAL
    from adafv.tuning.run import Tuning
    from adafv.utils.files import check_own, check_unread, writable_folder

    # check everything that can be wrong before a model is loaded
    least = options.share_in(min_retention, "--min-retention")
    plan = Tuning(
        data=data,
        min_retention=least,
        methods=options.names_in(methods, "--methods"),
        keeps=options.shares_in(keep),
        seed=seed,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    writable_folder(out)
    # another command's results must not be overwritten
    check_own(out / "results.json", COLUMNS, "adafv tune")
    for file in report.FILES:
        check_unread(out / file, [data, *(image.path for image in plan.images)])
    printing.quiet()
    from adafv.models.load import load

    # measure, and pick
    name = model or "embedded"
    start = datetime.now(UTC)
    loaded, processor = load(model, device, dtype)
    findings = plan.run(loaded, processor, out, name=name, progress=True)

    # configurations that a method refuses are named with their reason
    left_out = []
    for (method, share), reason in findings.left_out.items():
        left_out.append({"method": method, "keep": share, "reason": reason})
    settings = {
        "data": str(data),
        "questions": plan.questions,
        "images": len(plan.images),
        "with_answer": plan.with_answer,
        "min_retention": least,
        "seed": seed,
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "left_out": left_out,
    }
    results = {
        "meta": meta_of(loaded, name, start, **settings) | {"interval": INTERVAL},
        "rows": findings.rows,
        "chosen": findings.chosen,
        "verdict": verdict(findings.rows, plan.questions, least),
    }
    report.write(out, results)

    # what the model's folder is to say, unless nothing held
    written = [*report.FILES]
    if findings.pruner is not None:
        written.append(save_pretrained(findings.pruner, out).name)
    # a budget that held in another run says nothing of this one
    elif (out / FILE).exists():
        typer.echo(f"adafv: {out / FILE} is of another run, and left as it is", err=True)
    if as_json:
        printing.print_json(results)
        return
    printing.print_table(report.table(findings.rows), drop=report.NARROW)
    for line in report.legends(findings.rows):
        printing.say(line)
    for entry in left_out:
        printing.say(f"left out: {entry['method']} at {entry['keep']}: {entry['reason']}", indent=2)
    printing.say(str(results["verdict"]))
    typer.echo(f"written: {', '.join(str(out / file) for file in written)}")
