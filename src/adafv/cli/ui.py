"""Open the playground in a browser: `adafv ui`."""

from typing import Annotated

import typer

from adafv.cli.extras import need
from adafv.cli.options import Device, Dtype, Json, MaxNewTokens, ModelForPage
from adafv.cli.printing import print_json, quiet
from adafv.cli.signals import stop_as_interrupted

# Addresses that only this machine reaches.
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def ui(
    host: Annotated[
        str, typer.Option(metavar="H", help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = LOOPBACK[0],
    port: Annotated[
        int | None,
        typer.Option(
            metavar="P",
            help="0 for any; default: the first free one from 7860.",
            show_default=False,
        ),
    ] = None,
    model: ModelForPage = None,
    device: Device = None,
    dtype: Dtype = None,
    max_new_tokens: MaxNewTokens = 64,
    as_json: Json = False,
) -> None:
    """Try methods and budgets on an image in the browser, beside the dense model.

    Sends nothing anywhere.
    """
    need("gradio")
    from adafv.app.server import free_port

    # what can be wrong is said before a model is loaded
    free_port(host, port)
    quiet()
    from adafv.models.generation import check_answer_length

    check_answer_length(max_new_tokens)
    from adafv import embedded
    from adafv.app.playground import Playground
    from adafv.app.server import serve
    from adafv.models import photo
    from adafv.models.load import load

    name = model or (photo.NAME if photo.fetched() else embedded.NAME)
    # one model for all visitors
    playground = Playground(*load(name, device, dtype), name, max_new_tokens)
    # the first visitor is not to wait for what a process does once
    playground.warm_up()

    # say where the page is, once it can be opened
    def ready(url: str) -> None:
        if as_json:
            print_json({"url": url, "model": name})
            return
        typer.echo(f"{url}  (Ctrl-C stops it)")
        if host not in LOOPBACK:
            typer.echo(
                "adafv: whoever reaches this machine can use the page, and its model", err=True
            )

    # what visitors have uploaded goes, too
    stop_as_interrupted()
    try:
        # looked for once more: another page may have taken it meanwhile
        serve(playground, host, free_port(host, port), ready)
    finally:
        cache = playground.cache
        typer.echo(
            f"adafv: encodings made: {cache.misses}, reused for the same pixels: {cache.hits}",
            err=True,
        )
