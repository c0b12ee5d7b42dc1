"""Protects the flags in deploy/: vLLM and `adafv serve` know them, and they say what it says."""

import inspect
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from vllm.benchmarks.serve import add_cli_args
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.cli.serve import make_arg_parser
from vllm.entrypoints.serve.utils import api_utils
from vllm.utils.argparse_utils import FlexibleArgumentParser

from adafv.cli.serve import BUDGET, DRAIN, MAX_IMAGES, VARIABLES, _command
from adafv.core.config import DEFAULT_METHOD
from adafv.embedded import MODEL_DIR
from adafv.integrations.vllm import FOLLOWS
from adafv.integrations.vllm.options import VLLMOptions
from deploy import ray_serve

DEPLOY = Path(__file__).parents[2] / "deploy"
FrontendArgs = inspect.getmodule(make_arg_parser).FrontendArgs
"""Beside that function, in another module from vLLM 0.33 on."""


@pytest.fixture(scope="module")
def parser() -> FlexibleArgumentParser:
    return make_arg_parser(FlexibleArgumentParser())


def test_the_chart_starts_vllm_as_adafv_serve_does(parser):
    """Flags and variables; the chart knows nothing of `adafv serve`."""
    values = yaml.safe_load((DEPLOY / "production-stack.yaml").read_text())
    [model] = values["servingEngineSpec"]["modelSpec"]
    given = parser.parse_args(["--model", model["modelURL"], *model["vllmConfig"]["extraArgs"]])
    options = {"adafv_keep": 0.1}
    limits = {"image": MAX_IMAGES, "video": 0}
    # less than the chart's pods have, see tests/test_deploy.py
    drain = ["--shutdown-timeout", "20"]
    command = _command(model["modelURL"], drain, options, limits, embedded=False)
    ours = parser.parse_args(command[4:])
    assert vars(given) == vars(ours)
    variables = {one["name"]: one["value"] for one in model["env"]}
    assert {**VARIABLES, **FOLLOWS}.items() <= variables.items()


def test_what_vllm_logs_of_our_command_holds_no_key(parser, monkeypatch):
    """Neither of its two lines: the flags that are set, and the engine's configuration."""
    keys = ["--api-key", "K-secret", "--hf-token", "T-secret"]
    command = _command(
        str(MODEL_DIR), keys, {"adafv_keep": 0.1}, {"image": MAX_IMAGES}, embedded=True
    )
    given = parser.parse_args(command[4:])
    said: list[str] = []
    monkeypatch.setattr(api_utils.logger, "info", lambda line, *of: said.append(line % of))
    api_utils.log_non_default_args(given)
    assert "'api_key': '***'" in said[0]
    assert "'hf_token': '***'" in said[0]
    said.append(str(AsyncEngineArgs.from_cli_args(given).create_engine_config()))
    assert "secret" not in " ".join(said)


@pytest.mark.parametrize("name", ["compose", "kserve"])
def test_words_behind_adafv_serve(parser, name):
    words = {"compose": compose_words, "kserve": kserve_words}[name]()
    ours = [word for word in words if word.startswith("--keep=")]
    assert ours == ["--keep=0.1"]
    parser.parse_args([word for word in words if word not in ours])


def test_the_commands_of_the_page_on_serving_are_read(parser):
    """Plain vLLM as the page starts it, which sets what `adafv serve` does, and vLLM's client."""
    page = (DEPLOY.parent / "docs" / "serving.md").read_text()
    commands = []
    for block in re.findall(r"(?:^    .*\n)+", page, re.MULTILINE):
        commands.append(shlex.split(block.replace("\\\n", " "), comments=True))
    variables = [f"{name}={value}" for name, value in {**VARIABLES, **FOLLOWS}.items()]
    begin = [*variables, "vllm", "serve"]
    [plain] = [words for words in commands if words[: len(begin)] == begin]
    model, *flags = plain[len(begin) :]
    given = parser.parse_args(["--model", model, *flags])
    limits = {"image": MAX_IMAGES, "video": 0}
    command = _command(model, flags[:2], {"adafv_keep": 0.1}, limits, embedded=False)
    assert vars(given) == vars(parser.parse_args(command[4:]))

    [bench] = [words for words in commands if words[:3] == ["vllm", "bench", "serve"]]
    client = FlexibleArgumentParser()
    add_cli_args(client)
    assert client.parse_args(bench[3:]).extra_body == {"mm_processor_kwargs": {"adafv_keep": 1}}


def compose_words() -> list[str]:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    program, command, *words = compose["services"]["adafv"]["command"]
    assert (program, command) == (".venv-vllm/bin/adafv", "serve")
    return words


def kserve_words() -> list[str]:
    *_, service = yaml.safe_load_all((DEPLOY / "kserve.yaml").read_text())
    model, *words = service["spec"]["predictor"]["containers"][0]["args"]
    return ["--model", model, *words]


def test_ray_gives_the_engine_what_it_knows():
    """`ray[llm]` shares its options out between the two by these names."""
    known = {x.name for args in (AsyncEngineArgs, FrontendArgs) for x in fields(args)}
    engine = ray_serve.engine_options(0.1)
    assert set(engine) <= known
    read = VLLMOptions.of_server(engine["mm_processor_kwargs"])
    assert (read.config.keep, read.config.method, read.only) == (0.1, DEFAULT_METHOD, True)
    assert json.dumps(engine)
    with pytest.raises(ValueError, match="between the layers"):
        ray_serve.engine_options(0.6, "fastv")
    made = AsyncEngineArgs(ec_manager_config=engine["ec_manager_config"])
    manager = BUDGET["encoder_cache_manager_cls"]
    assert made.ec_manager_config.encoder_cache_manager_cls == manager
    assert engine["enable_prompt_tokens_details"]
    assert ray_serve.environment() == VARIABLES
    assert ray_serve.deployment(2)["graceful_shutdown_timeout_s"] == DRAIN
