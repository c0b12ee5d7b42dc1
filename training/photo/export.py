"""Turn a checkpoint into the bridge that ships: projector and LoRA in bfloat16.

python -m training.photo.export runs/first/final.pt bridge.safetensors
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from training.photo.cache import CACHE
from training.photo.parts import FEATURE_LAYERS

__all__ = ["export"]


def export(checkpoint: Path, target: Path) -> None:
    """Write the bridge, with what training knew of itself in the file's metadata."""
    saved = torch.load(checkpoint)
    tensors = {}
    for name, value in saved["bridge"].items():
        tensors[name] = value.to(torch.bfloat16).contiguous()
    # how long it was trained is read back with the bridge
    minutes = round(saved["seconds"] / 60, 1)
    facts = {"step": saved["step"], "minutes": minutes, "feature_layers": FEATURE_LAYERS}
    save_file(tensors, str(target), metadata={"format": "pt", "facts": json.dumps(facts)})
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    export(CACHE / sys.argv[1], Path(sys.argv[2]))
