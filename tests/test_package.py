"""The package as its users get it: what it declares, what it holds, and that it runs where nothing
else is.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml
from PIL import Image

import adafv
from adafv.utils.files import write_text

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BY_DEFAULT = {"cli", "eval", "viz"}
"""Extras whose packages are installed anyway."""
EXTRAS = {
    *("all", "bench", "dev", "docs", "kernels", "lmms", "photo", "ray", "ui", "video", "vllm"),
    *BY_DEFAULT,
}
ENTRY_POINTS = (
    ("console_scripts", "adafv.cli:main"),
    ("lmms_eval.models", "adafv.integrations.lmms:manifests"),
    ("vllm.general_plugins", "adafv.integrations.vllm:register"),
    ("vllm.stat_logger_plugins", "adafv.integrations.vllm.stat_logger:AdaFVStatLogger"),
)
UNPACKED = shutil.ignore_patterns(".*", "build", "dist", "out", "runs", "__pycache__", "*.egg-info")
BUILD = (
    "import sys; from setuptools import build_meta; "
    "print(getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2]))"
)
SLOW = "torch", "transformers", "matplotlib", "numpy", "PIL"


def python(*arguments: str, executable: str = sys.executable, **options) -> str:
    """Stdout of an interpreter that exits with 0."""
    done = subprocess.run(
        [executable, *arguments], capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources() -> set[str]:
    """What has to be in a wheel, below `src`."""
    data = (
        "py.typed",
        "app/script.js",
        "app/style.css",
        "data/photographs/README.md",
        "data/photographs/questions.jsonl",
        "embedded/README.md",
        "families/proven.json",
        "integrations/vllm/proven.json",
        "models/photo/README.md",
        "models/photo/bridge.safetensors",
    )
    package = ROOT / "src" / "adafv"
    files = [
        *package.rglob("*.py"),
        *(package / "embedded" / "model").iterdir(),
        *(package / "data" / "photographs").glob("*.jpg"),
        *(package / name for name in data),
    ]
    return {file.relative_to(package.parent).as_posix() for file in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The sdist of the tree as it stands, and the wheel that it makes."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "tree", ignore=UNPACKED)
    sdist = folder / python("-c", BUILD, "sdist", str(folder), cwd=folder / "tree").split()[-1]
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    return sdist, folder / python("-c", BUILD, "wheel", str(folder), cwd=unpacked).split()[-1]


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """Scripts of a new environment with the wheel in it.

    What it depends on is borrowed from this environment.
    """
    folder = tmp_path_factory.mktemp("venv")
    python("-m", "venv", "--without-pip", str(folder))
    scripts = folder / Path(sysconfig.get_path("scripts")).name
    pip = (
        "-m",
        "pip",
        "--python",
        str(scripts / "python"),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    )
    python(*pip, str(built[1]))
    purelib = python(
        "-c",
        "import sysconfig; print(sysconfig.get_path('purelib'))",
        executable=str(scripts / "python"),
    )
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    write_text(Path(purelib.strip()) / "borrowed.pth", "\n".join(borrowed))
    return scripts


def test_sdist_and_wheel_hold_the_package_with_its_weights(built):
    """Every module, the embedded model and the type marker; the sdist the tests and
    documents too.
    """
    sdist, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("adafv/")}
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert inside == sources()
    assert {f"src/{name}" for name in sources()} < packed
    assert {
        "LICENSE",
        "CITATION.cff",
        "tests/zoo/base.py",
        "docs/serving.md",
        "benchmarks/fresh/pairs.csv",
    } < packed
    assert not {name for name in packed if "answers.jsonl" in name or "__pycache__" in name}


def test_metadata_of_the_wheel(built):
    """Version, licence, extras and types, as `pip` and an index read them."""
    with zipfile.ZipFile(built[1]) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    assert f"Version: {adafv.__version__}\n" in metadata
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Classifier: Typing :: Typed\n" in metadata
    assert "Author: adafv contributors\n" in metadata
    assert (
        set(re.findall(r"^Provides-Extra: (\S+)$", metadata, re.M))
        == EXTRAS
        == {*PROJECT["optional-dependencies"]}
    )


def test_an_installed_wheel_runs_by_itself(installed, tmp_path):
    """From an empty folder: script, module, entry points and an answer of the embedded model."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        return python(
            *arguments, executable=str(installed / "python"), cwd=tmp_path, env=environment
        )

    Image.new("RGB", (192, 192), "red").save(tmp_path / "picture.png")
    assert Path(run("-c", "import adafv; print(adafv.__file__)").strip()).is_relative_to(
        installed.parent
    )
    assert run("-m", "adafv", "--version").strip() == adafv.__version__
    assert run(str(installed / "adafv"), "--version").strip() == adafv.__version__
    assert '"kept_tokens": 36' in run(
        "-m", "adafv", "ask", "picture.png", "what color?", "--keep", "0.05", "--json"
    )
    listed = (
        "from importlib.metadata import distribution; "
        "print([(p.group, p.value) for p in distribution('adafv').entry_points])"
    )
    assert set(ENTRY_POINTS) == set(eval(run("-c", listed)))


def test_this_environment_has_the_entry_points():
    """What is declared is what tests and servers here are found by."""
    for group, value in ENTRY_POINTS:
        assert value in [point.value for point in entry_points(group=group, name="adafv")]


@pytest.mark.parametrize("words", ["[]", "['--version']", "['--show-completion']", "['--help']"])
def test_the_command_line_starts_without_the_heavy_libraries(words):
    """Nor does `import adafv` import any of them.

    It leaves room for a slow machine: torch alone would take seconds.
    """
    code = (
        "import sys, time; start = time.perf_counter(); "
        f"from adafv.cli import main; main({words})\n"
        f"assert not {{*{SLOW}}} & set(sys.modules)\n"
        "assert time.perf_counter() - start < 2, time.perf_counter() - start"
    )
    python("-c", code)


@pytest.mark.parametrize(
    ("words", "word", "expected"),
    [("adafv ana", 1, "analyze"), ("adafv ask image.png colour --tok", 4, "--tokens")],
)
def test_the_shell_completes_commands_and_options(words, word, expected):
    """By the protocol of the script that `adafv --show-completion` prints."""
    asked = {"_ADAFV_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(word)}
    assert python("-m", "adafv", env=os.environ | asked).split() == [expected]


# Packages that the library itself does without. tqdm is not among them: transformers imports it.
UNNEEDED = "matplotlib", "typer", "rich", "easy_vqa", "gradio", "torchvision"
BLOCKED = f"import sys; sys.modules |= dict.fromkeys({UNNEEDED})\n"


def test_the_library_needs_no_command_line_and_no_figures():
    """Every module of core, ops and methods can be imported, and the embedded model pruned, by
    adafv's loader or by the ordinary classes; images are prepared without torchvision.

    What the playground does with a visitor's choices needs figures, but no Gradio.
    """
    program = (
        BLOCKED
        + """
import importlib, pkgutil
import adafv
from PIL import Image

for name in ("core", "ops", "methods"):
    package = importlib.import_module(f"adafv.{name}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"adafv.{name}.{module.name}")

from transformers import AutoModelForImageTextToText, AutoProcessor

from adafv.embedded import MODEL_DIR
from adafv.models.load import load
from adafv.models.prompting import build_inputs

model = AutoModelForImageTextToText.from_pretrained(MODEL_DIR)
print(type(model).__name__, type(AutoProcessor.from_pretrained(MODEL_DIR)).__name__)

model, processor = load(device="cpu")
inputs = build_inputs(processor, Image.new("RGB", (96, 96), "red"), "what color ?")
short = adafv.AdaFV(tokens=9)(model, inputs)
print(inputs["input_ids"].shape[1] - short["input_ids"].shape[1] > 0)

del sys.modules["matplotlib"]
import adafv.app.page, adafv.app.server
"""
    )
    assert python("-c", program).split() == [
        *("LlavaNextForConditionalGeneration", "LlavaNextProcessor", "True")
    ]


@pytest.mark.parametrize(
    ("missing", "words", "sentence"),
    [
        ("typer", ["methods"], "the command line needs typer: pip install 'adafv[cli]'"),
        ("rich", ["methods"], "adafv methods needs rich: pip install 'adafv[cli]'"),
        (
            "matplotlib",
            ["explain", "a.png", "what is it?", "--out", "b.png"],
            "adafv explain needs matplotlib: pip install 'adafv[viz]'",
        ),
        (
            "easy_vqa",
            ["eval", "--suite", "easy-vqa", "--limit", "1", "--methods", "random", "--out", "out"],
            "adafv eval needs easy-vqa: pip install 'adafv[eval]'",
        ),
    ],
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, missing, words, sentence):
    """One sentence on stderr and exit status 2, as for any other input that cannot be used."""
    Image.new("RGB", (96, 96), "red").save(tmp_path / "a.png")
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"from adafv.cli import main; sys.exit(main({words}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == f"adafv: {sentence}"


def test_extras_name_what_is_installed_by_default():
    """The same packages at the same versions; `all` is them, the playground, and videos."""
    extras = PROJECT["optional-dependencies"]
    named = {need for extra in BY_DEFAULT for need in extras[extra] if not need.startswith("adafv")}
    assert named < {*PROJECT["dependencies"]}
    assert extras["all"] == ["adafv[cli,viz,eval,ui,video]"]


def test_versions_agree():
    """The citation file and the changelog name the version of the package."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == adafv.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", adafv.__version__)
    assert re.search(
        rf"^## \[{re.escape(adafv.__version__)}\]", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


def test_the_citation_is_the_readmes():
    """Authors, title and DOI of the paper."""
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))[
        "preferred-citation"
    ]
    cited = " ".join(
        (ROOT / "README.md").read_text(encoding="utf-8").split("## Citation")[1].split()
    )
    assert all(
        f"{author['given-names']} {author['family-names']}" in cited for author in paper["authors"]
    )
    assert len(paper["authors"]) == 8
    assert paper["title"] in cited
    assert paper["doi"] in cited
    assert f"{paper['start']}–{paper['end']}" in cited
