"""The pictures of things that scenes are made of: cut out, named, and split by picture file.

Clip art (public domain) comes from Debian's openclipart-svg, photographs from
tuxpaint-stamps-default (GPL-2: read here, never committed). Both are downloaded once with apt and
unpacked into the cache folder; nothing is installed.
"""

import hashlib
import io
import json
import re
import subprocess
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from training.photo.names import lines_of, noun_in
from training.photo.places import CACHE

__all__ = ["PICTURES", "clusters", "open_picture", "prepare", "read_index", "split_of"]

PICTURES = CACHE / "pictures"
PACKAGES = ("tuxpaint-stamps-default", "openclipart-svg")
SIDE = 320  # pixels of a picture's longer side
NEAR = 8  # bits of 64 in which two fingerprints of the same drawing may differ
SKIPPED = re.compile("|".join(lines_of(Path(__file__).with_name("skipped.txt"))))
NAMED = {
    "gnu-baby": "gnu",
    "gnu-baby-stand": "gnu",
    "magnifing_glass_gino_riv_01": "magnifying glass",
    "card_figure_king_nicu_r": "king",
}
COLOURS = {
    "red": (0.96, 0.05),
    "orange": (0.05, 0.11),
    "yellow": (0.11, 0.19),
    "green": (0.19, 0.45),
    "blue": (0.5, 0.7),
    "purple": (0.7, 0.83),
    "pink": (0.83, 0.96),
}


def prepare() -> None:
    """Download, cut out, name and list every picture of a known thing; what is there already is
    kept.
    """
    if (PICTURES / "index.json").is_file():
        return
    PICTURES.mkdir(parents=True, exist_ok=True)
    stamps, drawings = _unpacked()
    rows, known = [], set()
    for path in tqdm(
        sorted(stamps.rglob("*.png")) + sorted(drawings.rglob("*.svg")), desc="pictures"
    ):
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        if digest in known or SKIPPED.search(str(path)):
            continue
        known.add(digest)
        noun = noun_in(_caption(path, content))
        image = _cut(path) if noun is not None else None
        if noun is None or image is None:
            continue
        image.save(PICTURES / f"{digest}.png")
        photo = path.suffix == ".png" and "/cartoon/" not in str(path)
        source = "photo" if photo else "stamp" if path.suffix == ".png" else "clipart"
        rows.append(
            {
                "id": digest,
                "file": path.name,
                "source": source,
                "name": noun.name,
                "kind": noun.kind,
                "colour": _colour(image),
                "prints": _prints(image),
            }
        )
    for row, cluster in zip(rows, clusters([row.pop("prints") for row in rows]), strict=True):
        row["cluster"] = rows[cluster]["id"]
    for row in rows:
        row["split"] = split_of(row, rows)
    (PICTURES / "index.json").write_text(json.dumps(rows, indent=0))


@lru_cache
def read_index() -> list[dict]:
    """Every picture: id, file, source, name, kind, colour, cluster, split ("train" or "unseen")."""
    return json.loads((PICTURES / "index.json").read_text())


@lru_cache(maxsize=1500)
def open_picture(digest: str) -> Image.Image:
    """The cut-out picture, RGBA, at most `SIDE` pixels."""
    return Image.open(PICTURES / f"{digest}.png").convert("RGBA")


def clusters(prints: list[tuple[int, int]]) -> list[int]:
    """Give each picture the index of its cluster's first, from fingerprints of it and of its mirror
    image.
    """
    plain = _bits([print_ for print_, _ in prints])  # (N, 64)
    mirrored = _bits([print_ for _, print_ in prints])
    first = list(range(len(prints)))
    for index in range(len(prints)):
        near = (
            np.minimum(
                (plain[:index] != plain[index]).sum(1), (plain[:index] != mirrored[index]).sum(1)
            )
            <= NEAR
        )
        for other in np.flatnonzero(near):
            old, new = sorted((_root(first, index), _root(first, int(other))), reverse=True)
            first[old] = new
    return [_root(first, index) for index in range(len(prints))]


def split_of(row: dict, rows: list[dict]) -> str:
    """A quarter of the clusters of each noun that has several clusters is never trained on."""
    same = sorted(
        {other["cluster"] for other in rows if other["name"] == row["name"]},
        key=lambda key: hashlib.sha256(key.encode()).hexdigest(),
    )
    owners = {other["name"] for other in rows if other["cluster"] == row["cluster"]}
    held = same[: len(same) // 4] if len(same) >= 4 else same[:1] if len(same) >= 2 else []
    return "unseen" if row["cluster"] in held and len(owners) == 1 else "train"


def _bits(prints: list[int]) -> np.ndarray:
    return np.array(
        [[value >> bit & 1 for bit in range(64)] for value in prints], dtype=bool
    ).reshape(-1, 64)


def _root(first: list[int], index: int) -> int:
    while first[index] != index:
        index = first[index]
    return index


def _unpacked() -> tuple[Path, Path]:
    folder = CACHE / "debian"
    stamps = folder / "usr/share/tuxpaint/stamps"
    drawings = folder / "usr/share/openclipart/svg"
    if not (stamps.is_dir() and drawings.is_dir()):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
            for package in sorted(folder.glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            names = " and ".join(PACKAGES)
            raise SystemExit(
                f"{names} cannot be had ({error}): training needs a Debian or Ubuntu with apt"
            ) from None
    return stamps, drawings


def _caption(path: Path, content: bytes) -> str:
    if path.stem in NAMED:
        return NAMED[path.stem]
    if path.suffix == ".png":
        text = path.with_suffix(".txt")
        first = text.read_text(errors="replace").splitlines()[0] if text.is_file() else ""
        named = re.split(r"[,.!(—–]", first)[0]
        return named if noun_in(named) is not None else path.stem.replace("_", " ")
    title = re.search(rb"<dc:title>\s*([^<]*)", content)
    words = title.group(1).decode("utf8", "replace") if title else ""
    boring = re.search(
        r"clipart|sibmission|various|collection|iconset|elements|homes|home", words, re.I
    )
    name = re.sub(
        r"_(architett?o?|franc\w*|fra|rollandin|nicu|bucul\w*|ganson|benji|park|mimooh|peterm|juliane|krug|01|02|03)\b.*",
        "",
        path.stem,
    )
    return words if not boring and noun_in(words) is not None else name.replace("_", " ")


def _cut(path: Path) -> Image.Image | None:
    """Draw a picture on nothing, trimmed to what is opaque; None: it cannot be drawn, is empty or
    is a mere line.
    """
    try:
        if path.suffix == ".svg":
            import resvg_py

            image = Image.open(
                io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=SIDE)))
            ).convert("RGBA")
        else:
            image = Image.open(path).convert("RGBA")
    except Exception:
        return None
    image.thumbnail((4 * SIDE, 4 * SIDE))
    box = image.getchannel("A").point(lambda value: 255 * (value > 32)).getbbox()
    if box is None:
        return None
    image = image.crop(box)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    alpha = np.asarray(image.getchannel("A")) > 128
    slim = max(image.size) > 8 * min(image.size)
    return None if slim or min(image.size) < 16 or alpha.mean() < 0.12 else image


def _prints(image: Image.Image) -> tuple[int, int]:
    """64 bits of which neighbour is brighter, for the picture on grey and for its mirror image."""
    ground = Image.new("RGBA", image.size, (128, 128, 128, 255))
    grey = Image.alpha_composite(ground, image).convert("L")
    return tuple(
        _differences(one) for one in (grey, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    )  # type: ignore[return-value]


def _differences(grey: Image.Image) -> int:
    pixels = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int("".join("01"[int(bit)] for bit in (pixels[:, 1:] > pixels[:, :-1]).ravel()), 2)


def _colour(image: Image.Image) -> str | None:
    """The one colour that two thirds of the opaque pixels have, or None."""
    pixels = np.asarray(image.resize((64, 64)))
    opaque = pixels[..., 3] > 128
    hue, saturation, value = np.moveaxis(
        np.asarray(Image.fromarray(pixels[..., :3]).convert("HSV")) / 255.0, 2, 0
    )
    coloured = opaque & (saturation > 0.35) & (value > 0.35)
    shares = {name: (coloured & _between(hue, *span)).sum() for name, span in COLOURS.items()}
    shares["black"] = (opaque & (value < 0.2)).sum()
    shares["white"] = (opaque & (value > 0.85) & (saturation < 0.12)).sum()
    shares["gray"] = (opaque & (value >= 0.25) & (value <= 0.8) & (saturation < 0.12)).sum()
    brown = coloured & _between(hue, 0.0, 0.13) & (value < 0.65)
    shares["brown"] = brown.sum()
    shares["red"], shares["orange"] = (
        shares["red"] - (brown & _between(hue, 0.96, 0.05)).sum(),
        shares["orange"] - (brown & _between(hue, 0.05, 0.11)).sum(),
    )
    name, count = max(shares.items(), key=lambda pair: pair[1])
    return name if count > 0.62 * opaque.sum() else None


def _between(hue: np.ndarray, low: float, high: float) -> np.ndarray:
    return (hue >= low) & (hue < high) if low < high else (hue >= low) | (hue < high)


if __name__ == "__main__":
    prepare()
    found = defaultdict(lambda: defaultdict(int))
    for row in read_index():
        found[row["split"]][row["source"]] += 1
    print(json.dumps(found), len({row["name"] for row in read_index()}), "nouns")
