"""Which of the tower's layers tells things apart: the same pictures in two crowds each, at other
sizes and places.

    python -m training.photo.layers

Prints, for each hidden state, how often the nearest thing of the first crowds (cosine, of the mean
over its patches and patch by patch) shows the same picture.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import Dinov2Model

from training.photo.features import hidden_states
from training.photo.parts import PARTS
from training.photo.scenes import compose

__all__ = ["nearest_is_right"]

CROWDS = 14


def nearest_is_right(
    first: list[tuple[str, Tensor]], second: list[tuple[str, Tensor]]
) -> tuple[float, float]:
    """How often the nearest of the first is the same picture: by the mean of a thing's patches, and
    by patch.

    Args:
        first, second: picture and features (P, C) of each thing.
    """
    patches = torch.cat([features for _, features in first])
    mean, std = patches.mean(0), patches.std(0)
    number = {picture: index for index, (picture, _) in enumerate(first)}
    second = [(picture, features) for picture, features in second if picture in number]

    def unit(features: Tensor) -> Tensor:
        return F.normalize((features - mean) / std, dim=-1)

    def labels(things: list[tuple[str, Tensor]]) -> Tensor:
        return torch.tensor([number[picture] for picture, features in things for _ in features])

    known = unit(torch.stack([features.mean(0) for _, features in first]))
    asked = unit(torch.stack([features.mean(0) for _, features in second]))
    wanted = torch.tensor([number[picture] for picture, _ in second])
    by_thing = (asked @ known.T).argmax(1) == wanted
    near = (unit(torch.cat([features for _, features in second])) @ unit(patches).T).argmax(1)
    by_patch = labels(first)[near] == labels(second)
    return by_thing.float().mean().item(), by_patch.float().mean().item()


def main() -> None:
    torch.set_num_threads(1)
    tower = Dinov2Model.from_pretrained(PARTS / "tower").eval()
    depth = len(tower.encoder.layer) + 1
    seen: list[list[list[tuple[str, Tensor]]]] = [[[], []] for _ in range(depth)]
    for number in tqdm(range(CROWDS), desc="crowds"):
        for again in range(2):
            scene = compose("crowd", number, again)
            states = hidden_states(tower, [scene.image])
            for index, thing in enumerate(scene.things):
                places = np.flatnonzero(scene.owners.reshape(-1) == index)
                for layer in range(depth):
                    if len(places):
                        seen[layer][again].append((thing.picture, states[layer][0, places]))
    print("hidden state  by thing  by patch")
    for layer, (first, second) in enumerate(seen):
        by_thing, by_patch = nearest_is_right(first, second)
        print(f"{layer:12}  {by_thing:8.3f}  {by_patch:8.3f}")


if __name__ == "__main__":
    main()
