"""Protects SECURITY.md: each promise has a test, and its figures are those of the code."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from adafv.cli.serve import DRAIN, MAX_IMAGES, MAX_VIDEOS
from adafv.integrations.vllm.options import CACHE_MB, IMAGE_CACHE_MB
from adafv.integrations.vllm.request_cost import MOST_COMPARED, MOST_FACTORISED, MOST_STEPS
from adafv.models.images import MAX_ASPECT
from adafv.models.videos import FRAMES, MAX_BYTES, MAX_FRAMES, MAX_SECONDS, MOST_DECODED

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text()
SOURCE = ROOT / "src" / "adafv"
UNPICKLING = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@cache
def functions_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_promise_has_its_test(path, name):
    assert name in functions_in(path)


def test_every_line_of_a_table_has_one():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    heads = [row for row in rows if row.rstrip(" |").endswith("tests")]
    rest = [row for row in rows if row not in heads]
    assert len(heads) == 5
    assert len(rest) > 20
    assert all("`tests/" in row for row in rest)


def test_limits_are_those_of_the_code():
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|[^|]+\|[^|]+\|$", PAGE, re.MULTILINE))
    pixels = 89_478_485
    assert rows["images in a prompt"] == str(MAX_IMAGES)
    assert rows["videos in a prompt"].startswith(f"{MAX_VIDEOS};")
    assert rows["pixels of one image"] == f"{pixels:,}"
    assert rows["pixels of all images and frames of a request"] == f"{2 * pixels:,}"
    assert rows["longest side of an image over its shortest"] == str(MAX_ASPECT)
    assert rows["frames read of a video"] == f"{FRAMES}, at most {MAX_FRAMES}"
    assert (MAX_BYTES, MAX_SECONDS) == (10**9, 30 * 60)
    of_request = "over all images and videos of a request"
    steps = rows[f"K · N of a method that picks token after token, {of_request}"]
    assert steps == f"{MOST_STEPS:,}"
    factorised = rows[f"N of a method that factorises a matrix of all tokens; N³ {of_request}"]
    assert factorised == f"{MOST_FACTORISED:,}; {MOST_FACTORISED:,}³"
    compared = rows[
        "tokens of a question times visual tokens of an image, where a method compares them"
    ]
    assert compared == f"{MOST_COMPARED:,}"
    decoded = rows["pixels decoded for a frame that is kept of a video"]
    assert decoded == f"{MOST_DECODED:,.0f}"
    assert rows["memory for encoded images"] == f"{CACHE_MB} MiB"
    halves = rows["memory for decoded and for prepared images"]
    assert halves == f"{IMAGE_CACHE_MB // 2} MiB each"
    # a module that needs vLLM
    checks = (SOURCE / "integrations" / "vllm" / "middleware.py").read_text()
    [longest] = re.findall(r"^LONGEST_OPTION = (\d+)", checks, re.MULTILINE)
    assert rows["name and value of an option"] == f"{longest} characters"
    assert rows["time to answer what runs once it is told to end"] == f"{DRAIN} s"


def unpickles(node: ast.AST) -> bool:
    """Whether a node imports what unpickles, or calls a reader that can."""
    if isinstance(node, ast.Import):
        return any(name.name.partition(".")[0] in UNPICKLING for name in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] in UNPICKLING
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) == "torch.load" or any(
            word.arg == "allow_pickle" for word in node.keywords
        )
    return False


@pytest.mark.parametrize("line", ["import pickle", "from joblib import load", "torch.load(x)"])
def test_what_unpickles_is_known(line):
    assert any(unpickles(node) for node in ast.walk(ast.parse(line)))


def test_the_package_unpickles_nothing():
    """Whatever a file or a request holds: unpickling runs code."""
    for path in SOURCE.rglob("*.py"):
        found = [node for node in ast.walk(ast.parse(path.read_text())) if unpickles(node)]
        assert not found, f"{path}: {ast.unparse(found[0])}"


def test_pillows_limit_is_what_the_page_says():
    from PIL import Image

    assert Image.MAX_IMAGE_PIXELS == 89_478_485
