"""Load a model and its processor: the embedded one, a hub id, or a local folder."""

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from adafv import embedded
from adafv.core.chat_template import remember
from adafv.families import family_of
from adafv.models import photo
from adafv.models.hub import is_hub_id, is_reachable
from adafv.models.photo.record import check_current
from adafv.models.processors import processor_class
from adafv.utils.checks import checked
from adafv.utils.files import expanded

__all__ = [
    "DTYPES",
    "device_of",
    "dtype_of",
    "fingerprint",
    "from_files",
    "load",
    "processor_fingerprint",
    "sentence",
    "source_of",
]

# Names of dtypes as people write them, long and short.
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


# What transformers raises at files that it cannot read, or whose entries are of a wrong type.
_UNLOADABLE = (
    *(OSError, ValueError, RuntimeError, KeyError, ImportError, TypeError, AttributeError),
    *(SafetensorError, StrictDataclassError),
)


def load(
    model: str | Path | None = None, device: str | None = None, dtype: str | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a vision-language model and its processor, ready to answer.

    Weights come from safetensors, no code comes from the hub, and images are prepared with
    Pillow, so that the same image gives the same pixels whether or not torchvision is installed.
    The family is checked before any weight is read.

    Args:
        model: hub id or local folder in the Hugging Face format; "photo": what `adafv fetch photo`
            fetched; "embedded" or None: the model that ships with the package.
        device: "cpu", "cuda", "cuda:1", …; None: cuda if there is one, else cpu.
        dtype: a name in `DTYPES`; None: bfloat16 on cuda, float32 elsewhere.

    Returns:
        The model, in eval mode on its device, and its processor.

    Raises:
        ValueError: an unknown device or dtype, a folder or id that cannot be loaded, a family that
            is not supported, a model without a vision tower, or weights that are missing, damaged
            or not in safetensors.
    """
    # settle what can fail in a moment before any weight is read
    target = device_of(device)
    precision = dtype_of(dtype, target)
    source = source_of(model)
    config = from_files(source, AutoConfig.from_pretrained)
    family_of(config)

    # Pillow's backend: torchvision resizes to slightly different pixels
    processor = from_files(source, processor_class(config).from_pretrained, backend="pil")
    # no pickled weights, no code from the hub
    with _bar(shown=source != str(embedded.MODEL_DIR)):
        loaded, info = from_files(
            source,
            AutoModelForImageTextToText.from_pretrained,
            config=config,
            dtype=precision,
            use_safetensors=True,
            output_loading_info=True,
        )
    # transformers fills weights that a file lacks with random numbers, and only logs it
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise ValueError(
            f"model {source!r} lacks {len(lacking)} weights ({lacking[0]}, …): download it again"
        )
    # the chat template tells later which words are the question's
    remember(loaded, processor)
    return loaded.to(target).eval(), processor


@contextmanager
def _bar(shown: bool) -> Iterator[None]:
    """Leave transformers' bar out where loading takes a moment, as long as the context is open."""
    hide = not shown and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()


def source_of(model: str | Path | None) -> str:
    """Return the folder, or hub id, of a model.

    Args:
        model: hub id or folder; "embedded" or None: the one that ships; "photo": the one that was
            fetched. A folder here may have either name.

    Raises:
        ValueError: "photo" before it was fetched, or fetched by another version; a folder that
            isn't there or holds no model, or something that is neither.
    """
    # the model that ships
    name = str(embedded.NAME if model is None else model)
    if model is None or (name == embedded.NAME and not Path(name).is_dir()):
        if not (embedded.MODEL_DIR / "config.json").is_file():
            raise ValueError(
                "the embedded model is not in this installation: reinstall adafv, or pass --model"
            )
        return str(embedded.MODEL_DIR)

    # the photo model
    if name == photo.NAME and not Path(name).is_dir():
        if not photo.fetched():
            raise ValueError("the photo model is not here yet: run `adafv fetch photo`")
        check_current()
        return str(photo.folder())

    # a folder of the user's own
    path = expanded(name)
    if name and path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(
                f"folder {name!r} has no config.json: pass a model folder in the Hugging Face "
                "format"
            )
        return str(path)
    if name and path.exists():
        raise ValueError(f"{name!r} is a file: pass the model's folder, or a hub id")

    # what is left must look like a hub id; a `Path` is never one
    if isinstance(model, Path) or not is_hub_id(name):
        raise ValueError(
            f"model folder {name!r} does not exist: check the path, or pass a hub id such as "
            "owner/name"
        )
    return name


@checked
def device_of(name: str | None) -> torch.device:
    """Return a device by its name; None: cuda if there is one, else cpu.

    Raises:
        ValueError: the name is unknown, or no tensor can be made there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # PyTorch names devices that this machine lacks; only a tensor on one tells
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # a device that needs a package of its own
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(
            f"device {name!r} cannot be used ({sentence(error)}): pass cpu, or leave it out"
        ) from None
    return device


@checked
def dtype_of(name: str | None, device: torch.device) -> torch.dtype:
    """Return a name in `DTYPES` as a dtype; None: what suits the device.

    Raises:
        ValueError: the name is unknown.
    """
    if name is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name.lower() not in DTYPES:
        raise ValueError(f"dtype {name!r} is unknown: pass one of {', '.join(DTYPES)}")
    return DTYPES[name.lower()]


@checked
def from_files(source: str, load: Callable[..., Any], **options: Any) -> Any:
    """Load something from files, with one sentence for whatever goes wrong.

    Args:
        source: folder or hub id.
        load: transformers' `from_pretrained` of some class.
        options: for `load`.

    Raises:
        ValueError: it cannot be loaded.
    """
    if not Path(source).is_dir() and not is_reachable():
        # What is in the cache is used; the client would wait half a minute for a hub that is gone.
        options["local_files_only"] = True
    try:
        return load(source, trust_remote_code=False, **options)
    except _UNLOADABLE as error:
        raise ValueError(
            f"model {source!r} cannot be loaded ({sentence(error)}): check the id or folder, "
            "and the connection if it has to be downloaded"
        ) from error


def sentence(error: Exception) -> str:
    """Return the first line of an error's message, without its full stop.

    Of an entry of a wrong type in a configuration the cause stands in the lines after it.
    """
    if isinstance(error, StrictDataclassError):
        return " ".join(str(error).split()).rstrip(".:")
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".:")


@checked
def processor_fingerprint(processor: ProcessorMixin) -> str:
    """Return a checksum over what a processor makes of pictures, text and chats."""
    decides = processor.to_json_string() + str(getattr(processor, "chat_template", None))
    tokenizer = getattr(processor, "tokenizer", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # the last call's padding stands in it, too
        of_text = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
        decides += json.dumps(of_text)
    elif tokenizer is not None:
        # written in Python, as those of Mistral
        decides += json.dumps(sorted(tokenizer.get_vocab().items()))
    return f"{zlib.crc32(decides.encode()):08x}"


@checked
def fingerprint(model: PreTrainedModel) -> str:
    """Return a checksum over a model's configuration and the beginnings of its weights.

    It tells a model from its retrained successor, and from one that decodes otherwise.
    """
    checksum = zlib.crc32(model.config.to_json_string().encode())
    if model.can_generate():
        checksum = zlib.crc32(model.generation_config.to_json_string().encode(), checksum)
    for weight in model.parameters():
        # 64 numbers of each: training moves them all, and reading no more takes milliseconds
        beginning = weight.detach().flatten()[:64].float().cpu()
        checksum = zlib.crc32(beginning.numpy().tobytes(), checksum)
    return f"{checksum:08x}"
