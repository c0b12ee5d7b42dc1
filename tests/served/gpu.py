"""Hold vLLM under Model Runner V2, with CUDA graphs, against the library: one engine for each of
six tiny checkpoints.

    make test-vllm-gpu PYTHON=python    # a Python with vLLM and pytest, which knows the GPU

The exit status is 1 if an answer, or what is kept of an image, is not the library's. No GPU has run
this yet; --device cpu runs the same comparisons on Model Runner V1, without CUDA graphs.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from engine import Engine, Library, Request, Said
from pairs import SEVERAL, noted, pair

from adafv.integrations.vllm import register

TRIED = {
    "llava_next": "LlavaNextForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
    "gemma3": "Gemma3ForConditionalGeneration",
}
"""Positions in a row, M-RoPE, DeepStack, its next generation, structure between tokens, and visual
tokens that see each other.
"""
V2 = "vllm.v1.worker.gpu.model_runner"
OF_ENGINE: dict[str, dict[str, Any]] = {
    "cpu": {},
    "cuda": {
        "enforce_eager": False,
        "gpu_memory_utilization": 0.3,
        "compilation_config": {"cudagraph_capture_sizes": [1, 2, 4, 8, 16]},
    },
}


@dataclass(frozen=True)
class Compared:
    """What an engine said, against the library: how many answers, and how many images, are as they
    are there.
    """

    answers: int
    images: int
    of_answers: int
    of_images: int
    cached: int
    """Tokens that were read from the prefix cache the second time."""

    @property
    def equal(self) -> bool:
        return (self.answers, self.images) == (self.of_answers, self.of_images)


def compare(
    said: Sequence[Said],
    again: Sequence[Said],
    kept: Sequence[list[int]],
    library: Library,
    asked: Sequence[Request],
) -> Compared:
    """Compare answers, those of a second time from the caches, and what was kept of each image."""
    expected = [library.says(one) for one in asked]
    right = [(one.ids, one.length) for one in expected]
    found = [(one.ids, one.length) for one in (*said, *again)]
    # an image of which all is kept is not chosen from
    pruned = [one for one, of in zip(expected, asked, strict=True) if of.keep < 1]
    wanted = {tuple(indices) for one in pruned for indices in one.kept}
    chosen = {tuple(indices) for indices in kept}
    return Compared(
        answers=sum(one == other for one, other in zip(found, 2 * right, strict=True)),
        of_answers=len(found),
        images=len(wanted & chosen),
        of_images=len(wanted | chosen),
        cached=sum(one.cached for one in again),
    )


def runner_of(made: Engine) -> str:
    """Return which model runner is in use, and how its CUDA graphs are; check both on a GPU.

    Raises:
        RuntimeError: another runner than V2, or no CUDA graphs, where there is a GPU.
    """
    executor = made.llm.llm_engine.engine_core.engine_core.model_executor
    runner = type(executor.driver_worker.worker.model_runner)
    mode = made.llm.llm_engine.vllm_config.compilation_config.cudagraph_mode.name
    name = "V2" if runner.__module__ == V2 else runner.__name__
    if made.on_gpu and (name != "V2" or mode == "NONE"):
        raise RuntimeError(
            f"{name} runs with CUDA graphs {mode}, where V2 and graphs were to be tried: unset "
            "VLLM_USE_V2_MODEL_RUNNER, and install vLLM with Triton"
        )
    return f"{name}, graphs {mode}"


def run(family: str, device: str) -> tuple[Compared, str]:
    """Start an engine, and compare."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pair(TRIED[family], family, Path(folder), **OF_ENGINE[device]) as (made, library),
        noted() as kept,
    ):
        made.on_gpu = device == "cuda"
        runner = runner_of(made)
        said = made.say(*SEVERAL)
        again = made.say(*SEVERAL)
        return compare(said, again, list(kept.values()), library, SEVERAL), runner


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each checkpoint, then the time of all, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=OF_ENGINE, default="cuda", help="default: cuda")
    parser.add_argument("--only", choices=TRIED, nargs="+", default=list(TRIED), metavar="FAMILY")
    options = parser.parse_args(arguments)
    # products of float32 are as exact as on a CPU
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    # whether or not the package is installed with its entry points
    register()

    begun = time.perf_counter()
    lines = []
    failed = False
    for family in options.only:
        start = time.perf_counter()
        found, runner = run(family, options.device)
        failed |= not found.equal
        lines.append(
            f"{family:<12}{found.answers:>4} of {found.of_answers:<4}"
            f"{found.images:>4} of {found.of_images:<4}{found.cached:>7}"
            f"{time.perf_counter() - start:>8.0f} s  {runner}"
        )
    print(f"\n{'':<12}{'answers':>12}{'images':>12}{'cached':>7}{'time':>10}  model runner")
    print("\n".join(lines))
    print(f"\n{'not ' * failed}as the library, in {time.perf_counter() - begun:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
