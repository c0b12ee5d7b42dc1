"""Hooks of `mkdocs build`: pages that lie outside `docs`, the gallery, links that lead there,
formulas, and a name that the theme forgot.

The Markdown reads on its own too: links are those of the repository, and become the site's here.
"""

import base64
import json
import os
import posixpath
import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from leaderboard import leaderboard_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "benchmarks/ablation/README.md": "benchmarks/ablation.md",
    "benchmarks/ablation/accuracy.png": "benchmarks/ablation.png",
    "benchmarks/accuracy/README.md": "benchmarks/accuracy.md",
    "benchmarks/accuracy/accuracy.png": "benchmarks/accuracy.png",
    "benchmarks/analysis/fig1.png": "benchmarks/fig1.png",
    "benchmarks/analysis/fig2.png": "benchmarks/fig2.png",
    "benchmarks/budget-rules/README.md": "benchmarks/budget-rules.md",
    "benchmarks/clips/accuracy.png": "benchmarks/clips.png",
    "benchmarks/clips/README.md": "benchmarks/clips.md",
    "benchmarks/coarse/README.md": "benchmarks/coarse.md",
    "benchmarks/evaluation/README.md": "benchmarks/evaluation.md",
    "benchmarks/leaderboard/README.md": "benchmarks/entries.md",
    "benchmarks/low/README.md": "benchmarks/low.md",
    "benchmarks/peers/README.md": "benchmarks/peers.md",
    "benchmarks/peers/peers.png": "benchmarks/peers.png",
    "benchmarks/photo/accuracy.png": "benchmarks/photo.png",
    "benchmarks/serving/README.md": "benchmarks/serving.md",
    "benchmarks/serving/bursts/README.md": "benchmarks/bursts.md",
    "benchmarks/serving/second-question/README.md": "benchmarks/second-question.md",
    "benchmarks/serving/serving.png": "benchmarks/serving.png",
    "benchmarks/serving/soak/README.md": "benchmarks/soak.md",
    "benchmarks/serving/stages/README.md": "benchmarks/stages.md",
    "benchmarks/speed/choosing/README.md": "benchmarks/choosing.md",
    "benchmarks/speed/repeated_crops/README.md": "benchmarks/repeated-crops.md",
    "benchmarks/speed/tower_formats/README.md": "benchmarks/tower-formats.md",
    "benchmarks/simulation/README.md": "benchmarks/simulation.md",
    "benchmarks/speed/README.md": "benchmarks/speed.md",
    "benchmarks/speed/llava-next-7b-whole/speed.png": "benchmarks/speed.png",
    "benchmarks/speed/selection/selection.png": "benchmarks/selection.png",
    "benchmarks/start/README.md": "benchmarks/start.md",
    "src/adafv/data/photographs/README.md": "photographs.md",
    "src/adafv/embedded/README.md": "embedded-model.md",
    "src/adafv/models/photo/README.md": "photo-model.md",
    "training/photo/README.md": "photo-training.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Files of the repository that are pages or images of the site, too."""
HOMES = {
    **ELSEWHERE,
    "benchmarks/accuracy": "accuracy.md",
    "benchmarks/leaderboard/board.md": "leaderboard.md",
    "docs/gallery.ipynb": "gallery.md",
    "README.md": "index.md",
}
ORIGINS = {page: origin for origin, page in ELSEWHERE.items()}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.+?)\\[)\]]</\1>', re.DOTALL)
"""TeX as `pymdownx.arithmatex` marks it, in a line and in a block of its own."""
IMAGE = re.compile(r'<img (?=[^>]*src="([^"]+)")')
CHARTS = {page for page in ELSEWHERE.values() if page.endswith(".png")} | {"drawings/split.png"}
"""Images of lines on white, as the site has them; all others show images, whose colours stay."""
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]+)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what lies elsewhere in the repository, and the gallery."""
    for origin, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / origin)))
    files.append(File.generated(config, "leaderboard.md", content=leaderboard_page()))
    text, images = gallery()
    files.append(File.generated(config, "gallery.md", content=text))
    for name, content in images.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links of the repository into links of the site."""
    uri = page.file.src_uri
    return LINK.sub(lambda found: link(found[1], found[2], found[3] or "", uri), markdown)


def on_page_content(content: str, *, page: Any, **_: Any) -> str:
    """Typeset formulas as MathML, which a browser needs nothing else for, and mark charts."""
    content = IMAGE.sub(lambda found: image(found[0], found[1], page.url), content)
    return FORMULA.sub(lambda found: formula(found[2], block=found[1] == "div"), content)


def on_post_page(output: str, **_: Any) -> str:
    """Name the theme's search, which is a dialog without a name."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def gallery() -> tuple[str, dict[str, bytes]]:
    """Return the notebook as a page, and its images by their names."""
    notebook = json.loads((ROOT / "docs" / "gallery.ipynb").read_text(encoding="utf-8"))
    blocks: list[str] = []
    images: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
            continue
        blocks.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            if output.get("name") == "stdout":
                printed = "".join(output["text"])
                blocks.append(f"```text\n{printed}```")
            encoded = output.get("data", {}).get("image/jpeg")
            if encoded:
                name = f"drawings/gallery-{len(images)}.jpg"
                images[name] = base64.b64decode(encoded)
                blocks.append(f"![What the methods keep]({name})")
    return "\n\n".join(blocks), images


def formula(tex: str, *, block: bool) -> str:
    """Return a formula as MathML; a wide block scrolls in its own box."""
    tex = " ".join(unescape(tex).split())
    if not block:
        return convert(tex)
    return f'<div class="formula">{convert(tex, display="block")}</div>'


def image(tag: str, source: str, url: str) -> str:
    """Return the beginning of an image's tag, with a class where it is a chart.

    Args:
        source: of the image, from the address `url` of its page.
    """
    is_chart = posixpath.normpath(posixpath.join(url, source)) in CHARTS
    return f'{tag}class="chart" ' if is_chart else tag


def link(text: str, target: str, anchor: str, uri: str) -> str:
    """A link on the page `uri`: to the page of a file, to the reference of a module, or as it was.

    Args:
        target: path in the repository, from the file that the page is made of.
        anchor: of a heading, with its #, or nothing.
    """
    folder = posixpath.dirname(ORIGINS.get(uri, f"docs/{uri}"))
    path = posixpath.normpath(posixpath.join(folder, target))
    if path.startswith("src/") and path.endswith(".py"):
        module = path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__")
        return f"[{text}][{module.replace('/', '.')}]"
    home = HOMES.get(path, path.removeprefix("docs/"))
    return f"[{text}]({os.path.relpath(home, posixpath.dirname(uri) or '.')}{anchor})"
