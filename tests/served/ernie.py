"""ERNIE 4.5 VL as transformers has it, to be served in the hub's own format."""

import json
import shutil
from pathlib import Path
from typing import Any

import hub
from safetensors.torch import load_file, save_file
from transformers import (
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
    Ernie4_5_VLMoeImageProcessorPil,
    Ernie4_5_VLMoeProcessor,
    Ernie4_5_VLMoeVideoProcessor,
)
from zoo.base import Tiny, text
from zoo.grids import PIXELS, ROPE, ids, tower
from zoo.videos import VIDEOS

NAMED = {
    "image_token": "<|IMAGE_PLACEHOLDER|>",
    "image_start_token": "<|IMAGE_START|>",
    "image_end_token": "<|IMAGE_END|>",
    # the hub's name for it
    "video_token": "<|AUDIO_PLACEHOLDER|>",
    "video_start_token": "<|VIDEO_START|>",
    "video_end_token": "<|VIDEO_END|>",
}
IMAGE, VIDEO = "<|IMAGE_START|>{}<|IMAGE_END|>", "<|VIDEO_START|>{}<|VIDEO_END|>"
MARKER = IMAGE.format(NAMED["image_token"])
VIDEO_MARKER = VIDEO.format(NAMED["video_token"])
MARKER_ON_THE_HUB = IMAGE.format("<|image@placeholder|>")
VIDEO_MARKER_ON_THE_HUB = VIDEO.format("<|video@placeholder|>")
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() }} : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}"
    + MARKER_ON_THE_HUB
    + "{% elif c['type'] == 'video' %}"
    + VIDEO_MARKER_ON_THE_HUB
    + "{% else %} {{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)
CODE = "processing_ernie4_5_vl"


def ernie4_5_vl_moe() -> Tiny:
    """With experts for text that are wider than those for visual tokens."""
    words = hub.tokens(NAMED)
    names = {name.removesuffix("_token"): token for name, token in NAMED.items()}
    config = Ernie4_5_VLMoeConfig(
        text_config=text(
            words,
            rope_parameters=ROPE | {"mrope_section": [1, 1, 2]},
            moe_intermediate_size=[32, 16],
            moe_k=2,
            moe_num_experts=4,
            # vLLM's tower has that of the language model
            rms_norm_eps=1e-6,
        ),
        vision_config=tower(),
        tie_word_embeddings=False,
        **ids(words, **names),
    )
    processor = Ernie4_5_VLMoeProcessor(
        Ernie4_5_VLMoeImageProcessorPil(**PIXELS),
        words,
        Ernie4_5_VLMoeVideoProcessor(**VIDEOS["ernie4_5_vl_moe"].options),
    )
    return Tiny(Ernie4_5_VLMoeForConditionalGeneration(config), processor, MARKER)


def as_on_the_hub(folder: Path) -> str:
    """Write a checkpoint in the hub's format, and return what stands for an image there."""
    path = folder / "model.safetensors"
    weights = {
        name.replace("model.vision_model.", "vision_model."): x
        for name, x in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})

    path = folder / "config.json"
    path.write_text(json.dumps(_flat(json.loads(path.read_text()))))

    processor = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    kept = ("image_mean", "image_std", "rescale_factor", "patch_size", "merge_size")
    bounds = {
        "min_pixels": processor["size"]["shortest_edge"],
        "max_pixels": processor["size"]["longest_edge"],
    }
    code = {"AutoProcessor": f"{CODE}.Processor", "AutoImageProcessor": f"{CODE}.Images"}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({name: processor[name] for name in kept} | bounds | {"auto_map": code})
    )
    shutil.copy(Path(__file__).with_name("ernie_code.py"), folder / f"{CODE}.py")

    # vLLM reads the chat template of the tokenizer
    for name in ("processor_config.json", "video_preprocessor_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    words = json.loads(path.read_text()) | {"chat_template": CHAT}
    words.pop("processor_class", None)
    path.write_text(json.dumps(words))
    return MARKER_ON_THE_HUB


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Return what transformers' configuration says, as that of the hub does."""
    words, sight = config.pop("text_config"), config.pop("vision_config")
    image = config.pop("image_token_id")
    last = words["num_hidden_layers"] - 1
    rope = words["rope_parameters"]
    for name in ("model_type", "mlp_layer_types"):
        del words[name]
    return {
        **words,
        **config,
        "model_type": "ernie4_5_moe_vl",
        "auto_map": {"AutoConfig": f"{CODE}.Config"},
        "im_patch_id": image,
        "moe_num_experts": 2 * [words["moe_num_experts"]],
        "moe_layer_start_index": [1, 1],
        "moe_layer_end_index": [last, last],
        "freq_allocation": rope["mrope_section"][-1],
        "pixel_hidden_size": sight["hidden_size"],
        "spatial_conv_size": sight["spatial_merge_size"],
        "temporal_conv_size": sight["temporal_merge_size"],
        "use_temporal_conv": True,
        "vision_config": sight
        | {
            "model_type": "DFNRope_vision_transformer",
            "embed_dim": sight["hidden_size"],
            "mlp_ratio": sight["intermediate_size"] / sight["hidden_size"],
        },
    }
