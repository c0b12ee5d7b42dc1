"""A pruner beside a model: what is saved is what is loaded, by everything that reads it."""

import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from conftest import picture
from fakes import save_tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adafv
from adafv import METHODS, AdaFV, Pruner, from_pretrained, method, save_pretrained
from adafv.cli import main
from adafv.core.config import TemplateIds
from adafv.integrations.vllm.options import VLLMOptions
from adafv.integrations.vllm.options import settings as server_settings
from adafv.methods import from_config
from adafv.models.boilerplate import boilerplate
from adafv.models.saved import FILE, options_of
from tests.cli.test_serve import options, serve  # noqa: F401 (a fixture)
from tests.integrations.test_vllm_parts import Config

QUESTION = "what color is the anchor ?"


def values(kind: Any) -> st.SearchStrategy:
    """Values of an option's type; what a method makes of them is its own affair."""
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind in (bool, int, float):
        numbers = {
            bool: st.booleans(),
            int: st.integers(0, 2**40),
            float: st.floats(0, 1, exclude_min=True),
        }
        return numbers[kind]
    if isinstance(kind, UnionType):
        return st.none() | values(get_args(kind)[0])
    return st.frozensets(st.integers(0, 10**6), max_size=5)


@st.composite
def pruners(draw: st.DrawFn) -> Pruner:
    """Any method, any of its options changed, with a share or a number of tokens."""
    cls = draw(st.sampled_from([*METHODS.values()]))
    known = [f for f in fields(cls) if f.name not in ("keep", "tokens", "query", "tokenizer")]
    changed = draw(st.lists(st.sampled_from(known), unique_by=lambda f: f.name))
    given = {f.name: draw(values(f.type)) for f in changed}
    budget = draw(
        st.sampled_from([{"keep": 1.0}] if cls.name == "none" else [{"keep": 0.07}, {"tokens": 9}])
    )
    try:
        return cls(**given, **budget)
    except ValueError:
        return cls(**budget)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pruner=pruners())
def test_what_is_saved_is_loaded(tmp_path, pruner):
    """Of the same class, with the same options."""
    path = save_pretrained(pruner, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert type(loaded) is type(pruner)
    assert loaded == pruner
    assert all(
        isinstance(x, str | int | float | list) for x in json.loads(path.read_text()).values()
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_with_its_defaults(tmp_path, name):
    """No method is left to the luck of a draw."""
    save_pretrained(method(name, keep=1.0), tmp_path)
    assert from_pretrained(tmp_path) == method(name, keep=1.0)


def test_what_the_file_says(tmp_path):
    """Readable, in a folder that need not be there yet; the question is not in it."""
    pruner = AdaFV(
        keep=0.05, reserve=0.5, query=torch.tensor([1, 2]), skip=[7, 3], tokenizer=object()
    )
    path = save_pretrained(pruner, tmp_path / "a" / "b")
    found = json.loads(path.read_text())
    assert path.name == FILE
    assert {"query", "tokenizer", "tokens"}.isdisjoint(found)
    assert {
        "method": "adafv",
        "keep": 0.05,
        "reserve": 0.5,
        "skip": [3, 7],
        "version": adafv.__version__,
    }.items() <= (found.items())
    assert from_pretrained(path.parent) == replace(pruner, query=None, tokenizer=None)


@dataclass(kw_only=True)
class Own(AdaFV):
    """Somebody's variant, under the name of the original."""


@pytest.mark.parametrize("number", [torch.tensor(0.5), np.float32(0.5), np.array(0.5)])
def test_numbers_of_others_are_plain_ones(number, tmp_path):
    """NumPy's and PyTorch's say the same as Python's, in the name and in the file."""
    pruner = AdaFV(keep=number, reserve=number)
    assert pruner.spec == "adafv:reserve=0.5"
    save_pretrained(pruner, tmp_path)
    assert from_pretrained(tmp_path) == AdaFV(keep=0.5, reserve=0.5)


def test_what_nobody_could_load_is_not_saved(tmp_path):
    """A class that the registry doesn't know, values that are no plain data."""
    endless = AdaFV(keep=0.1)
    endless.temperature = float("inf")
    for pruner, words in (
        (Own(keep=0.1), "Own is not in adafv.METHODS"),
        (endless, "cannot be saved as JSON"),
        (AdaFV(tokens=9.0), "tokens=9.0 is not an integer"),
    ):
        with pytest.raises(ValueError, match=words):
            save_pretrained(pruner, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is damaged"),
        ('{"method": "adafv", "keep"', "is damaged"),
        ("\udcff", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("[0.1]", "holds no JSON object"),
        ('{"method": "adafw", "keep": 0.1}', "'adafw' is unknown: did you mean 'adafv'"),
        ('{"method": 7, "keep": 0.1}', "method=7 is not text"),
        ('{"method": "adafv"}', "neither is given"),
        ('{"keep": 0.1, "tokens": 9}', "both are given"),
        ('{"keep": 0}', "keep=0 is not a share"),
        ('{"keep": "0.1"}', "keep='0.1' is not a number"),
        ('{"keep": true}', "keep=True is not a number"),
        ('{"keep": NaN}', "keep=nan is not a number"),
        ('{"keep": 0.1, "distinct": "yes"}', "distinct='yes' is not true or false"),
        ('{"keep": 0.1, "crops": "some"}', "crops='some' is unknown"),
        ('{"keep": 0.1, "crops": 1}', "crops=1 is not text"),
        ('{"keep": 0.1, "skip": "template"}', "pass processor="),
        ('{"keep": 0.1, "skip": "words"}', "skip='words' is not a list of token ids"),
        ('{"keep": 0.1, "skip": [1.5]}', "is not a list of token ids"),
        (f'{{"keep": 0.1, "skip": [{10**30}]}}', "is not a list of token ids"),
        (f'{{"tokens": {10**400}}}', "is out of range: pass a number nearer to 0"),
        ('{"method": "adafv:skip=template", "keep": 0.1}', "pass processor="),
        ('{"keep": 0.1, "query": "what"}', "query belongs to a question"),
        ('{"keep": 0.1, "budget": 3}', "budget=3 is no option of adafv"),
        ('{"version": "0.1.0"}', "carries no pruner"),
    ],
)
def test_damaged_and_unknown_files(tmp_path, text, words):
    """One sentence that names the file, whatever is in it."""
    (tmp_path / FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=re.escape(words)) as info:
        from_pretrained(tmp_path)
    assert str(tmp_path) in str(info.value)
    assert "\n" not in str(info.value)


def test_folders_without_a_pruner(tmp_path):
    """Missing, empty, or with a model alone."""
    for folder in (tmp_path / "no", tmp_path):
        with pytest.raises(ValueError, match="carries no pruner"):
            from_pretrained(folder)


def test_the_block_of_a_models_configuration(tmp_path):
    """The same object under "adafv" in config.json; it goes first, and a second is refused."""
    config = tmp_path / "config.json"
    save_pretrained(AdaFV(keep=0.3), tmp_path)
    config.write_text(
        '{"adafv": {"keep": 0.1, "method": "adafv:reserve=0.5", "pin": "first", "cache_mb": 64}}'
    )
    assert from_pretrained(tmp_path) == AdaFV(keep=0.1, reserve=0.5)
    with pytest.raises(ValueError, match=r"config\.json .* take it out first"):
        save_pretrained(AdaFV(keep=0.1), tmp_path)
    config.write_text('{"adafv": 0.1}')
    with pytest.raises(ValueError, match=r"adafv=0\.1 in .* no JSON object"):
        from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match="download it again"):
        from_pretrained(tmp_path)


@settings(max_examples=100, deadline=None)
@given(pruner=pruners())
def test_a_server_reads_the_same(pruner):
    """As options of vLLM's flag it is the same method; a list of ids is refused, not forgotten."""
    saved = {"method": pruner.name, **options_of(pruner)}
    if pruner.skip:
        with pytest.raises(ValueError, match="skip"):
            VLLMOptions.of_folder(saved)
        return
    for found in (VLLMOptions.of_folder(saved), VLLMOptions.of_pruner(pruner)):
        options = found.to_dict()
        assert options.keys() <= {"adafv_method", "adafv_keep", "adafv_tokens"}
        again = adafv.methods.from_config(VLLMOptions.of_request(options).config)
        assert again == replace(pruner, strict=False)


def test_vllm_takes_it_from_the_folder(tmp_path):
    """Asked twice, as vLLM does; a flag goes before, and one budget before the other."""
    save_pretrained(AdaFV(keep=0.2, reserve=0.5), tmp_path)
    config = Config(None, model=str(tmp_path))
    for server in (server_settings(config), server_settings(config)):
        assert server.to_dict() == {"adafv_method": "adafv:reserve=0.5", "adafv_keep": 0.2}
        assert from_config(server.config) == AdaFV(keep=0.2, reserve=0.5)
    config = Config({"adafv_tokens": 9}, model=str(tmp_path))
    for server in (server_settings(config), server_settings(config)):
        assert server.to_dict() == {"adafv_method": "adafv:reserve=0.5", "adafv_tokens": 9}
    (tmp_path / FILE).write_text('{"kep": 0.1, "keep": 0.1}')
    with pytest.raises(ValueError, match=r"kep=0\.1 is no option of adafv"):
        VLLMOptions().request(server_settings(Config(None, model=str(tmp_path))))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = save_tiny(tmp_path_factory.mktemp("model"))
    save_pretrained(method("adafv+", keep=0.5, spread=0.5), folder)
    return folder


@pytest.mark.slow
def test_commands_take_the_budget_of_the_models_folder(checkpoint, tmp_path, capsys):
    """Where nothing is said; what is said goes before it."""
    image = tmp_path / "a.png"
    picture().save(image)

    def ask(*more: object) -> tuple[str, float]:
        assert (
            main(
                ["ask", str(image), QUESTION, "--json", "--model", str(checkpoint), *map(str, more)]
            )
            == 0
        )
        found = json.loads(capsys.readouterr().out)
        return found["method"], found["kept_tokens"] / found["visual_tokens"]

    assert ask() == ("adafv+:spread=0.5", 0.5)
    assert ask("--keep", 0.25) == ("adafv+:spread=0.5", 0.25)
    assert ask("--method", "uniform") == ("uniform", 0.5)
    assert ask("--method", "none") == ("none", 1)
    assert ask("--tokens", 10**6) == ("adafv+:spread=0.5", 1)
    (tmp_path / "in.jsonl").write_text(json.dumps({"image": "a.png", "question": QUESTION}) + "\n")
    assert (
        main(
            [
                "batch",
                str(tmp_path / "in.jsonl"),
                str(tmp_path / "out.jsonl"),
                "--model",
                str(checkpoint),
            ]
        )
        == 0
    )
    record = json.loads((tmp_path / "out.jsonl").read_text())
    assert record["method"] == "adafv+:spread=0.5"
    assert record["kept_tokens"] * 2 == record["visual_tokens"]


@pytest.mark.parametrize(
    "text",
    [
        '{"method": "adafv:skip=template", "keep": 0.5}',
        '{"method": "adafv", "skip": "template", "keep": 0.5}',
    ],
)
def test_one_file_leaves_out_the_templates_words_everywhere(
    text,
    tmp_path,
    capsys,
    serve,  # noqa: F811
):
    """The command line and the library know its ids by the processor, a server by its own."""
    folder = save_tiny(tmp_path / "model")
    (folder / FILE).write_text(text)
    model, processor = adafv.load(str(folder))
    pruner = from_pretrained(folder, processor)
    assert pruner == AdaFV(keep=0.5, skip=boilerplate(processor))
    assert replace(pruner, keep=0.1).spec == "adafv:skip=template"

    picture().save(tmp_path / "a.png")
    command = ["ask", str(tmp_path / "a.png"), QUESTION, "--json", "--model", str(folder)]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "adafv:skip=template"
    asked = adafv.ask(model, processor, picture(), QUESTION, pruner)
    assert found["answer"] == asked.answer
    assert options(serve(folder)[1]).keys().isdisjoint({"adafv_method", "adafv_keep"})
    assert VLLMOptions.of_pruner(pruner).to_dict()["adafv_method"] == "adafv:skip=template"

    # the word is saved, not the ids
    assert json.loads(save_pretrained(pruner, folder).read_text())["skip"] == "template"
    assert from_pretrained(folder, processor) == pruner
    assert not serve(folder)[0]


def test_ids_of_ones_own_are_saved_as_ids(tmp_path):
    """Stop words that somebody has added to the template's are no template's."""
    pruner = AdaFV(keep=0.5, skip=TemplateIds({1, 2}) | {3})
    assert json.loads(save_pretrained(pruner, tmp_path).read_text())["skip"] == [1, 2, 3]
    assert from_pretrained(tmp_path) == pruner


def test_a_damaged_budget_is_one_line(checkpoint, tmp_path, capsys):
    """Before any model is loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / FILE).write_text("{")
    picture().save(tmp_path / "a.png")
    assert main(["ask", str(tmp_path / "a.png"), QUESTION, "--model", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert FILE in err
    assert "Traceback" not in err


def test_serve_leaves_the_budget_to_the_folder(serve, checkpoint):  # noqa: F811
    """Nothing is handed over that would replace it; flags do, one budget the other."""
    found = options(serve(checkpoint)[1])
    assert {"adafv_keep", "adafv_tokens", "adafv_method"}.isdisjoint(found)
    assert options(serve(checkpoint, "--keep", 0.2)[1])["adafv_keep"] == 0.2
    assert options(serve(checkpoint, "--method", "none")[1])["adafv_keep"] == 1
    found = options(
        serve(checkpoint, "--mm-processor-kwargs", '{"adafv_keep": 0.3}', "--tokens", 9)[1]
    )
    assert found["adafv_tokens"] == 9
    assert "adafv_keep" not in found
    status, command, err = serve(checkpoint, "--method", "fastv")
    assert status == 2
    assert not command
    assert "between the layers" in err
