"""Compute once what the frozen tower sees in each scene, and keep it on disk in shards."""

import json
import math
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import Dinov2Model

from training.photo.cache import CACHE
from training.photo.parts import FEATURE_LAYERS
from training.photo.pictures import read_index
from training.photo.scenes import Thing, compose

__all__ = ["SHARD", "Shard", "encode", "prepare", "shards"]

SHARD = 100  # scenes
# Of ImageNet's channels, as DINOv2 was trained.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Shard:
    """`SHARD` scenes: features (I, N, D) float16, owners (I, GRID, GRID) int8, things of each."""

    def __init__(self, path: Path) -> None:
        # read from the disk as they are needed
        self.features = np.load(path.with_suffix(".npy"), mmap_mode="r")
        meta = json.loads(path.with_suffix(".json").read_text())
        self.owners = np.array(meta["owners"], dtype=np.int8)
        self.things = [_things(scene) for scene in meta["things"]]


def _things(scene: list[dict]) -> tuple[Thing, ...]:
    """Return the things of a scene, read from JSON."""
    return tuple(Thing(**{**thing, "box": tuple(thing["box"])}) for thing in scene)


def encode(tower: Dinov2Model, images: list[Image.Image]) -> Tensor:
    """Return the hidden states that the projector reads, side by side, without CLS: (I, N, D)."""
    states = hidden_states(tower, images)
    return torch.cat([states[layer] for layer in FEATURE_LAYERS], dim=-1)


def hidden_states(tower: Dinov2Model, images: list[Image.Image]) -> list[Tensor]:
    """Return the hidden states of every layer, without CLS: (I, N, D) each."""
    pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images]) / 255
    # (I, 3, PIXELS, PIXELS)
    pixels = torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(STD)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        # (I, 1 + N, D) each
        states = tower(
            pixels.to(tower.device, tower.dtype), output_hidden_states=True
        ).hidden_states
    return [state[:, 1:].float().cpu() for state in states]


def prepare(tower: Dinov2Model, split: str, count: int) -> None:
    """Compute what is missing of the first `count` scenes of a split.

    A shard of fewer scenes, of other pictures or of another layer is made anew.
    """
    folder = CACHE / "features"
    folder.mkdir(parents=True, exist_ok=True)
    made_of = _made_of()
    for shard in tqdm(range(math.ceil(count / SHARD)), desc=f"features {split}"):
        path = folder / f"{split}-{shard:04d}"
        numbers = range(shard * SHARD, min(count, (shard + 1) * SHARD))
        if _is_current(path.with_suffix(".json"), len(numbers), made_of):
            continue
        features = []
        owners = []
        things = []
        # two at once: a batch of one wastes half of the tower's time
        for start in numbers[::2]:
            scenes = [compose(split, number) for number in (start, start + 1) if number in numbers]
            features.append(encode(tower, [scene.image for scene in scenes]).half().numpy())
            for scene in scenes:
                owners.append(scene.owners.tolist())
                things.append([vars(thing) for thing in scene.things])
        np.save(path.with_suffix(".npy"), np.concatenate(features))
        meta = {"made_of": made_of, "owners": owners, "things": things}
        path.with_suffix(".tmp").write_text(json.dumps(meta))
        # last, so that a shard is complete or absent
        path.with_suffix(".tmp").rename(path.with_suffix(".json"))


def _made_of() -> dict[str, Any]:
    """Return what features depend on: the tower's layers, and the pictures of the scenes."""
    pictures = sorted(row["id"] for row in read_index())
    return {"layers": list(FEATURE_LAYERS), "pictures": zlib.crc32("".join(pictures).encode())}


def _is_current(path: Path, scenes: int, made_of: dict[str, Any]) -> bool:
    """Return whether a shard is there with so many scenes or more, of these pictures."""
    if not path.is_file():
        return False
    meta = json.loads(path.read_text())
    return meta.get("made_of") == made_of and len(meta["things"]) >= scenes


def shards(split: str) -> list[Path]:
    """Return the finished shards of a split, of today's layers and pictures.

    Those beyond the number that `prepare` was last asked for may be of earlier ones.
    """
    made_of = _made_of()
    paths = sorted((CACHE / "features").glob(f"{split}-*.json"))
    return [path.with_suffix("") for path in paths if _is_current(path, 0, made_of)]


if __name__ == "__main__":
    from training.photo.parts import tower

    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    prepare(tower(), sys.argv[1], int(sys.argv[2]))
