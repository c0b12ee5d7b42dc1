"""Output files: whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic", "writable_folder", "write_text"]


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Lend a temporary file beside `path`, with its suffix, that takes its place once the block has succeeded.

    Raises:
        ValueError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        temporary.touch()
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        ValueError: the file cannot be written.
    """
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def writable_folder(path: str | Path) -> Path:
    """Make a folder, with its parents, and try that files can be written in it.

    Raises:
        ValueError: they can't.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


def _unwritable(path: Path, error: OSError) -> ValueError:
    reason = error.strerror or type(error).__name__
    return ValueError(f"{path} cannot be written ({reason}): pass another path, or make room and permissions there")
