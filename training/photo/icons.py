"""Draw things in the styles of nine sets of icons: the same noun, several hands.

Eight come from npm as Iconify's packages, which hold the drawings as JSON, one as rendered images.
Of each set those icons are taken whose name is a known noun, or one of a short list.
"""

import json
import shutil
import subprocess
import unicodedata
from pathlib import Path

from training.photo.cache import CACHE
from training.photo.names import Noun, noun_in, noun_of

__all__ = ["LICENCES", "icons"]

# Package and version, and under what the drawings may be used.
LICENCES = {
    "@iconify-json/noto@1.2.9": "Apache-2.0",
    "@iconify-json/fluent-emoji@1.2.7": "MIT",
    "@iconify-json/fluent-emoji-flat@1.2.6": "MIT",
    "@iconify-json/fxemoji@1.2.2": "Apache-2.0",
    "@iconify-json/twemoji@1.2.5": "CC-BY-4.0",
}
ADDED = {
    "@iconify-json/openmoji@1.2.29": "CC-BY-SA-4.0",
    "@iconify-json/emojione@1.2.3": "CC-BY-4.0",
    "@iconify-json/noto-v1@1.2.5": "Apache-2.0",
    "@lobehub/fluent-emoji-3d@1.1.0": "MIT",
}
"""Sets that came later: pictures of the first keep the split that they had without these."""
FOLDER = CACHE / "icons"
# Names of more than the noun, and still of one such thing alone.
ALSO = """
    baby-chick, baguette-bread, birthday-cake, brown-mushroom, cheese-wedge, chocolate-bar,
    closed-umbrella, crescent-moon, deciduous-tree, delivery-truck, desktop-computer, ear-of-corn,
    evergreen-tree, full-moon, green-apple, high-heeled-shoe, japanese-castle, kitchen-knife,
    kiwi-fruit, leafless-tree, magnifying-glass-tilted-left, maple-leaf, mobile-phone,
    monarch-butterfly, motor-boat, movie-camera, passenger-ship, pickup-truck, polar-bear,
    racing-car, red-apple, ringed-planet, running-shoe, small-airplane, soft-ice-cream,
    spouting-whale, t-shirt, tropical-fish, two-hump-camel, wine-glass, world-map, wrapped-gift
"""
EXTRA = {name.strip() for name in ALSO.split(",")}
# Nouns by name, and something else by what is drawn.
NOT = {"notebook", "eyes", "houses", "chains"}


def icons(packages: dict[str, str]) -> list[Path]:
    """Return the files of all icons that show a known noun, fetched with npm if they are missing.

    Args:
        packages: `LICENCES` or `ADDED`.

    Raises:
        SystemExit: a set cannot be had.
    """
    files: list[Path] = []
    for package in packages:
        folder = FOLDER / package.split("/")[1].split("@")[0]
        if not folder.is_dir():
            _unpack(package, folder)
        files += folder.iterdir()
    return sorted(files)


def _unpack(package: str, folder: Path) -> None:
    """Fetch a set, and write each of its icons that shows a known noun as a file."""
    packages = FOLDER / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    try:
        fetch = ["npm", "pack", "--silent", package]
        packed = subprocess.run(fetch, cwd=packages, check=True, capture_output=True, text=True)
        unpack = ["tar", "-xzf", packed.stdout.strip()]
        subprocess.run(unpack, cwd=packages, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"{package} cannot be had ({error}): training needs npm") from None

    temporary = folder.with_suffix(".tmp")
    temporary.mkdir(exist_ok=True)
    # every archive unpacks into the same folder
    unpacked = packages / "package"
    if (unpacked / "icons.json").is_file():
        _write_drawings(json.loads((unpacked / "icons.json").read_text()), temporary)
    else:
        _copy_renders(unpacked / "assets", temporary)
    shutil.rmtree(unpacked)
    # last, so that a set is whole or absent
    temporary.rename(folder)


def _write_drawings(drawings: dict, folder: Path) -> None:
    """Write the drawings of one of Iconify's sets."""
    for icon, drawing in drawings["icons"].items():
        if shown(icon) is not None:
            width = drawing.get("width", drawings["width"])
            height = drawing.get("height", drawings["height"])
            head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
            (folder / f"{icon}.svg").write_text(f"{head}{drawing['body']}</svg>")


def _copy_renders(assets: Path, folder: Path) -> None:
    """Copy images whose files are named by one character's code, under that character's name."""
    for path in sorted(assets.glob("*.webp")):
        code = path.stem.removesuffix("-fe0f")
        # several characters: a person with a skin, a flag
        if "-" in code:
            continue
        icon = unicodedata.name(chr(int(code, 16)), "").lower().replace(" ", "-")
        if icon and shown(icon) is not None:
            shutil.copyfile(path, folder / f"{icon}.webp")


def shown(icon: str) -> Noun | None:
    """Return what an icon shows, by its name; None: nothing known, or more than that."""
    words = icon.replace("-", " ")
    if icon in NOT:
        return None
    return noun_in(words) if icon in EXTRA else noun_of(words.removesuffix(" face"))
