"""vLLM's own benchmark client, with images and questions that it has not seen."""

import asyncio
import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from servers import NAME, Server
from shapes import Shape

__all__ = ["WORDS", "Client", "Trial"]

WORDS = 16  # of a question


class Trial(NamedTuple):
    """Some requests at once: what is measured.

    Attributes:
        question: "new", about images of their own, or "again".
    """

    repeat: int
    concurrency: int  # requests at once
    engine: str
    keep: float
    question: str = "new"


class Client:
    """vLLM's `bench serve`, in this process.

    Args:
        folder: for images and questions.
        model: where the tokenizer is.
        shape: of the model.
        answer: tokens of every answer.
        method: of adafv.
    """

    def __init__(self, folder: Path, model: Path, shape: Shape, answer: int, method: str) -> None:
        from vllm.benchmarks.serve import add_cli_args
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        self.folder = folder
        self.model = model
        self.shape = shape
        self.answer = answer
        self.method = method
        # as `vllm bench serve` makes it
        self.parser = FlexibleArgumentParser()
        add_cli_args(self.parser)

    def run(self, server: Server, trial: Trial, requests: int, seed: int) -> dict[str, Any]:
        """Return the client's result. Equal seeds ask about equal images.

        Raises:
            ValueError: a request failed.
        """
        from vllm.benchmarks.serve import main_async

        questions = self._questions(requests, seed, again=trial.question == "again")
        options = {
            # where to ask
            "backend": "openai-chat",
            "endpoint": "/v1/chat/completions",
            "base-url": server.url,
            "model": NAME,
            "tokenizer": self.model,
            # what to ask
            "dataset-name": "custom_image",
            "dataset-path": questions,
            "output-len": self.answer,
            "temperature": 0,
            # how much at once
            "num-prompts": requests,
            "max-concurrency": trial.concurrency,
            "request-rate": "inf",
            "ready-check-timeout-sec": 0,
        }
        # stock vLLM takes no such options
        if trial.engine != "stock":
            chosen = {"adafv_keep": trial.keep, "adafv_method": self.method}
            options["extra-body"] = json.dumps({"mm_processor_kwargs": chosen})
        # every answer has the same length, and every request is kept for the percentiles
        flags = [
            "custom-ensure-client-side-data",
            "disable-shuffle",
            "ignore-eos",
            "disable-tqdm",
            "save-detailed",
        ]
        words = [f"--{flag}" for flag in flags]
        for name, value in options.items():
            words += [f"--{name}", str(value)]

        # the client prints a report of its own
        with contextlib.redirect_stdout(io.StringIO()):
            found = asyncio.run(main_async(self.parser.parse_args(words)))
        if found["failed"]:
            error = next(filter(None, found["errors"]))
            raise ValueError(
                f"{found['failed']} of {requests} requests failed at {trial}: "
                f"{error.splitlines()[-1]}"
            )
        return found

    def _questions(self, count: int, seed: int, *, again: bool) -> Path:
        """Write images and questions; "again" asks something else about the same images."""
        side = self.shape.side
        images = np.random.default_rng([seed, 0])
        words = np.random.default_rng([seed, 1 + again])
        lines = []
        for i in range(count):
            # not noise of single pixels, which takes long to pack as PNG
            coarse = images.integers(0, 256, (14, 14, 3), dtype=np.uint8)
            # written over and over: only what is sent counts
            path = self.folder / f"{i}.png"
            Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
            question = " ".join(words.choice(self.shape.words, WORDS))
            content = [{"type": "image", "image": str(path)}, {"type": "text", "text": question}]
            lines.append(json.dumps({"content": content}))
        path = self.folder / "questions.jsonl"
        path.write_text("\n".join(lines))
        return path
