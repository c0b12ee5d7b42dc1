"""The documentation as it lies in the repository: pages that code makes are up to date, links and
pictures lead somewhere.
"""

import json
import re
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path

import generate
import leaderboard
import methods
import pytest
from PIL import Image

from adafv.data.suites import SUITES
from adafv.evaluation.paired import Pair
from adafv.evaluation.rows import Row
from adafv.methods import METHODS, VIDEO_METHODS
from adafv.viz.palette import BOTH, PLAIN, RELEVANCE, RIGHT, SALIENCY, WRONG

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TRACKED = subprocess.check_output(("git", "ls-files", "*.md"), cwd=ROOT, text=True)
PAGES = [ROOT / name for name in TRACKED.splitlines()]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(#[^)\s]+)?\)")


def text_of(page: Path) -> str:
    """Markdown without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Anchors of headings, as the code host makes them, and those that a page sets itself."""
    text = text_of(page)
    found = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-"))
    return found


def test_pages_are_what_code_would_write():
    """`make pages` changes nothing: whole pages, tables and links to modules are fresh."""
    assert generate.stale() == []


def test_a_page_that_was_edited_by_hand_is_found(monkeypatch, tmp_path):
    """The check itself: one word more in a generated page is noticed."""
    page = tmp_path / "cli.md"
    page.write_text(generate.NOTE + generate.commands_page() + "more", encoding="utf-8")
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    monkeypatch.setattr(generate, "ROOT", ROOT)
    monkeypatch.setattr(generate, "PAGES", {"cli.md": generate.commands_page})
    assert [Path(name).name for name in generate.stale()] == ["cli.md"]


def test_the_code_host_has_the_leaderboard_of_the_site():
    """As many results, the same table of decisions, and nothing that needs a script."""
    page = (ROOT / "benchmarks" / "leaderboard" / "board.md").read_text(encoding="utf-8")
    assert leaderboard.decisions() in page
    results = page.split("## All results\n")[1].strip().split("\n\n")[1].splitlines()
    assert len(results) == 2 + leaderboard.leaderboard_page().count("<tr><td>") > 100
    assert {line.count(" | ") for line in results} == {len(leaderboard.COLUMNS) - 1}
    assert not re.search(r"<(script|td|div)", page)
    # the site's own settings would be shown as a heading
    assert "hide:" not in page
    assert leaderboard.leaderboard_page().startswith("---\nhide: [toc]\n---\n")


def test_the_reference_links_to_every_module_that_it_is_about():
    for page in (DOCS / "reference").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"^::: (\S+)", text, re.MULTILINE)
        assert named == re.findall(r"^- \[`(\S+)`\]\(\.\./\.\./src/", text, re.MULTILINE)


def test_the_help_names_every_suite():
    """Whoever asks what `--suite` takes need not read the source."""
    section = generate.commands_page().split("## `adafv eval`")[1].split("\n## ")[0]
    [row] = [line for line in section.splitlines() if line.startswith("| `--suite`")]
    assert all(f"{name}," in row for name in SUITES)


def test_the_page_of_results_has_every_column():
    """Whoever reads results.csv or pairs.csv finds what a column means."""
    page = (DOCS / "real-benchmarks.md").read_text(encoding="utf-8")
    section = page.split("## What is written\n")[1].split("\n## ")[0]
    described = re.findall(r"`(\w+)`(?=[^|]*\|)", section)
    columns = {field.name for row in (Row, Pair) for field in fields(row)}
    assert columns <= set(described)


def test_the_page_on_installing_has_every_extra():
    """But for what `make env` installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (DOCS / "install.md").read_text(encoding="utf-8")
    section = page.split("## Extras\n")[1].split("\n## ")[0]
    named = {*re.findall(r"'\.\[(\w+)\]'", section), *re.findall(r"`(\w+)`(?=[^|]*\|)", section)}
    assert project["optional-dependencies"].keys() - {"dev"} <= named


def test_drawings_are_committed():
    """Every drawing that code makes lies in docs/drawings, no other, and the loop is small."""
    there = {path.name for path in (DOCS / "drawings").iterdir()}
    assert there == set(generate.DRAWINGS)
    assert (DOCS / "drawings" / "budget.gif").stat().st_size < 2_000_000


def test_operations_are_counted_for_every_method():
    """A new method needs `make pages`."""
    counts = json.loads(methods.OPERATIONS.read_text(encoding="utf-8"))["methods"]
    between = {"fastv", "sparsevlm", "pdrop"}
    assert set(counts) == {cls.name for cls in methods.CLASSES} - between


def test_a_method_without_a_count_is_named_and_counted(monkeypatch, tmp_path):
    """`--check` names the file instead of stopping at a page; `make pages` counts it alone."""
    counts = json.loads(methods.OPERATIONS.read_text(encoding="utf-8"))
    random = counts["methods"].pop("random")
    counts["methods"]["adafv"]["operations"] = {}
    monkeypatch.setattr(methods, "OPERATIONS", tmp_path / "operations.json")
    methods.OPERATIONS.write_text(json.dumps(counts), encoding="utf-8")
    methods.operations.cache_clear()
    try:
        assert [Path(name).name for name in generate.stale()] == ["operations.json"]
        found = methods.count(counts["methods"])["methods"]
    finally:
        methods.operations.cache_clear()
    assert found["random"] == random
    assert found["adafv"] == counts["methods"]["adafv"]


def test_formulas_are_of_methods_and_on_their_page():
    """One of a method that was renamed would be shown nowhere."""
    formulas = dict(methods.formulas())
    symbols = formulas.pop("Symbols")
    page = methods.methods_page()
    assert formulas.keys() <= METHODS.keys() | VIDEO_METHODS.keys()
    assert all(text in page for text in (symbols, *formulas.values()))


def test_docstrings_are_plain_text():
    """TeX is for the pages: `help` and `adafv methods` show a docstring as it is."""
    for cls in (*METHODS.values(), *VIDEO_METHODS.values()):
        assert not set("\\$") & set(cls.__doc__ or ""), cls.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_resolve_in_the_repository(page):
    """Whoever reads on the code host finds every page, picture and heading."""
    for target, anchor in LINK.findall(text_of(page)):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor[1:] in anchors(path), target + anchor


@pytest.mark.parametrize(
    ("name", "hues"),
    [
        ("drawings/kept.png", (SALIENCY, RELEVANCE, BOTH, PLAIN, RIGHT, WRONG)),
        ("drawings/explain.png", (SALIENCY, RELEVANCE, RIGHT)),
        ("drawings/right.png", (SALIENCY, RELEVANCE, PLAIN, RIGHT, WRONG)),
        ("drawings/budget.gif", (SALIENCY, RELEVANCE, PLAIN, RIGHT, WRONG)),
    ],
)
def test_drawings_have_the_colours_of_the_palette(name, hues):
    """So that one which was drawn with other colours is drawn anew."""
    with Image.open(DOCS / name) as drawing:
        # of a loop its end, where the answers differ
        drawing.seek(getattr(drawing, "n_frames", 1) - 1)
        counted = drawing.convert("RGB").getcolors(drawing.width * drawing.height)
    found = {"#{:02x}{:02x}{:02x}".format(*color) for _, color in counted}
    assert set(hues) <= found
