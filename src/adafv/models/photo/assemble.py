"""Put a tower (ONNX), a language model (GGUF) and a bridge together as a stock LLaVA checkpoint."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerBase,
)

from adafv.utils.checks import checked

__all__ = [
    "CHAT_TEMPLATE",
    "GRID",
    "assemble",
    "read_bridge",
    "read_language_model",
    "read_tower",
    "save",
]

GRID = 24  # patches along a side: 336 pixels
PATCH = 14  # pixels along a side of a patch
IMAGE = "<image>"
# Of ImageNet's channels, as DINOv2 was trained.
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]
# SmolLM2's own template, in which a message may have parts, images among them.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' and message['content'] is string %}"
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, "
    "trained by Hugging Face<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Layers of DINOv2 by their names in the export, and in transformers.
_RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


@checked
def assemble(
    tower: Dinov2Model,
    language_model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    bridge: dict[str, Tensor],
    feature_layers: int | list[int],
) -> LlavaForConditionalGeneration:
    """Join tower, language model and bridge to a LLaVA model.

    LoRA products are added to the language model's weights, and its tokenizer gets one more
    token, `<image>`.

    Args:
        tower: in float32.
        language_model: in float32; its weights are changed.
        tokenizer: of the language model; it gets the token `<image>`, if it has none.
        bridge: `projector.linear_1.weight`, …, and for each linear layer
            `model.layers.0.self_attn.q_proj.down` (rank, in) and `….up` (out, rank).
        feature_layers: the tower's hidden state that the projector reads, or several side by side.

    Returns:
        The model in bfloat16.
    """
    # merge the LoRA products: W + up · down
    weights = language_model.state_dict()  # shares memory with the model
    for name, down in bridge.items():
        if name.endswith(".down"):
            layer = name.removesuffix("down")
            up = bridge[f"{layer}up"]
            weights[f"{layer}weight"] += up.float() @ down.float()  # (out, rank) @ (rank, in)

    # one more token, whose embedding is never read: the image's features take its position
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    image_token = tokenizer.get_vocab()[IMAGE]
    language_model.resize_token_embeddings(max(language_model.config.vocab_size, image_token + 1))

    # copy the parts into a stock model
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=language_model.config,
        image_token_index=image_token,
        vision_feature_layer=feature_layers,
        vision_feature_select_strategy="default",
        image_seq_length=GRID**2,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    model = LlavaForConditionalGeneration(config)
    parts = model.model
    parts.vision_tower.load_state_dict(tower.state_dict())
    parts.language_model.load_state_dict(language_model.model.state_dict())
    projector = {}
    for name, weight in bridge.items():
        if name.startswith("projector."):
            projector[name.removeprefix("projector.")] = weight.float()
    parts.multi_modal_projector.load_state_dict(projector)

    model.generation_config = language_model.generation_config
    return model.bfloat16().eval()


@checked
def save(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, target: Path
) -> None:
    """Write model and processor as a folder in the Hugging Face format."""
    # Images are squeezed to a square, not cropped: what lies at the border is seen too.
    side = {"height": GRID * PATCH, "width": GRID * PATCH}
    images = CLIPImageProcessorPil(
        size=side, do_center_crop=False, crop_size=side, image_mean=MEAN, image_std=STD
    )
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLS, which the "default" strategy drops again
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
    model.save_pretrained(target)
    processor.save_pretrained(target)


@checked
def read_tower(onnx_file: Path) -> Dinov2Model:
    """Read DINOv2-S out of the graph of a saliency net whose backbone it is.

    Its position embeddings are resampled to `GRID`.

    Weights of linear layers are anonymous there; the node that uses one has the layer's name.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(onnx_file)).graph
    stored = {}
    for tensor in graph.initializer:
        # copied, for numpy's view of the file is read-only
        stored[tensor.name] = torch.from_numpy(numpy_helper.to_array(tensor).copy()).float()

    # weights that kept their names
    weights = {}
    for name, weight in stored.items():
        if name.startswith("backbone."):
            weights[_renamed(name.removeprefix("backbone."))] = weight

    # weights of linear layers, which the export stores transposed: (in, out) → (out, in)
    for node in graph.node:
        inside = node.op_type == "MatMul" and node.name.startswith("/backbone/encoder/")
        if inside and node.input[1] in stored:
            layer = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[_renamed(f"{layer}.weight")] = stored[node.input[1]].T

    # position embeddings, resampled to the grid that LLaVA reads
    width = weights["embeddings.cls_token"].shape[-1]
    cls, patches = _positions(stored, width)
    # (1, 1 + GRID², D)
    weights["embeddings.position_embeddings"] = torch.cat([cls, resampled(patches)], dim=1)
    # DINOv2 has it for its training only
    weights["embeddings.mask_token"] = torch.zeros_like(weights["embeddings.cls_token"][0])

    layers = [int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")]
    tower = Dinov2Model(
        Dinov2Config(
            hidden_size=width,
            num_hidden_layers=1 + max(layers),
            num_attention_heads=width // 64,  # heads of 64 channels, as in every ViT of DINOv2
            image_size=GRID * PATCH,
            patch_size=PATCH,
        )
    )
    tower.load_state_dict(weights)
    return tower.eval()


def resampled(patches: Tensor) -> Tensor:
    """Resample position embeddings (1, side², D) to `GRID` patches a side, as DINOv2 does.

    Returns:
        (1, GRID², D)
    """
    side = round(patches.shape[1] ** 0.5)
    grid = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, side, side)
    grid = F.interpolate(grid, size=(GRID, GRID), mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).reshape(1, GRID**2, -1)  # (1, GRID², D)


@checked
def read_language_model(gguf_file: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Read a Llama and its tokenizer out of a quantised file, in float32.

    The configuration says no more that it was quantised: it is saved as an ordinary model.
    """
    folder = str(gguf_file.parent)
    name = gguf_file.name
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)

    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_name_or_path", None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    return model.eval(), AutoTokenizer.from_pretrained(folder, gguf_file=name)


@checked
def read_bridge(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the bridge and what its training wrote about it: `step`, `minutes`, `feature_layers`.

    Raises:
        ValueError: the file is missing or is no bridge.
    """
    if not path.is_file():
        raise ValueError(
            f"the bridge {str(path)!r} does not exist: train one (training/photo says how) "
            "and pass it with --bridge"
        )
    try:
        with safe_open(str(path), "pt") as file:
            # the file is no dictionary: it has `keys` but cannot be iterated over
            bridge = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            facts.setdefault("feature_layers", -5)  # of bridges that did not say it yet
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as a bridge ({error}): pass one that training/photo made"
        ) from None
    if "projector.linear_1.weight" not in bridge:
        raise ValueError(f"{str(path)!r} has no projector: pass a bridge that training/photo made")
    return bridge, facts


def _renamed(name: str) -> str:
    """Return the name in transformers of a weight in the export."""
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _positions(stored: dict[str, Tensor], width: int) -> tuple[Tensor, Tensor]:
    """Find the position embeddings of CLS (1, 1, D) and of the patches (1, side², D).

    The export has cut them in two and left them nameless; they are known by their shapes.
    """
    nameless = []
    for name, tensor in stored.items():
        if name.startswith("onnx::") and tensor.dim() >= 3 and tensor.shape[-1] == width:
            nameless.append(tensor)

    cls = next(tensor for tensor in nameless if tensor.shape == (1, 1, width))
    patches = max(nameless, key=lambda tensor: tensor.numel())
    return cls, patches.reshape(1, -1, width)
