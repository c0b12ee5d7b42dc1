"""InternVL and Qianfan-OCR as transformers has them, to be served in the hub's own format."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    PreTrainedTokenizerFast,
    QianfanOCRConfig,
    QianfanOCRForConditionalGeneration,
    QianfanOCRProcessor,
)
from zoo.base import BASIC, WORDS, Tiny
from zoo.crops import TILES, parts

from adafv.models.processors import images_only
from adafv.speed.shapes import with_control_tokens

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
"""By which vLLM normalizes, whatever a checkpoint says."""
NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<|video_pad|>",
}
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)
CODE = """
from transformers import CONFIG_MAPPING, PreTrainedConfig


class Tower(PreTrainedConfig):
    model_type = "intern_vit_6b"


class Chat(PreTrainedConfig):
    model_type = "internvl_chat"

    def __init__(self, vision_config=None, llm_config=None, **options):
        super().__init__(**options)
        self.vision_config = Tower(**(vision_config or {}))
        words = dict(llm_config or {"model_type": "qwen2"})
        self.llm_config = CONFIG_MAPPING[words.pop("model_type")](**words)
"""
"""In place of the hub's own code: what a checkpoint says, as attributes."""

RENAMED = (
    (r"^lm_head", "language_model.lm_head"),
    (r"^model\.language_model", "language_model.model"),
    (r"^model\.multi_modal_projector\.layer_norm", "mlp1.0"),
    (r"^model\.multi_modal_projector\.linear_1", "mlp1.1"),
    (r"^model\.multi_modal_projector\.linear_2", "mlp1.3"),
    (r"^model\.vision_tower\.(encoder\.layer|layers)\.", "vision_model.encoder.layers."),
    (r"^model\.vision_tower", "vision_model"),
    (r"(?<=embeddings\.)cls_token", "class_embedding"),
    (r"(?<=embeddings\.)patch_embeddings\.projection", "patch_embedding"),
    (r"(?<=embeddings\.)position_embeddings", "position_embedding"),
    (r"\.attention\.", ".attn."),
    (r"\.projection_layer\.", ".proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.lambda_(\d)", r".ls\1"),
)
"""Names of weights in transformers, and on the hub."""


def tokens(named: dict[str, str] = NAMED) -> PreTrainedTokenizerFast:
    """Byte by byte, as Qwen2's: `<image>` is several tokens, and `>` with a line break is one.

    Args:
        named: control tokens.
    """
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces = Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=[*BASIC, *named.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = [f"{word} {word}\n" for word in WORDS] + ["<image>\nwhat color", " <image> is there"]
    backend.train_from_iterator(4 * text, trainer)
    return with_control_tokens(backend, named)


def _images() -> GotOcr2ImageProcessorPil:
    return GotOcr2ImageProcessorPil(**TILES, **IMAGENET)


def internvl_chat() -> Tiny:
    """With queries and keys that are normalized, as in the tower of six billion parameters."""
    words = tokens()
    processor = images_only(InternVLProcessor)(_images(), words, image_seq_length=9)
    tower = {"image_size": 24, "patch_size": 4, "use_qk_norm": True, "norm_type": "rms_norm"}
    config = InternVLConfig(**parts(words, "<IMG_CONTEXT>", "qwen2", **tower), image_seq_length=9)
    # as in chats: the line break becomes part of a token
    return Tiny(InternVLForConditionalGeneration(config), processor, "<IMG_CONTEXT>\n")


def qianfan_ocr() -> Tiny:
    words = tokens()
    processor = QianfanOCRProcessor(_images(), words, image_seq_length=9)
    config = QianfanOCRConfig(
        **parts(words, "<IMG_CONTEXT>", "qwen3", image_size=24), image_seq_length=9
    )
    return Tiny(QianfanOCRForConditionalGeneration(config), processor, "<image>")


def as_on_the_hub(folder: Path) -> str:
    """Write a checkpoint in the hub's format, and return what stands for an image there."""
    model = AutoModelForImageTextToText.from_pretrained(folder)
    _write_weights(model, folder / "model.safetensors")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    tower = config["vision_config"]
    tower |= {"image_size": 24, "patch_size": 4, "qkv_bias": tower["attention_bias"]}
    tower |= {"qk_normalization": tower["use_qk_norm"], "initializer_factor": 0.1}
    config |= {
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": 24,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 4,
        "ps_version": "v2",
        "select_layer": -1,
        "use_thumbnail": True,
    }
    if config["model_type"] == "internvl":
        _write_internvl(folder, config)
    path.write_text(json.dumps(config))

    # vLLM reads the chat template of the tokenizer
    for name in ("processor_config.json", "preprocessor_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": CHAT}))
    return "<image>\n" if config["model_type"] == "internvl_chat" else "<image>"


def _write_internvl(folder: Path, config: dict[str, Any]) -> None:
    """Write a configuration that neither vLLM nor transformers has a class for, and its code."""
    words = config.pop("text_config") | {"architectures": ["Qwen2ForCausalLM"]}
    config["vision_config"].pop("model_type")
    config |= {
        "model_type": "internvl_chat",
        "auto_map": {"AutoConfig": "configuration_internvl_chat.Chat"},
        "llm_config": words,
    }
    (folder / "configuration_internvl_chat.py").write_text(CODE)


def _write_weights(model: Any, path: Path) -> None:
    """Write the weights of a model under the hub's names, queries, keys and values in one."""
    parts: dict[str, list[torch.Tensor]] = {}
    for name, weight in model.state_dict().items():
        for pattern, written in RENAMED:
            name = re.sub(pattern, written, name)
        # queries come before keys, and keys before values
        parts.setdefault(re.sub(r"\.attn\.[qkv]_proj", ".attn.qkv", name), []).append(weight)
    weights = {name: torch.cat(found) for name, found in parts.items()}
    save_file(weights, path, metadata={"format": "pt"})
