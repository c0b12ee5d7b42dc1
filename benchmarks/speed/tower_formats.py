"""What a vision tower costs in bfloat16 and in int8, and what becomes of its features.

    OMP_NUM_THREADS=2 python benchmarks/speed/tower_formats.py --out benchmarks/speed/tower_formats

int8: PyTorch's dynamic quantisation of the tower's linear layers, the rest stays float32. Every
round visits all formats, in an order that turns. Times are those of the tower alone, one image.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rounds import timed
from torch import nn
from torch.ao.quantization import quantize_dynamic
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedModel, ProcessorMixin

from adafv.core.encode import encode
from adafv.data.photographs import photographs
from adafv.methods import AdaFV
from adafv.models.load import load
from adafv.models.prompting import build_inputs
from adafv.speed.shapes import SHAPES
from adafv.utils.files import writable_folder
from adafv.utils.machine import machine_of, versions
from adafv.utils.records import command_of, write_report

FORMATS = ("float32", "bfloat16", "int8")
LARGE = "CLIP-L/14 at 336, random weights"
LARGE_SIDE = 336  # pixels
KEEP = 0.1
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    """A tower in one format.

    Attributes:
        faster: the median of float32 as a multiple of this one.
        cosine: mean over visual tokens of the cosine of their features with those of float32; None:
            its weights are random.
        same: mean share of AdaFV's kept tokens that float32 keeps, too; None: as above.
    """

    tower: str
    format: str
    median_ms: float
    p95_ms: float
    faster: float
    cosine: float | None
    same: float | None


def large() -> CLIPVisionModel:
    """Return the tower of LLaVA-1.5 and LLaVA-NeXT with random weights."""
    options = dict(SHAPES["llava-1.5-7b"].tower)
    torch.manual_seed(0)
    del options["model_type"]
    return CLIPVisionModel(CLIPVisionConfig(**options)).eval()


def in_format(tower: nn.Module, name: str) -> nn.Module:
    """Return a copy of a float32 tower in one of `FORMATS`."""
    if name == "int8":
        with warnings.catch_warnings():
            # it will move to another package
            warnings.simplefilter("ignore", DeprecationWarning)
            return quantize_dynamic(tower, {nn.Linear}, dtype=torch.qint8)
    return deepcopy(tower).to(getattr(torch, name))


def calls(towers: dict[str, nn.Module], side: int) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by format: the tower on one image of `side` × `side` pixels."""
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, tower in towers.items():
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        found[name] = partial(tower, pixel_values=pixels.to(dtype))
    return found


def chosen(
    model: PreTrainedModel, processor: ProcessorMixin
) -> list[tuple[torch.Tensor, set[int]]]:
    """Return visual tokens (N, D) and what AdaFV keeps of them, for each photograph's questions."""
    pruner = AdaFV(keep=KEEP)
    found = []
    for sample in photographs():
        for question in sample.questions:
            inputs = build_inputs(processor, sample.image, question.text, model.device, model.dtype)
            tokens = encode(model, inputs, tokenizer=processor).tokens
            kept = pruner.select(tokens, [pruner.budget(tokens.counts[0])]).kept[0]
            found.append((tokens.features[0].float(), set(kept.tolist())))
    return found


def agreement(
    found: list[tuple[torch.Tensor, set[int]]], exact: list[tuple[torch.Tensor, set[int]]]
) -> tuple[float, float]:
    """Return the mean cosine of visual tokens with the exact ones, and the share kept by both."""
    cosines = []
    shares = []
    for (features, kept), (true, right) in zip(found, exact, strict=True):
        cosines.append(F.cosine_similarity(features, true, dim=-1).mean().item())
        shares.append(len(kept & right) / len(right))
    return mean(cosines), mean(shares)


def rows_of(name: str, times: dict[str, list[float]], agreements: dict[str, Any]) -> list[Row]:
    """Return a row for each format of a tower."""
    rows = []
    for kind, ms in times.items():
        cosine, same = agreements.get(kind, (None, None))
        faster = median(times["float32"]) / median(ms)
        p95 = float(np.percentile(ms, 95))
        rows.append(Row(name, kind, median(ms), p95, faster, cosine, same))
    return rows


def of_model(name: str, repeats: int, quiet: bool) -> list[Row]:
    """Return the rows of the tower of a model, with what becomes of its features."""
    model, processor = load(name, device="cpu", dtype="float32")
    exact = chosen(model, processor)
    tower = model.model.vision_tower
    towers = {kind: in_format(tower, kind) for kind in FORMATS}
    tools: Any = processor
    side = tools.image_processor.crop_size["height"]
    times = timed(calls(towers, side), CPU, repeats, quiet)

    # the whole model in bfloat16, as one would load it; of int8 the tower alone
    agreements = {"float32": (1.0, 1.0)}
    agreements["bfloat16"] = agreement(chosen(*load(name, "cpu", "bfloat16")), exact)
    model.model.vision_tower = towers["int8"]
    agreements["int8"] = agreement(chosen(model, processor), exact)
    return rows_of(name, times, agreements)


def page(meta: dict[str, Any], rows: list[Row]) -> str:
    """Return the text of README.md."""
    lines = [
        "# Vision towers in other formats",
        "",
        f"    {meta['command']}",
        "",
        f"Milliseconds for one image, {meta['threads']} threads of {meta['name']}: medians and",
        f"95th percentiles of {meta['repeats']} rounds. int8: "
        "`torch.ao.quantization.quantize_dynamic` of the linear layers. Cosine: of visual",
        "tokens with those of float32, on the photographs that ship; same: the share of what "
        f"`adafv` keeps at {100 * KEEP:.0f} % that it keeps in float32, too.",
        "",
        "| tower | format | median | p95 | × faster | cosine | same |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cosine = "" if row.cosine is None else f"{row.cosine:.3f}"
        same = "" if row.same is None else f"{100 * row.same:.0f} %"
        lines.append(
            f"| {row.tower} | {row.format} | {row.median_ms:.0f} ms | {row.p95_ms:.0f} ms | "
            f"{row.faster:.2f} | {cosine} | {same} |"
        )
    return "\n".join(lines) + "\n"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--models", default="photo", help="with a CLS token, by commas; none: only CLIP's tower"
    )
    parser.add_argument("--without-large", action="store_true", help="leave CLIP's tower out")
    parser.add_argument("--repeats", type=int, default=10, metavar="N")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser.parse_args(arguments)


@torch.inference_mode()
def main(arguments: list[str] | None = None) -> None:
    """Measure, and write results.json, results.csv and README.md."""
    options = parse(arguments)
    out = writable_folder(options.out)
    rows = []
    if not options.without_large:
        towers = {kind: in_format(large(), kind) for kind in FORMATS}
        times = timed(calls(towers, LARGE_SIDE), CPU, options.repeats, options.quiet)
        rows += rows_of(LARGE, times, {})
    for name in filter(None, options.models.split(",")):
        rows += of_model(name, options.repeats, options.quiet)

    threads = torch.get_num_threads()
    script = "benchmarks/speed/tower_formats.py"
    command = command_of("python", script, arguments=arguments, threads=threads)
    meta: dict[str, Any] = {"command": command, "versions": versions()}
    meta |= {"repeats": options.repeats, "keep": KEEP} | machine_of(CPU)
    write_report(out, meta, rows, page(meta, rows))


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
