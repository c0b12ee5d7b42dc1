"""Put questions as vLLM takes them, and read its answers, whoever runs it."""

import importlib.util
import json
import os
import zlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, GenerationConfig, ProcessorMixin

from adafv.batch.engine import Response
from adafv.core.inputs import placeholders
from adafv.core.pruner import Pruner
from adafv.integrations.vllm import ARCHITECTURES, FOLLOWS
from adafv.integrations.vllm.architecture import Architecture
from adafv.integrations.vllm.hub_format import check_format
from adafv.integrations.vllm.left_out_architectures import in_brackets
from adafv.integrations.vllm.meta_model import MetaModel
from adafv.integrations.vllm.options import ALL, VLLMOptions
from adafv.models.load import from_files, processor_fingerprint, source_of
from adafv.models.processors import processor_class
from adafv.models.prompting import build_inputs, prompt_for, tokenizer_options
from adafv.models.videos import Video
from adafv.utils.checks import checked

__all__ = ["Requests", "engine_options", "fingerprint", "needs", "prepare"]

BEGINNING = 256  # bytes of each weight that a fingerprint reads
# Of vLLM's processes: quiet, no statistics sent, and memory of a CPU left to others.
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
    """Prompts, options and answers of a model on vLLM.

    Args:
        model: hub id or folder; None: the model that ships with the package.

    Raises:
        ValueError: it cannot be loaded.
    """

    def __init__(self, model: str | None) -> None:
        self.name = model or "embedded"
        self.source = source_of(model)
        # the configuration alone: weights are read by the engine
        self.config = from_files(self.source, AutoConfig.from_pretrained)
        self.processor: ProcessorMixin = from_files(
            self.source, processor_class(self.config).from_pretrained, backend="pil"
        )
        # images of a job have few sizes
        self._placeholders_of = lru_cache(maxsize=256)(self._count_placeholders)

    @property
    def settings(self) -> dict[str, Any]:
        """Return, ready for JSON, which model and processor answer."""
        return {
            "model": self.name,
            "weights": fingerprint(self.source, self.config),
            "processor": processor_fingerprint(self.processor),
        }

    def check(self, pruner: Pruner) -> None:
        """Raise a `ValueError` if the model or the method is not pruned on vLLM."""
        if self._architecture is None:
            name = next(iter(self.config.architectures or ()), type(self.config).__name__)
            raise ValueError(
                f"{name} is not pruned on vLLM (`adafv families --engine vllm` lists what is): "
                f"pass --engine hf{in_brackets(name)}"
            )
        check_format(self.config, self._architecture)
        try:
            VLLMOptions.of_pruner(pruner).check()
        except ValueError as error:
            raise ValueError(f"{error}: pass --engine hf, or another method") from None

    @property
    def reads_videos(self) -> bool:
        """Return whether videos are pruned in this model."""
        return self._architecture is not None and self._architecture.videos

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return what of a prompt vLLM prunes in this model, by its own names."""
        return ("image",) if self._architecture is None else self._architecture.modalities

    def multi_modal_data(self, image: Image.Image) -> dict[str, Any]:
        """Return a prompt's one image as vLLM takes it."""
        architecture = self._architecture
        return {"image": image} if architecture is None else architecture.multi_modal_data(image)

    def prompt(self, question: str, video: bool = False) -> list[int]:
        """Return the ids of a prompt, with one placeholder for the image, or for the video."""
        tools: Any = self.processor
        # the same text and tokens as transformers' engine has; vLLM repeats the placeholder
        text = prompt_for(self.processor, question, video=video)
        special = tokenizer_options(self.processor, text)["add_special_tokens"]
        ids: list[int] = tools.tokenizer(text, add_special_tokens=special)["input_ids"]
        if self._architecture is not None and self._architecture.in_front:
            # vLLM writes it itself
            return [token for token in ids if token not in self._placeholders]
        return ids

    def options(self, pruner: Pruner) -> dict[str, Any]:
        """Return the mm_processor_kwargs of a pruner."""
        return VLLMOptions.of_pruner(pruner).to_dict()

    def sampling(self, max_new_tokens: int) -> dict[str, Any]:
        """Return the parameters of a greedy answer, such as transformers gives."""
        return {
            "temperature": 0.0,
            "max_tokens": max_new_tokens,
            "repetition_penalty": self._repetition_penalty,
        }

    def check_video(self) -> None:
        """Raise a `ValueError` if videos are not pruned in this model."""
        if not self.reads_videos:
            titles = ", ".join(one.title for one in ARCHITECTURES.values() if one.videos)
            raise ValueError(f"videos are pruned on vLLM in {titles} alone: pass --engine hf")

    def count_visual_tokens(self, image: Image.Image | Video) -> int:
        """Count the patches of an image or a video, N: newlines are none."""
        if isinstance(image, Video):
            tools: Any = self.processor
            counts = tools._get_num_multimodal_tokens(video_sizes=[image.frames.shape[:3]])
            [count] = counts["num_video_tokens"]
            # LLaVA-OneVision puts one newline behind a video
            return count - hasattr(self.config, "image_grid_pinpoints")
        width, height = image.size
        count = self._placeholders_of(width, height)
        # only models that cut an image into crops put newlines between their rows
        if not hasattr(self.config, "image_grid_pinpoints"):
            return count
        layout = self._meta_model.layout(count, {"image_sizes": torch.tensor([height, width])})
        return len(layout.patch_indices)

    def response(self, text: str, prompt: Sequence[int], visual_tokens: int) -> Response:
        """Return the response, from what was read and written."""
        # an unpruned image has placeholders for its newlines too, which are no visual tokens
        read = sum(token in self._placeholders for token in prompt)
        return {
            "answer": text.strip(),
            "visual_tokens": visual_tokens,
            "kept_tokens": min(read, visual_tokens),
        }

    def _count_placeholders(self, width: int, height: int) -> int:
        """Return how many placeholders an image of a size has in a prompt, newlines among them.

        What some processors say of a size counts the tokens between and around them, too.
        """
        inputs = build_inputs(self.processor, Image.new("RGB", (width, height)), "?")
        return sum(token in self._placeholders for token in inputs["input_ids"][0].tolist())

    @cached_property
    def _meta_model(self) -> MetaModel:
        return MetaModel(self.config)

    @cached_property
    def _architecture(self) -> Architecture | None:
        # vLLM chooses its model by the first
        return ARCHITECTURES.get(next(iter(self.config.architectures or ()), ""))

    @cached_property
    def _placeholders(self) -> frozenset[int]:
        return frozenset(placeholders(self.config).values())

    @cached_property
    def _repetition_penalty(self) -> float:
        """Return the model's own penalty, which transformers applies to greedy answers too."""
        try:
            return GenerationConfig.from_pretrained(self.source).repetition_penalty or 1.0
        # not every model has one
        except OSError:
            return 1.0


@checked
def engine_options(device: str, modalities: Sequence[str]) -> dict[str, Any]:
    """Return engine arguments of vLLM for a device and what is asked about."""
    return {
        # images are prepared as everywhere in this library
        # and whoever runs the engine is whoever asks it
        "mm_processor_kwargs": {"backend": "pil", "adafv_methods": ALL},
        # what memory is measured with
        "limit_mm_per_prompt": dict.fromkeys(modalities, 1),
        # on a CPU compiling takes longer than it saves
        "enforce_eager": device == "cpu",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }


@checked
def fingerprint(source: str, config: Any) -> str:
    """Return what tells a model from its retrained successor, without loading either.

    That is a hub id's commit, or a checksum over a folder's configuration and the beginnings of its
    weights.
    """
    # the hub knows which commit it gave
    if not os.path.isdir(source):
        return str(config._commit_hash)
    checksum = 0
    for name in ("config.json", "generation_config.json"):
        path = Path(source) / name
        if path.is_file():
            checksum = zlib.crc32(path.read_bytes(), checksum)
    for path in sorted(Path(source).glob("*.safetensors")):
        with path.open("rb") as file:
            # a safetensors file: 8 bytes of length, a header in JSON, then the weights
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            start = file.tell()
            for _, weight in sorted(header.items()):
                # the header has an entry of metadata too
                if "data_offsets" in weight:
                    file.seek(start + weight["data_offsets"][0])
                    checksum = zlib.crc32(file.read(BEGINNING), checksum)
    return f"{checksum:08x}"


@checked
def needs(module: str, extra: str) -> None:
    """Raise a `ValueError` if an optional package is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ValueError(
            f"--engine {extra} needs {module}, which is not installed: "
            f"pip install 'adafv[{extra}]', or leave it out"
        )


def prepare() -> dict[str, str]:
    """Set the environment of vLLM's processes, as far as it is not set already.

    Returns:
        The environment.
    """
    environment = {}
    for name, value in ENVIRONMENT.items():
        environment[name] = os.environ.setdefault(name, value)
    return environment
