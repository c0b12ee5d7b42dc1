"""Read photographs and renders of things from two programs of Debian: GCompris, Sweet Home 3D.

`photographs.txt` says which file of which archive shows what. Sweet Home 3D's archives are zip
files, those of GCompris are Qt's resources.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from training.photo.cache import CACHE
from training.photo.debian import DEBIAN, unpack
from training.photo.names import sections

__all__ = ["photographs", "resources"]

PACKAGES = ("gcompris-qt-data", "sweethome3d", "sweethome3d-furniture")
FOLDER = CACHE / "photographs"
DIRECTORY = 2  # flags of an entry
COMPRESSED = 1


def photographs() -> list[tuple[Path, str]]:
    """Return files with the noun that each shows, unpacked if they are missing."""
    found = []
    for head, lines in sections(Path(__file__).with_name("photographs.txt")).items():
        archive, folder = head.split()
        target = FOLDER / Path(archive).stem
        if not target.is_dir():
            unpack(*PACKAGES)
            _extract(DEBIAN / archive, folder, target)
        for line in lines:
            noun, _, files = line.partition(": ")
            found += [(target / file, noun) for file in files.split(", ")]
    return found


def _extract(archive: Path, folder: str, target: Path) -> None:
    """Write the files of a folder of an archive."""
    temporary = target.with_suffix(".tmp")
    for name, content in _members(archive):
        if name.startswith(f"{folder}/"):
            path = temporary / name.removeprefix(f"{folder}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    # last, so that an archive is there whole or not at all
    temporary.rename(target)


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Read the names and contents of an archive's files."""
    if archive.suffix == ".rcc":
        yield from resources(archive.read_bytes())
        return
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if not member.is_dir():
                yield member.filename, opened.read(member)


def resources(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Read the names and contents of Qt's resources: a tree of entries, data and names.

    Args:
        content: of an .rcc file, whose files are as they are or compressed with zlib.
    """
    version, tree, data, names = struct.unpack_from(">4I", content, 4)
    size = 14 if version < 2 else 22  # bytes of an entry

    def walk(entry: int, folder: str) -> Iterator[tuple[str, bytes]]:
        at = tree + entry * size
        name_at, flags = struct.unpack_from(">IH", content, at)
        path = folder
        # the root has no name
        if entry:
            (length,) = struct.unpack_from(">H", content, names + name_at)
            first = names + name_at + 6
            name = content[first : first + 2 * length].decode("utf-16-be")
            path = f"{folder}/{name}" if folder else name
        if flags & DIRECTORY:
            count, child = struct.unpack_from(">II", content, at + 6)
            for index in range(child, child + count):
                yield from walk(index, path)
            return
        (offset,) = struct.unpack_from(">I", content, at + 10)
        (length,) = struct.unpack_from(">I", content, data + offset)
        first = data + offset + 4
        file = content[first : first + length]
        # Qt writes the size in front of what zlib compressed
        yield path, zlib.decompress(file[4:]) if flags & COMPRESSED else file

    yield from walk(0, "")
