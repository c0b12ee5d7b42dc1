"""The architectures that are pruned on vLLM, and what each does differently, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ARCHITECTURES", "VISION_CHUNK", "Architecture", "HubFormat"]

VISION_CHUNK = "vision_chunk"
"""vLLM's modality of a model that takes images and chunks of videos alike."""


@dataclass(frozen=True, kw_only=True)
class HubFormat:
    """A format of checkpoints that is the hub's own, see `adafv.integrations.vllm.hub_format`.

    Attributes:
        config: transformers' class of its configuration.
        reader: one of `hub_format.READERS`, by whose names its configuration says the same.
        placeholder: the token that vLLM repeats in the place of a marker.
        markers: texts that stand for an image, or a video, in a prompt, by modality.
        tiles: its images have tiles, which may lie otherwise than in transformers.
        chat_in_parts: the chat template of its tokenizer takes messages in parts.
    """

    config: str
    reader: str
    placeholder: str
    markers: Mapping[str, str]
    tiles: bool = False
    chat_in_parts: bool = False


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model class of vLLM, and what pruning has to know of it.

    Attributes:
        name: of the pruned class that takes its place.
        title: what people call the model.
        module, model: of vLLM's own class; the module is below `vllm.model_executor.models`.
        family: its `model_type` in `adafv.families`.
        about: what else there is to say of it.
        mrope: kept tokens have the rows and columns of the dense image (M-RoPE).
        marker: the attribute of the processor that names the token which stands for an image in a
            prompt, before vLLM repeats placeholders. Empty: the placeholder itself stands for it.
        hub: the format of its checkpoints, where vLLM reads one of the hub's own. None: vLLM
            reads that of transformers.
        structure: tokens that are no visual tokens may stand between those of one image.
        weights: prefixes of weights as transformers 5 writes them, where vLLM reads other ones.
        videos: its videos are pruned, too.
        merged_frames: how many frames of a video become one, before the language model reads it.
        normalizes: the processor has to normalize pixels. vLLM leaves that to the tower unless
            told otherwise, and this model's tower does not do it.
        tower: path of its vision tower, where that is a module of transformers. Empty: it is one
            of vLLM's own.
        per_image: inputs with a row for each image, which vLLM would share out by patches.
        sorts: vLLM sorts images by how many patches they have before the tower sees them.
        in_front: vLLM puts the one image of a prompt in front of it, and a line break behind it;
            nothing in the prompt stands for the image.
        routes: ids say which experts read a token, see `adafv.integrations.vllm.routing`.
        vision_chunks: vLLM takes its images and chunks of videos as one modality, and its
            processor is vLLM's own, without a chat template. Images are pruned, chunks are not.
        encodes_by_rank: each rank can encode images of its own
            (`--mm-encoder-tp-mode data`): nothing behind the tower is shared out among ranks.
    """

    name: str
    title: str
    module: str
    model: str
    family: str
    about: str = ""
    mrope: bool = False
    marker: str = ""
    hub: HubFormat | None = None
    structure: bool = False
    weights: Mapping[str, str] = field(default_factory=dict)
    videos: bool = False
    merged_frames: int = 1
    normalizes: bool = False
    tower: str = ""
    per_image: tuple[str, ...] = ()
    sorts: bool = False
    in_front: bool = False
    routes: bool = False
    vision_chunks: bool = False
    encodes_by_rank: bool = True

    @property
    def modalities(self) -> tuple[str, ...]:
        """Return what is pruned of a prompt, images first, by vLLM's names."""
        if self.vision_chunks:
            return (VISION_CHUNK,)
        return ("image", "video") if self.videos else ("image",)

    def multi_modal_data(self, image: Any) -> dict[str, Any]:
        """Return a prompt's one image as vLLM takes it."""
        if self.vision_chunks:
            return {VISION_CHUNK: [{"type": "image", "image": image, "uuid": None}]}
        return {"image": image}


TOWER_PARTS = ("embeddings", "encoder", "pre_layrnorm", "post_layernorm")
OF_OLDER_TOWERS = {f"vision_tower.{x}.": f"vision_tower.vision_model.{x}." for x in TOWER_PARTS}
"""To the names of a tower's weights in older checkpoints."""

ON_TRANSFORMERS: dict[str, Any] = {
    "module": "transformers",
    "model": "TransformersMultiModalForCausalLM",
    "encodes_by_rank": False,
}
"""What models have in common that vLLM runs on modules of transformers."""

ARCHITECTURES: dict[str, Architecture] = {
    "LlavaForConditionalGeneration": Architecture(
        name="PrunedLlava",
        title="LLaVA-1.5",
        module="llava",
        model="LlavaForConditionalGeneration",
        family="llava",
        about="or Pixtral, whose tower sees images of any shape",
        structure=True,
        weights=OF_OLDER_TOWERS,
    ),
    "LlavaNextForConditionalGeneration": Architecture(
        name="PrunedLlavaNext",
        title="LLaVA-NeXT",
        module="llava_next",
        model="LlavaNextForConditionalGeneration",
        family="llava_next",
        about="the newlines of an image that is pruned are dropped",
        weights=OF_OLDER_TOWERS,
    ),
    "LlavaOnevisionForConditionalGeneration": Architecture(
        name="PrunedLlavaOnevision",
        title="LLaVA-OneVision",
        module="llava_onevision",
        model="LlavaOnevisionForConditionalGeneration",
        family="llava_onevision",
        about="SigLIP has no CLS: saliency is the attention a patch receives",
        weights=OF_OLDER_TOWERS,
        videos=True,
    ),
    "Qwen2_5_VLForConditionalGeneration": Architecture(
        name="PrunedQwen2_5VL",
        title="Qwen2.5-VL",
        module="qwen2_5_vl",
        model="Qwen2_5_VLForConditionalGeneration",
        family="qwen2_5_vl",
        mrope=True,
        videos=True,
    ),
    "Qwen2VLForConditionalGeneration": Architecture(
        name="PrunedQwen2VL",
        title="Qwen2-VL",
        module="qwen2_vl",
        model="Qwen2VLForConditionalGeneration",
        family="qwen2_vl",
        mrope=True,
        videos=True,
    ),
    "Qwen3VLForConditionalGeneration": Architecture(
        name="PrunedQwen3VL",
        title="Qwen3-VL",
        module="qwen3_vl",
        model="Qwen3VLForConditionalGeneration",
        family="qwen3_vl",
        about="deeper layers read features of their own (DeepStack)",
        mrope=True,
        videos=True,
    ),
    "Qwen3VLMoeForConditionalGeneration": Architecture(
        name="PrunedQwen3VLMoe",
        title="Qwen3-VL-MoE",
        module="qwen3_vl_moe",
        model="Qwen3VLMoeForConditionalGeneration",
        family="qwen3_vl_moe",
        mrope=True,
        videos=True,
    ),
    "Qwen3_5ForConditionalGeneration": Architecture(
        name="PrunedQwen3_5",
        title="Qwen3.5",
        module="qwen3_5",
        model="Qwen3_5ForConditionalGeneration",
        family="qwen3_5",
        about="some of its layers carry a state in place of attention",
        mrope=True,
        videos=True,
    ),
    "Qwen3_5MoeForConditionalGeneration": Architecture(
        name="PrunedQwen3_5Moe",
        title="Qwen3.5-MoE",
        module="qwen3_5",
        model="Qwen3_5MoeForConditionalGeneration",
        family="qwen3_5_moe",
        mrope=True,
        videos=True,
    ),
    "Gemma3ForConditionalGeneration": Architecture(
        name="PrunedGemma3",
        title="Gemma 3",
        module="gemma3_mm",
        model="Gemma3ForConditionalGeneration",
        family="gemma3",
        about="without pan and scan, which puts text between crops",
        marker="boi_token",
        weights=OF_OLDER_TOWERS,
    ),
    "Gemma4ForConditionalGeneration": Architecture(
        name="PrunedGemma4",
        title="Gemma 4",
        module="gemma4_mm",
        model="Gemma4ForConditionalGeneration",
        family="gemma4",
        tower="vision_tower",
        sorts=True,
    ),
    "PaliGemmaForConditionalGeneration": Architecture(
        name="PrunedPaliGemma",
        title="PaliGemma",
        module="paligemma",
        model="PaliGemmaForConditionalGeneration",
        family="paligemma",
        about="one image a prompt; vLLM reads the prompt's words one way, transformers both ways",
        weights=OF_OLDER_TOWERS,
        in_front=True,
    ),
    "KimiK25ForConditionalGeneration": Architecture(
        name="PrunedKimiK25",
        title="Kimi K2.5",
        module="kimi_k25",
        model="KimiK25ForConditionalGeneration",
        family="kimi_k25",
        about="its images, not the chunks of its videos",
        vision_chunks=True,
    ),
    "InternVLForConditionalGeneration": Architecture(
        name="PrunedInternVL",
        title="InternVL",
        module="interns1",
        model="InternS1ForConditionalGeneration",
        family="internvl",
        about="in the format of transformers",
    ),
    "InternVLChatModel": Architecture(
        name="PrunedInternVLChat",
        title="InternVL (hub)",
        module="internvl",
        model="InternVLChatModel",
        family="internvl",
        about="in the hub's own format",
        hub=HubFormat(
            config="InternVLConfig",
            reader="internvl",
            placeholder="<IMG_CONTEXT>",
            markers={"image": "<image>"},
            tiles=True,
        ),
    ),
    "QianfanOCRForConditionalGeneration": Architecture(
        name="PrunedQianfanOCR",
        title="Qianfan-OCR",
        module="qianfan_ocr",
        model="QianfanOCRForConditionalGeneration",
        family="qianfan_ocr",
        about="in the hub's own format",
        hub=HubFormat(
            config="QianfanOCRConfig",
            reader="internvl",
            placeholder="<IMG_CONTEXT>",
            markers={"image": "<image>"},
            tiles=True,
        ),
    ),
    "Mistral3ForConditionalGeneration": Architecture(
        name="PrunedMistral3",
        title="Mistral 3",
        module="mistral3",
        model="Mistral3ForConditionalGeneration",
        family="mistral3",
        structure=True,
    ),
    "LightOnOCRForConditionalGeneration": Architecture(
        name="PrunedLightOnOCR",
        title="LightOnOCR",
        module="lightonocr",
        model="LightOnOCRForConditionalGeneration",
        family="lighton_ocr",
    ),
    "Lfm2VlForConditionalGeneration": Architecture(
        name="PrunedLfm2VL",
        title="LFM2-VL",
        module="lfm2_vl",
        model="Lfm2VLForConditionalGeneration",
        family="lfm2_vl",
        structure=True,
        weights=OF_OLDER_TOWERS,
    ),
    "Idefics3ForConditionalGeneration": Architecture(
        name="PrunedIdefics3",
        title="Idefics3",
        module="idefics3",
        model="Idefics3ForConditionalGeneration",
        family="idefics3",
        structure=True,
    ),
    "SmolVLMForConditionalGeneration": Architecture(
        name="PrunedSmolVLM",
        title="SmolVLM",
        module="smolvlm",
        model="SmolVLMForConditionalGeneration",
        family="smolvlm",
        structure=True,
    ),
    "Glm4vForConditionalGeneration": Architecture(
        name="PrunedGlm4v",
        title="GLM-4.1V",
        module="glm4_1v",
        model="Glm4vForConditionalGeneration",
        family="glm4v",
        mrope=True,
        videos=True,
    ),
    "Glm4vMoeForConditionalGeneration": Architecture(
        name="PrunedGlm4vMoe",
        title="GLM-4.5V",
        module="glm4_1v",
        model="Glm4vMoeForConditionalGeneration",
        family="glm4v_moe",
        mrope=True,
        videos=True,
    ),
    "GlmOcrForConditionalGeneration": Architecture(
        name="PrunedGlmOcr",
        title="GLM-OCR",
        module="glm_ocr",
        model="GlmOcrForConditionalGeneration",
        family="glm_ocr",
        mrope=True,
    ),
    "PaddleOCRVLForConditionalGeneration": Architecture(
        name="PrunedPaddleOCRVL",
        title="PaddleOCR-VL",
        module="paddleocr_vl",
        model="PaddleOCRVLForConditionalGeneration",
        family="paddleocr_vl",
        mrope=True,
    ),
    "Cohere2VisionForConditionalGeneration": Architecture(
        name="PrunedCohere2Vision",
        title="Cohere2 Vision",
        module="cohere2_vision",
        model="Cohere2VisionForConditionalGeneration",
        family="cohere2_vision",
        structure=True,
        weights=OF_OLDER_TOWERS,
    ),
    "AyaVisionForConditionalGeneration": Architecture(
        name="PrunedAyaVision",
        title="Aya Vision",
        family="aya_vision",
        marker="image_token",
        structure=True,
        tower="model.vision_tower",
        **ON_TRANSFORMERS,
    ),
    "VideoLlama3ForConditionalGeneration": Architecture(
        name="PrunedVideoLlama3",
        title="VideoLLaMA 3",
        family="video_llama_3",
        tower="model.vision_model",
        per_image=("image_merge_sizes",),
        **ON_TRANSFORMERS,
    ),
    "VipLlavaForConditionalGeneration": Architecture(
        name="PrunedVipLlava",
        title="ViP-LLaVA",
        family="vipllava",
        tower="model.vision_tower",
        **ON_TRANSFORMERS,
    ),
    "HyperCLOVAXVisionV2ForConditionalGeneration": Architecture(
        name="PrunedHyperCLOVAXVision",
        title="HyperCLOVA X SEED Vision",
        family="hyperclovax_vision_v2",
        tower="model.vision_model",
        **ON_TRANSFORMERS,
    ),
    "Glm46VForConditionalGeneration": Architecture(
        name="PrunedGlm46V",
        title="GLM-4.6V",
        family="glm46v",
        mrope=True,
        tower="model.visual",
        **ON_TRANSFORMERS,
    ),
    "Llama4ForConditionalGeneration": Architecture(
        name="PrunedLlama4",
        title="Llama 4",
        module="mllama4",
        model="Llama4ForConditionalGeneration",
        family="llama4",
        structure=True,
        marker="fake_image_token",
        encodes_by_rank=False,
    ),
    "Exaone4_5_ForConditionalGeneration": Architecture(
        name="PrunedExaone4_5",
        title="EXAONE 4.5",
        module="exaone4_5",
        model="Exaone4_5_ForConditionalGeneration",
        family="exaone4_5",
        normalizes=True,
        videos=True,
    ),
    "Ernie4_5_VLMoeForConditionalGeneration": Architecture(
        name="PrunedErnie4_5VL",
        title="ERNIE 4.5 VL",
        module="ernie45_vl",
        model="Ernie4_5_VLMoeForConditionalGeneration",
        family="ernie4_5_vl_moe",
        about="in the hub's own format; visual tokens have experts of their own",
        mrope=True,
        hub=HubFormat(
            config="Ernie4_5_VLMoeConfig",
            reader="ernie",
            placeholder="<|IMAGE_PLACEHOLDER|>",
            markers={"image": "<|image@placeholder|>", "video": "<|video@placeholder|>"},
            chat_in_parts=True,
        ),
        videos=True,
        merged_frames=2,
        routes=True,
        encodes_by_rank=False,
    ),
}
"""By the architecture in a model's configuration; each is proven against the library."""
