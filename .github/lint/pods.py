"""Check what deploy/ gives to Kubernetes against its schemas: `make lint-deploy`.

The schema of KServe's own fields is inference_service.json; all others have to be a pod's.
"""

import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

VERSION = "1.31"
ROOT = Path(__file__).parents[2]
SCHEMA = json.loads(Path(__file__).with_name("inference_service.json").read_text())
OF_KSERVE = SCHEMA["properties"]["spec"]["properties"]["predictor"]["properties"].keys()


def main() -> None:
    """Raise where a claim, the service or its pod is not valid."""
    *claims, service = yaml.safe_load_all((ROOT / "deploy" / "kserve.yaml").read_text())
    for claim in claims:
        kubernetes_validate.validate(claim, VERSION, strict=True)
    jsonschema.validate(service, SCHEMA)
    pod = pod_of(service)
    kubernetes_validate.validate(pod, VERSION, strict=True)
    check_volumes(pod["spec"], {claim["metadata"]["name"] for claim in claims})


def pod_of(service: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that KServe makes of a service."""
    predictor = service["spec"]["predictor"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": service["metadata"],
        "spec": {name: value for name, value in predictor.items() if name not in OF_KSERVE},
    }


def check_volumes(spec: dict[str, Any], claims: set[str]) -> None:
    """Check that mounts name volumes of the pod, and volumes claims of the same file.

    Raises:
        ValueError: one names what there is not.
    """
    volumes = spec.get("volumes", [])
    names = {volume["name"] for volume in volumes}
    for container in spec["containers"]:
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in names:
                raise ValueError(f"{mount['mountPath']}: no volume is called {mount['name']!r}")
    for volume in volumes:
        claim = volume.get("persistentVolumeClaim")
        if claim and claim["claimName"] not in claims:
            raise ValueError(f"{volume['name']}: no claim is called {claim['claimName']!r}")


if __name__ == "__main__":
    main()
