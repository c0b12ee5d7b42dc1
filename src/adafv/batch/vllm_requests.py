"""Questions as vLLM takes them, and what its answers say, whoever runs it."""

import importlib.util
import json
import os
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, GenerationConfig, ProcessorMixin

from adafv.batch.engine import Response
from adafv.core.prompt import placeholders
from adafv.core.pruner import Pruner
from adafv.integrations.vllm import ARCHITECTURES, FOLLOWS
from adafv.integrations.vllm.meta_model import MetaModel
from adafv.integrations.vllm.options import PruneConfig, options_in
from adafv.models.load import from_files, source_of
from adafv.models.processors import processor_class
from adafv.models.prompting import prompt_for, tokenizer_options
from adafv.models.saved import options_of
from adafv.utils.checks import checked

__all__ = ["Requests", "engine_options", "fingerprint", "needs", "prepare"]

BEGINNING = 256
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "4",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
    **FOLLOWS,
}


@checked
class Requests:
    """What a model on vLLM is asked.

    Args:
        model: hub id or folder; None: the model that ships with the package.

    Raises:
        ValueError: it cannot be loaded.
    """

    def __init__(self, model: str | None) -> None:
        self.name, self.source = model or "embedded", source_of(model)
        self.config = from_files(self.source, AutoConfig.from_pretrained)
        self.processor: ProcessorMixin = from_files(
            self.source, processor_class(self.config).from_pretrained, backend="pil"
        )

    def check(self, pruner: Pruner) -> None:
        """Raise a `ValueError` if the model or the method is not pruned on vLLM."""
        architecture = next(iter(self.config.architectures or ()), None)
        if architecture not in ARCHITECTURES:
            raise ValueError(
                f"{architecture} is not pruned on vLLM, which does {', '.join(ARCHITECTURES)}: pass --engine hf"
            )
        try:
            PruneConfig.of(_options(pruner), {})
        except ValueError as error:
            raise ValueError(f"{error}: pass --engine hf, or another method") from None

    def prompt(self, question: str) -> list[int]:
        """Its ids, with one placeholder for the image."""
        tools: Any = self.processor
        text = prompt_for(self.processor, question)
        special = tokenizer_options(self.processor, text)["add_special_tokens"]
        return tools.tokenizer(text, add_special_tokens=special)["input_ids"]

    def options(self, pruner: Pruner) -> dict[str, Any]:
        """mm_processor_kwargs that prune so."""
        return _options(pruner)

    def sampling(self, max_new_tokens: int) -> dict[str, Any]:
        """Parameters of a greedy answer, such as transformers gives."""
        return {
            "temperature": 0.0,
            "max_tokens": max_new_tokens,
            "repetition_penalty": self._repetition_penalty,
        }

    def visual_tokens(self, image: Image.Image) -> int:
        """N of an image: its patches, newlines not counted."""
        tools: Any = self.processor
        width, height = image.size
        [count] = tools._get_num_multimodal_tokens(image_sizes=[(height, width)])[
            "num_image_tokens"
        ]
        if not hasattr(self.config, "image_grid_pinpoints"):
            return count
        layout = self._skeleton.layout(count, {"image_sizes": torch.tensor([height, width])})
        return len(layout.patch_indices)

    def answered(self, text: str, prompt: Sequence[int], visual_tokens: int) -> Response:
        """The outcome, from what was read and written."""
        read = list(prompt).count(self._placeholder)
        return {
            "answer": text.strip(),
            "visual_tokens": visual_tokens,
            "kept_tokens": min(read, visual_tokens),
        }

    @cached_property
    def _skeleton(self) -> MetaModel:
        return MetaModel(self.config)

    @cached_property
    def _placeholder(self) -> int:
        return placeholders(self.config)["image"]

    @cached_property
    def _repetition_penalty(self) -> float:
        try:
            return GenerationConfig.from_pretrained(self.source).repetition_penalty or 1.0
        except OSError:
            return 1.0


def engine_options(device: str) -> dict[str, Any]:
    """VLLM's own options: images are prepared as everywhere in this library, and nothing is
    compiled for a CPU.
    """
    return {
        "mm_processor_kwargs": {"backend": "pil"},
        "limit_mm_per_prompt": {"image": 1},
        "enforce_eager": device == "cpu",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }


@checked
def fingerprint(source: str, config: Any) -> str:
    """Tells a model from its retrained successor without loading either.

    A hub id's commit, or a checksum over the beginnings of the weights in a folder.
    """
    if not os.path.isdir(source):
        return str(config._commit_hash)
    checksum = 0
    for path in sorted(Path(source).glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            start = file.tell()
            for _, weight in sorted(header.items()):
                if "data_offsets" in weight:
                    file.seek(start + weight["data_offsets"][0])
                    checksum = zlib.crc32(file.read(BEGINNING), checksum)
    return f"{checksum:08x}"


@checked
def needs(module: str, extra: str) -> None:
    """Raise a `ValueError` if an optional package is not there."""
    if importlib.util.find_spec(module) is None:
        raise ValueError(
            f"--engine {extra} needs {module}, which is not installed: pip install 'adafv[{extra}]', or leave it out"
        )


def prepare() -> dict[str, str]:
    """Make vLLM say on stderr what is wrong, nothing else, send nothing home, and leave a CPU's
    memory to others too.

    What is set already stays.

    Returns:
        The environment of its processes.
    """
    return {name: os.environ.setdefault(name, value) for name, value in ENVIRONMENT.items()}


def _options(pruner: Pruner) -> dict[str, Any]:
    if pruner.query is not None:
        raise ValueError("query of a pruner cannot be handed to vLLM")
    return options_in({"method": pruner.name, **options_of(pruner)})
