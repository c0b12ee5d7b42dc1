"""Serves the playground until it is stopped."""

from adafv.app.desk import Playground
from adafv.app.page import LAUNCH, build

__all__ = ["serve"]


def serve(playground: Playground, host: str, port: int | None) -> str:
    app = build(playground)
    _, url, _ = app.launch(server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, **LAUNCH)
    return url
