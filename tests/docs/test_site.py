"""The documentation site: what its pages show runs, and what code puts into them is what was
measured.
"""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import tables
from writing import percent

from adafv import METHODS
from adafv.cli import main
from adafv.data.scenes import draw

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
NOT_RUN = "<!-- not run: "
BLOCK = re.compile(
    r"^(<!-- not run: [^\n]*\n)?```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL
)
# test_docs.py follows that
BENCHMARKS = sorted((DOCS.parent / "benchmarks").glob("*/README.md"))
PAGES = [page for page in sorted(DOCS.glob("*.md")) if page.name != "adding-a-method.md"]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the blocks that run, in order."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [(language, text) for marked, language, text in found if not marked]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem
)
def test_what_a_page_shows_runs(page, tmp_path, monkeypatch, capsys):
    """Python blocks share one namespace, commands go to the command line, all in one folder, on the
    embedded model.
    """
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, page.name, "exec"), names)
            continue
        for command in text.splitlines():
            words = shlex.split(command)
            assert words[0] == "adafv"
            assert main(words[1:]) == 0, capsys.readouterr().err


def test_the_commands_of_the_first_page_come_out_right(tmp_path, monkeypatch, capsys):
    """The question of the start page is about its image, and 5 % of the tokens answer it."""
    monkeypatch.chdir(tmp_path)
    question = draw(0, split="test", suite="scenes").questions[0]
    draw(0, split="test", suite="scenes").image.save("picture.png")
    page = (DOCS / "index.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^adafv (ask .*)$", page, re.MULTILINE)
    assert question.text in command
    assert main(shlex.split(command)) == 0
    assert capsys.readouterr().out.splitlines()[0] == question.answer


def test_blocks_that_do_not_run_say_why():
    """Every other Python or console block is found by the test above."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"^ *```(?:python|console)$", text, re.M)) == len(
            blocks(page)
        ) + text.count(NOT_RUN)


def test_the_budget_tables_say_what_the_results_say():
    """A share is named only if its interval holds the target and no smaller one's does; where none
    does, whether that of all tokens would.
    """
    for name in METHODS:
        for suite, kind in tables.KINDS:
            for target in tables.TARGETS:
                dense = tables.measured()["none", suite, kind, 1.0]
                level = target * dense["accuracy"]
                enough = {
                    percent(keep): tables.measured()[name, suite, kind, keep]["ci_low"] >= level
                    for keep in tables.budgets()
                    if (name, suite, kind, keep) in tables.measured()
                }
                said = tables.smallest(name, suite, kind, target)
                if said in enough:
                    assert enough[said]
                    smaller = list(enough)[list(enough).index(said) + 1 :]
                    assert not any(enough[keep] for keep in smaller)
                else:
                    assert not any(enough.values())
                    assert said == ("more" if dense["ci_low"] >= level else "?")


def test_the_ceilings_are_in_order():
    """Fewer tokens save more, and never more than the tower leaves."""
    for name in tables.LARGE:
        _, _, share, *gains = tables._ceiling(name)
        values = [float(gain.split()[0]) for gain in gains]
        assert all(a < b for a, b in pairwise(values))
        assert 1 < values[-1] < 100 / float(share.split()[0])


def test_a_ceiling_is_at_the_budget_that_it_names(monkeypatch):
    """A share of the patches: the newlines of LLaVA-NeXT's rows go with what is dropped."""
    read = []
    prefill = tables.flops.prefill

    def counted(config, lengths):
        read.append(lengths[0])
        return prefill(config, lengths)

    monkeypatch.setattr(tables.flops, "prefill", counted)
    tables._ceiling("llava-next-7b")
    whole, *pruned = read
    assert [length - (whole - 2928) for length in pruned] == [720, 288, 144]


def test_every_table_that_a_page_asks_for_is_there_and_used():
    """A name that no page uses, or that no function makes, is a mistake."""
    asked = [
        name
        for page in (DOCS.parent / "README.md", *PAGES, *BENCHMARKS)
        for name in re.findall(r"<!-- table: (\S+) -->", page.read_text(encoding="utf-8"))
    ]
    assert set(asked) == set(tables.TABLES)


def test_the_methods_page_has_every_method():
    """Each with its idea, its cost and its figures, and a link to its paper."""
    import methods

    page = methods.methods_page()
    for name, cls in METHODS.items():
        section = page.split(f"## `{name}`\n")[1].split("\n## ")[0]
        assert methods.parts(cls.__doc__ or "")[0] in section
        assert "**Cost.**" in section
        for number in re.findall(r"\d{4}\.\d{5}", cls.__doc__ or ""):
            assert f"https://arxiv.org/abs/{number}" in section


def test_rivals_are_compared_with_their_authors_code():
    """Every method of somebody's paper says where its authors' code is, and how often both
    agree; or that there is none.
    """
    import methods

    rows = methods.fidelity()
    ours = ("adafv+", "t2i")
    theirs = {name for name, cls in METHODS.items() if re.search(r"arXiv \d", cls.paper)}
    no_code = set()
    for name in METHODS:
        said = " ".join((METHODS[name].__doc__ or "").split())
        if "No released code was available to compare with" in said:
            no_code.add(name)
    assert theirs - {*ours, *no_code} <= rows.keys() <= METHODS.keys() - {*ours, *no_code}
    for name, row in rows.items():
        assert row["commit"] is None or re.fullmatch(r"[0-9a-f]{40}", row["commit"])
        said = methods.held(METHODS[name])
        for part in (row["one"], row["five"]):
            assert 0 <= part["identical"] <= part["cases"]
            assert 0 <= part["iou"] <= 1
            assert f"{part['identical']} of {part['cases']} cases" in said
        assert row["one"]["identical"] == row["one"]["cases"]
    assert not any(methods.held(METHODS[name]) for name in (*ours, *no_code))


def test_a_greedy_method_is_seen_to_be_one():
    """The count of operations tells methods that pick token after token from those that sort."""
    import methods

    operations = {
        name: [methods.selected(METHODS[name], keep)[0] for keep in (0.25, 0.05)]
        for name in ("adafv", "scope")
    }
    assert operations["adafv"][0] == operations["adafv"][1]
    assert operations["scope"][0] > 3 * operations["scope"][1]


@pytest.mark.parametrize(
    ("source", "url", "is_chart"),
    [
        ("../serving.png", "benchmarks/serving/", True),
        ("../fig2.png", "benchmarks/bursts/", True),
        ("../benchmarks/fig2.png", "accuracy/", True),
        ("benchmarks/accuracy.png", "", True),
        ("../drawings/split.png", "how-it-works/", True),
        ("../drawings/kept.png", "how-it-works/", False),
        ("drawings/budget.gif", "", False),
        ("../drawings/gallery-0.jpg", "gallery/", False),
    ],
)
def test_charts_become_dark_on_dark_pages(source, url, is_chart):
    """Below `benchmarks/`, too, where the address of an image does not name the folder; what
    shows an image keeps its colours.
    """
    pages = pytest.importorskip("pages", reason="needs MkDocs: make docs")
    content = f'<p><img alt="lines" src="{source}" /></p>'
    built = pages.on_page_content(content, page=SimpleNamespace(url=url))
    drawn = content.replace("<img ", '<img class="chart" ') if is_chart else content
    # on a phone it is small: it leads to itself
    linked = drawn.replace("<img", f'<a href="{source}"><img').replace("/>", "/></a>")
    assert built == linked
    assert "img.chart {" in (DOCS / "site.css").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "94.7 [89.1, 97.5]",
        "4.28 (3.55, 121%)",
        "0.85 (0.93–0.98)",
        "+2 [−2.6, +0.0]",
        "5.44 (1 + 7)",
        "(0.94 ×)",
    ],
)
def test_no_line_ends_within_an_interval(text):
    """On a phone a cell is narrow, and an interval in three lines is hard to read."""
    pages = pytest.importorskip("pages", reason="needs MkDocs: make docs")
    built = pages.on_page_content(f"<td>{text}</td>", page=SimpleNamespace(url=""))
    interval = re.search(r"[\[(].*", text)
    assert interval is not None
    assert f'<span class="whole">{interval[0]}</span>' in built


def test_no_line_ends_between_a_number_and_its_unit():
    """In prose, too; commands and formulas stay as they are written."""
    pages = pytest.importorskip("pages", reason="needs MkDocs: make docs")
    kept = "<pre>5 % 3 s</pre><code>5 %</code>"
    content = f'<p title="5 %">of 5 % after 1,200 ms or 3 steps</p>{kept}'
    built = pages.on_page_content(content, page=SimpleNamespace(url=""))
    assert re.findall(r'<span class="whole">(.*?)</span>', built) == ["5 %", "1,200 ms"]
    assert built.endswith(kept)
    assert 'title="5 %"' in built


def test_a_long_name_in_a_table_breaks_where_its_words_end():
    """Prose has its width on a phone; a short cell stays as it was."""
    pages = pytest.importorskip("pages", reason="needs MkDocs: make docs")
    short, name = "<td>5</td>", "<td><code>tests/test_a.py::test_one_thing</code></td>"
    built = pages.on_page_content(short + name, page=SimpleNamespace(url=""))
    parts = "tests/|test_|a.py::|test_|one_|thing".replace("|", "<wbr>")
    assert built == f'{short}<td class="prose"><code>{parts}</code></td>'


def test_attributes_told_of_at_once_are_names():
    """The reference took the first for the name, and the others for its type."""
    pages = pytest.importorskip("pages", reason="needs MkDocs: make docs")
    name = '<td><code><span title="keep,">keep,</span></code></td>\n<td>'
    for others, written in (("<code>n</code>", "keep, n"), ("\n<code>(n, k)</code>", "keep, n, k")):
        built = pages.on_page_content(f"{name}{others}</td>", page=SimpleNamespace(url=""))
        cells = re.findall(r"<td.*?</td>", built, re.DOTALL)
        assert [pages.text_of(cell) for cell in cells] == [written, ""]


def test_attributes_told_of_at_once_are_not_called_required():
    """The reference knows no default of several names; that of one name it does know."""
    pages = pytest.importorskip("pages", reason="needs MkDocs: make docs")
    row = "<tr><td>\n<code>{}</code>\n</td><td></td><td>\n<em>required</em>\n</td></tr>"
    content = f"{row.format('low, high')}{row.format('keep')}"
    built = pages.on_page_content(content, page=SimpleNamespace(url=""))
    several, one = built.split("</tr>")[:2]
    assert "required" not in several
    assert "<em>required</em>" in one
