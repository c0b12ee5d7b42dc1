"""Find a model, or say in seconds that it cannot be had, before anything heavy is imported."""

import contextlib
import re
import socket
from functools import cache
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

from adafv import embedded
from adafv.models import photo
from adafv.utils.checks import checked
from adafv.utils.files import expanded

__all__ = ["WAIT", "check_available", "config_folder", "is_hub_id", "is_reachable"]

WAIT = 2.0
"""Seconds that the hub has to answer in; its own client would try again for half a minute."""

_PORTS = {"http": 80, "https": 443}


@checked
def check_available(model: str) -> None:
    """Raise a `ValueError` if a model is to be downloaded and the hub cannot be reached.

    Folders, names that are no hub id, "embedded" and "photo" are left for
    `adafv.models.load.source_of` to judge.

    Args:
        model: hub id or folder.
    """
    if model in (embedded.NAME, photo.NAME) or expanded(model).exists() or not is_hub_id(model):
        return
    # imported late: `adafv --help` must not wait for it
    from huggingface_hub import try_to_load_from_cache

    # a cached configuration stands for a cached model
    if isinstance(try_to_load_from_cache(model, "config.json"), str) or is_reachable():
        return
    raise ValueError(
        f"model {model!r} is no folder here and not in the cache, and {_endpoint()} "
        "cannot be reached to download it: check the path, or the connection"
    )


@checked
def config_folder(model: str | Path) -> Path:
    """Return the folder that holds a model's config.json, as far as it can be had.

    That of a hub id is in the hub's cache; the file, a few kilobytes, is downloaded if it isn't.

    Args:
        model: hub id or folder; "embedded": the one that ships; "photo": what `adafv fetch
            photo` fetched.
    """
    path = expanded(model)
    if path.is_dir() or isinstance(model, Path):
        return path
    if model == embedded.NAME:
        return embedded.MODEL_DIR
    if model == photo.NAME:
        return photo.folder()
    if not is_hub_id(model):
        return path
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    found = try_to_load_from_cache(model, "config.json")
    if not isinstance(found, str) and is_reachable():
        # what cannot be had is said when the model is loaded
        with contextlib.suppress(HfHubHTTPError, OSError, ValueError):
            found = hf_hub_download(model, "config.json")
    return Path(found).parent if isinstance(found, str) else path


@checked
def is_hub_id(name: str) -> bool:
    """Return whether a name is owner/name, or that of a model without an owner."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) is not None


def is_reachable() -> bool:
    """Return whether the hub, or the proxy in front of it, answers within `WAIT` seconds.

    Asked once in a process.
    """
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and _answers(_endpoint())


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


@cache
def _answers(address: str) -> bool:
    """Return whether something listens at an address, or at the proxy that leads there."""
    # imported late: HTTP and TLS come with it, which commands without a hub don't need
    from urllib.request import getproxies, proxy_bypass

    url = urlsplit(address)
    # a proxy may be named without a scheme: host:port
    proxy = getproxies().get(url.scheme)
    if proxy and not proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address_of_host = (url.hostname or "", url.port or _PORTS.get(url.scheme, 443))
    answered: list[bool] = []

    def knock() -> None:
        with (
            contextlib.suppress(OSError, UnicodeError),
            socket.create_connection(address_of_host, timeout=WAIT),
        ):
            answered.append(True)

    # A thread, for looking up a name has no time limit of its own.
    # A daemon, so that one that hangs does not keep the process alive.
    thread = Thread(target=knock, daemon=True)
    thread.start()
    thread.join(WAIT)
    return bool(answered)
