"""Loading: any checkpoint folder of the Hugging Face format, and one sentence for
everything else.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, inputs_for, picture, prompt, tiny_model, tiny_processor
from fakes import save_tiny
from transformers import BertConfig, BlipConfig, CLIPConfig, LlamaConfig, LlavaConfig
from transformers.utils import logging

from adafv import embedded, method
from adafv.models import hub
from adafv.models.hub import check_available, config_folder
from adafv.models.load import load, source_of
from adafv.models.prompting import build_inputs
from adafv.models.saved import carried


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {family: save_tiny(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture
def folder(folders, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folders["llava_next"], tmp_path / "model"))


def refused(*arguments: object, **options: object) -> str:
    with pytest.raises(ValueError) as info:
        load(*arguments, **options)  # type: ignore[arg-type]
    message = str(info.value)
    assert "\n" not in message
    assert ": " in message
    return message


def test_what_a_hub_model_carries_is_read_from_the_cache(folder, monkeypatch):
    """Its configuration travels with it; without a hub and a cache it carries nothing."""
    config = folder / "config.json"
    block = {"method": "fastervlm", "keep": 0.5}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"adafv": block}))
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(config))
    assert carried("owner/name") == method("fastervlm", keep=0.5)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    assert carried("owner/name") is None


def test_a_folder_gives_the_model_that_was_saved(folders, family):
    """Loading changes nothing: same logits, on the CPU in fp32 and eval mode, processor
    included.
    """
    model, processor = load(str(folders[family]))
    assert model.dtype == torch.float32
    assert model.device.type == "cpu"
    assert not model.training
    inputs = inputs_for(processor, (prompt(), [picture()]))
    before = inputs_for(tiny_processor(family), (prompt(), [picture()]))
    assert all(torch.equal(inputs[name], before[name]) for name in before)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, tiny_model(family)(**before).logits)
    assert load(folders[family], device="cpu", dtype="bf16")[0].dtype == torch.bfloat16


def test_none_is_the_embedded_model(folders, monkeypatch, tmp_path):
    """No argument: the model that ships with the package; a package built without it says so."""
    monkeypatch.setattr(embedded, "MODEL_DIR", folders["llava"], raising=False)
    assert load()[0].config.model_type == "llava"
    monkeypatch.setattr(embedded, "MODEL_DIR", tmp_path / "nowhere", raising=False)
    assert "--model" in refused()


def test_torchvision_is_not_needed(folders):
    """Images are prepared with Pillow, also where torchvision is installed: same pixels
    everywhere. test_package.py loads a model without it.
    """
    _, processor = load(folders["llava_next"])
    assert type(processor.image_processor).__name__.endswith("Pil")


@pytest.mark.parametrize(
    "name",
    [
        "/nowhere/model",
        "./nowhere",
        "a/b/c",
        "~/nowhere-at-all",
        "~nobody-at-all/model",
        "",
        "what is this",
    ],
)
def test_missing_folders(name):
    """A mistyped path is not looked up on the hub."""
    assert "does not exist" in refused(name)


def test_the_embedded_model_has_a_name(tmp_path, monkeypatch):
    """It can be asked for where another one is the default; a folder of that name goes first."""
    monkeypatch.chdir(tmp_path)
    check_available(embedded.NAME)
    assert source_of(embedded.NAME) == source_of(None)
    assert config_folder(embedded.NAME) == embedded.MODEL_DIR
    LlamaConfig().save_pretrained(embedded.NAME)
    assert source_of(embedded.NAME) == embedded.NAME


def test_files_and_other_folders(tmp_path):
    """A weights file or a folder of something else is no model folder."""
    file = tmp_path / "model.safetensors"
    file.touch()
    assert "is a file" in refused(file)
    assert "config.json" in refused(tmp_path)


def test_an_entry_of_a_wrong_type(tmp_path):
    """One sentence with the cause, which transformers writes into a second line."""
    LlavaConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_token_index": "32000"}))
    said = refused(tmp_path)
    assert "image_token_index" in said
    assert "expected int, got str" in said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("config.json", text) for text in ("null", "[]", "3")),
        *(("processor_config.json", text) for text in ("null", "[]")),
        *(("tokenizer_config.json", text) for text in ("null", "[]")),
        *(("tokenizer.json", text) for text in ("null", "[]", "{")),
        *(("generation_config.json", text) for text in ("null", "[]")),
    ],
)
def test_files_that_hold_something_else(folder, name, content):
    """One sentence, whatever transformers raises at it."""
    (folder / name).write_text(content)
    assert str(folder) in refused(folder)


@pytest.mark.parametrize(
    "entry", [{"dtype": "foo"}, {"quantization_config": 5}, {"model_type": []}, {"text_config": 5}]
)
def test_entries_that_are_something_else(folder, entry):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entry))
    assert str(folder) in refused(folder)


@pytest.mark.parametrize(
    "template", ["{{ bad", "{{ raise_exception('x') }}", "{{ messages + 1 }}", "{{ 1 / 0 }}"]
)
def test_a_damaged_chat_template(folder, template):
    """Read when a question is put, not when the model is loaded."""
    (folder / "chat_template.jinja").write_text(template)
    _, processor = load(folder)
    with pytest.raises(ValueError, match=r"^the model's chat template .*: download") as info:
        build_inputs(processor, picture(), "what color")
    assert "\n" not in str(info.value)


def test_unreachable_hub_ids(monkeypatch):
    """No connection: one sentence, not the hub client's page."""
    from transformers import AutoConfig

    def offline(*_: object, **__: object) -> None:
        raise OSError(
            "We couldn't connect to 'https://huggingface.co'.\nCheck your internet connection"
        )

    monkeypatch.setattr(AutoConfig, "from_pretrained", offline)
    message = refused("owner/model")
    assert "couldn't connect" in message
    assert "owner/model" in message


@pytest.mark.parametrize("config", [LlamaConfig(), BertConfig()])
def test_models_without_a_vision_tower(tmp_path, config):
    """They have no visual tokens; said before any weight is read (there is none here)."""
    config.save_pretrained(tmp_path)
    assert "no vision tower" in refused(tmp_path)


@pytest.mark.parametrize("config", [CLIPConfig(), BlipConfig()])
def test_unknown_families(tmp_path, config):
    """Never silently not pruned."""
    config.save_pretrained(tmp_path)
    message = refused(tmp_path)
    assert repr(config.model_type) in message
    assert "llava" in message


def test_types_that_transformers_does_not_know(folder):
    """A checkpoint of a future family."""
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    assert "no-such-type" in refused(folder)


def test_remote_code_is_not_run(folder):
    """A checkpoint cannot bring its own code."""
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    refused(folder)


def test_only_safetensors(folder):
    """Pickled weights can run code."""
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    assert "safetensors" in refused(folder)


def test_damaged_and_incomplete_weights(folder):
    """A download that broke off must not answer from random weights."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    lacking = {
        name: weight for name, weight in weights.items() if "multi_modal_projector" not in name
    }
    save_file(lacking, path, metadata={"format": "pt"})
    assert "lacks" in refused(folder)
    save_file(weights, path, metadata={"format": "pt"})
    path.write_bytes(path.read_bytes()[:1000])
    refused(folder)


def test_no_processor(folder):
    """Weights alone cannot read an image."""
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    refused(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"device": "tpu9"},
        {"device": "cuda:99"},
        {"device": "meta"},
        {"device": "hpu"},
        {"device": "privateuseone"},
        {"dtype": "int4"},
    ],
)
def test_devices_and_dtypes(folders, options):
    """Named with what was asked for."""
    assert repr(next(iter(options.values()))) in refused(folders["llava"], **options)


def test_the_embedded_model_loads_without_a_bar_and_others_with_one(folder, capfd, monkeypatch):
    # a command that ran before has left it out
    monkeypatch.setattr(logging, "_tqdm_active", True)
    load()
    assert capfd.readouterr().err == ""
    load(folder)
    assert "Loading weights" in capfd.readouterr().err
