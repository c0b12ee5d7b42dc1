"""Teach LoRA in the language model, and the projector, to answer: stage 2.

Run again to train on. Packed into one row a step: some scenes, each once, with all of its questions
behind it. Every question sees its scene and nothing of the other questions, at the positions that
it would have alone. Which visual tokens a scene shows is drawn at random and never by a pruning
method: mostly a few of each thing and of the background, sometimes a random subset of the whole
grid, sometimes all of them. Logits are taken at answers alone.
"""

import argparse
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from adafv.models.photo.assemble import read_bridge
from adafv.utils.files import differences
from training.photo.align import SPLITS, Alignment, Projector
from training.photo.cache import CACHE
from training.photo.features import Shard, shards
from training.photo.lora import add_lora, lora_parameters, without_lora
from training.photo.parts import FEATURE_LAYERS, VISION, language_model, tokenizer
from training.photo.questions import TYPES, Question, questions
from training.photo.scenes import Thing
from training.photo.text import OWN_ANSWERS, passages
from training.photo.widen import widened

__all__ = ["Packed", "Packer", "Student", "add_options", "answers_right", "train"]

# What stands before the image, between a question and its answer, and behind that.
OPENING = "<|im_start|>user\n"
TURN = "<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
TEXT = 0.3  # share of steps that hold a text without an image, too
PASSAGES = 0.5  # share of steps that hold the model to what it predicted in a passage
WARMUP = 50  # steps
PATCHES = 1024  # that stay aligned, a step
RATES = (1 / 3, 1)  # of the projector and of LoRA, as shares of --rate
SETTINGS = ("seed", "rank", "scenes_a_step", "questions", "whole", "subset", "types")
SAVE_EVERY = 150  # seconds


@dataclass
class Packed:
    """One row of tokens.

    Attributes:
        ids: (L,), -1: a visual token.
        features: (N, D) of the visual tokens.
        positions: (L,).
        mask: (L, L), True: may be seen.
        targets: (L,), the next token of an answer, -1: not trained on.
        spans: start and end of each answer's targets; a text has no question.
    """

    ids: Tensor
    features: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    spans: list[tuple[Question | None, int, int]]


class Packer:
    """A builder of rows, out of scenes with their questions, and of text."""

    def __init__(self) -> None:
        tok = tokenizer()
        self.encode = lambda text: tok(text, add_special_tokens=False).input_ids
        self.opening = self.encode(OPENING)
        self.turn = self.encode(TURN)
        self.end = self.encode(END)
        self.newline = self.encode("\n")
        self.decode = lambda ids: tok.decode(ids, skip_special_tokens=True).strip()

    def pack(
        self,
        scenes: list[tuple[Tensor, list[Question]]],
        texts: list[tuple[list[int], list[int]]] = (),
    ) -> Packed:
        """Pack scenes and texts into one row.

        Args:
            scenes: features (K, D) and questions of each.
            texts: ids of prompt and answer of each.
        """
        row = _Row()
        group = 0
        for features, own in scenes:
            # the image, which all of its questions share
            shared = [*self.opening, *[-1] * len(features), *self.newline]
            row.add_shared(shared, group)
            for number, question in enumerate(own, 1):
                prompt = self.encode(question.text) + self.turn
                answer = self.encode(question.answer) + self.end
                row.add_answered(question, prompt, answer, len(shared), (group, number))
            group += 1
        for prompt, answer in texts:
            row.add_answered(None, prompt, answer, 0, (group, 0))
            group += 1

        # a token sees what is before it, of its scene, and of no other question
        scene, number = torch.tensor(row.groups).T  # (L,) each
        causal = torch.ones(len(row.ids), len(row.ids)).tril().bool()
        same_question = (number[:, None] == number) | (number == 0)
        mask = (scene[:, None] == scene) & same_question & causal  # (L, L)
        features = torch.zeros(0, VISION * len(FEATURE_LAYERS))
        if scenes:
            features = torch.cat([features for features, _ in scenes])
        return Packed(
            ids=torch.tensor(row.ids),
            features=features,
            positions=torch.tensor(row.positions),
            mask=mask,
            targets=torch.tensor(row.targets),
            spans=row.spans,
        )


class _Row:
    """A row that grows.

    Attributes:
        groups: of each token its scene, and its question in the scene (0: what all share).
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.targets: list[int] = []
        self.groups: list[tuple[int, int]] = []
        self.spans: list[tuple[Question | None, int, int]] = []

    def add_shared(self, ids: list[int], group: int) -> None:
        """Add tokens that all questions of a scene see, and that nothing is learned from."""
        self.ids += ids
        self.positions += range(len(ids))
        self.targets += [-1] * len(ids)
        self.groups += [(group, 0)] * len(ids)

    def add_answered(
        self,
        question: Question | None,
        prompt: list[int],
        answer: list[int],
        start: int,
        group: tuple[int, int],
    ) -> None:
        """Add a prompt and its answer, at positions from `start` on."""
        # the prompt's last token predicts the answer's first
        first = len(self.ids) + len(prompt) - 1
        self.spans.append((question, first, first + len(answer)))
        self.ids += prompt + answer
        self.positions += range(start, start + len(prompt) + len(answer))
        self.targets += [-1] * (len(prompt) - 1) + answer + [-1]
        self.groups += [group] * (len(prompt) + len(answer))


class Student(torch.nn.Module):
    """Projector and language model with LoRA."""

    def __init__(self, rank: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.projector = Projector()
        aligned = torch.load(CACHE / "aligned.pt", map_location="cpu")
        self.projector.load_state_dict(aligned["projector"])
        # what is trained stays in float32
        self.lm = language_model(dtype)
        add_lora(self.lm, rank)

    def logits(self, row: Packed) -> Tensor:
        """Return logits (T, words) at the T positions that have a target, in float32."""
        device = self.lm.device
        ids = row.ids.to(device)
        embeds = self.lm.get_input_embeddings()(ids.clamp(min=0))  # (L, D)
        visual = self.projector(row.features.to(device)).to(embeds.dtype)  # (N, D)
        embeds = embeds.masked_scatter((ids < 0)[:, None], visual)
        hidden = self.lm.model(
            inputs_embeds=embeds[None],
            attention_mask=row.mask[None, None].to(device),
            position_ids=row.positions[None].to(device),
            use_cache=False,
        ).last_hidden_state[0]  # (L, D)
        return self.lm.lm_head(hidden[row.targets.to(device) >= 0]).float()

    def trained(self) -> dict[str, Tensor]:
        """Return the parameters that the bridge consists of."""
        bridge = {}
        for name, value in self.projector.named_parameters():
            bridge[f"projector.{name}"] = value
        return bridge | lora_parameters(self.lm)

    def load_trained(self, saved: dict[str, Tensor]) -> None:
        """Put a saved bridge in place, which may read fewer layers or be of a smaller rank."""
        trained = self.trained()
        wide = widened(saved, trained)
        with torch.no_grad():
            for name, value in trained.items():
                value.copy_(wide[name])


def answers_right(row: Packed, logits: Tensor) -> list[tuple[Question, bool]]:
    """Return which answers greedy decoding would say to the letter: the best token is right."""
    right = torch.zeros(len(row.ids), dtype=torch.bool)
    at = row.targets >= 0
    # (T,) best tokens against targets
    right[at] = logits.argmax(1).cpu() == row.targets[at]
    found = []
    for question, start, end in row.spans:
        if question is not None:
            found.append((question, bool(right[start:end].all())))
    return found


def shares(row: Packed) -> Tensor:
    """Return the weight of each target (T,) in the loss.

    An answer weighs as much as the root of its length: neither do descriptions drown "yes", nor is
    a word of theirs worth nothing.
    """
    weights = torch.zeros(len(row.ids))
    for _, start, end in row.spans:
        weights[start:end] = (end - start) ** -0.5
    return weights[row.targets >= 0]


def drift(lm: LlamaForCausalLM, ids: list[int]) -> Tensor:
    """Return how far predictions in a text are from those before training: the mean KL, in nats."""
    text = torch.tensor([ids], device=lm.device)  # (1, L)
    with torch.no_grad(), without_lora(lm):
        before = lm(input_ids=text, use_cache=False).logits[0].log_softmax(-1)  # (L, words)
    now = lm(input_ids=text, use_cache=False).logits[0].log_softmax(-1)
    return F.kl_div(now, before, log_target=True, reduction="batchmean")


def misalignment(projector: Projector, alignment: Alignment, patches: Tensor) -> Tensor:
    """Return how far the projector is from what stage 1 taught it, on some patches (P,)."""
    features = alignment.features[patches].float()  # (P, vision)
    out = projector(features.to(projector.linear_1.weight.device)).cpu()  # (P, D)
    return torch.stack(alignment.losses(out - alignment.mean_word, patches)).sum()


def shown(
    owners: np.ndarray, random: np.random.Generator, whole: float, subset: float
) -> np.ndarray:
    """Draw the visual tokens of a scene, in the order of the grid.

    Args:
        owners: (N,), the thing on each patch or -1.
        whole: share of scenes that show all tokens.
        subset: share of scenes that show a random part of them, a ninth to two thirds.
    """
    style = random.random()
    if style < whole:
        return np.arange(len(owners))
    if style < whole + subset:
        return np.sort(random.permutation(len(owners))[: random.integers(64, 384)])
    # a few of each thing, and of the background
    some = []
    for thing in range(owners.max() + 1):
        own = random.permutation(np.flatnonzero(owners == thing))
        some.append(own[: random.integers(2, 6)])
    background = random.permutation(np.flatnonzero(owners < 0))
    some.append(background[: random.integers(2, 10)])
    return np.sort(np.concatenate(some))


def example(
    features: np.ndarray,
    owners: np.ndarray,
    things: tuple[Thing, ...],
    random: np.random.Generator,
    count: int,
    types: tuple[str, ...],
    whole: float,
    subset: float,
) -> tuple[Tensor, list[Question]]:
    """Return features (K, D) of a scene, and questions that the tokens shown can answer."""
    kept = shown(owners.reshape(-1), random, whole, subset)
    seen = set(owners.reshape(-1)[kept].tolist())
    answerable = []
    for question in questions(things, random, count, types):
        if set(question.about) <= seen:
            answerable.append(question)
    return torch.from_numpy(features[kept].astype(np.float32)), answerable


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of training to a command line."""
    parser.add_argument(
        "--run", default="first", help="name of the folder for checkpoints and the log"
    )
    parser.add_argument("--begin", type=Path, help="bridge.safetensors that a new run begins with")
    parser.add_argument(
        "--keep-aligned",
        action="store_true",
        help="begin with the bridge's LoRA alone: the projector is that of stage 1",
    )
    parser.add_argument("--minutes", type=float, default=60, help="of this call")
    parser.add_argument(
        "--steps", type=int, default=10**9, help="stop there, if the minutes allow it"
    )
    parser.add_argument(
        "--until",
        type=float,
        help="minutes of the run, all calls together, over which the rate falls to 0; final.pt",
    )
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--scenes-a-step", type=int, default=3)
    parser.add_argument("--questions", type=int, default=6, help="a scene")
    parser.add_argument(
        "--whole",
        type=float,
        default=0.02,
        help="share of scenes that show all tokens; a run that shows few reads few better than all",
    )
    parser.add_argument(
        "--subset", type=float, default=0.1, help="share that show a random part of the grid"
    )
    parser.add_argument(
        "--types",
        default=",".join(TYPES),
        help="of questions, by commas: few types are learned first in fewer steps",
    )
    parser.add_argument(
        "--align",
        type=float,
        default=0.0,
        help="weight of stage 1's loss beside that of the answers",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="compute in it on a CPU, too: three times as fast where the CPU has AMX",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="more than one waits for the others where cores are shared",
    )


def train(given: argparse.Namespace) -> None:
    """Train for some minutes from the last checkpoint on, at a constant or falling rate.

    With `until` the rate falls to 0 over so many minutes of the run, in as many calls as it takes,
    and training ends there: rate and number of steps depend on how fast the machine is, and such a
    run cannot be repeated to the bit. The rate is that of the call; what else decides the examples
    stays that of the run.

    Raises:
        ValueError: the run began with other settings, or has ended.
    """
    folder = CACHE / "runs" / given.run
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "final.pt").is_file():
        raise ValueError(f"the run {given.run!r} has ended: give a new one another --run")
    torch.manual_seed(given.seed)
    # a CPU will do: a step is a few scenes
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bfloat16 = given.bfloat16 or device.type == "cuda"
    student = Student(given.rank, torch.bfloat16 if bfloat16 else torch.float32).to(device)
    # the projector is aligned already, and learns more slowly
    groups = [
        {"params": list(student.projector.parameters()), "rate": given.rate * RATES[0]},
        {"params": list(lora_parameters(student.lm).values()), "rate": given.rate * RATES[1]},
    ]
    # no weight decay: LoRA starts at zero as it is
    optimiser = torch.optim.AdamW(groups, lr=given.rate, betas=(0.9, 0.98), weight_decay=0.0)

    step, seconds = _resumed(folder, student, optimiser, given)
    packer = Packer()
    record = Record(folder / "log.jsonl")
    types = tuple(given.types.split(","))
    own = json.loads(OWN_ANSWERS.read_text())
    prose = passages()
    alignment = Alignment(np.random.default_rng(given.seed)) if given.align > 0 else None
    loaded = [Shard(path) for split in SPLITS for path in shards(split)]

    start = time.time()
    last_saved = start
    so_far = seconds
    last = 60 * given.until if given.until else math.inf
    while time.time() - start < 60 * given.minutes and so_far < last and step < given.steps:
        # the examples of a step are a function of seed and number, the rate below is not
        random = np.random.default_rng([given.seed, step])
        scenes = []
        for _ in range(given.scenes_a_step):
            scene = drawn(loaded, random, given.questions, types, given.whole, given.subset)
            if scene is not None:
                scenes.append(scene)
        texts = []
        if random.random() < TEXT:
            text = own[int(random.integers(len(own)))]
            texts.append((text["prompt"], text["answer"]))
        # a row each: in one of all, attention would be paid between scenes that must not see it
        rows = [packer.pack([scene]) for scene in scenes]
        if texts:
            rows.append(packer.pack([], texts))

        # learn
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            said = [student.logits(row) for row in rows]
        logits = torch.cat(said)  # (T, words)
        targets = torch.cat([row.targets[row.targets >= 0] for row in rows]).to(device)
        each = F.cross_entropy(logits, targets, reduction="none")
        weights = torch.cat([shares(row) for row in rows]).to(device)
        loss = (each * weights).sum() / weights.sum()
        forgotten = torch.zeros(())
        if random.random() < PASSAGES:
            passage = prose[int(random.integers(len(prose)))]
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                forgotten = drift(student.lm, passage)
        astray = torch.zeros(())
        if alignment is not None:
            patches = torch.from_numpy(random.integers(len(alignment.labels), size=PATCHES))
            astray = given.align * misalignment(student.projector, alignment, patches)
        optimiser.zero_grad()
        (loss + forgotten + astray).backward()
        torch.nn.utils.clip_grad_norm_(list(student.trained().values()), 1.0)
        scale = min(1.0, (step + 1) / WARMUP) * max(0.0, 1 - so_far / last)
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * scale
        optimiser.step()
        step += 1

        # log, and save
        so_far = seconds + time.time() - start
        right = []
        for row, own_logits in zip(rows, said, strict=True):
            right += answers_right(row, own_logits.detach())
        tokens = sum(len(row.ids) for row in rows)
        record.add(step, so_far, loss.item(), forgotten.item(), tokens, right)
        if time.time() - last_saved > SAVE_EVERY:
            save(folder / "last.pt", student, optimiser, step, so_far, given)
            last_saved = time.time()
    path = folder / ("final.pt" if so_far >= last else "last.pt")
    save(path, student, optimiser, step, so_far, given)


def _resumed(
    folder: Path,
    student: Student,
    optimiser: torch.optim.Optimizer,
    given: argparse.Namespace,
) -> tuple[int, float]:
    """Put a run's last checkpoint in place, or the bridge that it begins with.

    Returns:
        Steps and seconds of the run so far.
    """
    if not (folder / "last.pt").is_file():
        if given.begin is not None:
            bridge = read_bridge(given.begin)[0]
            if given.keep_aligned:
                bridge |= _projector(student)
            student.load_trained(bridge)
        return 0, 0.0
    saved = torch.load(folder / "last.pt", map_location=student.lm.device)
    if was := differences(saved["settings"], _settings(given)):
        raise ValueError(f"the run {given.run!r} began with {was}: pass the same, or another --run")
    student.load_trained(saved["bridge"])
    optimiser.load_state_dict(saved["optimiser"])
    # the checkpoint has the rate of the call before
    for group, share in zip(optimiser.param_groups, RATES, strict=True):
        group["rate"] = given.rate * share
    return saved["step"], saved["seconds"]


def _projector(student: Student) -> dict[str, Tensor]:
    """Return the projector that stage 1 left."""
    bridge = student.trained()
    return {name: value for name, value in bridge.items() if name.startswith("projector.")}


def _settings(given: argparse.Namespace) -> dict[str, Any]:
    """Return what decides the examples of a run."""
    return {name: getattr(given, name) for name in SETTINGS}


def drawn(
    loaded: list[Shard],
    random: np.random.Generator,
    count: int,
    types: tuple[str, ...],
    whole: float,
    subset: float,
) -> tuple[Tensor, list[Question]] | None:
    """Draw a scene, with questions; None: it is empty."""
    # any shard, any of its scenes
    shard = loaded[int(random.integers(len(loaded)))]
    index = int(random.integers(len(shard.things)))
    things = shard.things[index]
    if not things:
        return None
    features, owners = shard.features[index], shard.owners[index]
    return example(features, owners, things, random, count, types, whole, subset)


class Record:
    """A log: a line every `EVERY` steps with means since the last."""

    EVERY = 20

    def __init__(self, path: Path) -> None:
        self.file = path.open("a")
        self._clear()

    def _clear(self) -> None:
        self.right: dict[str, list[bool]] = {}
        self.losses: list[float] = []
        self.drifts: list[float] = []
        self.tokens = 0

    def add(
        self,
        step: int,
        seconds: float,
        loss: float,
        forgotten: float,
        tokens: int,
        answered: list[tuple[Question, bool]],
    ) -> None:
        """Count one step, and write a line when it is time."""
        self.losses.append(loss)
        self.tokens += tokens
        if forgotten:
            self.drifts.append(forgotten)
        for question, hit in answered:
            self.right.setdefault(question.type, []).append(hit)
        if step % self.EVERY:
            return
        shares = {}
        everything: list[bool] = []
        for type_, hits in sorted(self.right.items()):
            shares[type_] = round(float(np.mean(hits)), 2)
            everything += hits
        line = {
            "step": step,
            "minutes": round(seconds / 60, 2),
            "tokens_a_step": self.tokens // len(self.losses),
            "loss": round(float(np.mean(self.losses)), 3),
            "drift": round(float(np.mean(self.drifts or [0.0])), 3),
            "right": round(float(np.mean(everything)), 3),
            "n": len(everything),
        }
        print(json.dumps(line | shares), file=self.file, flush=True)
        self._clear()


def save(
    path: Path,
    student: Student,
    optimiser: torch.optim.Optimizer,
    step: int,
    seconds: float,
    given: argparse.Namespace,
) -> None:
    """Write a checkpoint that an interruption cannot halve."""
    bridge = {name: value.detach().cpu() for name, value in student.trained().items()}
    # written beside it, then renamed
    checkpoint = {
        "bridge": bridge,
        "optimiser": optimiser.state_dict(),
        "step": step,
        "seconds": seconds,
        "settings": _settings(given),
    }
    torch.save(checkpoint, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    add_options(options)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    train(chosen)
