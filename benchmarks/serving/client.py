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

__all__ = ["WORDS", "Cell", "Client"]

WORDS = 16  # of a question


class Cell(NamedTuple):
    """Some requests at once: what is measured.

    `question`: "new", about images of their own, or "again".
    """

    repeat: int
    concurrency: int
    engine: str
    keep: float
    question: str = "new"


class Client:
    """vLLM's `bench serve`, in this process.

    Args:
        folder: for images and questions.
        model: where the tokenizer is.
    """

    def __init__(self, folder: Path, model: Path, shape: Shape, answer: int, method: str) -> None:
        from vllm.benchmarks.serve import add_cli_args
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        self.folder, self.model, self.shape, self.answer, self.method = (
            folder,
            model,
            shape,
            answer,
            method,
        )
        self.parser = FlexibleArgumentParser()
        add_cli_args(self.parser)

    def run(self, server: Server, cell: Cell, requests: int, seed: int) -> dict[str, Any]:
        """Its result. Equal seeds ask about equal images.

        Raises:
            ValueError: a request failed.
        """
        from vllm.benchmarks.serve import main_async

        questions = self._questions(requests, seed, again=cell.question == "again")
        options = {
            "backend": "openai-chat", "endpoint": "/v1/chat/completions", "base-url": server.url, "model": NAME,
            "tokenizer": self.model, "dataset-name": "custom_image", "dataset-path": questions,
            "num-prompts": requests, "max-concurrency": cell.concurrency, "request-rate": "inf",
            "output-len": self.answer, "temperature": 0, "ready-check-timeout-sec": 0,
        }  # fmt: skip
        if cell.engine != "stock":
            chosen = {"adafv_keep": cell.keep, "adafv_method": self.method}
            options["extra-body"] = json.dumps({"mm_processor_kwargs": chosen})
        flags = [
            "custom-ensure-client-side-data",
            "disable-shuffle",
            "ignore-eos",
            "disable-tqdm",
            "save-detailed",
        ]
        words = [f"--{flag}" for flag in flags]
        words += [str(x) for name, value in options.items() for x in (f"--{name}", value)]
        with contextlib.redirect_stdout(io.StringIO()):
            found = asyncio.run(main_async(self.parser.parse_args(words)))
        if found["failed"]:
            error = next(error for error in found["errors"] if error)
            raise ValueError(
                f"{found['failed']} of {requests} requests failed at {cell}: {error.splitlines()[-1]}"
            )
        return found

    def _questions(self, count: int, seed: int, *, again: bool) -> Path:
        side = self.shape.side
        images, words = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1 + again])
        lines = []
        for i in range(count):
            coarse = images.integers(0, 256, (14, 14, 3), dtype=np.uint8)
            path = self.folder / f"{i}.png"
            Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
            question = " ".join(words.choice(self.shape.words, WORDS))
            content = [{"type": "image", "image": str(path)}, {"type": "text", "text": question}]
            lines.append(json.dumps({"content": content}))
        path = self.folder / "questions.jsonl"
        path.write_text("\n".join(lines))
        return path
