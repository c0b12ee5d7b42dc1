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
    "benchmarks/analysis/photo/fig2.png": "benchmarks/photo-signals.png",
    "benchmarks/budget-rules/README.md": "benchmarks/budget-rules.md",
    "benchmarks/clips/accuracy.png": "benchmarks/clips.png",
    "benchmarks/clips/README.md": "benchmarks/clips.md",
    "benchmarks/coarse/README.md": "benchmarks/coarse.md",
    "benchmarks/evaluation/README.md": "benchmarks/evaluation.md",
    "benchmarks/leaderboard/README.md": "benchmarks/entries.md",
    "benchmarks/low/README.md": "benchmarks/low.md",
    "benchmarks/peers/README.md": "benchmarks/peers.md",
    "benchmarks/peers/peers.png": "benchmarks/peers.png",
    "benchmarks/photo/README.md": "benchmarks/photo.md",
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
IMAGE = re.compile(r'<img ([^>]*src="([^"]+)"[^>]*>)')
CHARTS = {page for page in ELSEWHERE.values() if page.endswith(".png")} | {"drawings/split.png"}
"""Images of lines on white, as the site has them; all others show images, whose colours stay."""
CELL = re.compile(r"<td([^>]*)>(.*?)</td>", re.DOTALL)
NAMES = re.compile(
    r"(<td><code>(?:<[^>]*>)?\w+),((?:<[^>]*>)?</code></td>\s*<td>)(.*?)</td>", re.DOTALL
)
"""Attributes that a docstring tells of at once, which the reference takes for one and its type."""
TOLD_AT_ONCE = re.compile(
    r"(<td>\s*<code>\w+, [^<]*</code>\s*</td>(?:(?!</tr>).)*)<em>required</em>", re.DOTALL
)
"""Their row, to a word that the reference writes where it finds no default of the first."""
LONG = 24
"""Characters from which a cell of a table is prose, and a name may break where its words end."""
NAME = re.compile(rf"(?<=<code>)[^<\s]{{{LONG},}}(?=</code>)")
WORD_END = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[/_:=,])(?![/_:=,])")
_NUMBER = r"[+\-−×]? ?\d[\d.,]*(?: ?%)?"
WHOLE = re.compile(
    r"<(pre|code|math)\b.*?</\1>|<[^>]*>"
    rf"|([\[(]{_NUMBER}(?:(?:–|, | to | \+ ){_NUMBER})*(?: ×)?[\])]"
    r"|\d[\d.,]* (?:%|×|s|ms|[KMG]i?B)(?![\w/]))",
    re.DOTALL,
)
"""Of text, and not of tags, code and formulas: an interval, and a number with its unit."""
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
    """Typeset formulas as MathML, which a browser needs nothing else for; mark charts, prose in
    tables, and what no line ends within.
    """
    content = IMAGE.sub(lambda found: image(found[1], found[2], page.url), content)
    content = FORMULA.sub(lambda found: formula(found[2], block=found[1] == "div"), content)
    content = NAMES.sub(lambda found: names(found[1], found[2], found[3]), content)
    content = TOLD_AT_ONCE.sub(r"\1", content)
    content = CELL.sub(lambda found: cell(found[1], found[2]), content)
    return WHOLE.sub(lambda found: whole(found[0], found[2]), content)


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


def image(attributes: str, source: str, url: str) -> str:
    """Return an image that leads to itself in full size, with a class where it is a chart.

    Args:
        attributes: of its tag, to the tag's end.
        source: of the image, from the address `url` of its page.
    """
    is_chart = posixpath.normpath(posixpath.join(url, source)) in CHARTS
    chart = 'class="chart" ' if is_chart else ""
    return f'<a href="{source}"><img {chart}{attributes}</a>'


def cell(attributes: str, content: str) -> str:
    """Return a cell of a table, with a class where it is prose, whose long names may break."""
    if len(text_of(content)) < LONG:
        return f"<td{attributes}>{content}</td>"
    content = NAME.sub(lambda found: WORD_END.sub("<wbr>", found[0]), content)
    return f'<td{attributes} class="prose">{content}</td>'


def names(first: str, between: str, others: str) -> str:
    """Return the cells of a name and its type with all names in the first.

    Args:
        first: the beginning, to the end of the first name.
        between: what ends its cell and begins the next.
        others: that one's content.
    """
    return f"{first}, {text_of(others).strip('()')}{between}</td>"


def text_of(html: str) -> str:
    """Return what is written in HTML, without its tags."""
    return " ".join(unescape(re.sub("<[^>]*>", "", html)).split())


def whole(found: str, text: str | None) -> str:
    """Return a text that no line ends within; what is found besides stays as it was."""
    return f'<span class="whole">{text}</span>' if text else found


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
