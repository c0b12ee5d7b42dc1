"""Run the command line; heavy imports happen inside the commands: `adafv --help` needs no torch."""

import errno
import io
import re
import sys
from typing import Annotated

from adafv import __version__
from adafv.cli import extras

try:
    import typer
except ModuleNotFoundError as error:
    # the commands below cannot even be declared without it
    print(f"adafv: {extras.sentence(error, 'the command line')}", file=sys.stderr)
    raise SystemExit(2) from None

from adafv.cli import asking, batch, fetching, listing, measuring, serve, speed, tuning, ui
from adafv.utils.checks import checked, is_out_of_memory

__all__ = ["main"]

# Exit statuses, as shells know them.
BAD_INPUT = 2
INTERRUPTED = 130

# What typer says of an option that takes a number, and got none.
NO_NUMBER = re.compile(r"Invalid value for '(\S+)[^']*': Input should be a valid (\w+).*")

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

app = typer.Typer(
    help="Fewer visual tokens for vision-language models: AdaFV and its rivals.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(asking.ask)
app.command(short_help="Draw how visual tokens were chosen, and both answers.")(asking.explain)
app.command()(listing.methods)
app.command(short_help="List the model families that are proven.")(listing.families)
app.command(short_help="Fetch the photo model, once.")(fetching.fetch)
# `eval` is a builtin of Python, so the function has another name
app.command(name="eval", short_help="Measure accuracy: methods x budgets x suites.")(
    measuring.evaluate
)
app.command()(measuring.table)
app.command(short_help="Draw the paper's figures 1 to 4.")(measuring.analyze)
app.command(short_help="Find the smallest budget that holds on your questions.")(tuning.tune)
app.command(short_help="Measure stages, time to first token, and memory.")(speed.speed)
app.command(short_help="Answer a file of questions, a result per line.")(batch.batch)
# flags that are not ours go to vLLM
app.command(
    short_help="Serve a model over HTTP with vLLM, as OpenAI's API.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(serve.serve)
app.command(short_help="Try methods and budgets on an image in the browser.")(ui.ui)


def _version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


# Options of `adafv` itself, which stand before a command.
@app.callback()
def _adafv(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    pass


@checked
def main(arguments: list[str] | None = None) -> int:
    """Run one command, and print what is wrong in one line on stderr.

    Returns:
        The exit status: 0, 2 for bad input, 130 when interrupted, or a command's own.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    # a terminal or a file of another encoding shows ? for what it lacks
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        # errors come to us instead of being printed with a usage
        status = typer.main.get_command(app).main(
            arguments, prog_name="adafv", standalone_mode=False
        )
    # Ctrl-C
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except Exception as error:
        sentence = _sentence(error, arguments)
        # a bug
        if sentence is None:
            raise
        return _fail(sentence, BAD_INPUT)
    if status == INTERRUPTED:
        return _fail("stopped", status)
    return status or 0


def _sentence(error: Exception, arguments: list[str]) -> str | None:
    """Return what a person is told of an error; None: it is nothing that a person can mend."""
    if isinstance(error, ValueError):
        return str(error)
    # a package of an extra is missing; what else cannot be imported is a bug
    if isinstance(error, ModuleNotFoundError):
        return extras.sentence(error, f"adafv {arguments[0]}" if arguments else "adafv")
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"the output cannot be written ({error.strerror}): make room, or send it elsewhere"
    if is_out_of_memory(error):
        return (
            "the memory of the device is too small: pass a smaller --keep or --batch-size, a "
            "smaller image, or --device cpu"
        )
    # typer's usage errors, which have no public base class
    if not hasattr(error, "format_message"):
        return None
    said = NO_NUMBER.sub(r"\1 takes an \2: pass a whole number", error.format_message())
    if not said.endswith((".", "?")):
        said += "."
    # of the command whose options were wrong
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "adafv"
    return f"{said} See '{command} --help'."


def _fail(message: str, status: int) -> int:
    """Print a message on one line of stderr, and return the exit status."""
    typer.echo(f"adafv: {' '.join(message.split())}", err=True)
    return status
