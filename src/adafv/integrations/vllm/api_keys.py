"""Ask for the server's key where vLLM does not.

With `--api-key`, vLLM guards paths that begin with `/v1` and a few others. `/invocations`, which
answers as `/v1/chat/completions` does, `/tokenize` and what changes the server are open to all.
"""

from starlette.datastructures import Headers
from starlette.types import Scope
from vllm import envs
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

__all__ = ["OPEN", "lacks_key"]

OPEN = frozenset({"/health", "/load", "/metrics", "/ping", "/ready", "/version"})
"""Paths that need no key: of requests they say how many there are, and nothing else."""


def lacks_key(scope: Scope) -> bool:
    """Return whether a server that has keys is asked without one of them.

    Args:
        scope: of a request over HTTP, as ASGI has it.
    """
    app = scope["app"]
    keys = [key for key in (app.state.args.api_key or [envs.VLLM_API_KEY]) if key]
    path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
    # a browser asks with OPTIONS, and without the key, whether it may ask at all
    if not keys or scope["method"] == "OPTIONS" or path in OPEN:
        return False
    return not AuthenticationMiddleware(app, keys).verify_token(Headers(scope=scope))
