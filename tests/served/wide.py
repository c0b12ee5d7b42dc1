"""Checkpoints of the zoo's tiny models, with heads as wide as vLLM's attention wants them."""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import ernie
import hub
import torch
from checkpoints import VIDEO_MARKER, chat_template
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen2VLVideoProcessor, SmolVLMVideoProcessor
from vllm import ModelRegistry
from vllm.plugins import load_general_plugins
from zoo.families import ZOO
from zoo.shapes import gemma4_both_ways, pixtral

from adafv.core.inputs import placeholders
from adafv.integrations.vllm import ARCHITECTURES, models

MODELS = ZOO | {
    "pixtral": pixtral,
    "gemma4_both_ways": gemma4_both_ways,
    "internvl_chat": hub.internvl_chat,
    "qianfan_ocr": hub.qianfan_ocr,
    "ernie4_5_vl_moe": ernie.ernie4_5_vl_moe,
}
HEAD = 32  # the narrowest that there is on a CPU
TIMES = 4  # the zoo's language models are 32 wide
OUTER = ("hidden_size", "projection_dim")
OF_TOWER = ("out_hidden_size", "projection_dim")
"""Names that configurations, and those of towers, give to the language model's width."""
AS_ON_THE_HUB: dict[str, dict[str, Any]] = {
    "gemma4": {"pad_token_id": 0, "use_bidirectional_attention": None},
    "gemma4_both_ways": {
        "pad_token_id": 0,
        "per_layer_config": {1: {"head_dim": 64}, 3: {"head_dim": 64}},
    },
    "qwen3_vl_moe": {"norm_topk_prob": True},
    "glm4v": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [4, 2, 2],
        }
    },
    "glm4v_moe": {"use_qk_norm": False},
    "glm_ocr": {
        "intermediate_size": 3 * 128,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
            "mrope_section": [8, 4, 4],
        },
    },
    "kimi_k25": {
        "head_dim": 16,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "qk_head_dim": 32,
        "first_k_dense_replace": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
    },
    "lfm2_vl": {"block_dim": 128, "conv_dim": 128},
    "llama4": {"num_experts_per_tok": 1},
}
"""What language models of the hub say, and vLLM does not do without."""
STATELESS = {name: {"layer_types": ["full_attention"] * 3} for name in ("qwen3_5", "qwen3_5_moe")}
"""Attention in place of layers with a state, which vLLM runs on a CPU in bfloat16 alone."""
REPEATING = ("gemma3", "gemma4", "gemma4_both_ways", "paddleocr_vl", "paligemma")
"""Whose embeddings, tied to what reads answers off, and Gemma's scaled by the width, would make a
tiny model repeat the last token of its prompt, whatever the image.
"""
UNTIED = (*REPEATING, "kimi_k25")
"""Whose embeddings do not read answers off, here or on the hub."""
BREAKS = {"gemma3": ["\n\n", "\n\n\n", "\n\n\n\n"], "paligemma": ["\n"]}
"""Tokens that every Gemma has."""
FLAT = ("paddleocr_vl",)
"""Whose configurations say on the hub beside each other what is of the language model and not."""
OTHERS = {
    "gemma4": ["audio_token_id"],
    "gemma4_both_ways": ["audio_token_id"],
    "ernie4_5_vl_moe": [
        "image_start_token_id",
        "image_end_token_id",
        "video_start_token_id",
        "video_end_token_id",
    ],
}
"""Names of ids that no answer is to hold, besides placeholders."""
RENAMED = {
    "kimi_k25": {
        "language_model.model.blocks.": "language_model.model.layers.",
        "model.mm_projector.": "mm_projector.",
        "vision_tower.encoder.patch_embed.": "vision_tower.patch_embed.",
    }
}
"""Beginnings of weights' names that transformers writes otherwise than the hub; it reads both."""
OF_HUB = ("internvl_chat", "qianfan_ocr", "ernie4_5_vl_moe")
"""In the hub's own format, whose images are prepared with Pillow."""
LARGER = {"kimi_k25": {"max_patches": 24 * 24}}
"""Options of images with which none is resized, which vLLM does itself and otherwise."""
AS_SERVED: dict[str, dict[str, Any]] = {
    "kimi_k25": {
        "config.json": {
            "use_unified_vision_chunk": True,
            "video_placeholder": "<|kimi_k25_video_placeholder|>",
        },
        "preprocessor_config.json": {
            "media_proc_cfg": {
                "patch_size": 4,
                "merge_kernel_size": 2,
                "temporal_merge_kernel_size": 4,
                "in_patch_limit": 24 * 24,
                "in_patch_limit_each_frame": 12 * 12,
                "in_patch_limit_video": None,
                "patch_limit_on_one_side": 512,
                "fixed_output_tokens": None,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
            }
        },
        "processor_config.json": None,
    },
    "lighton_ocr": {
        "config.json": {"model_type": "mistral3"},
        "processor_config.json": {
            "processor_class": "PixtralProcessor",
            "image_token": "<image>",
            "image_break_token": "<break>",
            "image_end_token": "<end>",
        },
    },
    # code that vLLM is not told to trust
    "paddleocr_vl": {
        "config.json": {
            "auto_map": {"AutoConfig": "configuration_paddleocr_vl.PaddleOCRVLConfig"},
        },
    },
}
"""What files of a checkpoint say on the hub, where transformers writes something else. None: there
is no such file.
"""


def save_wide(
    name: str, architecture: str, folder: Path, words: Sequence[str] = (), videos: Any = None
) -> str:
    """Save a model of the zoo and its processor, and return what stands for an image.

    Args:
        words: more of them for the vocabulary.
        videos: the processor of videos; None: one that tests don't ask.
    """
    torch.manual_seed(0)
    if name == "ernie4_5_vl_moe":
        VIDEO_MARKER[name] = ernie.VIDEO_MARKER
    found = MODELS[name]()
    config = deepcopy(found.model.config)
    _widen(name, config)
    config.text_config.vocab_size += _add_words(name, found.processor.tokenizer, words)
    if name in UNTIED:
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    model = type(found.model)(config)
    if name in REPEATING:
        model.get_input_embeddings().weight.data *= 0.1
    for parameter in model.parameters():
        # projectors that begin as nothing; not what vLLM leaves out on a CPU, a router's correction
        if parameter.requires_grad and parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter)

    model.generation_config.eos_token_id = None
    # no answer holds a placeholder, or what ERNIE chooses experts by
    others = [getattr(config, token) for token in OTHERS.get(name, ())]
    for token in (*placeholders(config).values(), *others):
        model.get_output_embeddings().weight.data[token] = 0
    model.save_pretrained(folder)
    # the hub's name of the class, which transformers may spell otherwise
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": [architecture]}))
    if name == "qwen3_vl_moe":
        _transpose_experts(folder / "model.safetensors")
    if name in RENAMED:
        _rename(folder / "model.safetensors", RENAMED[name])
    processor = found.processor
    for option, value in LARGER.get(name, {}).items():
        setattr(processor.image_processor, option, value)
    # vLLM wants the complete processor, which the zoo leaves videos out of
    if videos is None:
        videos = SmolVLMVideoProcessor() if name == "smolvlm" else Qwen2VLVideoProcessor()
    videos.save_pretrained(folder)
    processor.chat_template = chat_template(name, found.marker)
    processor.save_pretrained(folder)
    return found.marker


def _add_words(name: str, tokenizer: Any, words: Sequence[str]) -> int:
    """Add words to a vocabulary, and return how many a model of it has to have more."""
    # vLLM joins line breaks to tokens, or ends a prompt with one
    added = tokenizer.add_tokens(BREAKS.get(name, []), True) + tokenizer.add_tokens(list(words))
    # Gemma's processor has added one that stands for a clip
    return added + 1 if name in ("gemma4", "gemma4_both_ways") else added


def _transpose_experts(path: Path) -> None:
    """Write the weights of experts (E, D, width) as on the hub; transformers reads both ways."""
    weights = load_file(path)
    for name, weight in weights.items():
        if ".experts." in name:
            weights[name] = weight.transpose(1, 2).contiguous()
    save_file(weights, path, metadata={"format": "pt"})


def _rename(path: Path, beginnings: dict[str, str]) -> None:
    """Write weights under the hub's names."""
    weights = {}
    for name, weight in load_file(path).items():
        for beginning, of_hub in beginnings.items():
            if name.startswith(beginning):
                name = of_hub + name.removeprefix(beginning)
        weights[name] = weight
    save_file(weights, path, metadata={"format": "pt"})


def _widen(name: str, config: Any) -> None:
    """Widen the language model, and what hands features on to it."""
    text = config.text_config
    narrow = text.hidden_size
    times = HEAD // (getattr(text, "head_dim", None) or narrow // text.num_attention_heads)
    text.hidden_size = TIMES * narrow
    text.head_dim = HEAD
    text.query_pre_attn_scalar = HEAD
    text.max_position_embeddings = 4096
    rope = getattr(text, "rope_parameters", None) or {}
    if "mrope_section" in rope:
        rope["mrope_section"] = [times * n for n in rope["mrope_section"]]

    for option, value in (AS_ON_THE_HUB | STATELESS).get(name, {}).items():
        setattr(text, option, value)
    for part, options in ((config, OUTER), (config.vision_config, OF_TOWER)):
        for one in options:
            if getattr(part, one, None) == narrow:
                setattr(part, one, TIMES * narrow)
    if name == "qwen2_vl":
        # what others call out_hidden_size
        config.vision_config.hidden_size = TIMES * narrow


def as_served(name: str, folder: Path, marker: str) -> str:
    """Write what files of a checkpoint say on the hub, which vLLM reads.

    Args:
        marker: what stands for an image in transformers' prompts.

    Returns:
        what does so in vLLM's.
    """
    if name == "ernie4_5_vl_moe":
        VIDEO_MARKER[name] = ernie.VIDEO_MARKER_ON_THE_HUB
        return ernie.as_on_the_hub(folder)
    if name in OF_HUB:
        return hub.as_on_the_hub(folder)
    if name in FLAT:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config.pop("text_config") | config))
    for file, words in AS_SERVED.get(name, {}).items():
        path = folder / file
        if words is None:
            path.unlink()
            continue
        written = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(written | words))
    return marker


def register(architecture: str) -> None:
    """Register the pruned class of an architecture itself.

    One that vLLM knows by its name alone is looked at in a process of its own, which takes longer.
    """
    load_general_plugins()
    ModelRegistry.register_model(architecture, getattr(models, ARCHITECTURES[architecture].name))
