"""Check what vLLM's chart makes of deploy/production-stack.yaml: `make lint-chart`."""

import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from pods import ROOT, VERSION

VALUES = ROOT / "deploy" / "production-stack.yaml"


def main(path: str) -> None:
    """Raise where an object is not valid, or the server is not started as the values say."""
    objects = [found for found in yaml.safe_load_all(Path(path).read_text()) if found]
    for found in objects:
        kubernetes_validate.validate(found, VERSION, strict=True)
    check_server(objects, yaml.safe_load(VALUES.read_text())["servingEngineSpec"])


def check_server(objects: list[dict[str, Any]], engine: dict[str, Any]) -> None:
    """Check that the chart passes on the server's flags, variables and probes.

    Raises:
        ValueError: it drops one.
    """
    [model] = engine["modelSpec"]
    [deployment] = [
        found
        for found in objects
        if found["kind"] == "Deployment" and found["metadata"]["labels"].get("model")
    ]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    flags = model["vllmConfig"]["extraArgs"]
    if container["command"][-len(flags) :] != flags:
        raise ValueError(f"the chart starts {container['command']}, without {flags} at the end")
    for variable in model["env"]:
        if variable not in container["env"]:
            raise ValueError(f"the chart drops the variable {variable}")
    for name in ("startupProbe", "readinessProbe"):
        if not engine[name].items() <= container[name].items():
            raise ValueError(f"the chart has {container[name]} for {name}, not {engine[name]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
