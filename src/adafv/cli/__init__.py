"""The command line. Heavy imports happen inside the commands: `adafv --help` needs no torch."""

import sys
from typing import Annotated

import typer

from adafv import __version__
from adafv.cli import asking, fetching, listing, measuring, serve, speed, tuning, ui
from adafv.cli import batch as serving
from adafv.utils.checks import checked

__all__ = ["main"]

BAD_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Fewer visual tokens for vision-language models: AdaFV and its rivals.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(asking.ask)
app.command()(asking.explain)
app.command()(listing.methods)
app.command()(listing.families)
app.command()(fetching.fetch)
app.command(name="eval")(measuring.evaluate)
app.command()(measuring.table)
app.command()(measuring.analyze)
app.command()(tuning.tune)
app.command()(speed.speed)
app.command()(serving.batch)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    serve.serve
)
app.command()(ui.ui)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


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
    """Run one command and return its exit status: 0, 2 for bad input (one line on stderr), 130 when
    interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status = typer.main.get_command(app).main(
            arguments, prog_name="adafv", standalone_mode=False
        )
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except ValueError as error:
        return _fail(str(error), BAD_INPUT)
    except BrokenPipeError:
        sys.stderr.close()  # keeps the interpreter from complaining about the closed stdout
        return 0
    except Exception as error:
        # typer's usage errors, which have no public base class
        if not hasattr(error, "format_message"):
            raise
        return _fail(f"{error.format_message()} See 'adafv --help'.", BAD_INPUT)
    return _fail("stopped", status) if status == INTERRUPTED else status or 0


def _fail(message: str, status: int) -> int:
    typer.echo(f"adafv: {' '.join(message.split())}", err=True)
    return status
