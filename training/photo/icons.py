"""Draw things in the styles of five sets of icons: the same noun, several hands.

The sets come from npm as Iconify's packages, which hold the drawings as JSON. Of each set those
icons are taken whose name is a known noun, or one of a short list.
"""

import json
import subprocess
from pathlib import Path

from training.photo.cache import CACHE
from training.photo.names import Noun, noun_in, noun_of

__all__ = ["LICENCES", "icons"]

# Set and version, and under what the drawings may be used.
LICENCES = {
    "noto@1.2.9": "Apache-2.0",
    "fluent-emoji@1.2.7": "MIT",
    "fluent-emoji-flat@1.2.6": "MIT",
    "fxemoji@1.2.2": "Apache-2.0",
    "twemoji@1.2.5": "CC-BY-4.0",
}
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


def icons() -> list[Path]:
    """Return the files of all icons that show a known noun, fetched with npm if they are missing.

    Raises:
        SystemExit: a set cannot be had.
    """
    for named in LICENCES:
        name, version = named.split("@")
        folder = FOLDER / name
        if not folder.is_dir():
            _unpack(name, version, folder)
    return sorted(FOLDER.glob("*/*.svg"))


def _unpack(name: str, version: str, folder: Path) -> None:
    """Fetch a set, and write each of its icons that shows a known noun as a file."""
    package = FOLDER / "packages"
    package.mkdir(parents=True, exist_ok=True)
    try:
        archive = f"iconify-json-{name}-{version}.tgz"
        fetch = ["npm", "pack", "--silent", f"@iconify-json/{name}@{version}"]
        subprocess.run(fetch, cwd=package, check=True, capture_output=True)
        unpack = ["tar", "-xzOf", archive, "package/icons.json"]
        content = subprocess.run(unpack, cwd=package, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"@iconify-json/{name} {version} cannot be had ({error}): training needs npm"
        ) from None
    drawings = json.loads(content)
    temporary = folder.with_suffix(".tmp")
    temporary.mkdir(exist_ok=True)
    for icon, drawing in drawings["icons"].items():
        if shown(icon) is not None:
            width = drawing.get("width", drawings["width"])
            height = drawing.get("height", drawings["height"])
            head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
            (temporary / f"{icon}.svg").write_text(f"{head}{drawing['body']}</svg>")
    # last, so that a set is whole or absent
    temporary.rename(folder)


def shown(icon: str) -> Noun | None:
    """Return what an icon shows, by its name; None: nothing known, or more than that."""
    words = icon.replace("-", " ")
    if icon in NOT:
        return None
    return noun_in(words) if icon in EXTRA else noun_of(words.removesuffix(" face"))
