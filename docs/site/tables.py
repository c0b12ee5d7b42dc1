"""Tables of the documentation, made of the committed measurements and of arithmetic.

Nothing is typed in.
"""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import ablation
import accuracy
import aims
import bars
import clips
import engines
import first_minutes
import forms
import low
import photo
import scaling
from writing import percent, table

from adafv.evaluation import report
from adafv.methods import CLASSES
from adafv.ops.budget import num_keep
from adafv.speed import flops
from adafv.speed.shapes import QUESTION, SHAPES, image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ACCURACY = BENCHMARKS / "accuracy" / "results.json"
SPEED = BENCHMARKS / "speed" / "llava-next-7b-whole" / "results.json"
KINDS = {
    ("scenes", "all"): "a bit of everything",
    ("scenes-small", "all"): "small, dull things beside loud ones",
    ("scenes", "exists"): "whether something is there",
    ("scenes", "color"): "the colour of what the question names",
    ("scenes", "relation"): "how two named things lie to each other",
    ("scenes", "two"): "a comparison of two named things",
    ("scenes", "beside"): "what is beside a named thing",
    ("scenes", "text"): "a word on a card that the question points at",
    ("scenes-text", "all"): "reading only",
    ("easy-vqa", "all"): "one large shape",
}
"""Suite and type of question, in words."""
TARGETS = (0.98, 0.95, 0.9)
FRONT = 0.05
"""Share of the tokens of the figures in the README."""
READERS = ("adafv+", "adafv", "fastervlm", "t2i", "fastv", "pdrop", "random")
LARGE = ("llava-1.5-7b", "llava-next-7b", "qwen2.5-vl-7b", "qwen3-vl-8b")


@cache
def measured() -> dict[tuple[str, str, str, float], dict[str, Any]]:
    """The rows of the accuracy measurement by method, suite, type of question and share kept."""
    rows = report.read(ACCURACY)["rows"]
    return {(row["method"], row["suite"], row["question_type"], row["keep"]): row for row in rows}


@cache
def left_out() -> dict[str, dict[float, str]]:
    """For each method the shares that could not be measured, with the reason."""
    found: dict[str, dict[float, str]] = {}
    for entry in report.read(ACCURACY)["meta"]["left_out"]:
        found.setdefault(entry["method"], {})[entry["keep"]] = entry["reason"]
    return found


def budgets() -> list[float]:
    """The shares that were measured, the largest first, without all and none."""
    return sorted({keep for *_, keep in measured() if 0 < keep < 1}, reverse=True)


def holds(method: str, suite: str, kind: str, keep: float) -> str:
    """Share of the dense model's accuracy; a dash where it wasn't measured."""
    row = measured().get((method, suite, kind, keep))
    return percent(row["retention"]) if row else "–"


def smallest(method: str, suite: str, kind: str, target: float) -> str:
    """The smallest measured share that holds `target` of the dense accuracy at the lower end of its
    interval; a question mark where all tokens would not show it either.
    """
    dense = measured()["none", suite, kind, 1.0]
    level = target * dense["accuracy"]
    enough = [
        keep
        for keep in budgets()
        if (row := measured().get((method, suite, kind, keep))) and row["ci_low"] >= level
    ]
    if enough:
        return percent(min(enough))
    return "more" if dense["ci_low"] >= level else "?"


def front() -> str:
    """One figure of accuracy and one of speed, each with its limits beside it."""
    names = ("adafv+", "adafv", "random")
    held = [f"`{name}` {holds(name, 'scenes', 'all', FRONT)}" for name in names]
    asked = measured()["none", "scenes", "all", 1.0]["n"]
    accuracy = (
        f"At {percent(FRONT)} of the tokens, share of the dense model's accuracy: "
        f"{', '.join(held)} (`scenes`, {asked} questions)."
    )
    of_accuracy = (
        "A model of 4.4 M parameters on drawn scenes, trained to align words and image regions, "
        "which suits methods that compare them. "
        "**No 7B checkpoint has been run here**. Of reading `adafv+` holds "
        f"{holds('adafv+', 'scenes-text', 'all', FRONT)}, `adafv` "
        f"{holds('adafv', 'scenes-text', 'all', FRONT)}."
    )

    found = json.loads(SPEED.read_text(encoding="utf-8"))
    rows = {(row["method"], row["keep"]): row for row in found["rows"]}
    dense, pruned = rows["none", 1.0], rows["adafv", FRONT]
    seconds = [f"{row['ttft_ms'] / 1000:.1f} s" for row in (pruned, dense)]
    speed = (
        f"First token after {seconds[0]} instead of {seconds[1]}, {pruned['speedup']:.1f} times "
        f"faster: LLaVA-NeXT-7B, `adafv`, {pruned['kept_tokens']} of "
        f"{pruned['visual_tokens']:,} tokens."
    )
    of_speed = (
        "Real sizes, random weights, bfloat16 on two CPU cores. **No GPU has been measured.** "
        "Each further token of the answer costs nearly what it did."
    )
    return table(
        ["", "measured", "limits"],
        [
            ["[accuracy](docs/accuracy.md)", accuracy, of_accuracy],
            ["[speed](docs/speed.md)", speed, of_speed],
        ],
    )


def speed() -> str:
    """Time to the first token by share kept, on the whole of LLaVA-NeXT-7B."""
    found = json.loads(SPEED.read_text(encoding="utf-8"))
    rows = []
    for row in found["rows"]:
        if row["method"] not in ("none", "adafv", "adafv+"):
            continue
        dense = row["method"] == "none"
        rows.append(
            [
                "all tokens" if dense else f"`{row['method']}`",
                f"{row['kept_tokens']:,}",
                f"{row['ttft_ms'] / 1000:.1f} s",
                "" if dense else f"{row['speedup']:.1f}",
                "" if dense else f"{row['ideal_speedup']:.1f}",
                f"{row['kv_bytes'] / 2**20:,.0f} MiB",
            ]
        )
    head = ["", "visual tokens read", "first token after", "times faster", "ideal", "KV cache"]
    return table(head, rows)


def choice() -> str:
    """What to keep, by what is asked and by how much may be lost, for `adafv+`."""
    rows = [
        [words, *(smallest("adafv+", *kind, target) for target in TARGETS)]
        for kind, words in KINDS.items()
    ]
    return table(["questions about", *(f"to hold {percent(target)}" for target in TARGETS)], rows)


def choice_by_method() -> str:
    """The share each method needs to hold 95 % on each suite."""
    suites = list(dict.fromkeys(suite for _, suite, *_ in measured()))
    names = [cls.name for cls in CLASSES if cls.name != "none"]
    rows = []
    for name in names:
        least = [smallest(name, suite, "all", 0.95) for suite in suites]
        if not any(
            (name, suite, "all", keep) in measured() for suite in suites for keep in budgets()
        ):
            least = ["not measured"] * len(suites)
        rows.append([f"`{name}`", *least])
    return table(["method", *(f"`{suite}`" for suite in suites)], rows)


def by_kind() -> str:
    """What `adafv` and `adafv+` hold of each type of question, at each share."""
    head = [
        "questions about",
        *(f"`{name}` {percent(keep)}" for name in ("adafv", "adafv+") for keep in budgets()),
    ]
    rows = [
        [words, *(holds(name, *kind, keep) for name in ("adafv", "adafv+") for keep in budgets())]
        for kind, words in KINDS.items()
    ]
    return table(head, rows)


def reading() -> str:
    """What reading keeps of its accuracy, by method."""
    rows = [
        [f"`{name}`", *(holds(name, "scenes-text", "all", keep) for keep in budgets())]
        for name in READERS
    ]
    return table(["`scenes-text`", *(f"{percent(keep)} kept" for keep in budgets())], rows)


def ceilings() -> str:
    """By how much the arithmetic until the first token shrinks, by model and share kept."""
    head = [
        "shape",
        "visual tokens",
        "tower's share",
        *(f"{percent(keep)} kept" for keep in budgets()),
    ]
    return table(head, [_ceiling(name) for name in LARGE])


def _ceiling(name: str) -> list[str]:
    shape = SHAPES[name]
    config, processor = shape.config(), cast(Any, shape.processor())
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(images=[image(shape.side, 0)], text=[text], return_tensors="pt")
    visual, length = (
        int((inputs["input_ids"] == config.image_token_id).sum()),
        inputs["input_ids"].shape[1],
    )
    depth = config.get_text_config().num_hidden_layers
    grids = flops.grids_of(config, inputs)
    tower = flops.vision(config, grids).flops
    dense = flops.prefill(config, [length] * depth).flops

    # a budget is a share of the patches, and newlines go with what is dropped
    merged = getattr(config.vision_config, "spatial_merge_size", 1) ** 2
    patches = sum(rows * columns for rows, columns in grids) // merged
    gains = []
    for keep in budgets():
        read = length - visual + num_keep(patches, keep)
        gains.append((tower + dense) / (tower + flops.prefill(config, [read] * depth).flops))
    return [
        f"`{name}`",
        f"{visual:,}",
        percent(tower / (tower + dense)),
        *(f"{gain:.2f} ×" for gain in gains),
    ]


TABLES: dict[str, Callable[[], str]] = {
    "ablation-adafv": partial(ablation.ablation, "adafv"),
    "ablation-adafv+": partial(ablation.ablation, "adafv+"),
    "ablation-saliency": ablation.saliencies,
    "forms-first": partial(forms.forms, "first"),
    "forms-photo": partial(forms.forms, "photo"),
    "forms-second": partial(forms.forms, "second"),
    "forms-types": forms.types,
    "forms-causes": forms.causes,
    "forms-few": forms.few,
    "accuracy": accuracy.held,
    "accuracy-intervals": accuracy.intervals,
    "aims": aims.aims,
    "aims-cells": aims.of_cells,
    "aims-resolution": aims.resolution,
    "aims-types": aims.of_types,
    "by-kind": by_kind,
    "ceilings": ceilings,
    "choosing": bars.choosing,
    "choice": choice,
    "clips": clips.clips,
    "clips-photographs": clips.of_photographs,
    "clips-types": clips.of_types,
    "crops": bars.crops,
    "decoded": bars.decoded,
    "engines": engines.engines,
    "first-answer": partial(first_minutes.of, "answer"),
    "first-server": partial(first_minutes.of, "server"),
    "front": front,
    "left-out": engines.left_out,
    "low": low.low,
    "photo-bridge": photo.bridge,
    "photo-budgets": photo.budgets,
    "photo-differences": photo.differences,
    "photo-methods": photo.methods,
    "photo-orders": photo.orders,
    "photo-ours": photo.ours,
    "choice-by-method": choice_by_method,
    "reading": reading,
    "served": engines.served,
    "scale-bursts": scaling.bursts,
    "scale-check": scaling.check,
    "scale-hits": scaling.hits,
    "scale-places": scaling.places,
    "scale-sizes": scaling.sizes,
    "scale-stages": scaling.stages,
    "scale-verdicts": scaling.verdicts,
    "scale-waiting": scaling.waiting,
    "scale-works": scaling.works,
    "speed": speed,
}
