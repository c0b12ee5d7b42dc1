"""`adafv serve` without vLLM: what it hands over, and what it refuses before."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from argparse import ArgumentParser

import pytest
from transformers import Ernie4_5_VLMoeConfig, LlavaConfig

from adafv.cli import main
from adafv.embedded import MODEL_DIR
from adafv.integrations.vllm.server import refuse_ignored

SERVER = "adafv.integrations.vllm.server"


@pytest.fixture
def serve(monkeypatch, capsys):
    """Run the command; its status, the command line that would take its place, and stderr."""
    commands = []
    find = importlib.util.find_spec
    monkeypatch.setattr(
        os, "environ", {k: v for k, v in os.environ.items() if not k.startswith("VLLM")}
    )
    monkeypatch.setattr(os, "execv", lambda program, command: commands.append(command))
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: find("json" if name == "vllm" else name, *rest),
    )

    def run(*arguments: object) -> tuple[int, list[str], str]:
        commands.clear()
        capsys.readouterr()
        status = main(["serve", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert out == ""
        return status, commands[0] if commands else [], err

    return run


def value(command: list[str], flag: str) -> str:
    assert command.count(flag) == 1
    return command[command.index(flag) + 1]


def options(command: list[str]) -> dict:
    return json.loads(value(command, "--mm-processor-kwargs"))


def test_the_embedded_model_at_a_tenth(serve):
    """Without arguments: the model of the package under a short name, our checks, no address
    fetched.
    """
    status, command, err = serve()
    assert status == 0
    assert err.startswith(f"adafv: serving {MODEL_DIR} with adafv+ at 10 % of the visual tokens")
    assert command[:4] == [sys.executable, "-P", "-m", SERVER]
    assert value(command, "--model") == str(MODEL_DIR)
    assert value(command, "--served-model-name") == "embedded"
    assert value(command, "--middleware") == "adafv.integrations.vllm.middleware.Checks"
    assert value(command, "--allowed-media-domains") == "(none)"
    assert "--trust-request-mm-kwargs" in command
    assert json.loads(value(command, "--limit-mm-per-prompt")) == {"image": 64, "video": 0}
    assert json.loads(value(command, "--ec-manager-config")) == {
        "encoder_cache_manager_cls": "adafv.integrations.vllm.encoder_budget.EncoderBudget"
    }
    ours = {"adafv_keep": 0.1, "adafv_method": "adafv+", "adafv_pin": "first", "adafv_only": True}
    assert options(command) == {"backend": "pil", **ours}
    assert os.environ["PILLOW_BLOCK_SIZE"] == "64m"
    assert os.environ["VLLM_MEDIA_CONNECTOR"] == "adafv"
    assert os.environ["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"


def test_code_in_the_current_folder_is_not_run(serve, tmp_path):
    """Neither by the server nor by processes that it starts."""
    (tmp_path / "shadowing.py").write_text("print('ran')")
    _, command, _ = serve()
    server = command[: command.index("-m")]
    for python, variables in ((server, None), ([sys.executable], os.environ)):
        words = [*python, "-c", "import shadowing"]
        done = subprocess.run(
            words, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert "No module named 'shadowing'" in done.stderr
        assert done.stdout == ""


def test_a_variable_that_is_set_stays(serve):
    """Who wants vLLM to report its use says so."""
    os.environ["VLLM_NO_USAGE_STATS"] = "0"
    assert serve()[0] == 0
    assert os.environ["VLLM_NO_USAGE_STATS"] == "0"
    assert os.environ["VLLM_MEDIA_CONNECTOR"] == "adafv"


def test_our_options(serve):
    """Each option arrives; a number takes the place of the default share, and a method may have its
    own options.
    """
    sizes = ("--cache-mb", 64, "--image-cache-mb", 32)
    _, command, _ = serve("--tokens", 40, "--method", "adafv:reserve=0.5", "--pin", "none", *sizes)
    found = options(command)
    assert "adafv_keep" not in found
    assert found["adafv_tokens"] == 40
    assert found["adafv_cache_mb"] == 64
    assert found["adafv_image_cache_mb"] == 32
    assert found["adafv_method"] == "adafv:reserve=0.5"
    assert found["adafv_pin"] == "none"
    assert options(serve("--method", "none")[1])["adafv_method"] == "none"


def test_flags_of_vllm_go_through(serve):
    """In their order, values included, wherever ours stand between them."""
    flags = [
        "--port",
        "8001",
        "--dtype=float32",
        "-tp",
        "2",
        "--enforce-eager",
        "--max_model_len",
        "2048",
    ]
    _, command, _ = serve(*flags[:3], "--keep", 0.2, *flags[3:])
    start = command.index("--port")
    assert command[start : start + len(flags)] == flags
    assert options(command)["adafv_keep"] == 0.2


def test_a_model_of_ones_own(serve, tmp_path):
    """As the first word or as --model; under its own name."""
    folder = tmp_path / "llava"
    LlavaConfig(architectures=["LlavaForConditionalGeneration"]).save_pretrained(folder)
    for words in (
        [folder, "--port", 1],
        ["--keep", 0.5, folder, "--port", 1],
        ["--port", 1, "--model", folder],
    ):
        status, command, _ = serve(*words)
        assert status == 0
        assert value(command, "--model") == str(folder)
        assert value(command, "--port") == "1"
        assert "--served-model-name" not in command


def test_a_prompt_may_hold_clips_where_they_are_pruned(serve, tmp_path):
    """Elsewhere vLLM would read them whole."""
    for kind, name, videos in (
        ("qwen2_vl", "Qwen2VLForConditionalGeneration", 4),
        ("llava", "LlavaForConditionalGeneration", 0),
    ):
        config = {"model_type": kind, "architectures": [name]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        _, command, _ = serve(tmp_path)
        limits = {"image": 64, "video": videos}
        assert json.loads(value(command, "--limit-mm-per-prompt")) == limits


def test_images_are_bounded_by_the_name_that_vllm_has_for_them(serve, tmp_path):
    """Kimi K2.5's are chunks of vision."""
    config = {"model_type": "kimi_k25", "architectures": ["KimiK25ForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, command, _ = serve(tmp_path)
    limits = {"vision_chunk": 64, "video": 0}
    assert json.loads(value(command, "--limit-mm-per-prompt")) == limits


def test_what_a_person_sets_stays(serve):
    """Their name, their domains, their trust in what requests carry, their variables."""
    os.environ["VLLM_MEDIA_CONNECTOR"] = "http"
    flags = [
        "--served_model_name=tiny",
        "--allowed-media-domains",
        "example.com",
        "--trust-request-mm-kwargs",
    ]
    flags += ["--limit-mm-per-prompt.image", "2", "--ec-manager-config={}"]
    _, command, _ = serve(*flags)
    assert "--ec-manager-config" not in command
    assert "--limit-mm-per-prompt" not in command
    assert "embedded" not in command
    assert "(none)" not in command
    assert command.count("--trust-request-mm-kwargs") == 1
    assert "adafv_only" not in options(command)
    assert os.environ["VLLM_MEDIA_CONNECTOR"] == "http"
    assert "--trust-request-mm-kwargs" not in serve("--no-trust-request-mm-kwargs")[1]


@pytest.mark.parametrize(
    "written", [("--mm-processor-kwargs", "{}"), ("--mm_processor_kwargs={}",)]
)
def test_options_in_vllms_own_flag_are_merged(serve, written):
    """A second flag would replace the first in vLLM, and nothing would be pruned."""
    given = json.dumps({"adafv_keep": 0.5, "do_rescale": False})
    words = [word.replace("{}", given) for word in written]
    found = options(serve(*words)[1])
    assert found["adafv_keep"] == 0.5
    assert found["do_rescale"] is False
    assert found["adafv_only"]
    assert options(serve(*words, "--keep", 0.2)[1])["adafv_keep"] == 0.2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--keep", 0), ("keep=0", "pass 0 < keep <= 1")),
        (("--keep", "nan"), ("keep=nan",)),
        (("--keep", "half"), ("--keep",)),
        (("--tokens", 0), ("tokens=0",)),
        (("--keep", 0.5, "--tokens", 5), ("keep", "tokens")),
        (("--method", "none", "--tokens", 5), ("--tokens", "none")),
        (("--method", "adafx"), ("'adafx' is unknown",)),
        (("--method", "fastv", "--keep", 0.6), ("between the layers",)),
        (("--method", "visionzip"), ("visionzip",)),
        (("--pin", "last"), ("pin", "last", "first")),
        (("--pin", ""), ("--pin='' is unknown",)),
        (("--mm-processor-kwargs", '{"adafv_only": 0}'), ("adafv_only=0", "true or false")),
        (("--methods", "adafv,scoop"), ("scoop", "no list of methods")),
        (("--methods", ""), ("no list of methods",)),
        (("--cache-mb", -1), ("--cache-mb",)),
        (("--image-cache-mb", -1), ("--image-cache-mb",)),
        (("--mm-processor-kwargs", "nope"), ("nope", "JSON object")),
        (("--mm-processor-kwargs", "[1]"), ("[1]", "JSON object")),
        (("--mm-processor-kwargs",), ("JSON object",)),
        (
            ("--mm-processor-kwargs.adafv_keep", 1),
            ("--mm-processor-kwargs.adafv_keep", "JSON object"),
        ),
        (("--mm-processor-kwargs", '{"adafv_kep": 1}'), ("adafv_kep",)),
        (("no/such/model/here",), ("no/such/model/here",)),
        (("a", "--model", "b"), ("'a'", "'b'")),
        (("--config", "serve.yaml"), ("--config", "on the command line")),
        (("--port", 70000), ("70000", "65535")),
    ],
    ids=str,
)
def test_bad_input(serve, arguments, words):
    """Exit 2 and one line, long before vLLM starts."""
    status, command, err = serve(*arguments)
    assert status == 2
    assert not command
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert all(word in err for word in words)


def test_a_model_behind_flags_is_refused(capsys):
    """The server of vLLM ignores it, and would serve the embedded model."""

    class Parser(ArgumentParser):
        pass

    refuse_ignored(Parser)
    parser = Parser()
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--port")
    assert parser.parse_args(["--port", "8001"]).port == "8001"
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--port", "8001", "owner/name"])
    assert end.value.code == 2
    assert "put MODEL first, as in adafv serve owner/name" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--headless",), ("--api-server-count", "2")])
def test_another_number_of_servers_than_one_is_refused(capsys, words):
    """The server that this command starts would ignore the flag; vLLM's own command does not."""

    class Parser(ArgumentParser):
        pass

    refuse_ignored(Parser)
    parser = Parser()
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--api-server-count", type=int)
    assert parser.parse_args([]).api_server_count is None
    assert parser.parse_args(["--api-server-count", "1"]).api_server_count == 1
    with pytest.raises(SystemExit) as end:
        parser.parse_args(words)
    assert end.value.code == 2
    assert f"leave {words[0]} out, or start vllm serve" in capsys.readouterr().err


def test_models_that_are_not_pruned_are_refused(serve, tmp_path):
    """Nothing is ever silently not pruned."""
    LlavaConfig(architectures=["Idefics2ForConditionalGeneration"]).save_pretrained(tmp_path)
    status, command, err = serve(tmp_path)
    assert status == 2
    assert not command
    assert err.count("\n") == 1
    assert "Idefics2" in err
    assert all(way in err for way in ("families --engine vllm", "--engine hf", "vllm serve"))
    assert len(err) < 300


def test_a_configuration_of_the_hubs_own_needs_its_code(serve, tmp_path):
    """The server runs it if it is told to; this command never does."""
    config = {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    status, command, err = serve(tmp_path)
    assert (status, command) == (2, [])
    assert "pass --trust-remote-code if you trust it" in err

    (tmp_path / "configuration_internvl_chat.py").write_text("raise SystemExit('this ran')")
    status, command, _ = serve(tmp_path, "--trust-remote-code")
    assert status == 0
    assert "--trust-remote-code" in command
    assert json.loads(value(command, "--limit-mm-per-prompt")) == {"image": 64, "video": 0}


def test_a_format_that_vllm_does_not_read_is_refused(serve, tmp_path):
    """It has no class for that of transformers, under the same name."""
    name = "Ernie4_5_VLMoeForConditionalGeneration"
    Ernie4_5_VLMoeConfig(architectures=[name]).save_pretrained(tmp_path)
    status, command, err = serve(tmp_path)
    assert (status, command) == (2, [])
    assert "vLLM reads ERNIE 4.5 VL in the hub's own format alone" in err
    assert "--engine hf" in err
    assert len(err) < 300


def test_without_the_plugin_nothing_would_be_pruned(serve):
    """VLLM loads only the plugins of VLLM_PLUGINS where it is set."""
    os.environ["VLLM_PLUGINS"] = "lora"
    status, command, err = serve()
    assert status == 2
    assert not command
    assert "VLLM_PLUGINS='lora' leaves adafv out" in err
    os.environ["VLLM_PLUGINS"] = "lora,adafv"
    assert serve()[0] == 0


def test_without_vllm(serve, monkeypatch):
    """How to install it, in one line."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, command, err = serve()
    assert status == 2
    assert not command
    assert "pip install 'adafv[vllm]'" in err
    assert err.count("\n") == 1


def test_help_says_what_a_request_may_carry():
    """At once, without torch."""
    code = (
        "import sys; from adafv.cli import main; assert main(['serve', '--help']) == 0\n"
        "assert not {'torch', 'transformers', 'vllm'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    for word in (
        "mm_processor_kwargs",
        "adafv_keep",
        "adafv_tokens",
        "adafv_method",
        "adafv_pin",
        "--cache-mb",
        "--image-cache-mb",
    ):
        assert word in done.stdout


def test_no_secret_is_printed(serve):
    """The first line says what prunes, not how vLLM was called."""
    status, command, err = serve(
        "--api-key", "K-secret", "--hf-token=T-secret", "--tokens", 40, "--cache-mb", 64
    )
    assert status == 0
    assert "K-secret" in command
    assert "secret" not in err
    assert "40 visual tokens an image" in err
    assert "64 MiB" in err


def test_a_port_that_is_taken(serve):
    """Said before a model is loaded for a minute."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, command, err = serve("--host", "127.0.0.1", "--port", port)
    assert status == 2
    assert not command
    assert f"port {port} is taken" in err
    assert serve("--host=127.0.0.1", f"--port={port}")[0] == 0


def test_methods_that_requests_may_name(serve):
    found = options(serve("--methods", "adafv,scope")[1])
    assert found["adafv_methods"] == "adafv,scope"
    assert "adafv_method (adafv,scope)" in serve("--methods", "adafv,scope")[2]
