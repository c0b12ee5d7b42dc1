"""Train the embedded model from scratch: `python -m training.embedded.train --out runs/embedded`.

Stage 1 teaches the tower and the projector, stage 2 the language model on the frozen features. Both
resume from the last checkpoint in --out: run the same command again.
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

from training.embedded.recipe import GRID
from training.embedded.stage1 import mixed_precision

HELD_OUT = 10_000_000
"""First seed of the pictures that training is watched on: train namespace, never trained on, never
a test picture.
"""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that an interruption leaves either the old one or the new one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def rate(step: int, steps: int, peak: float, warmup: int = 200) -> float:
    """Linear warm-up, then a cosine to a fiftieth of `peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (
        0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
    )


def optimizer_of(module: torch.nn.Module, decay: float) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices alone."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    groups = [{"params": [p for p in wanted if p.ndim > 1], "weight_decay": decay},
              {"params": [p for p in wanted if p.ndim <= 1], "weight_decay": 0.0}]  # fmt: skip
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)


def run(module: torch.nn.Module, loss_of: Any, *, steps: int, peak: float, path: Path, watch: Any,
        device: str, every: int = 400, minutes: float | None = None, until: int | None = None) -> int:  # fmt: skip
    """The loop both stages share. Returns the step it ended at; stops early after `minutes` or at
    step `until`.
    """
    optimizer = optimizer_of(module, 0.02)
    step, start = 0, time.monotonic()
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    bar = tqdm(total=steps, initial=step, desc=path.stem, mininterval=10, file=sys.stderr)
    end = min(steps, until or steps)
    saved = time.monotonic()
    while step < end and (minutes is None or time.monotonic() - start < 60 * minutes):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, peak)
        with mixed_precision(device):
            loss, parts = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        bar.update()
        if step % 50 == 0:
            bar.set_postfix_str(
                f"loss {loss.item():.3f} " + " ".join(f"{k} {v:.3f}" for k, v in parts.items())
            )
        if step % every == 0:
            bar.write(f"step {step} {time.monotonic() - start:.0f} s: {watch()}", file=sys.stderr)
        if time.monotonic() - saved > 120:
            save(
                path,
                {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step},
            )
            saved = time.monotonic()
    save(path, {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step})
    bar.close()
    return step


def stage1(args: argparse.Namespace, model: Any) -> int:
    """Train tower and projector; see tower.py."""
    from training.embedded import data
    from training.embedded import stage1 as tower

    scenes = data.render(0, args.scenes, args.workers)
    batches = tower.Batches(scenes, data.easy_train(), args.seed, args.batch1)
    held_out = data.render(HELD_OUT, 256, 1)
    stage = tower.Stage1(model, args.seed).to(args.device)

    def loss_of(step: int) -> Any:
        return stage(*(t.to(args.device) for t in batches(step)))

    def watch() -> str:
        return " ".join(f"{k} {v:.3f}" for k, v in tower.measure(stage, held_out).items())

    return run(stage, loss_of, steps=args.steps1, peak=2e-3, path=args.out / "stage1.pt", watch=watch,
               device=args.device, every=args.every, minutes=args.minutes, until=args.until)  # fmt: skip


def stage2(args: argparse.Namespace, model: Any) -> int:
    """Train the language model on frozen features; see lm.py.

    Leaves the scaled projector in `model`.
    """
    from training.embedded import stage2 as lm

    banks, held_out, stage = prepare(args, model)
    if args.grow:
        stage.grow(torch.load(args.grow, map_location=args.device, weights_only=True)["module"])

    def loss_of(step: int) -> Any:
        rng = np.random.default_rng((args.seed, 2, step))
        done = max(step / args.steps2, 0.3 if args.grow else 0.0)
        which = 1 if rng.random() < 0.2 else 0
        whole = rng.random() < (0.0 if done < 0.3 else 0.25 if done < 0.7 else 0.5)
        keep = (
            None
            if whole
            else int(rng.choice([128, 160, 192] if done < 0.3 else [64, 128, 192, 256]))
        )
        bank, asked = banks[which]
        rows = rng.integers(
            len(bank.features), size=args.batch2 // 3 if whole and not which else args.batch2
        )
        types = ("color", "exists", "text") if done < 0.06 and not which else None
        batch = lm.make_batch(bank, asked, rows, rng, keep, 10, types, args.device)
        return stage.loss(batch)

    def watch() -> str:
        looks = [lm.measure(stage, bank, asked, args.device) for bank, asked in held_out]
        return " | ".join(" ".join(f"{k} {v:.3f}" for k, v in look.items()) for look in looks)

    return run(stage, loss_of, steps=args.steps2, peak=1e-3, path=args.out / "stage2.pt", watch=watch,
               device=args.device, every=args.every, minutes=args.minutes, until=args.until)  # fmt: skip


def freeze(args: argparse.Namespace, model: Any) -> Any:
    """Load stage 1 into `model`, and fold the norm of its features into the projector's last layer."""
    from training.embedded import data
    from training.embedded import stage1 as tower
    from training.embedded import stage2 as lm

    first = tower.Stage1(model, args.seed).to(args.device)
    first.load_state_dict(
        torch.load(args.out / "stage1.pt", map_location=args.device, weights_only=True)["module"]
    )
    first.requires_grad_(False)
    probe = lm.encode(
        first, *lm.scene_crops(data.render(HELD_OUT, 64, 1), slice(None)), lm.packing(), args.device
    )
    scale = lm.NORM / probe.features.float().norm(dim=-1).mean().item()
    first.projector.linear_2.weight.mul_(scale)
    first.projector.linear_2.bias.mul_(scale)
    return first


def prepare(args: argparse.Namespace, model: Any) -> tuple[list[Any], list[Any], Any]:
    """Encode all pictures once. Returns what is trained on, what is watched (bank, questions), and
    the module.
    """
    from adafv.data.scenes import Question
    from training.embedded import data
    from training.embedded import stage2 as lm

    first, order = freeze(args, model), lm.packing()
    scenes, held_out = data.render(0, args.scenes2, args.workers), data.render(HELD_OUT, 192, 1)
    asked = _asked(scenes, args.seed, 6)
    parts = [lm.encode(first, *lm.scene_crops(scenes, slice(i, i + 960)), order, args.device)
             for i in tqdm(range(0, args.scenes2, 960), desc="features", file=sys.stderr)]  # fmt: skip
    bank = lm.Bank(
        torch.cat([b.features for b in parts]), order, np.concatenate([b.weight for b in parts])
    )
    crops, labels, pairs = data.easy_train()
    easy = lm.encode(first, crops, labels, lm.packing(GRID, GRID, GRID // 2), args.device)
    easy_asked = [lm.encode_questions([Question(q, a, "easy", ()) for q, a in p]) for p in pairs]
    split = len(pairs) - min(150, len(pairs) // 2)
    test = lm.encode(first, *lm.scene_crops(held_out, slice(None)), order, args.device)
    test_asked = _asked(held_out, args.seed + 1, 4)
    watched = [
        (test, test_asked),
        (lm.Bank(easy.features[split:], easy.order, easy.weight[split:]), easy_asked[split:]),
    ]
    trained = [
        (bank, asked),
        (lm.Bank(easy.features[:split], easy.order, easy.weight[:split]), easy_asked[:split]),
    ]
    return trained, watched, lm.Stage2(model, first, args.seed).to(args.device)


def _asked(scenes: Any, seed: int, times: int) -> list[Any]:
    from training.embedded import stage2 as lm

    questions = lm.scene_questions(scenes, seed, times)
    return [
        lm.encode_questions(q, things) for q, things in zip(questions, scenes.things, strict=True)
    ]


def finish(args: argparse.Namespace, model: Any) -> None:
    """Export the last checkpoints of --out to --out/model."""
    from training.embedded import stage2 as lm

    stage = lm.Stage2(model, freeze(args, model), args.seed)
    stage.load_state_dict(
        torch.load(args.out / "stage2.pt", map_location="cpu", weights_only=True)["module"]
    )
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
    """The command line of training."""
    p = argparse.ArgumentParser(prog="python -m training.embedded.train", description=__doc__)
    p.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints and the exported model"
    )
    p.add_argument("--stage", choices=("1", "2", "export", "all"), default="all")
    p.add_argument("--steps1", type=int, default=8000)
    p.add_argument("--steps2", type=int, default=6000)
    p.add_argument("--minutes", type=float, help="stop each stage after this long (resume later)")
    p.add_argument("--until", type=int, help="stop at this step (resume later)")
    p.add_argument("--scenes", type=int, default=30_000, help="training pictures")
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
    p.add_argument(
        "--every", type=int, default=400, help="steps between looks at held-out pictures"
    )
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--device", default="cpu")
    p.add_argument("--seed", type=int, default=0)
    return p


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m training.embedded.train`."""
    args = parser().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    from training.embedded import recipe

    model = recipe.build_model(args.seed)
    if args.stage in ("1", "all"):
        stage1(args, model)
    if args.stage in ("2", "all"):
        stage2(args, model)
    if args.stage in ("export", "all"):
        finish(args, recipe.build_model(args.seed))


if __name__ == "__main__":
    main()
