"""Teach the projector alone to give each patch the embedding of the word for it: stage 1.

A patch on a thing is pulled towards the mean input embedding of the thing's name: among all names
(cross-entropy over cosines), alone (one minus the cosine) and in length, for a squared error would
answer doubt with short vectors, which the language model does not read. A quarter of the
embeddings of its position (" left" … " right", " top" … " bottom") is added; a patch on nothing is
pulled towards " background".
This aligns visual tokens with *input embeddings* on purpose: the recipe's choice, not the tower's.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adafv.models.photo.assemble import read_bridge
from adafv.utils.files import differences
from training.photo.cache import CACHE
from training.photo.features import Shard, shards
from training.photo.names import NOUNS
from training.photo.parts import FEATURE_LAYERS, VISION, language_model, tokenizer
from training.photo.scenes import GRID
from training.photo.widen import widened

__all__ = ["SPLITS", "Alignment", "Projector", "align"]

PATCHES = 12  # of each thing, in each pass over a scene
TEMPERATURE = 0.06
POSITION = 0.25  # weight of the words for a patch's position
RATE = 2e-3
SAVED = 5  # epochs
BATCH = 1024  # patches
SPLITS = ("train", "crowd", "dull")  # of the scenes that are trained on


class Projector(nn.Module):
    """LLaVA's projector; `fold` moves the standardisation of its input into its first layer."""

    def __init__(self, vision: int = VISION * len(FEATURE_LAYERS), text: int = 576) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision, text)
        self.linear_2 = nn.Linear(text, text)

    def forward(self, features: Tensor) -> Tensor:
        """Project features (…, vision) to (…, text)."""
        return self.linear_2(F.gelu(self.linear_1(features)))

    @torch.no_grad()
    def unfold(self, mean: Tensor, std: Tensor) -> None:
        """Undo `fold`: the input is standardised from now on."""
        self.linear_1.bias += self.linear_1.weight @ mean
        self.linear_1.weight *= std

    @torch.no_grad()
    def fold(self, mean: Tensor, std: Tensor) -> None:
        """Take over the standardisation of features: W ((x − mean) / std) becomes W' x + b'."""
        self.linear_1.bias -= self.linear_1.weight @ (mean / std)
        self.linear_1.weight /= std


def word_embeddings(words: list[str]) -> Tensor:
    """Return the mean input embedding of each word or phrase inside a sentence: (W, D)."""
    table = language_model().get_input_embeddings().weight.detach()
    tok = tokenizer()
    means = []
    for word in words:
        # with a blank before it: another token than at the beginning
        ids = tok(" " + word, add_special_tokens=False).input_ids
        means.append(table[ids].mean(0))
    return torch.stack(means)


def patches_of(
    shard: Shard, random: np.random.Generator, names: dict[str, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw patches of a shard, as many of each thing, and of the background of each scene.

    Returns:
        Features (P, D) in float16, names (P,) of which the last is the background, and x and y
        (P, 2), from 0 to 1.
    """
    rows = []
    indices = []
    labels = []
    for scene, things in enumerate(shard.things):
        owners = shard.owners[scene].reshape(-1)  # (N,)
        for thing in range(-1, len(things)):
            # -1 stands for the background
            own = np.flatnonzero(owners == thing)
            some = random.permutation(own)[:PATCHES]
            rows += [scene] * len(some)
            indices += some.tolist()
            label = names[things[thing].name] if thing >= 0 else len(names)
            labels += [label] * len(some)
    features = torch.from_numpy(shard.features[rows, indices])
    at = torch.tensor(indices)
    return features, torch.tensor(labels), torch.stack([at % GRID, at // GRID], 1) / (GRID - 1)


class Alignment:
    """Patches of all scenes that are trained on, and how far a projector is from their words.

    Attributes:
        features, labels, at: of the patches, see `patches_of`.
        mean_word: (D,), around which all directions are taken.
    """

    def __init__(self, random: np.random.Generator) -> None:
        # the order of names is that of their numbers
        words = sorted(NOUNS)
        self.names = {word: index for index, word in enumerate(words)}

        # what patches are pulled towards: the words, around their mean
        self.mean_word = language_model().get_input_embeddings().weight.detach().mean(0)
        targets = word_embeddings([*words, "background"]) - self.mean_word  # (W + 1, D)
        sides = word_embeddings(["left", "right", "top", "bottom"]) - self.mean_word
        self.towards = Targets(targets, *sides)
        paths = [path for split in SPLITS for path in shards(split)]
        self.features, self.labels, self.at = _all_patches(paths, random, self.names)

    def losses(self, out: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return how far projected patches are from their words.

        Args:
            out: (P, D), around `mean_word`.
            rows: (P,) indices of the patches.

        Returns:
            Cross-entropy among all names, one minus the cosine with the right one, and the squared
            difference of their lengths as a share.
        """
        labels = self.labels[rows]
        # without the part that says where the patch lies
        named = out - POSITION * self.towards.position(self.at[rows])  # (P, D)
        logits = self.towards.cosines(named) / TEMPERATURE  # (P, W + 1)
        naming = F.cross_entropy(logits, labels)
        target = self.towards.names[labels]  # (P, D)
        direction = 1 - F.cosine_similarity(named, target).mean()
        length = (named.norm(dim=1) / target.norm(dim=1) - 1).square().mean()
        return naming, direction, length

    @torch.no_grad()
    def hits(self, project: Callable[[Tensor], Tensor], split: str) -> Tensor:
        """Return for each patch on a thing of a split which of the five nearest names is right.

        Args:
            project: features (P, vision) to (P, D), around `mean_word`.

        Returns:
            (P, 5), at most one of a row is 1.
        """
        features, truth, at = _all_patches(shards(split), np.random.default_rng(0), self.names)
        named = project(features.float()) - POSITION * self.towards.position(at)
        best = self.towards.cosines(named).topk(5, dim=1).indices  # (P, 5)
        return (best == truth[:, None])[truth < len(self.names)].float()


def align(epochs: int = 40, seed: int = 0, begin: Path | None = None, rate: float = RATE) -> None:
    """Train for some passes over the patches, and save the projector at the end: aligned.pt.

    It starts from the projector of aligned.pt, if there is one, or else of a bridge. Every `SAVED`
    passes all of it is kept in aligning.pt, from which an interrupted call goes on.

    Args:
        epochs: passes.
        seed: of the patches, of their order and of a projector from nothing.
        begin: a bridge, perhaps of fewer layers of the tower.
        rate: of learning, at the first pass.

    Raises:
        ValueError: the interrupted call had other settings, or the bridge cannot be read.
    """
    torch.manual_seed(seed)
    alignment = Alignment(np.random.default_rng(seed))

    # the patches, standardised as those that the projector began with
    mean = alignment.features.float().mean(0)
    std = alignment.features.float().std(0)
    projector = Projector()
    optimiser = torch.optim.AdamW(projector.parameters(), lr=rate, weight_decay=0.01)
    settings = {"epochs": epochs, "seed": seed, "rate": rate, "patches": len(alignment.labels)}
    done = 0
    if (CACHE / "aligning.pt").is_file():
        before = torch.load(CACHE / "aligning.pt")
        if was := differences(before["settings"], settings):
            path = CACHE / "aligning.pt"
            raise ValueError(f"stage 1 was interrupted with {was}: pass the same, or delete {path}")
        optimiser.load_state_dict(before["optimiser"])
        done = before["epoch"]
    elif (CACHE / "aligned.pt").is_file():
        before = torch.load(CACHE / "aligned.pt")
    else:
        if begin is not None:
            projector.load_state_dict(_of_bridge(begin, projector))
            projector.unfold(mean, std)
            projector.linear_2.bias.data -= alignment.mean_word
        before = {"unfolded": projector.state_dict(), "mean": mean, "std": std}
    projector.load_state_dict(before["unfolded"])
    mean = before["mean"]
    std = before["std"]

    for epoch in range(done + 1, epochs + 1):
        # the learning rate falls linearly
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - (epoch - 1) / epochs)
        # a pass is a function of seed and number
        order = np.random.default_rng([seed, epoch]).permutation(len(alignment.labels))
        for batch in torch.from_numpy(order).split(BATCH):
            out = projector((alignment.features[batch].float() - mean) / std)  # (P, D)
            naming, direction, length = alignment.losses(out, batch)
            optimiser.zero_grad()
            (naming + direction + length).backward()
            optimiser.step()
        if epoch % SAVED == 0 or epoch == epochs:
            progress = {"epoch": epoch, "settings": settings, "optimiser": optimiser.state_dict()}
            save(projector, mean, std, alignment.mean_word, progress)
            losses = (naming.item(), direction.item(), length.item())
            said = "naming {:.3f}, direction {:.3f}, length {:.3f}".format(*losses)
            print(f"epoch {epoch}: {said}", flush=True)
    # by its name it is finished
    (CACHE / "aligning.pt").replace(CACHE / "aligned.pt")

    # how often the right name is the nearest, or among five, on scenes that were not trained on
    for split in ("seen", "unseen"):
        if not shards(split):
            continue
        hits = alignment.hits(lambda features: projector((features - mean) / std), split)
        first = hits[:, 0].mean().item()
        any_of_five = hits.sum(1).mean().item()
        print(f"{split}: patches {len(hits)}, top-1 {first:.3f}, top-5 {any_of_five:.3f}")


def _of_bridge(path: Path, projector: Projector) -> dict[str, Tensor]:
    """Return the projector's part of a bridge."""
    own = {f"projector.{name}": value for name, value in projector.state_dict().items()}
    found = widened(read_bridge(path)[0], own)
    return {name.removeprefix("projector."): value for name, value in found.items()}


class Targets:
    """Embeddings that patches are pulled towards: of names (W + 1, D), and of four sides (D,)."""

    def __init__(
        self, names: Tensor, left: Tensor, right: Tensor, top: Tensor, bottom: Tensor
    ) -> None:
        self.names = names
        self.sides = (left, right, top, bottom)

    def position(self, at: Tensor) -> Tensor:
        """Return a mixture of the sides' embeddings (P, D) for x and y (P, 2)."""
        left, right, top, bottom = self.sides
        x, y = at.T[..., None]  # (P, 1) each
        return (1 - x) * left + x * right + (1 - y) * top + y * bottom

    def cosines(self, named: Tensor) -> Tensor:
        """Return the cosine of patches (P, D) to every name: (P, W + 1)."""
        return F.normalize(named, dim=1) @ F.normalize(self.names, dim=1).T


def _all_patches(
    paths: list[Path], random: np.random.Generator, names: dict[str, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw patches of several shards, see `patches_of`."""
    parts = [patches_of(Shard(path), random, names) for path in paths]
    features = torch.cat([part[0] for part in parts])
    labels = torch.cat([part[1] for part in parts])
    at = torch.cat([part[2] for part in parts])
    return features, labels, at


@torch.no_grad()
def save(
    projector: Projector, mean: Tensor, std: Tensor, mean_word: Tensor, progress: dict[str, Any]
) -> None:
    """Write the projector as LLaVA will use it, and all that training resumes from."""
    # LLaVA has no standardisation of features
    ready = copy.deepcopy(projector)
    ready.fold(mean, std)
    ready.linear_2.bias += mean_word
    saved = {
        "projector": ready.state_dict(),
        "unfolded": projector.state_dict(),
        "mean": mean,
        "std": std,
        **progress,
    }
    # written beside it, then renamed
    torch.save(saved, CACHE / "aligning.tmp")
    (CACHE / "aligning.tmp").replace(CACHE / "aligning.pt")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("epochs", type=int, nargs="?", default=40)
    options.add_argument("--begin", type=Path, help="bridge.safetensors whose projector goes on")
    options.add_argument("--rate", type=float, default=RATE)
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    align(given.epochs, begin=given.begin, rate=given.rate)
