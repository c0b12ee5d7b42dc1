"""Prepare the pictures of things that scenes are made of: cut out, named, and split by file.

A picture is one thing cut out; an image is a scene of several, as the model sees it.

Clip art (public domain) comes from Debian's openclipart-svg, photographs from
tuxpaint-stamps-default (GPL-2: read here, never committed) and two programs (`photographs.py`),
icons from npm (`icons.py`). All are downloaded once and unpacked into the cache folder; nothing is
installed.
"""

import hashlib
import io
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from adafv.utils.files import write_text
from training.photo.cache import CACHE
from training.photo.debian import DEBIAN, unpack
from training.photo.icons import ADDED, LICENCES, icons, shown
from training.photo.names import NOUNS, Noun, lines_of, noun_in
from training.photo.photographs import photographs

__all__ = ["PICTURES", "clusters", "open_picture", "prepare", "read_index", "split_of"]

PICTURES = CACHE / "pictures"
SIDE = 320  # pixels of a picture's longer side
NEAR = 8  # bits of 64 in which two fingerprints of the same drawing may differ
COLLECTION = re.compile(
    r"clipart|sibmission|various|collection|iconset|elements|homes|home", re.IGNORECASE
)
AUTHOR = re.compile(
    r"_(architett?o?|franc\w*|fra|rollandin|nicu|bucul\w*|ganson|benji|park|mimooh|peterm|juliane"
    r"|krug|01|02|03)\b.*"
)
SKIPPED = re.compile("|".join(lines_of(Path(__file__).with_name("skipped.txt"))))
# Pictures whose caption misleads.
NAMED = {
    "gnu-baby": "gnu",
    "gnu-baby-stand": "gnu",
    "magnifing_glass_gino_riv_01": "magnifying glass",
    "card_figure_king_nicu_r": "king",
}
# Spans of hue, 0 … 1; red lies on both sides of 0.
COLOURS = {
    "red": (0.96, 0.05),
    "orange": (0.05, 0.11),
    "yellow": (0.11, 0.19),
    "green": (0.19, 0.45),
    "blue": (0.5, 0.7),
    "purple": (0.7, 0.83),
    "pink": (0.83, 0.96),
}


@dataclass(frozen=True)
class Found:
    """A file that may show a thing, which one, and what kind of picture it is.

    Attributes:
        round: 1 or 2. Pictures of the first keep the split that they had before the second came.
    """

    path: Path
    noun: Noun | None
    source: str
    round: int


def prepare() -> None:
    """Download, cut out, name and list every picture of a known thing, unless that was done."""
    if (PICTURES / "index.json").is_file():
        return
    PICTURES.mkdir(parents=True, exist_ok=True)

    # cut out each file once, whatever its name
    rows = []
    prints = []
    known = set()
    for found in tqdm(_all_found(), desc="pictures"):
        digest = hashlib.sha256(found.path.read_bytes()).hexdigest()[:16]
        if found.noun is None or digest in known:
            continue
        known.add(digest)
        picture = _cut(found.path)
        if picture is None:
            continue
        picture.save(PICTURES / f"{digest}.png")
        row = {
            "id": digest,
            "file": found.path.name,
            "source": found.source,
            "name": found.noun.name,
            "kind": found.noun.kind,
            "colour": _colour(picture),
            "round": found.round,
        }
        rows.append(row)
        prints.append(_prints(picture))

    # the first round, then what is new in the second: no split of the first changes by it
    listed = []
    for round_ in (1, 2):
        own = [index for index, row in enumerate(rows) if row["round"] == round_]
        if round_ == 2:
            own = _unlike(prints, own, [index for index in range(len(rows)) if index not in own])
        listed += _split(rows, prints, own)
    write_text(PICTURES / "index.json", json.dumps(listed, indent=0))


def _split(rows: list[dict], prints: list[tuple[int, int]], own: list[int]) -> list[dict]:
    """Return some of the pictures with their clusters and splits.

    Variants of one drawing are one cluster, which is in one split.
    """
    chosen = [rows[index] for index in own]
    for row, cluster in zip(chosen, clusters([prints[index] for index in own]), strict=True):
        row["cluster"] = chosen[cluster]["id"]
    for row in chosen:
        row["split"] = split_of(row, chosen)
    return chosen


def _unlike(prints: list[tuple[int, int]], some: list[int], others: list[int]) -> list[int]:
    """Return which of some pictures are no variants of any of the others."""
    plain = _bits([prints[index][0] for index in others])  # (O, 64)
    unlike = []
    for index in some:
        # as it is, and in the mirror
        both = _bits(list(prints[index]))  # (2, 64)
        differing = (plain[:, None] != both).sum(2)  # (O, 2)
        if differing.min() > NEAR:
            unlike.append(index)
    return unlike


def _all_found() -> list[Found]:
    """Return every file of all sources, in a fixed order."""
    unpack("tuxpaint-stamps-default", "openclipart-svg")
    stamps = sorted((DEBIAN / "usr/share/tuxpaint/stamps").rglob("*.png"))
    drawings = sorted((DEBIAN / "usr/share/openclipart/svg").rglob("*.svg"))
    found = []
    for path in (*stamps, *drawings):
        if not SKIPPED.search(str(path)):
            noun = noun_in(_caption(path, path.read_bytes()))
            found.append(Found(path, noun, _source(path), 1))
    for round_, packages in enumerate((LICENCES, ADDED), 1):
        found += [Found(path, shown(path.stem), "icon", round_) for path in icons(packages)]
    for path, name in photographs():
        # of Sweet Home 3D's furniture
        source = "photo" if path.suffix == ".webp" else "render"
        found.append(Found(path, NOUNS[name], source, 2))
    return found


@lru_cache
def read_index() -> list[dict]:
    """Read what is known of every picture.

    Returns:
        Rows of id, file, source, name, kind, colour, cluster and split ("train" or "unseen").
    """
    return json.loads((PICTURES / "index.json").read_text())


@lru_cache(maxsize=1500)
def open_picture(digest: str) -> Image.Image:
    """Return a cut-out picture, RGBA, at most `SIDE` pixels."""
    return Image.open(PICTURES / f"{digest}.png").convert("RGBA")


def clusters(prints: list[tuple[int, int]]) -> list[int]:
    """Give each picture the index of its cluster's first.

    Args:
        prints: fingerprints of each picture and of its mirror image.
    """
    plain = _bits([print_ for print_, _ in prints])  # (P, 64)
    mirrored = _bits([print_ for _, print_ in prints])  # (P, 64)
    first = list(range(len(prints)))
    for index in range(len(prints)):
        # bits in which earlier pictures differ from this one, or from its mirror image
        as_it_is = (plain[:index] != plain[index]).sum(1)
        in_mirror = (plain[:index] != mirrored[index]).sum(1)
        near = np.minimum(as_it_is, in_mirror) <= NEAR
        for other in np.flatnonzero(near):
            # join two clusters: the first of all is the first of both
            roots = (_root(first, index), _root(first, int(other)))
            first[max(roots)] = min(roots)
    return [_root(first, index) for index in range(len(prints))]


def split_of(row: dict, rows: list[dict]) -> str:
    """Return a picture's split: "unseen" for a quarter of the clusters of each noun, else "train".

    A noun with one cluster is trained on.
    """
    # a noun's clusters, in an order that has nothing to do with what they show
    same = {other["cluster"] for other in rows if other["name"] == row["name"]}
    shuffled = sorted(same, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    held: list[str] = []
    if len(shuffled) >= 4:
        held = shuffled[: len(shuffled) // 4]
    elif len(shuffled) >= 2:
        held = shuffled[:1]

    # a cluster with two names would be seen under the other one
    owners = {other["name"] for other in rows if other["cluster"] == row["cluster"]}
    return "unseen" if row["cluster"] in held and len(owners) == 1 else "train"


def _source(path: Path) -> str:
    """Return what kind of picture a stamp or a drawing is."""
    if path.suffix == ".svg":
        return "clipart"
    return "stamp" if "/cartoon/" in str(path) else "photo"


def _bits(prints: list[int]) -> np.ndarray:
    """Return fingerprints as bits (P, 64), the lowest first."""
    values = np.array(prints, dtype=np.uint64).reshape(-1, 1)
    return (values >> np.arange(64, dtype=np.uint64) & np.uint64(1)).astype(bool)


def _root(first: list[int], index: int) -> int:
    """Return the first of a cluster."""
    while first[index] != index:
        index = first[index]
    return index


def _caption(path: Path, content: bytes) -> str:
    """Return what a file says it shows: its caption or title, else its name."""
    if path.stem in NAMED:
        return NAMED[path.stem]
    if path.suffix == ".png":
        # stamps have a text beside them, whose first line is English
        text = path.with_suffix(".txt")
        first = text.read_text(errors="replace").splitlines()[0] if text.is_file() else ""
        named = re.split(r"[,.!(—–]", first)[0]
        return named if noun_in(named) is not None else path.stem.replace("_", " ")
    title = re.search(rb"<dc:title>\s*([^<]*)", content)
    words = title.group(1).decode("utf8", "replace") if title else ""
    # titles of whole collections say nothing of one drawing; names of files end on their authors
    if noun_in(words) is not None and not COLLECTION.search(words):
        return words
    return AUTHOR.sub("", path.stem).replace("_", " ")


def _cut(path: Path) -> Image.Image | None:
    """Draw a picture on nothing, trimmed to what is opaque.

    Returns:
        None: it cannot be drawn, is empty, or is a mere line.
    """
    try:
        if path.suffix == ".svg":
            import resvg_py

            drawn = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=SIDE))
            picture = Image.open(io.BytesIO(drawn)).convert("RGBA")
        else:
            picture = Image.open(path).convert("RGBA")
    # some of thousands of files are broken, each in its own way
    except Exception:
        return None

    # trim; large ones are reduced before, for speed
    picture.thumbnail((4 * SIDE, 4 * SIDE))
    box = picture.getchannel("A").point(lambda value: 255 * (value > 32)).getbbox()
    if box is None:
        return None
    picture = picture.crop(box)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)

    alpha = np.asarray(picture.getchannel("A")) > 128
    slim = max(picture.size) > 8 * min(picture.size)
    if slim or min(picture.size) < 16 or alpha.mean() < 0.12:
        return None
    return picture


def _prints(image: Image.Image) -> tuple[int, int]:
    """Return the fingerprints of a picture on grey, and of its mirror image."""
    ground = Image.new("RGBA", image.size, (128, 128, 128, 255))
    grey = Image.alpha_composite(ground, image).convert("L")
    mirrored = grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _differences(grey), _differences(mirrored)


def _differences(grey: Image.Image) -> int:
    """Return 64 bits that say of 8 by 8 neighbours in a row which is brighter."""
    pixels = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)  # (8, 9)
    brighter = (pixels[:, 1:] > pixels[:, :-1]).ravel()  # (64,)
    return int("".join("1" if bit else "0" for bit in brighter), 2)


def _colour(image: Image.Image) -> str | None:
    """Return the one colour that two thirds of the opaque pixels have, or None."""
    pixels = np.asarray(image.resize((64, 64)))  # (64, 64, RGBA)
    opaque = pixels[..., 3] > 128
    hsv = np.asarray(Image.fromarray(pixels[..., :3]).convert("HSV")) / 255.0
    hue, saturation, value = np.moveaxis(hsv, 2, 0)

    # count the pixels of each colour
    coloured = opaque & (saturation > 0.35) & (value > 0.35)
    shares = {name: (coloured & _between(hue, *span)).sum() for name, span in COLOURS.items()}
    shares["black"] = (opaque & (value < 0.2)).sum()
    shares["white"] = (opaque & (value > 0.85) & (saturation < 0.12)).sum()
    shares["gray"] = (opaque & (value >= 0.25) & (value <= 0.8) & (saturation < 0.12)).sum()

    # a dark red or orange is brown, and nothing else
    brown = coloured & _between(hue, 0.0, 0.13) & (value < 0.65)
    shares["brown"] = brown.sum()
    for name in ("red", "orange"):
        shares[name] -= (brown & _between(hue, *COLOURS[name])).sum()

    name, count = max(shares.items(), key=lambda pair: pair[1])
    return name if count > 0.62 * opaque.sum() else None


def _between(hue: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return which hues lie in a span, which may run over 0."""
    if low < high:
        return (hue >= low) & (hue < high)
    return (hue >= low) | (hue < high)


if __name__ == "__main__":
    prepare()
    found = defaultdict(lambda: defaultdict(int))
    for row in read_index():
        found[row["split"]][row["source"]] += 1
    print(json.dumps(found), len({row["name"] for row in read_index()}), "nouns")
