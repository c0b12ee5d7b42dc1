"""Output files: complete or not at all, and files that grow line by line."""

import contextlib
import errno
import json
import os
import secrets
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from adafv.utils.checks import checked

__all__ = [
    "Lines",
    "UnlockedWarning",
    "as_jsonl",
    "atomic",
    "check_own",
    "check_png",
    "check_unread",
    "differences",
    "expanded",
    "writable_folder",
    "write_text",
]

_IN_USE = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""What `flock` says of a file that another process holds."""
_REOPENED = 3  # times; file systems that number their files anew at each look have no end


class UnlockedWarning(UserWarning):
    """A file system has no locks, so two runs may write one file."""


@checked
def expanded(path: str | Path) -> Path:
    """Return a path with the home folder in the place of ~; that of nobody stays as it is."""
    # `Path.expanduser` raises a RuntimeError for a user who does not exist
    return Path(os.path.expanduser(path))


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Lend a temporary file that replaces `path` once the block has succeeded.

    It stands beside it, and has its suffix, by which matplotlib knows the format. Where `path` is a
    link, what it leads to is replaced.

    Raises:
        ValueError: the file cannot be written.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    temporary = _beside(target)
    try:
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        yield temporary
        # a rename within a folder is atomic: readers see the old file or the new one
        temporary.replace(target)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """Return a name for a temporary file beside another one, that nobody else has."""
    # neither by the process, whose number another container may have, too, nor by `tempfile`,
    # whose files no other user may read
    return path.with_name(f".{path.stem}.{secrets.token_hex(8)}{path.suffix}")


@checked
def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, complete or not at all.

    A surrogate, which UTF-8 cannot hold, becomes an escape, which is how JSON writes it.

    Raises:
        ValueError: the file cannot be written.
    """
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@checked
def writable_folder(path: str | Path) -> Path:
    """Make a folder, with its parents, and try that files can be written in it.

    Raises:
        ValueError: they can't.
    """
    path = Path(path)
    if path.is_file():
        raise ValueError(f"{path} cannot be written (it is a file): pass a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
        # permissions do not tell whether the disk is full or read-only: try it
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None
    return path


@checked
class Lines:
    """A JSONL file that grows: no line is lost, torn or written by two processes.

    One process holds it at a time.

    Args:
        path: made where it is missing.
        elsewhere: what to pass instead, for messages: "another --out".

    Attributes:
        before: the complete lines that were there. A last one that a kill has torn is left out, and
            cut off by `trim`.

    Raises:
        ValueError: the file cannot be written, or is in use.
    """

    def __init__(self, path: Path, elsewhere: str) -> None:
        self.path = path
        self._elsewhere = elsewhere
        # hold the file before it is read, so that nobody appends in between
        self._file = self._held()
        # who held it may have put another file in its place meanwhile
        for _ in range(_REOPENED):
            if _is_at(self._file, path):
                break
            self._file.close()
            self._file = self._held()

        # a line counts once its end is there
        content = path.read_bytes()
        self._whole = content.rfind(b"\n") + 1
        self.before = content[: self._whole].split(b"\n")[:-1]

    def _held(self) -> Any:
        """Return the file, open, and locked against other processes."""
        try:
            file: Any = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise ValueError(
                f"{self.path} cannot be written ({error.strerror}): pass {self._elsewhere}"
            ) from None
        try:
            _lock(file, self.path.parent)
        except OSError:
            file.close()
            raise ValueError(
                f"{self.path} is being written by another run: "
                f"wait for it, or pass {self._elsewhere}"
            ) from None
        return file

    def trim(self) -> None:
        """Cut off a last line that a kill has torn."""
        self._file.truncate(self._whole)

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Add records and put them on the disk.

        Raises:
            ValueError: the disk is full; what was there before is kept.
        """
        end = self._file.seek(0, os.SEEK_END)
        try:
            _write(self._file, records)
        except OSError as error:
            # a full disk may have taken a part of it
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise self._no_room(error) from error

    def rewrite(self, records: Iterable[dict[str, Any]]) -> None:
        """Replace all records that are there, on the disk too.

        Raises:
            ValueError: the disk is full; what was there before is kept.
        """
        # through a link, which stays one
        target = Path(os.path.realpath(self.path))
        temporary = _beside(target)
        try:
            new: Any = temporary.open("x+b", buffering=0)
        except OSError as error:
            raise self._no_room(error) from error
        try:
            _lock(new, self.path.parent)
            _write(new, records)
            temporary.replace(target)
        except OSError as error:
            new.close()
            raise self._no_room(error) from error
        finally:
            temporary.unlink(missing_ok=True)
        # the new file is locked already: at no time could another process take the name
        self._file.close()
        self._file = new

    def _no_room(self, error: OSError) -> ValueError:
        return ValueError(
            f"{self.path} cannot be written ({error.strerror}): "
            "make room and run the same command again, it resumes"
        )

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _lock(file: Any, folder: Path) -> None:
    """Hold a file against other processes; an `OSError` says that one of them holds it."""
    try:
        import fcntl
    except ImportError:
        return  # Windows has no flock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _IN_USE:
            raise
        # network file systems, such as Lustre and FUSE, may have none
        warnings.warn(
            f"files in {folder} cannot be locked ({error.strerror}): let no other run write there",
            UnlockedWarning,
            stacklevel=2,
        )


def _is_at(file: Any, path: Path) -> bool:
    """Return whether an open file is still the one that has a name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _write(file: Any, records: Iterable[dict[str, Any]]) -> None:
    data = as_jsonl(records)
    # unbuffered, a write may take a part: go on with the rest
    while data:
        written = file.write(data)
        data = data[written:]
    # a power cut must not lose what a caller takes for saved
    os.fsync(file.fileno())


@checked
def as_jsonl(records: Iterable[dict[str, Any]]) -> bytes:
    """Return records as lines of JSON."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    # a surrogate that UTF-8 cannot hold becomes an escape, which is how JSON writes it
    return text.encode("utf-8", "backslashreplace")


@checked
def check_own(path: str | Path, columns: Iterable[str], command: str) -> None:
    """Raise a `ValueError` if a results.json is there that another command has written.

    Args:
        path: of the file.
        columns: of its rows, if it is ours.
        command: that is about to write it.
    """
    path = Path(path)
    columns = set(columns)
    if not path.exists():
        return

    # commands share the name of the file: its columns tell which of them wrote it
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        own = bool(rows) and all(columns <= row.keys() for row in rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        own = False
    if not own:
        raise ValueError(
            f"{path} is not of `{command}`, which would overwrite it: pass another --out"
        )


@checked
def check_png(path: Path) -> None:
    """Raise a `ValueError` unless a path can be the name of a PNG file."""
    if path.suffix.lower() != ".png":
        raise ValueError(
            f"out={str(path)!r} is not the name of a PNG file: pass one that ends in .png"
        )
    if path.is_dir():
        raise ValueError(
            f"out={str(path)!r} is a folder: pass the name of a file in it, "
            f"e.g. {path / 'explain.png'}"
        )


@checked
def check_unread(out: Path, read: Iterable[str | Path]) -> None:
    """Raise a `ValueError` if a file that is about to be written is one of those that are read."""
    if not out.exists():
        return
    for path in read:
        if os.path.exists(path) and out.samefile(path):
            raise ValueError(f"{out} is read here, and would be overwritten: pass another --out")


@checked
def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Describe how two settings differ: "keep=0.1 (now 0.2), …"; empty if they are the same."""
    found = []
    for name in {**now, **before}:
        was = before.get(name)
        value = now.get(name)
        if value != was:
            found.append(f"{name}={was!r} (now {value!r})")
    return ", ".join(found)


def _unwritable(path: Path, error: OSError) -> ValueError:
    reason = error.strerror or type(error).__name__
    return ValueError(
        f"{path} cannot be written ({reason}): "
        "pass another path, or make room and permissions there"
    )
