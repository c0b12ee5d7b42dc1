"""How many of an image's crops are another one's copy, to the pixel.

    python benchmarks/speed/repeated_crops.py --out benchmarks/speed/repeated_crops

A vision tower could encode copies once. Counted are the crops that processors of any-resolution
models cut out of pages with text, of pictures of screens and plots, and of photographs.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm
from transformers import (
    BaseImageProcessor,
    GotOcr2ImageProcessorPil,
    LlavaNextImageProcessorPil,
    LlavaOnevisionImageProcessorPil,
    SmolVLMImageProcessorPil,
)

from adafv.data.pages import draw_page
from adafv.data.photographs import photographs
from adafv.utils.files import writable_folder
from adafv.utils.machine import versions
from adafv.utils.records import command_of, write_report

PROJECT = Path(__file__).parents[2]
NEXT_GRIDS = ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))
"""Rows and columns of crops that LLaVA-NeXT's checkpoints allow."""


@dataclass(frozen=True)
class Row:
    """The crops of some images, and how many are a copy of another crop of the same image."""

    images: str
    processor: str
    count: int
    crops: int
    copies: int

    @property
    def share(self) -> float:
        """How much of the crops are copies."""
        return self.copies / self.crops


def processors() -> dict[str, BaseImageProcessor]:
    """Return processors of models that cut images into crops, set up as their checkpoints are."""
    onevision = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    return {
        "LLaVA-NeXT": LlavaNextImageProcessorPil(
            size={"shortest_edge": 336},
            crop_size={"height": 336, "width": 336},
            image_grid_pinpoints=[[336 * rows, 336 * columns] for rows, columns in NEXT_GRIDS],
        ),
        "LLaVA-OneVision": LlavaOnevisionImageProcessorPil(
            size={"height": 384, "width": 384}, image_grid_pinpoints=onevision
        ),
        "InternVL": GotOcr2ImageProcessorPil(
            size={"height": 448, "width": 448}, crop_to_patches=True, max_patches=12
        ),
        "SmolVLM": SmolVLMImageProcessorPil(),
    }


def images(pages: int) -> dict[str, list[Image.Image]]:
    """Return images of each kind: drawn pages, the pictures of this repository, photographs."""
    pictures = []
    for pattern in ("docs/**/*.png", "benchmarks/**/*.png"):
        for path in sorted(PROJECT.glob(pattern)):
            pictures.append(Image.open(path).convert("RGB"))
    return {
        "pages": [draw_page(seed).image for seed in range(pages)],
        "screens and plots": pictures,
        "photographs": [sample.image for sample in photographs()],
    }


def counted(kind: str, name: str, prepare: Callable[..., Any], some: list[Image.Image]) -> Row:
    """Count the crops of some images, and the copies among those of one image."""
    crops = copies = 0
    for image in some:
        pixels = prepare(images=[image], return_tensors="np")["pixel_values"]
        # (crops, 3, H, W)
        flat = pixels.reshape(-1, *pixels.shape[-3:])
        crops += len(flat)
        copies += len(flat) - len({crop.tobytes() for crop in flat})
    return Row(kind, name, len(some), crops, copies)


def page(meta: dict[str, Any], rows: list[Row]) -> str:
    """Return the text of README.md."""
    lines = [
        "# Crops that are copies",
        "",
        f"    {meta['command']}",
        "",
        "Crops of an image whose pixels equal those of another crop of it, as the processors of "
        "any-resolution models cut",
        "them. A vision tower could encode those once. Pages: notices, receipts, tables, charts "
        "and screens of 672 × 672",
        "pixels, as `adafv eval --suite pages` draws them; screens and plots: the pictures of this "
        "repository.",
        "",
        "| images | processor | images | crops | copies |",
        "|---|---|--:|--:|--:|",
    ]
    for row in rows:
        copies = f"{row.copies} ({100 * row.share:.1f} %)"
        lines.append(f"| {row.images} | {row.processor} | {row.count} | {row.crops} | {copies} |")
    most = max(rows, key=lambda row: row.share)
    others = max(row.share for row in rows if row is not most)
    lines += [
        "",
        f"{most.processor} enlarges {most.images} to {most.crops / most.count:.0f} crops each, of "
        f"which {100 * most.share:.1f} % are copies, blank ones. Elsewhere at most "
        f"{100 * others:.1f} % are.",
        "The library encodes all crops.",
    ]
    return "\n".join(lines) + "\n"


def written(folder: Path) -> str:
    """Return the text of README.md from the results in a folder."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return page(found["meta"], [Row(**row) for row in found["rows"]])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--pages", type=int, default=100, metavar="N", help="pages to draw")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Count, and write results.json, results.csv and README.md."""
    options = parse(arguments)
    out = writable_folder(options.out)
    cases = []
    for kind, some in images(options.pages).items():
        for name, processor in processors().items():
            cases.append((kind, name, processor, some))
    rows = [counted(*case) for case in tqdm(cases, file=sys.stderr, disable=options.quiet)]
    command = command_of("python", "benchmarks/speed/repeated_crops.py", arguments=arguments)
    meta = {"command": command, "pages": options.pages, "versions": versions()}
    write_report(out, meta, rows, page(meta, rows))


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
