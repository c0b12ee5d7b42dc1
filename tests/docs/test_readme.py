"""What the README shows is what happens."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from adafv import METHODS
from adafv.cli import main
from adafv.families import FAMILIES, record

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_block_prints_the_answer_alone():
    """As it stands, on the image that it names: no echo of the prompt, no warning, no bar."""
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block
    said = subprocess.run(
        [sys.executable, "-c", block[1]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout == "orange\n"
    assert said.stderr == ""
    assert "It prints `orange`" in README


def test_every_method_has_its_line():
    """No method is left out of the first table of docs/methods.md, and each names its paper."""
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").split("\n## ")[0]
    for name, cls in METHODS.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| [`{name}`]"))
        assert all(
            number in line
            for number in re.findall(r"\d{4}\.\d{5}", cls.paper)
            if "ablation" not in cls.paper
        )


def test_the_accuracy_tables_are_the_measured_ones(monkeypatch, capsys):
    """Both tables of docs/accuracy.md hold what the command prints of the committed results."""
    monkeypatch.chdir(ROOT)
    detailed = (ROOT / "benchmarks" / "accuracy" / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^    adafv (table benchmarks/.*)$", detailed, re.MULTILINE)
    assert main(command.split()) == 0
    printed = {}
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("│"):
            _kept, _tokens, method, *cells = (cell.strip() for cell in line.strip("│").split("│"))
            printed[method] = cells
    assert len(printed) > 20
    page = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    held, answered = markdown_table(page), markdown_table(detailed)
    assert held.keys() == answered.keys() == printed.keys()
    for method, cells in printed.items():
        assert held[method] == [share or "–" for share in cells[2::3]]
        pairs = zip(cells[::3], cells[1::3], strict=True)
        assert answered[method] == [f"{right} ({of})" if of else right for right, of in pairs]


def markdown_table(page: str) -> dict[str, list[str]]:
    """Return the cells of the accuracy table by method, a bound by its first word."""
    text = re.search(r"<!-- table: accuracy.*? -->\n(.*?)<!-- end -->", page, re.DOTALL)
    assert text
    _head, _rule, *lines = text[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {re.split(r"[, ]", name.strip("`"))[0]: cells for name, *cells in rows}


def test_the_families_are_those_that_the_tests_proved():
    """All of them, no other, and their number."""
    section = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").split("- **")[0]
    proven = record()["families"]
    assert set(re.findall(r"`(\w+)`[,.]", section)) == set(proven)
    assert f"[{len(proven)} model families](docs/models.md)" in README


def test_the_families_that_prune_clips_are_listed():
    """All of them, and no other."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    section = page.split("## Videos")[1].split("made of.")[1].split("\n- ")[0]
    pruned = {name for name, family in FAMILIES.items() if family.prunes_video}
    assert set(re.findall(r"`(\w+)`[,.]\s", section)) == pruned


def test_the_badges_are_true():
    """Each says what the package's own files say."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    facts = {
        "licence": project["license"],
        "python": project["requires-python"].removeprefix(">=") + "+",
        "typed": "py.typed",
        "methods": str(len(METHODS)),
        "model families": str(len(record()["families"])),
    }
    badges = re.findall(
        r"^!\[(.*)\]\(https://img\.shields\.io/badge/(.*)-\w+\)$", README, re.MULTILINE
    )
    shown = [re.split(r"(?<!-)-(?!-)", badge) for _, badge in badges]
    assert {name.replace("_", " "): value.replace("--", "-") for name, value in shown} == facts
    assert (ROOT / "src" / "adafv" / "py.typed").exists()


def test_links_lead_somewhere():
    """Every file that the front page names is there."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(targets) > 10
    assert all((ROOT / target).exists() for target in targets)


def test_one_screen():
    """Whoever lands here sees what it does, how to install it, and what was measured."""
    assert len(README.splitlines()) < 110
    assert not re.search(r"\beager\b|\blisted\b|of it\)|pays from", README)
