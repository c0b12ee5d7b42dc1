"""What the library on Hugging Face says, and what vLLM says, of the same questions."""

import atexit
import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import MARKER, VIDEO_MARKER
from transformers import AutoModelForImageTextToText, AutoProcessor
from zoo.base import show

from adafv import AdaFV, method
from adafv.batch.hf import HuggingFace
from adafv.batch.job import Batch
from adafv.batch.vllm import VLLMEngine
from adafv.demo.server import ON_A_CPU
from adafv.models.processors import processor_class
from adafv.models.videos import Video

# vLLM's latent attention reads no prompt in chunks on a CPU, and has no prefix cache there
os.environ |= ON_A_CPU | {"VLLM_MLA_DISABLE": "1"}
# what is frozen when Python ends counts as leaked
atexit.register(gc.unfreeze)

ANSWER = 6
SHAPES = ((96, 96), (48, 96), (90, 60), (48, 48))
FRAMES = (4, 4, 6)
CHUNKED = ("kimi_k25",)
"""Whose images vLLM takes as chunks of vision."""


@dataclass(frozen=True)
class Request:
    """A question on images and clips behind them, which are counted."""

    question: str
    images: tuple[int, ...] = (0,)
    keep: float = 0.3
    method: str = "adafv"
    before: str = ""
    between: str = " "
    clips: tuple[int, ...] = ()

    def prompt(
        self, family: str, marker: str | None = None, video_marker: str | None = None
    ) -> str:
        markers = [marker or MARKER[family]] * len(self.images)
        if self.clips:
            markers += [video_marker or VIDEO_MARKER[family]] * len(self.clips)
        return f"USER : {self.before}{self.between.join(markers)} {self.question} ASSISTANT :"

    @property
    def options(self) -> dict[str, Any]:
        return {"adafv_keep": self.keep, "adafv_method": self.method}


@dataclass
class Said:
    """An answer: its ids, the length of the prompt that was read, and what was kept of each
    image.
    """

    ids: list[int]
    length: int
    kept: list[list[int]] = field(default_factory=list)
    cached: int = 0


@cache
def picture(number: int) -> Any:
    return show(*SHAPES[number % len(SHAPES)], seed=number)


def chunk(shown: Any) -> dict[str, Any]:
    """An image as a chunk of vision."""
    return {"type": "image", "image": shown, "uuid": None}


@cache
def clip(number: int) -> Video:
    """Frames at two a second, of which none repeats another; from 100 on they stand still."""
    count = FRAMES[number % len(FRAMES)]
    seeds = [100 * number + i * (number < 100) for i in range(count)]
    frames = np.stack([np.asarray(show(48, 32, seed=seed)) for seed in seeds])
    return Video(frames, tuple(range(count)), count, 2.0)


class Library:
    """`adafv` on Hugging Face, one question at a time.

    Args:
        options: of the processor.
    """

    def __init__(self, family: str, folder: Path, **options: Any) -> None:
        self.family = family
        self.folder = folder
        # vLLM's may be others
        self.markers = (MARKER[family], VIDEO_MARKER.get(family))
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        kind = processor_class(self.model.config) if options else AutoProcessor
        self.processor = kind.from_pretrained(folder, **options)

    @torch.no_grad()
    def says(self, asked: Request, length: int = ANSWER, **budget: Any) -> Said:
        pictures = [picture(i) for i in asked.images]
        given: dict[str, Any] = {}
        if pictures:
            # vLLM prepares each image as if it were alone; OneVision's own processor does so with
            # a flat list
            given["images"] = pictures if self.family == "llava_onevision" else [pictures]
        if asked.clips:
            clips = [clip(i) for i in asked.clips]
            given["videos"] = [video.frames for video in clips]
            given["video_metadata"] = [video.metadata for video in clips]
            given["do_sample_frames"] = False
        inputs = dict(
            self.processor(
                text=[asked.prompt(self.family, *self.markers)], return_tensors="pt", **given
            )
        )
        if not given:
            return Said(self._answer(inputs, length), inputs["input_ids"].shape[1])
        if pictures:
            # Llama 4's processor makes them bfloat16
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        pruner = method(asked.method, **budget or {"keep": asked.keep})
        encoding = pruner.encode(self.model, inputs)
        selection = pruner.select(
            encoding.tokens, [pruner.budget(n) for n in encoding.tokens.counts]
        )
        short = pruner.rebuild(self.model, inputs, encoding, selection)
        return Said(
            self._answer(short, length),
            short["input_ids"].shape[1],
            [k.tolist() for k in selection.kept],
        )

    def _answer(self, inputs: dict[str, Any], length: int) -> list[int]:
        output = self.model.generate(**inputs, max_new_tokens=length, do_sample=False)
        return output[0, inputs["input_ids"].shape[1] :].tolist()


class Engine:
    """vLLM with the plugin.

    Args:
        in_process: in this process; else in two of its own, of the engine and of its worker.
        options: of vLLM.
    """

    def __init__(
        self, family: str, folder: Path, *, in_process: bool = True, **options: Any
    ) -> None:
        from vllm import LLM

        self.family = family
        defaults = dict(
            dtype="float32",
            max_model_len=1024,
            max_num_seqs=16,
            max_num_batched_tokens=1024,
            enforce_eager=True,
            block_size=32,
            num_gpu_blocks_override=1024,
            limit_mm_per_prompt={"image": 4},
            disable_log_stats=False,
            mm_processor_kwargs={"adafv_methods": "all"},
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0" if in_process else "1")
            self.llm = LLM(str(folder), **defaults | options)

    def say(self, *asked: Request, **options: Any) -> list[Said]:
        """Answers to questions in one batch."""
        return self.answer([self.request(a) for a in asked], **options)

    def request(self, asked: Request) -> dict[str, Any]:
        request: dict[str, Any] = {"prompt": asked.prompt(self.family)}
        shown: dict[str, Any] = {}
        pictures = [picture(i) for i in asked.images]
        if pictures and self.family in CHUNKED:
            shown["vision_chunk"] = [chunk(one) for one in pictures]
        elif pictures:
            shown["image"] = pictures
        if asked.clips:
            clips = [clip(i) for i in asked.clips]
            shown["video"] = [(c.frames, c.metadata | {"do_sample_frames": False}) for c in clips]
        if shown:
            request |= {"multi_modal_data": shown, "mm_processor_kwargs": asked.options}
        return request

    def answer(self, requests: list[dict[str, Any]], max_tokens: int = ANSWER) -> list[Said]:
        from vllm import SamplingParams

        greedy = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        found = self.llm.generate(requests, greedy, use_tqdm=False)
        return [
            Said(list(o.outputs[0].token_ids), len(o.prompt_token_ids), [], o.num_cached_tokens)
            for o in found
        ]

    @property
    def model(self) -> Any:
        executor = self.llm.llm_engine.engine_core.engine_core.model_executor
        return executor.driver_worker.worker.model_runner.get_model()

    def count(self, name: str) -> int:
        """One of vLLM's own counters."""
        return sum(
            int(metric.value) for metric in self.llm.get_metrics() if metric.name == f"vllm:{name}"
        )

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        with pytest.MonkeyPatch.context() as patch:
            # each step of vLLM's end would thaw what is frozen, and look at every module again
            patch.setattr(gc, "unfreeze", lambda: None)
            self.llm.llm_engine.engine_core.shutdown()
            del self.llm
            cleanup_dist_env_and_memory()
        gc.unfreeze()
        gc.collect()
        gc.freeze()


@contextmanager
def engine(family: str, folder: Path, **options: Any) -> Iterator[Engine]:
    made = Engine(family, folder, **options)
    try:
        yield made
    finally:
        made.close()


def check_equal(said: list[Said], library: Library, asked: list[Request]) -> None:
    """Assert that an engine has said what the library says, of a prompt as long."""
    for one, of in zip(said, asked, strict=True):
        expected = library.says(of)
        assert (one.ids, one.length) == (expected.ids, expected.length), of


def check_batch(
    lines: list[dict], folder: Path, on_vllm: VLLMEngine, made: Engine, library: Library
) -> list[dict]:
    """Compare what `adafv batch` writes on vLLM with transformers' lines; return them.

    Args:
        lines: questions about files in the folder.
        on_vllm: of the library's model, not started.
        made: the engine that it takes.
    """
    vars(on_vllm)["_llm"] = made.llm
    source = folder / "in.jsonl"
    source.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        # vLLM ends an answer with it, whatever the model's configuration says
        ends = library.processor.tokenizer.eos_token_id
        patch.setattr(library.model.generation_config, "eos_token_id", ends)
        for engine_of in (HuggingFace(library.model, library.processor, "tiny"), on_vllm):
            out = folder / f"{type(engine_of).__name__}.jsonl"
            Batch(source=source, out=out, pruner=AdaFV(keep=0.3), max_new_tokens=6).run(engine_of)
            found.append([json.loads(line) for line in out.read_text().splitlines()])
    assert found[0] == found[1]
    return found[1]
