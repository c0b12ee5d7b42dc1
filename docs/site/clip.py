"""Draw what is kept of frames of a clip, each asked about as an image: docs/clip.png.

python docs/site/clip.py bigbuckbunny.mp4 "Is there a rabbit?"
"""

import io
import sys
from pathlib import Path

from drawings import reduced
from PIL import Image

from adafv.methods import method
from adafv.models.load import load
from adafv.models.videos import open_video
from adafv.utils.files import atomic
from adafv.viz import Explanation, explanation
from adafv.viz import figure as style
from adafv.viz.maps import draw_image, draw_kept

DRAWING = Path(__file__).parents[1] / "clip.png"
FRAMES = 3
KEEP = 0.1
ROW = 312  # pixels for a frame and its heading


def main(path: str, question: str) -> None:
    """Ask the photo model about each frame."""
    video = open_video(path, FRAMES)
    model, processor = load("photo", "cpu", "float32")
    pruner = method("adafv+", keep=KEEP)
    shown = []
    for index, frame in zip(video.indices, video.frames, strict=True):
        what = explanation(model, processor, Image.fromarray(frame), question, pruner)
        shown.append((index / video.fps, what))

    buffer = io.BytesIO()
    drawn(question, shown).figure.savefig(buffer, format="png")
    [page] = reduced([Image.open(buffer).convert("RGB")])
    with atomic(DRAWING) as file:
        page.save(file, format="png", optimize=True)


def drawn(question: str, shown: list[tuple[float, Explanation]]) -> style.PixelFigure:
    """Each frame and its second, what is kept of it, and the answers from all and from that."""
    top = 2 * style.MARGIN + 50
    page = style.PixelFigure(
        2 * style.MARGIN + FRAMES * style.PANEL + (FRAMES - 1) * style.GAP,
        top + 2 * ROW + style.MARGIN,
    )
    page.text(style.MARGIN, style.MARGIN + 6, question, 34, style.INK, weight="bold")
    for i, (seconds, what) in enumerate(shown):
        x = style.MARGIN + i * (style.PANEL + style.GAP)
        page.text(x, top, f"{seconds:.1f} s", 24, style.INK, weight="bold")
        draw_image(page, x, top + 30, what)
        y = top + ROW
        page.text(x, y, f"{what.pruned.kept_tokens} of {what.pruned.visual_tokens}", 24, style.INK)
        draw_kept(page, x, y + 30, what)
        answers = f"from all: {what.dense.answer} · from those: {what.pruned.answer}"
        page.text(x, y + ROW - 20, answers, 22, style.INK, weight="bold")
    return page


if __name__ == "__main__":
    main(*sys.argv[1:])
