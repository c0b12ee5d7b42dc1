"""Train the embedded model from scratch: `python -m training.embedded.train --out runs/embedded`.

Stage 1 teaches the tower and the projector, stage 2 the language model on the frozen features. Both
resume from the last checkpoint in --out: run the same command again. A stage that was stopped is
trained to its end before anything is built on it.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from adafv.utils.files import differences
from training.embedded.recipe import GRID
from training.embedded.stage1 import mixed_precision

HELD_OUT = 10_000_000
"""First seed of the images that training is watched on.

They are of the train namespace, never trained on, and never test images.
"""
SETTINGS = {
    1: ("seed", "steps1", "scenes", "batch1"),
    2: ("seed", "steps2", "scenes2", "batch2", "grow"),
}
"""What decides the steps of each stage: a checkpoint is gone on from with the same."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that an interruption leaves either the old one or the new one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def rate(step: int, steps: int, peak: float, warmup: int = 200) -> float:
    """Return a step's learning rate: linear warm-up, then a cosine to a fiftieth of `peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def optimizer_of(module: torch.nn.Module, decay: float) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices alone."""
    matrices = []
    vectors = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (matrices if parameter.ndim > 1 else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)


def run(
    module: torch.nn.Module,
    loss_of: Any,
    watch: Any,
    args: argparse.Namespace,
    number: int,
    peak: float,
) -> bool:
    """Train a module, from its checkpoint if there is one; both stages run through here.

    Args:
        loss_of: gives loss and its parts at a step.
        watch: says how it does on held-out images, every `args.every` steps.
        args: the device, and when to stop early: after so many minutes, or until a step.
        number: of the stage, 1 or 2.
        peak: of the learning rate.

    Returns:
        Whether it was trained to its last step.

    Raises:
        ValueError: the checkpoint began with other settings.
    """
    path = args.out / f"stage{number}.pt"
    settings = _settings(args, number)
    steps = settings[f"steps{number}"]
    optimizer = optimizer_of(module, 0.02)
    step = 0
    start = time.monotonic()
    if path.exists():
        # the optimiser too, so that a resumed run is the same run
        state = torch.load(path, map_location=args.device, weights_only=True)
        if was := differences(state.get("settings", {}), settings):
            raise ValueError(f"{path} began with {was}: pass the same, or another --out")
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    bar = tqdm(total=steps, initial=step, desc=path.stem, mininterval=10, file=sys.stderr)
    end = min(steps, args.until or steps)
    limit = math.inf if args.minutes is None else 60 * args.minutes
    saved = time.monotonic()
    while step < end and time.monotonic() - start < limit:
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, peak)
        with mixed_precision(args.device):
            loss, parts = loss_of(step)
        loss.backward()
        # a bad batch must not undo the others
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        bar.update()
        # not at every step: the numbers have to be waited for
        if step % 50 == 0:
            bar.set_postfix_str(f"loss {loss.item():.3f} {_numbers(parts)}")
        if step % args.every == 0:
            bar.write(f"step {step} {time.monotonic() - start:.0f} s: {watch()}", file=sys.stderr)
        if time.monotonic() - saved > 120:
            save(path, _checkpoint(module, optimizer, step, settings))
            saved = time.monotonic()
    save(path, _checkpoint(module, optimizer, step, settings))
    bar.close()
    if step < steps:
        told = f"stage {number} stopped at step {step} of {steps}: run the same again to go on"
        print(told, file=sys.stderr)
    return step == steps


def _settings(args: argparse.Namespace, number: int) -> dict[str, Any]:
    """Return what decides the steps of a stage."""
    settings = {}
    for name in SETTINGS[number]:
        value = getattr(args, name)
        settings[name] = str(value) if isinstance(value, Path) else value
    return settings


def _checkpoint(
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Return all that training resumes from."""
    return {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "settings": settings,
    }


def _numbers(parts: dict[str, float]) -> str:
    """Return named numbers on a line."""
    return " ".join(f"{name} {value:.3f}" for name, value in parts.items())


def stage1(args: argparse.Namespace, model: Any) -> bool:
    """Train tower and projector, and return whether that is finished; see stage1.py."""
    from training.embedded import data
    from training.embedded import stage1 as tower

    scenes = data.render(0, args.scenes, args.workers)
    batches = tower.Batches(scenes, data.easy_train(), args.seed, args.batch1)
    held_out = data.render(HELD_OUT, 256, 1)
    stage = tower.Stage1(model, args.seed).to(args.device)

    def loss_of(step: int) -> Any:
        pixels, labels, thumb = batches(step)
        return stage(pixels.to(args.device), labels.to(args.device), thumb.to(args.device))

    def watch() -> str:
        return _numbers(tower.measure(stage, held_out))

    return run(stage, loss_of, watch, args, 1, 2e-3)


def stage2(args: argparse.Namespace, model: Any) -> bool:
    """Train the language model on frozen features, and return whether that is finished.

    See stage2.py. Leaves the scaled projector in `model`.
    """
    from training.embedded import stage2 as lm

    banks, held_out, stage = prepare(args, model)
    if args.grow:
        stage.grow(torch.load(args.grow, map_location=args.device, weights_only=True)["module"])

    def loss_of(step: int) -> Any:
        rng = np.random.default_rng((args.seed, 2, step))
        # a model that grew from a trained one starts where it is past the first lessons
        done = max(step / args.steps2, 0.3 if args.grow else 0.0)

        # a fifth of the steps on easy-vqa; more and more dense images, at first none
        easy = rng.random() < 0.2
        dense_share = 0.5
        if done < 0.7:
            dense_share = 0.25
        if done < 0.3:
            dense_share = 0.0
        keep = None
        if rng.random() >= dense_share:
            budgets = [128, 160, 192] if done < 0.3 else [64, 128, 192, 256]
            keep = int(rng.choice(budgets))

        # a dense scene takes three times the memory
        bank, encoded = banks[1 if easy else 0]
        size = args.batch2 // 3 if keep is None and not easy else args.batch2
        rows = rng.integers(len(bank.features), size=size)
        # first what takes one look
        types = ("color", "exists", "text") if done < 0.06 and not easy else None
        batch = lm.make_batch(bank, encoded, rows, rng, keep, 10, types, args.device)
        return stage.loss(batch)

    def watch() -> str:
        looks = [lm.measure(stage, bank, encoded, args.device) for bank, encoded in held_out]
        return " | ".join(map(_numbers, looks))

    return run(stage, loss_of, watch, args, 2, 1e-3)


def freeze(args: argparse.Namespace, model: Any) -> Any:
    """Load stage 1 into `model`, with the norm of its features folded into the projector.

    Raises:
        ValueError: stage 1 was not trained to its last step.
    """
    from training.embedded import data
    from training.embedded import stage1 as tower
    from training.embedded import stage2 as lm

    first = tower.Stage1(model, args.seed).to(args.device)
    path = args.out / "stage1.pt"
    state = torch.load(path, map_location=args.device, weights_only=True)
    steps = state["settings"]["steps1"]
    if state["step"] < steps:
        raise ValueError(f"{path} is of step {state['step']} of {steps}: train stage 1 to its end")
    first.load_state_dict(state["module"])
    first.requires_grad_(False)

    # features are to have the norm of words, on average
    pixels, labels = lm.scene_crops(data.render(HELD_OUT, 64, 1), slice(None))
    probe = lm.encode(first, pixels, labels, lm.packing(), args.device)
    scale = lm.NORM / probe.features.float().norm(dim=-1).mean().item()
    first.projector.linear_2.weight.mul_(scale)
    first.projector.linear_2.bias.mul_(scale)
    return first


def prepare(args: argparse.Namespace, model: Any) -> tuple[list[Any], list[Any], Any]:
    """Encode all images once.

    Returns:
        What is trained on, and what is watched, as pairs of bank and questions; and the module.
    """
    from adafv.data.scenes import Question
    from training.embedded import data
    from training.embedded import stage2 as lm

    first = freeze(args, model)
    order = lm.packing()

    # scenes, a part at a time for memory's sake
    scenes = data.render(0, args.scenes2, args.workers)
    held_out = data.render(HELD_OUT, 192, 1)
    questions = _encoded_questions(scenes, args.seed, 6)
    features = []
    weights = []
    for i in tqdm(range(0, args.scenes2, 960), desc="features", file=sys.stderr):
        pixels, labels = lm.scene_crops(scenes, slice(i, i + 960))
        part = lm.encode(first, pixels, labels, order, args.device)
        features.append(part.features)
        weights.append(part.weight)
    bank = lm.Bank(torch.cat(features), order, np.concatenate(weights))

    # easy-vqa: square images, of whose crops half is padding; the last ones are watched
    crops, labels, pairs = data.easy_train()
    easy = lm.encode(first, crops, labels, lm.packing(GRID, GRID, GRID // 2), args.device)
    easy_questions = []
    for own in pairs:
        plain = [Question(text, answer, "easy", ()) for text, answer in own]
        easy_questions.append(lm.encode_questions(plain))
    split = len(pairs) - min(150, len(pairs) // 2)

    # what training is watched on
    pixels, labels = lm.scene_crops(held_out, slice(None))
    test = lm.encode(first, pixels, labels, order, args.device)
    test_questions = _encoded_questions(held_out, args.seed + 1, 4)

    easy_trained = lm.Bank(easy.features[:split], easy.order, easy.weight[:split])
    easy_watched = lm.Bank(easy.features[split:], easy.order, easy.weight[split:])
    trained = [(bank, questions), (easy_trained, easy_questions[:split])]
    watched = [(test, test_questions), (easy_watched, easy_questions[split:])]
    return trained, watched, lm.Stage2(model, first, args.seed).to(args.device)


def _encoded_questions(scenes: Any, seed: int, times: int) -> list[Any]:
    """Return questions about scenes, as tensors."""
    from training.embedded import stage2 as lm

    encoded = []
    questions = lm.scene_questions(scenes, seed, times)
    for own, things in zip(questions, scenes.things, strict=True):
        encoded.append(lm.encode_questions(own, things))
    return encoded


def finish(args: argparse.Namespace, model: Any) -> None:
    """Export the last checkpoints of --out to --out/model."""
    from training.embedded import stage2 as lm

    stage = lm.Stage2(model, freeze(args, model), args.seed)
    state = torch.load(args.out / "stage2.pt", map_location="cpu", weights_only=True)
    stage.load_state_dict(state["module"])
    export(model, args.out / "model")


def restore_attention(model: Any) -> None:
    """Undo the attention functions of training, in every part of `model`."""
    for part in (model.model.vision_tower, model.model.language_model, model):
        part.set_attn_implementation("sdpa")


def export(model: Any, folder: Path) -> None:
    """Write model and processor as `from_pretrained` reads them, weights in bf16."""
    from training.embedded import recipe

    restore_attention(model)
    model.to(torch.bfloat16).save_pretrained(folder)
    recipe.build_processor().save_pretrained(folder)


def parser() -> argparse.ArgumentParser:
    """Return the command line of training."""
    p = argparse.ArgumentParser(prog="python -m training.embedded.train", description=__doc__)
    p.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints and the exported model"
    )
    p.add_argument("--stage", choices=("1", "2", "export", "all"), default="all")
    p.add_argument("--steps1", type=int, default=8000)
    p.add_argument("--steps2", type=int, default=6000)
    p.add_argument("--minutes", type=float, help="stop after this long (resume later)")
    p.add_argument("--until", type=int, help="stop at this step of a stage (resume later)")
    p.add_argument("--scenes", type=int, default=30_000, help="training images")
    p.add_argument(
        "--scenes2", type=int, default=14_000, help="of these, the ones that stage 2 sees"
    )
    p.add_argument(
        "--grow",
        type=Path,
        help="stage2.pt to start stage 2 from, perhaps of a model with fewer layers",
    )
    p.add_argument("--batch2", type=int, default=24)
    p.add_argument("--batch1", type=int, default=64)
    p.add_argument("--every", type=int, default=400, help="steps between looks at held-out images")
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--device", default="cpu")
    p.add_argument("--seed", type=int, default=0)
    return p


def main(argv: list[str] | None = None) -> None:
    """Run `python -m training.embedded.train`."""
    args = parser().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    from training.embedded import recipe

    model = recipe.build_model(args.seed)
    # nothing is built on a stage that was stopped before its last step
    if args.stage in ("1", "all") and not stage1(args, model):
        return
    if args.stage in ("2", "all") and not stage2(args, model):
        return
    if args.stage in ("export", "all"):
        # a fresh model, for stage 2 has scaled the projector of the other one
        finish(args, recipe.build_model(args.seed))


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
