"""Stage 2: LoRA in the language model and the projector learn to answer. Resumable; run again to
train on.

Packed into one row a step: some scenes, each once, with all of its questions behind it. Every
question sees its scene and nothing of the other questions, at the positions that it would have
alone. Which visual tokens a scene shows is drawn at random and never by a pruning method: mostly a
few of each thing and of the background, sometimes a random subset of the whole grid, sometimes all
of them. Logits are taken at answers alone.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.photo.align import Projector
from training.photo.features import Shard, shards
from training.photo.lora import add_lora, lora_parameters
from training.photo.parts import language_model, tokenizer
from training.photo.places import CACHE
from training.photo.questions import Question, questions
from training.photo.scenes import Thing
from training.photo.text import OWN_ANSWERS

__all__ = ["Packed", "Packer", "Student", "add_options", "answers_right", "train"]

OPENING, TURN, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"
# shares of scenes that show all tokens, or a random subset of the whole grid
ALL, SUBSET = 0.02, 0.1
TEXT = 0.3  # share of steps that hold a text without a picture, too
WARMUP = 20  # steps
SAVE_EVERY = 150  # seconds


@dataclass
class Packed:
    """One row of tokens."""

    ids: Tensor  # (L), -1: a visual token
    features: Tensor  # (V, C)
    positions: Tensor  # (L)
    mask: Tensor  # (L, L), True: may be seen
    targets: Tensor  # (L), -1: none
    spans: list[tuple[Question | None, int, int]]  # where each answer's targets lie


class Packer:
    """Builds rows out of scenes with their questions, and of text."""

    def __init__(self) -> None:
        tok = tokenizer()
        self.encode = lambda text: tok(text, add_special_tokens=False).input_ids
        self.opening, self.turn, self.end = (self.encode(text) for text in (OPENING, TURN, END))
        self.newline = self.encode("\n")
        self.decode = lambda ids: tok.decode(ids, skip_special_tokens=True).strip()

    def pack(
        self,
        scenes: list[tuple[Tensor, list[Question]]],
        texts: list[tuple[list[int], list[int]]] = (),
    ) -> Packed:
        """Pack scenes (features (K, C), questions) and texts (prompt ids, answer ids) into one row."""
        ids: list[int] = []
        positions: list[int] = []
        targets: list[int] = []
        groups: list[
            tuple[int, int]
        ] = []  # of each token: its scene, and its question in the scene (0: what all share)
        spans = []
        group = 0
        for features, asked in scenes:
            shared = [*self.opening, *[-1] * len(features), *self.newline]
            ids += shared
            positions += range(len(shared))
            targets += [-1] * len(shared)
            groups += [(group, 0)] * len(shared)
            for number, question in enumerate(asked, 1):
                prompt = self.encode(question.text) + self.turn
                answer = self.encode(question.answer) + self.end
                spans.append(
                    (question, len(ids) + len(prompt) - 1, len(ids) + len(prompt) - 1 + len(answer))
                )
                ids += prompt + answer
                positions += range(len(shared), len(shared) + len(prompt) + len(answer))
                targets += [-1] * (len(prompt) - 1) + answer + [-1]
                groups += [(group, number)] * (len(prompt) + len(answer))
            group += 1
        for prompt, answer in texts:
            spans.append(
                (None, len(ids) + len(prompt) - 1, len(ids) + len(prompt) - 1 + len(answer))
            )
            ids += prompt + answer
            positions += range(len(prompt) + len(answer))
            targets += [-1] * (len(prompt) - 1) + answer + [-1]
            groups += [(group, 0)] * (len(prompt) + len(answer))
            group += 1
        scene, number = torch.tensor(groups).T  # (L) each
        mask = (
            (scene[:, None] == scene)
            & ((number[:, None] == number) | (number == 0))
            & torch.ones(len(ids), len(ids)).tril().bool()
        )
        features = (
            torch.cat([features for features, _ in scenes]) if scenes else torch.zeros(0, 384)
        )
        return Packed(
            torch.tensor(ids), features, torch.tensor(positions), mask, torch.tensor(targets), spans
        )


class Student(torch.nn.Module):
    """Projector and language model with LoRA."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.projector = Projector()
        self.projector.load_state_dict(
            torch.load(CACHE / "aligned.pt", map_location="cpu")["projector"]
        )
        self.lm = language_model()
        add_lora(self.lm, rank)

    def logits(self, row: Packed) -> Tensor:
        """Logits at the positions that have a target: (T, V), in float32; on a GPU computed in
        bfloat16.
        """
        device = self.lm.device
        ids = row.ids.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            embeds = self.lm.get_input_embeddings()(ids.clamp(min=0))  # (L, D)
            visual = self.projector(row.features.to(device)).to(embeds.dtype)  # (V, D)
            embeds = embeds.masked_scatter((ids < 0)[:, None], visual)
            hidden = self.lm.model(
                inputs_embeds=embeds[None],
                attention_mask=row.mask[None, None].to(device),
                position_ids=row.positions[None].to(device),
                use_cache=False,
            ).last_hidden_state[0]  # (L, D)
            return self.lm.lm_head(hidden[row.targets.to(device) >= 0]).float()

    def trained(self) -> dict[str, Tensor]:
        """What the bridge consists of."""
        return {
            **{f"projector.{name}": value for name, value in self.projector.named_parameters()},
            **lora_parameters(self.lm),
        }

    def load_trained(self, saved: dict[str, Tensor]) -> None:
        """Put a saved bridge in place."""
        with torch.no_grad():
            for name, value in self.trained().items():
                value.copy_(saved[name])


def answers_right(row: Packed, logits: Tensor) -> list[tuple[Question, bool]]:
    """Whether greedy decoding would say each answer to the letter: the best token is the right one
    all along.
    """
    right = torch.zeros(len(row.ids), dtype=torch.bool)
    at = row.targets >= 0
    right[at] = logits.argmax(1).cpu() == row.targets[at]
    return [
        (question, bool(right[start:end].all()))
        for question, start, end in row.spans
        if question is not None
    ]


def shown(owners: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw the visual tokens of a scene, in the order of the grid.

    Owners: (N), the thing on each patch or -1.
    """
    style = random.random()
    if style < ALL:
        return np.arange(len(owners))
    if style < ALL + SUBSET:
        return np.sort(random.permutation(len(owners))[: random.integers(64, 160)])
    some = [
        random.permutation(np.flatnonzero(owners == thing))[: random.integers(2, 6)]
        for thing in range(owners.max() + 1)
    ]
    return np.sort(
        np.concatenate(
            [*some, random.permutation(np.flatnonzero(owners < 0))[: random.integers(2, 10)]]
        )
    )


def example(
    features: np.ndarray,
    owners: np.ndarray,
    things: tuple[Thing, ...],
    random: np.random.Generator,
    count: int,
) -> tuple[Tensor, list[Question]]:
    """One scene with questions that the tokens shown can answer."""
    places = shown(owners.reshape(-1), random)
    seen = set(owners.reshape(-1)[places].tolist())
    asked = [
        question for question in questions(things, random, count) if set(question.about) <= seen
    ]
    return torch.from_numpy(features[places].astype(np.float32)), asked


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be chosen about training."""
    parser.add_argument(
        "--run", default="first", help="name of the folder for checkpoints and the log"
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--steps", type=int, default=10**9, help="stop there, if the minutes allow it"
    )
    parser.add_argument(
        "--decay",
        action="store_true",
        help="let the learning rate fall to 0 over the minutes; final.pt",
    )
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--scenes-a-step", type=int, default=2)
    parser.add_argument("--questions", type=int, default=8, help="a scene")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="more than one waits for the others where cores are shared",
    )


def train(given: argparse.Namespace) -> None:
    """Train for some minutes from the last checkpoint on, with a constant learning rate or a
    falling one.
    """
    folder = CACHE / "runs" / given.run
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(given.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = Student(given.rank).to(device)
    groups = [
        {"params": list(student.projector.parameters()), "rate": given.rate / 3},
        {"params": list(lora_parameters(student.lm).values()), "rate": given.rate},
    ]
    optimiser = torch.optim.AdamW(groups, lr=given.rate, betas=(0.9, 0.98), weight_decay=0.0)
    step, seconds = 0, 0.0
    if (folder / "last.pt").is_file():
        saved = torch.load(folder / "last.pt", map_location=device)
        student.load_trained(saved["bridge"])
        optimiser.load_state_dict(saved["optimiser"])
        step, seconds = saved["step"], saved["seconds"]
    packer, record = Packer(), Record(folder / "log.jsonl")
    own = json.loads(OWN_ANSWERS.read_text())
    loaded = [Shard(path) for split in ("train", "crowd") for path in shards(split)]
    start = last_saved = time.time()
    spent = 0.0
    while spent < 1 and step < given.steps:
        random = np.random.default_rng([given.seed, step])
        scenes = [
            scene
            for _ in range(given.scenes_a_step)
            if (scene := drawn(loaded, random, given.questions))
        ]
        texts = [own[int(random.integers(len(own)))]] if random.random() < TEXT else []
        row = packer.pack(scenes, [(text["prompt"], text["answer"]) for text in texts])
        logits = student.logits(row)
        loss = F.cross_entropy(logits, row.targets[row.targets >= 0].to(device))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(student.trained().values()), 1.0)
        spent = (time.time() - start) / (60 * given.minutes)
        for group in optimiser.param_groups:
            group["lr"] = (
                group["rate"]
                * min(1, (step + 1) / WARMUP)
                * (max(0.0, 1 - spent) if given.decay else 1)
            )
        optimiser.step()
        step += 1
        so_far = seconds + time.time() - start
        record.add(step, so_far, loss.item(), len(row.ids), answers_right(row, logits.detach()))
        if not given.decay and time.time() - last_saved > SAVE_EVERY:
            save(folder / "last.pt", student, optimiser, step, so_far)
            last_saved = time.time()
    save(
        folder / ("final.pt" if given.decay else "last.pt"),
        student,
        optimiser,
        step,
        seconds + time.time() - start,
    )


def drawn(
    loaded: list[Shard], random: np.random.Generator, count: int
) -> tuple[Tensor, list[Question]] | None:
    """One scene at random, with questions; None: it is empty."""
    shard = loaded[int(random.integers(len(loaded)))]
    index = int(random.integers(len(shard.things)))
    things = shard.things[index]
    return (
        example(shard.features[index], shard.owners[index], things, random, count)
        if things
        else None
    )


class Record:
    """The log: a line every `EVERY` steps with means since the last."""

    EVERY = 20

    def __init__(self, path: Path) -> None:
        self.file = path.open("a")
        self._clear()

    def _clear(self) -> None:
        self.right: dict[str, list[bool]] = {}
        self.losses: list[float] = []
        self.tokens = 0

    def add(
        self,
        step: int,
        seconds: float,
        loss: float,
        tokens: int,
        answered: list[tuple[Question, bool]],
    ) -> None:
        """Count one step, and write a line when it is time."""
        self.losses.append(loss)
        self.tokens += tokens
        for question, hit in answered:
            self.right.setdefault(question.type, []).append(hit)
        if step % self.EVERY:
            return
        shares = {
            type_: round(float(np.mean(hits)), 2) for type_, hits in sorted(self.right.items())
        }
        everything = [hit for hits in self.right.values() for hit in hits]
        line = {
            "step": step,
            "minutes": round(seconds / 60, 2),
            "tokens_a_step": self.tokens // len(self.losses),
            "loss": round(float(np.mean(self.losses)), 3),
            "right": round(float(np.mean(everything)), 3),
            "n": len(everything),
        }
        print(json.dumps(line | shares), file=self.file, flush=True)
        self._clear()


def save(
    path: Path, student: Student, optimiser: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    """Write a checkpoint that an interruption cannot halve."""
    bridge = {name: value.detach().cpu() for name, value in student.trained().items()}
    torch.save(
        {"bridge": bridge, "optimiser": optimiser.state_dict(), "step": step, "seconds": seconds},
        path.with_suffix(".tmp"),
    )
    os.replace(path.with_suffix(".tmp"), path)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    add_options(options)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    train(chosen)
