"""Find which of the tower's layers tells things apart.

The same pictures are shown in two crowds each, at other sizes and positions.

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
    """Return how often the nearest of the first things shows the same picture.

    Args:
        first, second: picture and features (P, D) of each thing.

    Returns:
        By the mean of a thing's patches, and by patch.
    """
    # standardised, for a few channels are far larger than the others
    patches = torch.cat([features for _, features in first])
    mean = patches.mean(0)
    std = patches.std(0)
    number = {picture: index for index, (picture, _) in enumerate(first)}
    second = [(picture, features) for picture, features in second if picture in number]

    def unit(features: Tensor) -> Tensor:
        """Return standardised features of length 1."""
        return F.normalize((features - mean) / std, dim=-1)

    def labels(things: list[tuple[str, Tensor]]) -> Tensor:
        """Return the number of the picture that each patch shows."""
        numbers = []
        for picture, features in things:
            numbers += [number[picture]] * len(features)
        return torch.tensor(numbers)

    # thing by thing: (second, first) cosines
    known = unit(torch.stack([features.mean(0) for _, features in first]))
    looked_for = unit(torch.stack([features.mean(0) for _, features in second]))
    wanted = torch.tensor([number[picture] for picture, _ in second])
    by_thing = (looked_for @ known.T).argmax(1) == wanted

    # patch by patch
    others = torch.cat([features for _, features in second])
    nearest = (unit(others) @ unit(patches).T).argmax(1)
    by_patch = labels(first)[nearest] == labels(second)
    return by_thing.float().mean().item(), by_patch.float().mean().item()


def main() -> None:
    """Print a line for each hidden state of the tower."""
    torch.set_num_threads(1)
    tower = Dinov2Model.from_pretrained(PARTS / "tower").eval()
    depth = len(tower.encoder.layer) + 1
    # of each layer, the things of the first crowds and of the second
    first: list[list[tuple[str, Tensor]]] = [[] for _ in range(depth)]
    second: list[list[tuple[str, Tensor]]] = [[] for _ in range(depth)]
    for number in tqdm(range(CROWDS), desc="crowds"):
        for again, seen in enumerate((first, second)):
            scene = compose("crowd", number, again)
            states = hidden_states(tower, [scene.image])
            for index, thing in enumerate(scene.things):
                patches = np.flatnonzero(scene.owners.reshape(-1) == index)
                # a thing may be covered completely by later ones
                if not len(patches):
                    continue
                for layer in range(depth):
                    seen[layer].append((thing.picture, states[layer][0, patches]))
    print("hidden state  by thing  by patch")
    for layer in range(depth):
        by_thing, by_patch = nearest_is_right(first[layer], second[layer])
        print(f"{layer:12}  {by_thing:8.3f}  {by_patch:8.3f}")


if __name__ == "__main__":
    main()
