"""Check deploy/kserve.yaml against the schema of Kubernetes: `make lint-deploy`."""

from pathlib import Path

import kubernetes_validate
import yaml

VERSION = "1.31"
ROOT = Path(__file__).parents[2]


def main() -> None:
    """Raise where the pod that KServe would make is not valid."""
    service = yaml.safe_load((ROOT / "deploy" / "kserve.yaml").read_text())
    predictor = service["spec"]["predictor"]
    names = ("containers", "terminationGracePeriodSeconds")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": service["metadata"],
        "spec": {name: predictor[name] for name in names},
    }
    kubernetes_validate.validate(pod, VERSION, strict=True)


if __name__ == "__main__":
    main()
