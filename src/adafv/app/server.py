"""Serve the playground until it is stopped."""

import errno
import os
import socket
import tempfile
from collections.abc import Callable
from threading import Event

from adafv.app.playground import Playground
from adafv.utils.checks import checked

__all__ = ["free_port", "serve"]

PORTS = range(7860, 7960)  # Gradio's own


@checked
def free_port(host: str, port: int | None) -> int:
    """Return a port that can be listened on.

    Args:
        host: an address of this machine, or its name.
        port: the one that is wanted, 0 for any; None: the first of `PORTS` that is free.

    Raises:
        ValueError: the host is not an address of this machine, or there is no such port.
    """
    stranger = ValueError(
        f"--host {host!r} is no address of this machine: pass 127.0.0.1, or 0.0.0.0 for all of them"
    )
    # IPv4 or IPv6, as the host's first address is
    try:
        family = socket.getaddrinfo(host, None)[0][0]
    except (socket.gaierror, UnicodeError):
        raise stranger from None

    # only listening tells whether a port is free
    candidates = PORTS if port is None else (port,)
    for candidate in candidates:
        try:
            with socket.create_server((host, candidate), family=family) as listening:
                return listening.getsockname()[1]
        except (OSError, OverflowError) as error:
            # an address of another machine
            if getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
                raise stranger from None
    wanted = f"--port {port}"
    if port is None:
        wanted = f"every port from {PORTS.start} to {PORTS.stop - 1}"
    raise ValueError(
        f"{wanted} cannot be listened on, it is in use or not allowed: "
        "pass another --port, 0 for any"
    )


def serve(playground: Playground, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until the process is interrupted; what visitors upload is gone then.

    Args:
        host, port: where to listen, see `free_port`.
        ready: is called with the page's address once it can be opened.
    """
    with tempfile.TemporaryDirectory(prefix="adafv-ui-") as folder:
        # Gradio reads all of these when it is imported
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        # Gradio asks itself whether it is there, which a proxy would keep from it.
        direct = filter(None, (os.environ.get("no_proxy"), host, "localhost"))
        os.environ["no_proxy"] = ",".join(direct)
        # imported late, after its environment is set
        from adafv.app.layout import LAUNCH, build

        app = build(playground)
        # an IPv6 address stands in brackets
        address = f"[{host}]" if ":" in host else host
        _, url, _ = app.launch(
            server_name=address, server_port=port, prevent_thread_lock=True, quiet=True, **LAUNCH
        )
        try:
            ready(url)
            # until an interruption
            Event().wait()
        finally:
            app.close(verbose=False)
