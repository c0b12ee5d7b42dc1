"""Hooks of `mkdocs build`: pages, tables and drawings that code makes, and links that lead out of
`docs`.

The Markdown reads on its own too: links are those of the repository, and become the site's here. A
line `<!-- table: NAME -->` stands for a table of `tables.TABLES`.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from drawings import DRAWINGS
from leaderboard import leaderboard_page
from methods import methods_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from tables import TABLES

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "benchmarks/ablation/README.md": "benchmarks/ablation.md",
    "benchmarks/accuracy/accuracy.png": "benchmarks/accuracy.png",
    "benchmarks/analysis/fig2.png": "benchmarks/fig2.png",
    "benchmarks/clips/README.md": "benchmarks/clips.md",
    "benchmarks/coarse/README.md": "benchmarks/coarse.md",
    "benchmarks/serving/README.md": "benchmarks/serving.md",
    "benchmarks/serving/serving.png": "benchmarks/serving.png",
    "benchmarks/speed/selection/selection.png": "benchmarks/selection.png",
    "src/adafv/embedded/README.md": "embedded-model.md",
    "src/adafv/models/photo/README.md": "photo-model.md",
    "training/photo/README.md": "photo-training.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Files of the repository that are pages or images of the site, too."""
HOMES = {**ELSEWHERE, "benchmarks/accuracy": "accuracy.md"}
ORIGINS = {page: origin for origin, page in ELSEWHERE.items()}
LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]+)?\)")
TABLE = re.compile(r"^<!-- table: (\S+) -->$", re.MULTILINE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what lies elsewhere in the repository and what code makes."""
    for origin, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / origin)))
    files.append(File.generated(config, "methods.md", content=methods_page()))
    files.append(File.generated(config, "leaderboard.md", content=leaderboard_page()))
    for name, draw in DRAWINGS.items():
        files.append(File.generated(config, f"drawings/{name}.png", content=draw()))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill in the tables, and turn links of the repository into links of the site."""
    uri = page.file.src_uri
    filled = TABLE.sub(lambda found: TABLES[found[1]](), markdown)
    return LINK.sub(lambda found: link(found[1], found[2], found[3] or "", uri), filled)


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
