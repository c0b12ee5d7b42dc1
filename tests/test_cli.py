"""The command line's contract: JSON alone on stdout, one line on stderr and exit 2 for bad input, a fast start."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import INSIDE, picture
from fakes import FakeSuites, save_tiny
from PIL import Image

import adafv
from adafv import METHODS
from adafv.cli import main

ANSWER_KEYS = {"answer", "method", "visual_tokens", "kept_tokens", "prefill_ms", "total_ms", "cut"}
QUESTION = "what color is the anchor ?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("model")))


@pytest.fixture
def image(tmp_path) -> str:
    path = tmp_path / "picture.png"
    picture().save(path)
    return str(path)


@pytest.fixture
def run(checkpoint, capsys):
    """Run a command on the tiny model; its status, stdout and stderr."""

    def call(*arguments: object, model: bool = True) -> tuple[int, str, str]:
        capsys.readouterr()
        words = [str(a) for a in arguments] + (["--model", checkpoint] if model else [])
        status = main(words)
        out, err = capsys.readouterr()
        return status, out, err

    return call


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Exit 2, nothing on stdout, one line on stderr that holds the words."""
    status, out, err = result
    assert status == 2 and out == ""
    assert err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err
    for word in words:
        assert word in err


def process(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "adafv", *arguments], capture_output=True, text=True, timeout=120, **options
    )


def test_help_needs_no_torch():
    """`adafv --help` and every command's help come at once: torch alone takes seconds to import."""
    code = (
        "import sys; from adafv.cli import main\n"
        "for c in ([], ['ask'], ['explain'], ['methods'], ['eval']): assert main([*c, '--help']) == 0\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert time.perf_counter() - start < 5
    for word in ("ask", "explain", "methods", "eval", "--keep", "--tokens", "--out", "--json"):
        assert word in done.stdout


def test_version(run):
    """For bug reports."""
    assert run("--version", model=False) == (0, adafv.__version__ + "\n", "")


def test_a_real_process(checkpoint, image):
    """From a shell: JSON and nothing else on stdout, nothing on stderr, whatever transformers has to say."""
    done = process("ask", image, QUESTION, "--json", "--model", checkpoint)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout).keys() == ANSWER_KEYS and done.stdout.count("\n") == 1


def test_a_real_process_with_bad_input(tmp_path):
    """From a shell: exit 2 and one line, not a traceback."""
    done = process("ask", str(tmp_path / "no.png"), QUESTION, "--json")
    refused((done.returncode, done.stdout, done.stderr), "no.png", "does not exist")


def test_ask(run, image):
    """A person gets the answer and one line about its cost."""
    status, out, err = run("ask", image, QUESTION, "--tokens", 5)
    assert status == 0 and err == ""
    assert "5 of" in out.splitlines()[-1] and "adafv" in out.splitlines()[-1]


@pytest.mark.parametrize("method", METHODS)
def test_ask_json(run, image, method):
    """The keys of the contract, for every method; a tenth is kept where nothing is said."""
    given = ["--keep", 0.6] if method in INSIDE else []
    status, out, err = run("ask", image, QUESTION, "--method", method, "--json", *given)
    result = json.loads(out)
    assert status == 0 and err == "" and result.keys() == ANSWER_KEYS and result["method"] == method
    share = 1 if method == "none" else 0.6 if given else 0.1
    assert abs(result["kept_tokens"] - share * result["visual_tokens"]) <= (15 if method == "adafv_released" else 1)


def test_ask_budgets(run, image):
    """--keep is a share, --tokens a number, and more tokens than there are keeps all."""
    for options, expected in ((("--keep", 0.5), 0.5), (("--keep", 1), 1), (("--tokens", 10**9), 1)):
        result = json.loads(run("ask", image, QUESTION, "--json", *options)[1])
        assert result["kept_tokens"] == int(expected * result["visual_tokens"] + 0.5)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--keep", "0"], ["keep=0", "0 < keep <= 1"]),
        (["--keep", "-1"], ["keep=-1"]),
        (["--keep", "1.5"], ["keep=1.5"]),
        (["--keep", "nan"], ["keep=nan"]),
        (["--keep", "much"], ["--keep", "number"]),
        (["--tokens", "0"], ["tokens=0"]),
        (["--tokens", "-3"], ["tokens=-3"]),
        (["--tokens", "1.5"], ["--tokens", "integer"]),
        (["--keep", "0.1", "--tokens", "5"], ["both"]),
        (["--method", "adafw"], ["'adafw'", "did you mean 'adafv'"]),
        (["--method", "none", "--keep", "0.1"], ["none"]),
        (["--method", "none", "--tokens", "5"], ["none"]),
        (["--device", "tpu"], ["tpu", "cpu"]),
        (["--dtype", "int3"], ["int3", "bfloat16"]),
        (["--no-such-option"], ["--no-such-option", "--help"]),
    ],
)
def test_bad_options(run, image, options, words):
    """Every wrong number, name and combination says what is wrong and what to do."""
    refused(run("ask", image, QUESTION, *options), *words)


@pytest.mark.parametrize("question", ["", "  ", "<image> what", "what </s>", "a <image><image>"])
def test_bad_questions(run, image, question):
    """Empty, and control tokens that would change the prompt."""
    refused(run("ask", image, question), "question")


def test_bad_pictures(run, tmp_path):
    """Each with the file's name; see test_images.py for the rest."""
    text, empty, long = tmp_path / "text.png", tmp_path / "empty.png", tmp_path / "long.png"
    text.write_text("text")
    empty.touch()
    Image.new("RGB", (20_000, 3)).save(long)
    for path in (text, empty, long, tmp_path, tmp_path / "no.png"):
        refused(run("ask", path, QUESTION), path.name)
    refused(run("ask", "https://example.org/a.png", QUESTION), "download")


def test_odd_pictures_work(run, tmp_path):
    """One pixel, CMYK, 16 bits, a palette."""
    for mode, name in (("RGB", "a.png"), ("CMYK", "a.jpg"), ("I;16", "b.png"), ("P", "c.png")):
        path = tmp_path / name
        Image.new(mode, (1, 1)).save(path)
        assert run("ask", path, QUESTION, "--json")[0] == 0


def test_bad_models(run, image, tmp_path):
    """A folder that is missing, is none, or holds a text model."""
    from transformers import LlamaConfig

    refused(run("ask", image, QUESTION, "--model", "./nowhere", model=False), "nowhere", "does not exist")
    refused(run("ask", image, QUESTION, "--model", str(tmp_path), model=False), "config.json")
    LlamaConfig().save_pretrained(tmp_path)
    refused(run("ask", image, QUESTION, "--model", str(tmp_path), model=False), "no vision tower")


@pytest.mark.parametrize(
    "words", [[], ["ask"], ["ask", "a.png"], ["aks", "a.png", "b"], ["eval"], ["explain", "a", "b"]]
)
def test_bad_usage(run, words):
    """Typer's own errors take one line too."""
    refused(run(*words, model=False), "--help")


def test_methods(run):
    """What there is, each with its paper and one line."""
    status, out, _ = run("methods", model=False)
    assert status == 0 and all(name in out for name in METHODS) and "2501.09532" in out
    listed = json.loads(run("methods", "--json")[1])["methods"]
    assert [m["name"] for m in listed] == list(METHODS)
    assert all(m["summary"] and "\n" not in m["summary"] for m in listed)


def test_explain(run, image, tmp_path, monkeypatch):
    """`explain` draws into --out, in a folder that it makes, and says what it drew."""
    viz = pytest.importorskip("adafv.viz")

    def explain(model, processor, image, question, pruner, out, max_new_tokens):
        Path(out).write_bytes(b"png")
        return {"out": str(out), "answer": "red", "kept": pruner.keep, "cut": max_new_tokens == 64}

    monkeypatch.setattr(viz, "explain", explain)
    out = tmp_path / "new" / "page.png"
    status, said, err = run("explain", image, QUESTION, "--out", out, "--json")
    assert (
        status == 0 and err == "" and json.loads(said) == {"out": str(out), "answer": "red", "kept": 0.1, "cut": True}
    )
    said = run("explain", image, QUESTION, "--out", out, "--max-new-tokens", 3)[1]
    assert str(out) in said and "cut" not in said
    assert "cut after 64 tokens" in run("explain", image, QUESTION, "--out", out)[1]
    refused(run("explain", image, QUESTION, "--out", Path(image) / "page.png"), "cannot be written")


EVAL = ("eval", "--methods", "adafv,random", "--keep", "1,0.25", "--suite", "shapes", "--max-new-tokens", 3)


def test_eval(run, tmp_path, monkeypatch):
    """results.json, results.csv, pairs.csv and accuracy.png; JSON is what results.json holds; the bar is on stderr."""
    FakeSuites(monkeypatch)
    out = tmp_path / "a" / "b"
    status, said, err = run(*EVAL, "--out", out, "--json", "--limit", 3)
    assert status == 0 and "shapes" in err and "100%" in err
    result = json.loads(said)
    assert result == json.loads((out / "results.json").read_text())
    assert {"versions", "command", "model", "seed", "limit", "interval", "dtype"} <= result["meta"].keys()
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(result["rows"])
    assert {(r["method"], r["keep"]) for r in result["rows"]} == {
        ("none", 1.0), ("blind", 0.0), ("adafv", 0.25), ("random", 0.25),
    }  # fmt: skip
    assert sorted(p.name for p in out.iterdir()) == [
        "accuracy.png", "answers.jsonl", "pairs.csv", "results.csv", "results.json", "settings.json",
    ]  # fmt: skip
    status, said, _ = run(*EVAL, "--out", out, "--limit", 3)
    assert status == 0 and "dense" in said and "results.json" in said
    status, printed, _ = run("table", out / "results.json", model=False)
    assert status == 0 and printed.rstrip() in said
    status, printed, _ = run("table", out / "results.json", "--keep", 0.9, "--json", model=False)
    assert {row["method"] for row in json.loads(printed)["rows"]} == {"none", "blind"}


@pytest.mark.parametrize("content", [None, "", "[]", '{"rows": []}', '{"meta": {}, "rows": [{}]}'])
def test_table_of_something_else(run, tmp_path, content):
    """A file that is missing or no evaluation's: one line."""
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    status, out, err = run("table", path, model=False)
    assert (status, out) == (2, "") and err.count("\n") == 1 and "results.json" in err


def test_eval_refuses_other_settings(run, tmp_path, monkeypatch):
    """One line, and the old results stay."""
    FakeSuites(monkeypatch)
    assert run(*EVAL, "--out", tmp_path, "--limit", 1)[0] == 0
    before = (tmp_path / "results.json").read_text()
    status, _, err = run(*EVAL, "--out", tmp_path, "--limit", 1, "--seed", 3)
    assert status == 2 and "seed=0 (now 3)" in err.splitlines()[-1] and "Traceback" not in err
    assert (tmp_path / "results.json").read_text() == before


@pytest.mark.parametrize(
    "options, words",
    [
        (["--keep", "0"], ["keep=0"]),
        (["--keep", "0.1,x"], ["'x'"]),
        (["--keep", ","], ["keeps"]),
        (["--methods", "adafv,fastrvlm"], ["did you mean 'fastervlm'"]),
        (["--suite", "shpes"], ["did you mean 'shapes'"]),
        (["--limit", "0"], ["limit=0"]),
        (["--limit", "ten"], ["--limit", "integer"]),
    ],
)
def test_eval_with_bad_options(run, tmp_path, monkeypatch, options, words):
    """Before any work, and without leaving a folder behind."""
    FakeSuites(monkeypatch)
    refused(run("eval", *options, "--out", tmp_path / "out"), *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file/out", "file", "/proc/adafv"])
def test_folders_that_cannot_be_written(run, tmp_path, monkeypatch, place):
    """Said before the model is loaded, not after an hour of work."""
    FakeSuites(monkeypatch)
    (tmp_path / "file").touch()
    monkeypatch.setattr("adafv.load.load", lambda *_: pytest.fail("loaded"))
    refused(run(*EVAL, "--out", tmp_path / place), "cannot be written")


def test_outputs_are_whole_or_not_at_all(tmp_path):
    """A failure while writing leaves the old file and no debris."""
    from adafv.files import atomic

    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_closed_pipe_is_no_error():
    """`adafv methods | head -1` ends quietly."""
    done = subprocess.run(
        f"{sys.executable} -m adafv methods | head -c 1", shell=True, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_interrupted(run, image, monkeypatch):
    """Ctrl-C: a word and the shell's status for it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("adafv.load.load", interrupt)
    assert run("ask", image, QUESTION) == (130, "", "adafv: stopped\n")
