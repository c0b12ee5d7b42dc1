"""Protects a server as vLLM's chart starts it: with a key, and a folder for the metrics of several
processes.
"""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml

pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")

from server import CHAT, about, blank, data_url, metrics, pruned, text

from adafv import embedded
from adafv.core.config import DEFAULT_METHOD
from adafv.demo.server import FLAGS, Server, running
from adafv.integrations.vllm.api_keys import OPEN
from adafv.integrations.vllm.counters import NAMES

KEY = "right"
VALUES = Path(__file__).parents[2] / "deploy" / "production-stack.yaml"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """The embedded model with the chart's flags and variables."""
    [model] = yaml.safe_load(VALUES.read_text())["servingEngineSpec"]["modelSpec"]
    variables = {variable["name"]: variable["value"] for variable in model["env"]}
    variables["VLLM_API_KEY"] = KEY
    # which the chart sets always
    variables["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path_factory.mktemp("prometheus"))
    # vLLM's own command wants to know its version, which a build for the CPU has not
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.launchers.api_server.entry"]
    command += ["--model", str(embedded.MODEL_DIR), "--served-model-name", "embedded"]
    command += [*model["vllmConfig"]["extraArgs"], *FLAGS]
    with running(command, **variables) as started:
        yield started


def status(
    server: Server, path: str, key: str | None = None, body: object = None, method: str = "POST"
) -> int:
    """The status of an answer to a request with a key, or without one."""
    request = Request(server.url + path, json.dumps(body).encode(), method=method)
    request.add_header("Content-Type", "application/json")
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urlopen(request, timeout=120) as answer:
            return answer.status
    except HTTPError as refusal:
        with refusal:
            return refusal.code


def endpoints(server: Server) -> list[tuple[str, str]]:
    """Method and path of everything that the server says it has."""
    request = Request(f"{server.url}/openapi.json", headers={"Authorization": f"Bearer {KEY}"})
    with urlopen(request, timeout=60) as answer:
        paths = json.load(answer)["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def test_nothing_but_the_servers_health_is_told_without_the_key(server):
    """By itself vLLM asks for it at /v1 and a few other paths, and answers at /invocations."""
    found = endpoints(server)
    assert {"/invocations", "/tokenize", "/health", "/metrics"} <= {path for _, path in found}
    for method, path in found:
        for key in (None, "wrong"):
            assert (status(server, path, key, {}, method) == 401) == (path not in OPEN), path
    for path in ("/docs", "/openapi.json", "/metrics/../invocations", "/no-such-page"):
        assert status(server, path, method="GET") == 401
    body = pruned(adafv_keep=0.5)
    for path in (CHAT, "/invocations", "/tokenize"):
        assert status(server, path, body=body) == 401
        assert status(server, path, KEY, body) == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_health_and_metrics_need_no_key(server, path):
    """Kubernetes and Prometheus ask without one."""
    assert status(server, path, method="GET") == 200


def test_metrics_of_several_processes_have_our_names(server):
    """Counters lie in files of the folder then, and are added up when somebody asks."""
    before = metrics(server)
    for words in ("is it red?", "is it blue?"):
        body = about(data_url(blank(64, 48)), words, mm_processor_kwargs={"adafv_tokens": 20})
        assert status(server, CHAT, KEY, body) == 200
    assert status(server, CHAT, KEY, pruned(adafv_keep=3)) == 400
    after = metrics(server)
    found = {name: value - before.get(name, 0) for name, value in after.items()}
    assert found[f"adafv:visual_tokens_kept_total {DEFAULT_METHOD}"] == 40
    assert found[f"adafv:visual_tokens_seen_total {DEFAULT_METHOD}"] > 400
    assert found[f"adafv:kept_share_count {DEFAULT_METHOD}"] == 2
    assert found["adafv:requests_refused_total options"] == 1
    assert found["adafv:images_encoded_total"] == found["adafv:encodings_reused_total"] == 1
    assert found["adafv:selection_seconds_count"] == 2
    assert 0 < found["adafv:selection_seconds_sum"] < 60
    assert all(any(name.startswith(ours) for name in after) for ours in NAMES)


def test_nothing_that_a_request_carries_is_unpickled(server, tmp_path):
    """Neither as an image or a clip, nor where vLLM would take tensors."""
    made = tmp_path / "made"
    # a pickle that calls os.mkdir
    harm = base64.b64encode(f"cos\nmkdir\n(V{made}\ntR.".encode()).decode()
    sent = [(CHAT, about(f"data:{kind};base64,{harm}")) for kind in ("image/png", "image/x-pt")]
    for kind in ("image_embeds", "video_embeds", "audio_embeds"):
        content = [{"type": kind, kind: harm}, {"type": "text", "text": "what?"}]
        message = {"role": "user", "content": content}
        sent.append((CHAT, text("") | {"messages": [message]}))
    sent.append(("/v1/completions", {"model": "embedded", "prompt_embeds": harm, "max_tokens": 1}))
    for path, body in sent:
        assert 400 <= status(server, path, KEY, body) < 500, body
    assert not made.exists()
    assert server.healthy()
