"""What the measurements of a server have in common: options, and what they run on."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shapes import SHAPES

from adafv.utils.machine import processor_name

__all__ = ["DENSE", "add_options", "machine", "numbers"]

DENSE = 1.0
"""Share of the tokens that stock vLLM reads."""


def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return what reads numbers separated by commas."""
    return lambda text: list(map(kind, text.split(",")))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is measured, on what, and how often."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--shape", choices=SHAPES, default="llava-0.4b")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="of weights and sums; a CPU without AVX-512 is many times slower in bfloat16",
    )
    parser.add_argument("--method", default="adafv")
    parser.add_argument("--keep", type=numbers(float), default=[0.25, 0.1, 0.05], metavar="F,F,…")
    parser.add_argument("--repeats", type=int, default=4, metavar="N")
    parser.add_argument(
        "--answer", type=int, default=16, metavar="N", help="tokens of every answer"
    )
    parser.add_argument(
        "--kv-gib", type=int, default=2, metavar="N", help="KV cache of a server on a CPU"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def machine(device: str) -> dict[str, Any]:
    """Return name, cores and memory in GiB."""
    import psutil
    import torch

    return {
        "name": torch.cuda.get_device_name() if device == "cuda" else processor_name(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
    }
