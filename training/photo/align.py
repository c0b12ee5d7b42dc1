"""Stage 1: teach the projector alone to put each patch where the language model keeps the word for
what it shows.

A patch on a thing is pulled towards the mean input embedding of the thing's name, among all names
(cross-entropy over cosines) and in length (squared error), plus half the embeddings of where it
lies (" left" … " right", " top" … " bottom"); a patch on nothing towards that of " background".
This aligns visual tokens with *input embeddings* on purpose: the recipe's choice, not the tower's.
"""

import copy
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.photo.features import Shard, shards
from training.photo.names import NOUNS
from training.photo.parts import language_model, tokenizer
from training.photo.places import CACHE
from training.photo.scenes import GRID

__all__ = ["Projector", "align"]

PATCHES = 12  # of each thing, in each pass over a scene
TEMPERATURE = 0.06
POSITION = 0.5
RATE = 2e-3
SAVED = 5  # epochs


class Projector(nn.Module):
    """LLaVA's projector; `fold` moves the standardisation of its input into its first layer."""

    def __init__(self, vision: int = 384, text: int = 576) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision, text)
        self.linear_2 = nn.Linear(text, text)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(features)))

    @torch.no_grad()
    def fold(self, mean: Tensor, std: Tensor) -> None:
        self.linear_1.bias -= self.linear_1.weight @ (mean / std)
        self.linear_1.weight /= std


def word_embeddings(words: list[str]) -> Tensor:
    """Mean input embedding of each word or phrase, as it stands inside a sentence: (W, D)."""
    table, tok = language_model().get_input_embeddings().weight.detach(), tokenizer()
    return torch.stack(
        [table[tok(" " + word, add_special_tokens=False).input_ids].mean(0) for word in words]
    )


def patches_of(
    shard: Shard, random: np.random.Generator, names: dict[str, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw patches: features (P, C), names (P; the last: background), coordinates from 0 to 1 (P,
    2; x, y).
    """
    rows, places, labels = [], [], []
    for scene, things in enumerate(shard.things):
        owners = shard.owners[scene].reshape(-1)  # (N,)
        for thing in range(-1, len(things)):
            own = np.flatnonzero(owners == thing)
            some = random.permutation(own)[:PATCHES]
            rows += [scene] * len(some)
            places += some.tolist()
            labels += [names[things[thing].name] if thing >= 0 else len(names)] * len(some)
    features = torch.from_numpy(shard.features[rows, places].astype(np.float32))
    at = torch.tensor(places)
    return features, torch.tensor(labels), torch.stack([at % GRID, at // GRID], 1) / (GRID - 1)


def align(epochs: int = 40, seed: int = 0) -> None:
    """Train for some passes over the patches, from the last projector if there is one, and save it
    every `SAVED`.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    words = sorted(NOUNS)
    names = {word: index for index, word in enumerate(words)}
    mean_word = language_model().get_input_embeddings().weight.detach().mean(0)
    targets = word_embeddings([*words, "background"]) - mean_word  # (W + 1, D)
    left, right, top, bottom = word_embeddings(["left", "right", "top", "bottom"]) - mean_word
    length = targets.norm(dim=1).mean()
    loaded = [Shard(path) for split in ("train", "crowd") for path in shards(split)]
    parts = [patches_of(shard, random, names) for shard in loaded]
    features, labels, places = (torch.cat(part) for part in zip(*parts, strict=True))
    mean, std = features.mean(0), features.std(0)
    projector = Projector()
    if (CACHE / "aligned.pt").is_file():
        before = torch.load(CACHE / "aligned.pt")
        projector.load_state_dict(before["unfolded"])
        mean, std = before["mean"], before["std"]
    optimiser = torch.optim.AdamW(projector.parameters(), lr=RATE, weight_decay=0.01)
    for epoch in range(1, epochs + 1):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - (epoch - 1) / epochs)
        for batch in torch.randperm(len(labels)).split(1024):
            out = projector((features[batch] - mean) / std)  # (B, D)
            x, y = places[batch].T[..., None]  # (B, 1) each
            position = (1 - x) * left + x * right + (1 - y) * top + y * bottom  # (B, D)
            logits = (
                F.normalize(out - POSITION * position, dim=1)
                @ F.normalize(targets, dim=1).T
                / TEMPERATURE
            )
            naming = F.cross_entropy(logits, labels[batch])
            squared = ((out - targets[labels[batch]] - POSITION * position) ** 2).sum(
                1
            ).mean() / length**2
            optimiser.zero_grad()
            (naming + squared).backward()
            optimiser.step()
        if epoch % SAVED == 0 or epoch == epochs:
            save(projector, mean, std, mean_word)
            print(
                f"epoch {epoch}: naming {naming.item():.3f}, squared {squared.item():.3f}",
                flush=True,
            )
    for split in ("seen", "unseen"):
        if found := shards(split):
            held = [patches_of(Shard(path), random, names) for path in found]
            vectors, truth, at = (torch.cat(part) for part in zip(*held, strict=True))
            on_things = truth < len(words)
            x, y = at.T[..., None]
            position = (1 - x) * left + x * right + (1 - y) * top + y * bottom
            with torch.no_grad():
                out = projector((vectors - mean) / std) - POSITION * position
                scores = F.normalize(out, dim=1) @ F.normalize(targets, dim=1).T
            best = scores.topk(5, dim=1).indices
            hits = (best == truth[:, None])[on_things].float()  # (P, 5)
            first, any_of_five = hits[:, 0].mean().item(), hits.sum(1).mean().item()
            print(f"{split}: patches {len(hits)}, top-1 {first:.3f}, top-5 {any_of_five:.3f}")


@torch.no_grad()
def save(projector: Projector, mean: Tensor, std: Tensor, mean_word: Tensor) -> None:
    """Write the projector as LLaVA will use it, and as training resumes from."""
    ready = copy.deepcopy(projector)
    ready.fold(mean, std)
    ready.linear_2.bias += mean_word
    saved = {
        "projector": ready.state_dict(),
        "unfolded": projector.state_dict(),
        "mean": mean,
        "std": std,
    }
    torch.save(saved, CACHE / "aligned.tmp")
    (CACHE / "aligned.tmp").replace(CACHE / "aligned.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    align(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
