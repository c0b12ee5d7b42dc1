"""The guide to adding a method, followed to the letter in a copy of the source tree."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "adding-a-method.md").read_text()
REGISTRY = "src/adafv/methods/__init__.py"


def files(guide: str) -> dict[str, str]:
    """Blocks that have a file name above them."""
    return dict(re.findall(r"^`(\S+)`\n\n```python\n(.*?)^```", guide, re.M | re.S))


def run(command: str, root: Path) -> subprocess.CompletedProcess:
    words = shlex.split(command)
    words = (
        [sys.executable, "-m", "adafv", *words[1:]]
        if words[0] == "adafv"
        else [sys.executable, *words[1:]]
    )
    path = os.pathsep.join((str(root / "src"), str(root / "tests")))
    return subprocess.run(
        words, cwd=root, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The repository with the guide's files and its two lines in the registry."""
    root = tmp_path_factory.mktemp("copy")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for name, text in files(GUIDE).items():
        (root / name).write_text(text)
    registry = root / REGISTRY
    (line,) = re.findall(r"^from adafv\.methods\.outlier import (\w+)$", GUIDE, re.M)
    text = registry.read_text().replace(
        "from adafv.methods.none",
        f"from adafv.methods.outlier import {line}\nfrom adafv.methods.none",
    )
    registry.write_text(
        text.replace(
            "CLASSES: tuple[type[Pruner], ...] = (", f"CLASSES: tuple[type[Pruner], ...] = ({line},"
        )
    )
    return root


@pytest.mark.parametrize(
    "command",
    re.findall(
        r"^(?:python|adafv) .*$", "".join(re.findall(r"```console\n(.*?)```", GUIDE, re.S)), re.M
    ),
)
def test_every_command_of_the_guide_works(tree, command):
    """A reader who copies the blocks ends with a tested, measured method."""
    done = run(command, tree)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "outlier" in done.stdout or " passed" in done.stdout


def test_the_guides_method_is_listed(tree):
    """Registering is the two edits that the guide names."""
    assert "outlier" in run("adafv methods", tree).stdout


def test_the_guides_links_lead_somewhere():
    """A path that moved would send a newcomer nowhere."""
    for target in re.findall(r"\]\((\.\./[^)]+)\)", GUIDE):
        assert (ROOT / "docs" / target).exists(), target
