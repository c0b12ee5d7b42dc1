"""The command line's contract: JSON alone on stdout, one line on stderr and exit 2 for bad input, a
fast start.
"""

import csv
import io
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import ANY

import pytest
import torch
from conftest import INSIDE, picture
from fakes import FakeSuites, checkpoint_of, save_tiny
from PIL import Image

import adafv
from adafv import METHODS
from adafv.cli import main
from adafv.cli.listing import PROVEN, listed_methods
from adafv.cli.options import model_for
from adafv.cli.signals import stop_as_interrupted
from adafv.core.config import share_of
from adafv.evaluation import report
from adafv.evaluation.merge import merged_meta
from adafv.evaluation.rows import COLUMNS
from adafv.families import IMPOSSIBLE, UNPROVEN, record
from adafv.integrations.vllm import ARCHITECTURES
from adafv.integrations.vllm.left_out_architectures import LEFT_OUT
from adafv.methods import VIDEO_METHODS, from_spec
from adafv.models.generation import was_cut
from adafv.models.load import load, source_of
from adafv.models.photo import folder
from adafv.models.vocabulary import unknown_words, unknown_words_notice
from adafv.utils.files import Lines

ANSWER_KEYS = {
    "model",
    "answer",
    "method",
    "visual_tokens",
    "kept_tokens",
    "prefill_ms",
    "total_ms",
    "cut",
}
QUESTION = "what color is the anchor ?"
SHORT = ("--json", "--max-new-tokens", 3)
HERE = os.environ | {"PYTHONPATH": str(Path(adafv.__file__).parents[1])}
"""For processes in other folders: the code that is tested."""


checkpoint = checkpoint_of("llava_next")


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Commands share a model that several of them load alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adafv.models.load.load", cache(load))
        yield


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
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    for word in words:
        assert word in err


def process(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "adafv", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def test_help_needs_no_torch():
    """`adafv --help` and every command's help come at once: torch alone takes seconds to import."""
    code = (
        "import sys; from adafv.cli import main\n"
        "for c in ([], ['ask'], ['explain'], ['methods'], ['eval']):\n"
        "    assert main([*c, '--help']) == 0\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert time.perf_counter() - start < 5
    for word in ("ask", "explain", "methods", "eval", "--keep", "--tokens", "--out", "--json"):
        assert word in done.stdout


def test_version(run):
    """For bug reports."""
    assert run("--version", model=False) == (0, adafv.__version__ + "\n", "")


@pytest.mark.slow
def test_a_real_process(run, checkpoint, image):
    """From a shell: JSON and nothing else on stdout, nothing on stderr, whatever transformers has
    to say. `-` reads standard input; the answer is that about the file.
    """
    words = [sys.executable, "-m", "adafv", "ask", "-", QUESTION, "--json", "--model", checkpoint]
    piped = subprocess.run(words, input=Path(image).read_bytes(), capture_output=True, timeout=120)
    assert piped.returncode == 0
    assert piped.stderr == b""
    assert piped.stdout.count(b"\n") == 1
    answer = json.loads(piped.stdout)
    assert answer.keys() == ANSWER_KEYS
    alone = json.loads(run("ask", image, QUESTION, "--json")[1])
    assert answer == alone | {"prefill_ms": ANY, "total_ms": ANY}


def test_a_real_process_with_bad_input(tmp_path):
    """From a shell: exit 2 and one line, not a traceback."""
    done = process("ask", str(tmp_path / "no.png"), QUESTION, "--json")
    refused((done.returncode, done.stdout, done.stderr), "no.png", "does not exist")


def test_ask(run, image):
    """A person gets the answer and one line about its cost."""
    status, out, err = run("ask", image, QUESTION, "--tokens", 5)
    assert status == 0
    assert err == ""
    assert "5 of" in out.splitlines()[-1]
    assert "adafv" in out.splitlines()[-1]


def test_a_photograph_is_beyond_the_built_in_model(run, tmp_path):
    """Its answer is a guess, which a person is told."""
    photograph = tmp_path / "photo.png"
    Image.new("RGB", (640, 480), "gray").save(photograph)
    status, _, err = run("ask", photograph, QUESTION, *SHORT, model=False)
    assert status == 0
    assert "not photographs" in err
    assert "adafv fetch photo" in err
    status, _, err = run("ask", photograph, QUESTION, "--model", "embedded", *SHORT, model=False)
    assert status == 0
    assert "not photographs" in err


def test_a_photograph_goes_to_the_photo_model_where_it_was_fetched(run, tmp_path, monkeypatch):
    """What the built-in model drew itself stays with it, and who names a model gets that one."""
    monkeypatch.setenv("ADAFV_HOME", str(tmp_path))
    save_tiny(tmp_path / "photo", "llava")
    photograph = Image.new("RGB", (640, 480), "gray")
    assert model_for(photograph, None) == str(folder())
    assert model_for(photograph, "owner/name") == "owner/name"
    assert model_for(picture(), None) is None

    photograph.save(tmp_path / "photo.png")
    status, out, err = run("ask", tmp_path / "photo.png", QUESTION, *SHORT, model=False)
    assert status == 0
    assert "not photographs" not in err
    # the default has changed: the answer says whose it is
    assert json.loads(out)["model"] == "photo"


def test_a_folder_of_its_name_is_not_the_photo_model(tmp_path, monkeypatch):
    """A folder of photographs in the working directory is none."""
    monkeypatch.setenv("ADAFV_HOME", str(tmp_path / "home"))
    save_tiny(tmp_path / "home" / "photo", "llava")
    (tmp_path / "photo").mkdir()
    monkeypatch.chdir(tmp_path)
    chosen = model_for(Image.new("RGB", (640, 480), "gray"), None)
    assert source_of(chosen) == str(tmp_path / "home" / "photo")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
        MemoryError("Unable to allocate 7.11 PiB for an array"),
    ],
)
def test_too_little_memory_is_a_sentence(run, image, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("adafv.models.ask.ask", fail)
    refused(run("ask", image, QUESTION), "memory", "smaller --keep")


@pytest.mark.parametrize("out", ["page.jpg", "."])
def test_explain_refuses_a_name_before_a_model_is_loaded(run, image, monkeypatch, out):
    monkeypatch.setattr("adafv.models.load.load", lambda *_: pytest.fail("loaded"))
    refused(run("explain", image, QUESTION, "--out", out), "PNG file")


def test_explain_does_not_overwrite_its_image(run, image, tmp_path, monkeypatch):
    """By its name, or through a link."""
    monkeypatch.setattr("adafv.models.load.load", lambda *_: pytest.fail("loaded"))
    (tmp_path / "link.png").symlink_to(image)
    before = Path(image).read_bytes()
    for out in (image, tmp_path / "link.png"):
        refused(run("explain", image, QUESTION, "--out", out), "is read here", "another --out")
    assert Path(image).read_bytes() == before


@pytest.mark.parametrize("method", METHODS)
def test_ask_json(run, image, method):
    """The keys of the contract, for every method; a tenth is kept where nothing is said."""
    given = ["--keep", 0.6] if method in INSIDE else []
    status, out, err = run("ask", image, QUESTION, "--method", method, *SHORT, *given)
    result = json.loads(out)
    assert status == 0
    assert err == ""
    assert result.keys() == ANSWER_KEYS
    assert result["method"] == method
    share = 1 if method == "none" else 0.6 if given else 0.1
    assert abs(result["kept_tokens"] - share * result["visual_tokens"]) <= (
        15 if method == "adafv_released" else 1
    )


def test_ask_budgets(run, image):
    """--keep is a share, --tokens a number, and more tokens than there are keeps all."""
    for options, expected in ((("--keep", 0.5), 0.5), (("--keep", 1), 1), (("--tokens", 10**9), 1)):
        result = json.loads(run("ask", image, QUESTION, *SHORT, *options)[1])
        assert result["kept_tokens"] == int(expected * result["visual_tokens"] + 0.5)


@pytest.mark.parametrize("keep", ["25%", "25 %", "0.25", " 25.0%"])
def test_percentages(run, image, keep):
    """25% is 0.25, on the command line and in a method's own options."""
    result = json.loads(run("ask", image, QUESTION, *SHORT, "--keep", keep)[1])
    assert result["kept_tokens"] == int(0.25 * result["visual_tokens"] + 0.5)
    assert json.loads(
        run("ask", image, QUESTION, *SHORT, "--method", f"adafv+:keep={keep.strip()}")[1]
    ) == result | {name: ANY for name in ("prefill_ms", "total_ms")}


@pytest.mark.parametrize(
    ("text", "share"), [("10%", 0.1), ("12.3%", 0.123), ("5e-2", 0.05), ("100%", 1.0), ("0", 0.0)]
)
def test_shares_are_exact(text, share):
    """A tenth is the same number however it is written, or answers would be filed under two
    budgets.
    """
    assert share_of(text) == share


def test_methods_with_options(run, image):
    """As lists of methods write them, `skip=template` too; the answer names what it was
    given from.
    """
    status, out, err = run(
        "ask", image, QUESTION, *SHORT, "--method", "adafv:reserve=0.5:skip=template"
    )
    assert status == 0
    assert err == ""
    assert json.loads(out)["method"] == "adafv:reserve=0.5:skip=template"
    assert (
        ", adafv:reserve=0.5: "
        in run("ask", image, QUESTION, "--method", "adafv:reserve=0.5:tokens=5")[1]
    )


@pytest.mark.parametrize(
    "spec", ["adafv", "adafv:reserve=0.5:top=3:center=true", "random:seed=3", "none"]
)
def test_specs_go_round(spec):
    """A pruner's own spec makes the same pruner."""
    pruner = from_spec(spec, keep=None if spec == "none" else 0.1)
    assert from_spec(pruner.spec, keep=pruner.keep) == pruner


def test_a_cut_answer_says_so(run, image):
    """The tiny model never stops by itself."""
    status, out, _ = run("ask", image, QUESTION, "--max-new-tokens", 2)
    assert status == 0
    assert out.splitlines()[0].endswith(" …")
    assert "cut after 2 tokens" in out
    assert (
        json.loads(run("ask", image, QUESTION, "--max-new-tokens", 2, "--json")[1])["cut"] is True
    )


def test_was_cut():
    """An answer that ends at the limit with an end of its own is not cut."""
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[3, 4]))
    output = torch.tensor([[5, 6, 7], [5, 6, 3], [5, 4, 0]])
    assert was_cut(model, output, 3) == [True, False, False]
    assert was_cut(model, output, 4) == [False] * 3
    model.generation_config.eos_token_id = None
    assert was_cut(model, output[:1], 3) == [True]


@pytest.mark.parametrize(
    ("content", "words"), [(b"", ["empty", "image.png"]), (b"text", ["not an image"])]
)
def test_no_picture_on_standard_input(run, monkeypatch, content, words):
    """One sentence, before any model is loaded."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    refused(run("ask", "-", QUESTION), *words)
    monkeypatch.setattr(sys, "stdin", None)
    refused(run("explain", "-", QUESTION, "--out", "page.png"), "nothing is piped in")


@pytest.mark.parametrize("model", [(), ("--model", "embedded")])
def test_words_that_the_embedded_model_does_not_know(run, tmp_path, model):
    """One sentence on stderr that names --model; the answer comes all the same, and stdout stays
    JSON.
    """
    path = tmp_path / "a.png"
    picture(96, 96).save(path)
    question = "What breed is the Dalmatian, or the cup?"
    status, out, err = run("ask", path, question, "--json", *model, model=False)
    assert status == 0
    assert json.loads(out).keys() == ANSWER_KEYS
    assert err.count("\n") == 1
    assert "'breed', 'Dalmatian' are not among the 184 words" in err
    assert "--model" in err


def test_known_words(embedded):
    """Neither capitals nor punctuation make a word unknown, nor do tokenizers that spell
    words out.
    """
    assert unknown_words(embedded, "What color is the CUP?") == []
    assert unknown_words(embedded, "zebra, zebra; cup … zoo's ¿") == ["zebra", "zoos"]
    assert unknown_words(embedded, "what is \ud83d caf\ud83d?") == []
    spelling = SimpleNamespace(tokenizer=SimpleNamespace(unk_token_id=None))
    assert unknown_words(spelling, "zebra") == []
    many = unknown_words_notice(embedded, [f"word{i}" for i in range(9)])
    assert "'word4' and 4 more are not" in many
    assert "'x' is not" in unknown_words_notice(embedded, ["x"])


@pytest.fixture(scope="module")
def embedded():
    return load(None, "cpu")[1]


def test_an_animation_says_so(run, tmp_path):
    """On stderr, for every command that opens it: the first frame is what is asked about."""
    path = tmp_path / "dance.gif"
    picture().save(path, save_all=True, append_images=[picture(seed=1)])
    status, out, err = run("ask", path, QUESTION, "--json")
    assert status == 0
    assert json.loads(out)
    assert err.count("\n") == 1
    assert "dance.gif is an animation, of which the first frame is taken" in err


def test_a_hub_that_cannot_be_reached(tmp_path):
    """Said in seconds, before PyTorch is imported, not after half a minute of further tries."""
    path = tmp_path / "a.png"
    picture().save(path)
    offline = os.environ | {"HF_ENDPOINT": "https://hub.invalid", "HF_HOME": str(tmp_path)}
    for command in (
        ["ask", str(path), QUESTION],
        ["batch", "a", "b"],
        ["serve"],
        ["eval", "--out", str(tmp_path)],
    ):
        start = time.perf_counter()
        done = process(*command, "--model", "nope", env=offline)
        assert time.perf_counter() - start < 10
        refused(
            (done.returncode, done.stdout, done.stderr),
            "'nope'",
            "https://hub.invalid cannot be reached",
        )


@pytest.mark.parametrize(
    "command", [["methods"], ["families"], ["table", "results.json"], ["families", "--json"]]
)
def test_static_text_needs_no_torch(command, tmp_path):
    """What is read from text comes at once: PyTorch alone takes seconds."""
    row = dict.fromkeys(COLUMNS, 0.5) | {
        "method": "none",
        "suite": "scenes",
        "question_type": "all",
        "n": 3,
    }
    (tmp_path / "results.json").write_text(json.dumps({"meta": {}, "rows": [row]}))
    code = (
        f"import sys; from adafv.cli import main\nassert main({command}) == 0\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=60,
        cwd=tmp_path,
        env=HERE,
        capture_output=True,
    )
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2


def test_the_listing_is_the_registry():
    """Read from the source as text, and true all the same."""
    assert listed_methods() == [
        {"name": name, "paper": cls.paper, "summary": cls.__doc__.strip().splitlines()[0]}
        for name, cls in METHODS.items()
    ]


def test_families(run):
    """What is proven, in words; every kind of test that the record has is explained, and every
    family listed.
    """
    status, out, err = run("families", model=False)
    assert status == 0
    assert err == ""
    assert all(f"\n{name} " in out for name in record()["families"])
    assert "keep=1 changes no logit" in out
    assert "Not proven, with a warning:" in out
    found = json.loads(run("families", "--json", model=False)[1])
    assert found["unproven"] == UNPROVEN
    assert found["impossible"] == IMPOSSIBLE
    assert found["families"] == record()["families"]
    checks = {check for family in record()["families"].values() for check in family["passed"]}
    assert checks == PROVEN.keys() == found["meaning"].keys()


def test_families_on_vllm(run):
    """What is served is what the plugin registers, and what the page on serving lists."""
    status, out, err = run("families", "--engine", "vllm", model=False)
    assert (status, err) == (0, "")
    served = json.loads(run("families", "--engine", "vllm", "--json", model=False)[1])
    assert served["architectures"].keys() == ARCHITECTURES.keys()
    clips = {name for name, one in served["architectures"].items() if one["clips"]}
    assert clips == {name for name, one in ARCHITECTURES.items() if one.videos}
    # the record of the tests, in which nothing stands that has no words
    for name, one in served["architectures"].items():
        assert one["passed"].keys() >= {"indices", "batch", "identity"}, name
        assert ("clips" in one["passed"]) == one["clips"], name
        assert one["passed"].keys() <= served["meaning"].keys(), name
        assert all(one["passed"].values()), name
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    table = page.split("| served and pruned | by its saliency |")[1].split("\n\n")[0]
    for saliency in ("attention of CLS", "attention received"):
        [row] = [row for row in table.splitlines() if row.endswith(f"| {saliency} |")]
        listed = {name.strip() for name in row.split("|")[1].split(",")}
        own = served["architectures"].values()
        assert listed == {one["title"] for one in own if one["saliency"] == saliency}
        assert all(f"{name} " in out for name in listed)
    of_page = page.split("Videos are pruned in ")[1].split(":")[0].replace("\n", " ")
    of_page = of_page.replace(" and ", ", ")
    titles = {one["title"] for one in served["architectures"].values() if one["clips"]}
    assert set(of_page.split(", ")) == titles
    assert served["left_out"] == LEFT_OUT
    assert "Served whole by vLLM 0.32:\n" in out
    assert all(reason in out for reason in LEFT_OUT.values())
    assert "unknown: pass hf or vllm" in run("families", "--engine", "tpu", model=False)[2]


def results(methods: int = 4) -> dict:
    """What `adafv eval` writes, with long names."""
    rows = [
        dict.fromkeys(COLUMNS, 0.5)
        | {
            "method": name,
            "keep": keep,
            "suite": suite,
            "question_type": "all",
            "n": 3,
            "ci_low": 0.4,
            "ci_high": 1.0,
        }
        for suite in ("scenes", "scenes-small", "scenes-text", "easy-vqa")
        for name, keep in [("none", 1.0), *((f"adafv:reserve=0.{i}", 0.05) for i in range(methods))]
    ]
    return {"meta": {}, "rows": rows, "pairs": []}


@pytest.mark.slow
@pytest.mark.parametrize("command", [["table", "results.json"], ["methods"], ["families"]])
@pytest.mark.parametrize("width", [80, 60])
def test_tables_fit_the_terminal(run, command, width, tmp_path, monkeypatch):
    """Fewer columns, not broken words; a pipe gets all of them."""
    (tmp_path / "results.json").write_text(json.dumps(results()))
    narrow = {"COLUMNS": str(width), "TERM": "xterm", "NO_COLOR": "1"}
    for name, value in narrow.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    status, piped, _ = run(*command, model=False)
    assert status == 0
    shell = shlex.join([sys.executable, "-m", "adafv", *command])
    seen = subprocess.run(
        ["script", "-qec", shell, "/dev/null"],
        env=HERE | narrow,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    plain = re.sub(r"\x1b\[[0-9;]*m|\r", "", seen)
    assert max(map(len, plain.splitlines())) <= width
    words = set(re.findall(r"[\w=.:+-]+", piped))
    assert not set(re.findall(r"[\w=.:+-]+", plain.partition("Left out")[0])) - words
    assert ("Left out here: 95 %, of dense" in plain) == (command[0] == "table")
    if command[0] == "table":
        assert piped.count("95 %") == 5
        assert piped.count("40.0–100.0") == 20


def test_intervals_in_tables_stay_within_bounds(run, tmp_path):
    """From and to, as Wilson's formula gives them: never more than 100 or less than 0."""
    found = results(1)
    found["rows"] = [
        row | {"accuracy": 1.0, "ci_low": 0.96, "ci_high": 1.0} for row in found["rows"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(found))
    out = run("table", tmp_path / "results.json", model=False)[1]
    assert "96.0–100.0" in out
    assert "±" not in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep", "0"], ["keep=0", "0 < keep <= 1"]),
        (["--keep", "-1"], ["keep=-1"]),
        (["--keep", "1.5"], ["keep=1.5"]),
        (["--keep", "10"], ["keep=10", "10 % is 0.1, or 10% on the command line"]),
        (["--keep", "nan"], ["keep=nan"]),
        (["--keep", "much"], ["--keep", "number"]),
        (["--tokens", "0"], ["tokens=0"]),
        (["--tokens", "-3"], ["tokens=-3"]),
        (["--tokens", "1.5"], ["--tokens takes an integer", "a whole number. See 'adafv ask"]),
        (["--max-new-tokens", "few"], ["--max-new-tokens takes an integer"]),
        (["--keep", "0.1", "--tokens", "5"], ["both"]),
        (["--method", "adafw"], ["'adafw'", "did you mean 'adafv'"]),
        (["--method", "none", "--keep", "0.1"], ["none"]),
        (["--method", "none", "--tokens", "5"], ["none"]),
        (["--keep", "110%"], ["more than all", "100%"]),
        (["--keep", "10%%"], ["--keep", "10%%", "number"]),
        (["--keep", ""], ["--keep", "number"]),
        (["--max-new-tokens", "0"], ["max_new_tokens=0", "1 or more"]),
        (["--method", "adafv:reserve=2"], ["reserve=2"]),
        (["--method", "adafv:reserv=0.5"], ["reserv=", "no option of adafv"]),
        (["--method", "adafv:reserve"], ["option=value"]),
        (["--method", "adafv:keep=half"], ["half", "number"]),
        (["--method", "adafv:keep=0.5", "--keep", "0.5"], ["given already"]),
        (["--method", ""], ["''", "adafv"]),
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
        status, _, err = run("ask", path, QUESTION, *SHORT)
        assert status == 0
        assert f"{path} is 1×1 pixels, smaller than one patch" in err


def test_bad_models(run, image, tmp_path):
    """A folder that is missing, is none, or holds a text model."""
    from transformers import LlamaConfig

    refused(
        run("ask", image, QUESTION, "--model", "./nowhere", model=False),
        "nowhere",
        "does not exist",
    )
    refused(run("ask", image, QUESTION, "--model", str(tmp_path), model=False), "config.json")
    LlamaConfig().save_pretrained(tmp_path)
    refused(run("ask", image, QUESTION, "--model", str(tmp_path), model=False), "no vision tower")


@pytest.mark.parametrize(
    "words", [[], ["ask"], ["ask", "a.png"], ["aks", "a.png", "b"], ["eval"], ["explain", "a", "b"]]
)
def test_bad_usage(run, words):
    """Typer's own errors take one line too, and name the help of the command that was meant."""
    command = f"adafv {words[0]}" if words and words[0] != "aks" else "adafv"
    refused(run(*words, model=False), f"See '{command} --help'")


@pytest.mark.parametrize("option", ["--methods", "--suite", "--keep", "--against"])
@pytest.mark.parametrize("text", ["", " ", ","])
def test_a_list_that_names_nothing(run, tmp_path, option, text):
    """An unset variable of a shell does not mean everything."""
    refused(run("eval", option, text, "--out", tmp_path, model=False), f"{option} {text!r}")


def test_methods(run):
    """What there is, each with its paper and one line."""
    status, out, _ = run("methods", model=False)
    assert status == 0
    assert all(name in out for name in METHODS)
    assert "2501.09532" in out
    both = json.loads(run("methods", "--json")[1])
    assert [m["name"] for m in both["video_methods"]] == list(VIDEO_METHODS)
    listed = both["methods"]
    assert [m["name"] for m in listed] == list(METHODS)
    assert all(m["summary"] and "\n" not in m["summary"] for m in listed)


@pytest.mark.parametrize("command", ["methods", "families"])
def test_a_listing_takes_the_options_of_a_model(run, command):
    """A script may pass it what it passes to `ask`; what is listed is the same."""
    options = ("--model", "no such folder", "--device", "tpu9", "--dtype", "int4")
    assert run(command, *options, model=False) == run(command, model=False)
    assert run(command, model=False)[0] == 0


def test_explain(run, image, tmp_path, monkeypatch):
    """`explain` draws into --out, in a folder that it makes, and says what it drew."""
    viz = pytest.importorskip("adafv.viz")

    def explain(model, processor, image, question, pruner, out, max_new_tokens):
        Path(out).write_bytes(b"png")
        return {"out": str(out), "answer": "red", "kept": pruner.keep, "cut": max_new_tokens == 64}

    monkeypatch.setattr(viz, "explain", explain)
    out = tmp_path / "new" / "page.png"
    status, said, err = run("explain", image, QUESTION, "--out", out, "--json")
    assert status == 0
    assert err == ""
    said = json.loads(said)
    assert said.pop("model").startswith("/")
    assert said == {
        "out": str(out),
        "answer": "red",
        "kept": 0.1,
        "cut": True,
    }
    said = run("explain", image, QUESTION, "--out", out, "--max-new-tokens", 3)[1]
    assert str(out) in said
    assert "cut" not in said
    assert "cut after 64 tokens" in run("explain", image, QUESTION, "--out", out)[1]
    refused(run("explain", image, QUESTION, "--out", Path(image) / "page.png"), "cannot be written")


EVAL = (
    "eval",
    "--methods",
    "adafv,random",
    "--keep",
    "1,0.25",
    "--suite",
    "shapes",
    "--max-new-tokens",
    3,
)


def test_eval(run, tmp_path, monkeypatch):
    """results.json, results.csv, pairs.csv and accuracy.png; JSON is what results.json holds; the
    bar is on stderr.
    """
    FakeSuites(monkeypatch)
    out = tmp_path / "a" / "b"
    status, said, err = run(*EVAL, "--out", out, "--json", "--limit", 3)
    assert status == 0
    assert "shapes" in err
    assert "100%" in err
    result = json.loads(said)
    assert result == json.loads((out / "results.json").read_text())
    assert {"versions", "command", "model", "seed", "limit", "interval", "dtype"} <= result[
        "meta"
    ].keys()
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(result["rows"])
    assert {(r["method"], r["keep"]) for r in result["rows"]} == {
        ("none", 1.0),
        ("blind", 0.0),
        ("adafv", 0.25),
        ("random", 0.25),
    }
    assert sorted(p.name for p in out.iterdir()) == [
        "accuracy.pdf",
        "accuracy.png",
        "answers.jsonl",
        "pairs.csv",
        "results.csv",
        "results.json",
        "settings.json",
    ]
    status, said, _ = run(*EVAL, "--out", out, "--limit", 3)
    assert status == 0
    assert "dense" in said
    assert "results.json" in said
    status, printed, _ = run("table", out / "results.json", model=False)
    assert status == 0
    assert printed.rstrip() in said
    status, printed, _ = run("table", out / "results.json", "--keep", 1, "--json", model=False)
    assert {row["method"] for row in json.loads(printed)["rows"]} == {"none", "blind"}
    assert json.loads(printed)["pairs"] == []
    refused(run("table", out / "results.json", "--keep", 0.9, model=False), "pass some of 1, 0.25")
    refused(run("table", out / "results.json", "--keep", 5, model=False), "--keep 5 is no share")
    type_ = next(row["question_type"] for row in result["rows"] if row["question_type"] != "all")
    of_type = ("table", out / "results.json", "--type", type_)
    assert "▲" not in run(*of_type, model=False)[1]  # tested are all questions together
    assert "▲" not in run("table", out / "results.json", "--keep", 1, model=False)[1]
    status, printed, _ = run(*of_type, "--json", model=False)
    assert {row["question_type"] for row in json.loads(printed)["rows"]} == {type_}


def test_any_method_is_compared_with_its_rivals(run, tmp_path, monkeypatch):
    """One's own, by --against or as the first of the methods; a name that takes no part is refused
    before the model is loaded.
    """
    FakeSuites(monkeypatch)
    short = ("eval", "--max-new-tokens", 3, "--limit", 3, "--suite", "shapes", "--keep", 0.25)
    asked = ("--methods", "adafv,fastervlm,random", "--against", "random,fastervlm")
    out = tmp_path / "asked"
    status, said, _ = run(*short, *asked, "--out", out)
    assert status == 0
    assert "worse than random by more than luck" in said
    assert f"{out / 'results.csv'}, {out / 'pairs.csv'}, {out / 'accuracy.png'}" in said
    with (out / "pairs.csv").open() as file:
        found = {(pair["method"], pair["rival"]) for pair in csv.DictReader(file)}
    against_random = {("random", "adafv"), ("random", "fastervlm")}
    assert found == against_random | {("fastervlm", "adafv"), ("fastervlm", "random")}
    # the same table again, as Markdown with a paragraph of its own for the legend
    printed = run("table", out / "results.json", model=False)[1]
    assert printed.rstrip() in said
    lines = run("table", out / "results.json", "--markdown", model=False)[1].splitlines()
    assert lines[-2] == ""
    assert lines[-1].startswith("▲ better, ▼ worse than random")

    first = json.loads(run(*short, "--methods", "random,uniform", "--out", out, "--json")[1])
    assert first["meta"]["against"] == ["adafv"]  # of the earlier run
    alone = tmp_path / "alone"
    status, said, _ = run(*short, "--methods", "random,uniform", "--out", alone)
    assert "worse than random by" in said
    status, said, _ = run(*short, "--methods", "random", "--out", tmp_path / "single")
    assert status == 0
    assert "▲" not in said
    assert "pairs.csv" not in said

    monkeypatch.setattr("adafv.models.load.load", lambda *_: pytest.fail("loaded"))
    bad = run(*short, "--methods", "random", "--against", "adafw", "--out", tmp_path / "bad")
    refused(bad, "--against adafw", "random")


def test_an_output_of_another_encoding(tmp_path):
    """A table says ? for what it lacks, JSON an escape."""
    found = results(1)
    for row in found["rows"]:
        row["method"] = "▲méthode"
    (tmp_path / "results.json").write_text(json.dumps(found))
    environment = HERE | {"PYTHONIOENCODING": "cp1252"}
    command = ("table", str(tmp_path / "results.json"))
    plain = process(*command, env=environment, encoding="cp1252")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "?méthode" in plain.stdout
    written = process(*command, "--json", env=environment, encoding="cp1252")
    assert {row["method"] for row in json.loads(written.stdout)["rows"]} == {"▲méthode"}


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        "[" * 100_000,
        '{"rows": []}',
        '{"meta": {}, "rows": []}',
        '{"meta": {}, "rows": [{}]}',
    ],
)
def test_table_of_something_else(run, tmp_path, content):
    """A file that is missing or no evaluation's: one line."""
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    status, out, err = run("table", path, model=False)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "results.json" in err


def test_table_of_a_folder(run, tmp_path):
    """The file inside is named, where there is one."""
    (tmp_path / "results.json").write_text("{}")
    refused(run("table", tmp_path, model=False), f"pass {tmp_path / 'results.json'}")


def test_table_in_two_forms(run, tmp_path):
    """One of the two is refused, instead of winning in silence."""
    both = ("--markdown", "--json")
    refused(run("table", tmp_path / "results.json", *both, model=False), "leave one of them out")


def test_eval_keeps_what_another_run_has_measured(run, tmp_path, monkeypatch):
    """Other methods, budgets and suites come beside it; what is measured again has one row, and
    pairs are of all.
    """
    FakeSuites(monkeypatch)
    short = ("eval", "--max-new-tokens", 3, "--limit", 2, "--json", "--out", tmp_path)
    first = json.loads(run(*short, "--methods", "random", "--keep", 0.25, "--suite", "shapes")[1])
    second = json.loads(
        run(*short, "--methods", "adafv", "--keep", "25%", "--suite", "shapes,more")[1]
    )
    third = json.loads(run(*short, "--methods", "adafv", "--keep", 0.5, "--suite", "more")[1])
    places = {(r["suite"], r["method"], r["keep"]) for r in third["rows"]}
    fixed = {
        (suite, *place) for suite in ("shapes", "more") for place in (("none", 1.0), ("blind", 0.0))
    }
    own = {
        ("shapes", "adafv", 0.25),
        ("more", "adafv", 0.25),
        ("more", "adafv", 0.5),
        ("shapes", "random", 0.25),
    }
    assert places == fixed | own
    keys = [
        tuple(r[name] for name in ("suite", "method", "keep", "question_type"))
        for r in third["rows"]
    ]
    assert len(keys) == len(set(keys))
    assert third == json.loads((tmp_path / "results.json").read_text())
    assert [r for r in third["rows"] if r["method"] == "random"] == [
        r for r in first["rows"] if r["method"] == "random"
    ]
    assert ("adafv", "random") in {(p["method"], p["rival"]) for p in second["pairs"]}


def test_the_commands_of_earlier_runs_are_kept():
    """Each once, the last one's in its own place."""
    first, second, third = ({"command": f"adafv eval {i}", "started": i} for i in range(3))
    once = merged_meta({"meta": first}, second)
    twice = merged_meta({"meta": once}, third)
    assert merged_meta(None, first) == first == merged_meta({"meta": first}, first)
    assert [run["command"] for run in twice["earlier"]] == ["adafv eval 0", "adafv eval 1"]
    assert merged_meta({"meta": twice}, third)["earlier"] == twice["earlier"]


def test_the_same_command_with_another_place_replaces_its_former_self():
    """Where results go is not what was measured."""
    first = {"command": "adafv eval --out /tmp/x --keep 0.1 --json"}
    second = {"command": "adafv eval --keep 0.1 --entry new --out=x"}
    assert merged_meta({"meta": first}, second) == second
    other = {"command": "adafv eval --keep 0.2 --out x"}
    assert merged_meta({"meta": first}, other)["earlier"][0]["command"] == first["command"]


def test_what_earlier_runs_have_left_out_stays_left_out():
    """Until it is asked again."""
    refusal = {"suite": "s", "method": "a", "keep": 0.1, "reason": "nothing is kept"}
    new = refusal | {"method": "b"}
    first = {"command": "adafv eval 0", "left_out": [refusal]}
    second = {"command": "adafv eval 1", "left_out": [new]}
    assert merged_meta({"meta": first}, second, [("s", "b", 0.1)])["left_out"] == [refusal, new]
    assert merged_meta({"meta": first}, second, [("s", "a", 0.1)])["left_out"] == [new]


def test_results_are_written_before_another_run_may_begin(run, tmp_path, monkeypatch):
    """It would put its rows together with those of before, and lose what this one found."""
    FakeSuites(monkeypatch)
    write = report.write

    def checked_write(out, *rest):
        with pytest.raises(ValueError, match="being written by another run"):
            Lines(Path(out) / "answers.jsonl", "another --out")
        write(out, *rest)

    monkeypatch.setattr(report, "write", checked_write)
    assert run(*EVAL, "--out", tmp_path, "--limit", 1)[0] == 0
    Lines(tmp_path / "answers.jsonl", "another --out").close()


@pytest.mark.parametrize("limit", [1, 3])
def test_eval_refuses_to_mix_numbers_of_questions(run, tmp_path, monkeypatch, limit):
    """A row on fewer questions would take the place of one on more, or stand beside it as if they
    were alike.
    """
    FakeSuites(monkeypatch)
    assert run(*EVAL, "--out", tmp_path, "--limit", 2)[0] == 0
    before = (tmp_path / "results.json").read_bytes()
    status, _, err = run(
        "eval",
        "--methods",
        "t2i",
        "--max-new-tokens",
        3,
        "--suite",
        "shapes",
        "--out",
        tmp_path,
        "--limit",
        limit,
    )
    assert status == 2
    assert "questions of 'shapes'" in err.splitlines()[-1]
    assert (tmp_path / "results.json").read_bytes() == before
    assert run(*EVAL, "--out", tmp_path, "--limit", limit)[0] == (2 if limit < 2 else 0)


def test_nobody_overwrites_results_of_another_command(run, tmp_path, monkeypatch):
    """eval, tune and speed all write results.json."""
    FakeSuites(monkeypatch)
    (tmp_path / "results.json").write_text('{"meta": {}, "rows": [{"a": 1}]}')
    for command in (EVAL, ("speed",), ("tune", "--data", _questions(tmp_path))):
        status, _, err = run(*command, "--out", tmp_path, model=command[0] != "speed")
        assert status == 2
        assert "would overwrite it: pass another --out" in err.splitlines()[-1]
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == [{"a": 1}]


def _questions(folder: Path) -> Path:
    for name in "ab":
        picture(seed=ord(name)).save(folder / f"{name}.png")
    path = folder / "in.jsonl"
    path.write_text("".join(f'{{"image": "{name}.png", "question": "what"}}\n' for name in "ab"))
    return path


def test_eval_refuses_other_settings(run, tmp_path, monkeypatch):
    """One line, and the old results stay."""
    FakeSuites(monkeypatch)
    assert run(*EVAL, "--out", tmp_path, "--limit", 1)[0] == 0
    before = (tmp_path / "results.json").read_text()
    status, _, err = run(*EVAL, "--out", tmp_path, "--limit", 1, "--seed", 3)
    assert status == 2
    assert "seed=0 (now 3)" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert (tmp_path / "results.json").read_text() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep", "0"], ["keep=0"]),
        (["--keep", "0.1,x"], ["'x'"]),
        (["--keep", ","], ["names nothing"]),
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
    monkeypatch.setattr("adafv.models.load.load", lambda *_: pytest.fail("loaded"))
    refused(run(*EVAL, "--out", tmp_path / place), "cannot be written")


def test_outputs_are_whole_or_not_at_all(tmp_path):
    """A failure while writing leaves the old file and no debris."""
    from adafv.utils.files import atomic

    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has a full device")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_output_without_room(options):
    """As on a full disk: a sentence, and the status of what failed."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "adafv", "methods", *options],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("adafv: the output cannot be written (No space left on device)")
    assert done.stderr.count("\n") == 1


def test_a_closed_pipe_is_no_error():
    """`adafv methods | head -1` ends quietly."""
    done = subprocess.run(
        f"{sys.executable} -m adafv methods | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_told_to_end_from_outside():
    """As Ctrl-C: what runs is interrupted; nohup is respected."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop_as_interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_interrupted(run, image, monkeypatch):
    """Ctrl-C: a word and the shell's status for it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("adafv.models.load.load", interrupt)
    assert run("ask", image, QUESTION) == (130, "", "adafv: stopped\n")
