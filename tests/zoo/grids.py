"""Qwen-VL and its kin: images of any shape, packed, M-RoPE."""

from typing import Any

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    PROCESSOR_MAPPING,
    Cosmos3EdgeImageProcessorPil,
    Ernie4_5_VLMoeImageProcessorPil,
    Glm4vImageProcessorPil,
    Glm46VImageProcessorPil,
    Glm46VProcessor,
    PaddleOCRVLImageProcessorPil,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    VideoLlama3ImageProcessorPil,
)

from adafv.models.processors import images_only
from zoo.base import Tiny, family, text, vision, words
from zoo.transforms import without_torchvision

MARKER = "<|vision_start|><|image_pad|><|vision_end|>"
CONTROL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
PIXELS = dict(patch_size=4, merge_size=2, size={"shortest_edge": 8 * 8, "longest_edge": 48 * 48})
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
ROUTED = dict(
    n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, n_group=1, topk_group=1
)
LINEAR = dict(
    layer_types=["linear_attention", "full_attention", "full_attention"],
    head_dim=16,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    rope_parameters=ROPE | {"partial_rotary_factor": 0.5, "mrope_interleaved": True},
)


def ids(tokens: PreTrainedTokenizerFast, **names: str) -> dict[str, int]:
    return {
        f"{name}_token_id": tokens.convert_tokens_to_ids(token) for name, token in names.items()
    }


def tower(**more: Any) -> dict[str, Any]:
    """Options of a tiny tower for images of any shape: 4 x 4 pixels a patch, 2 x 2 patches a
    token.
    """
    return (
        dict(
            depth=3,
            hidden_size=32,
            out_hidden_size=32,
            intermediate_size=48,
            num_heads=4,
            patch_size=4,
            spatial_merge_size=2,
            initializer_range=0.5,
        )
        | more
    )


def qwen(
    name: str,
    sight: dict[str, Any],
    images: Any = Qwen2VLImageProcessorPil,
    top: dict[str, Any] | None = None,
    **more: Any,
) -> Tiny:
    tokens = words(*CONTROL, image_token=CONTROL[2])
    numbers = ids(
        tokens, vision_start=CONTROL[0], vision_end=CONTROL[1], image=CONTROL[2], video=CONTROL[3]
    )
    options = text(tokens, **{"rope_parameters": ROPE} | more)
    config = CONFIG_MAPPING[name](
        text_config=options, vision_config=sight, **numbers, **(top or {})
    )
    processor = PROCESSOR_MAPPING[type(config)]
    if "video_processor" in processor.get_attributes():
        processor = images_only(processor)
    processor = processor(images(**PIXELS), tokens)
    return Tiny(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config), processor, MARKER)


@family
def qwen2_vl() -> Tiny:
    sight = dict(
        depth=3,
        embed_dim=32,
        hidden_size=32,
        num_heads=4,
        mlp_ratio=2,
        patch_size=4,
        spatial_merge_size=2,
    )
    return qwen("qwen2_vl", sight)


@family
def qwen2_5_vl() -> Tiny:
    return qwen("qwen2_5_vl", tower(window_size=16, fullatt_block_indexes=[1]))


@family
def qwen3_vl() -> Tiny:
    sight = tower(num_position_embeddings=36, deepstack_visual_indexes=[0, 1])
    return qwen("qwen3_vl", sight, head_dim=8, rope_parameters=ROPE | {"mrope_interleaved": True})


@family
def qwen3_vl_moe() -> Tiny:
    sight = tower(num_position_embeddings=36, deepstack_visual_indexes=[0, 1])
    return qwen(
        "qwen3_vl_moe", sight, rope_parameters=ROPE | {"mrope_interleaved": True}, **EXPERTS
    )


@family
def qwen3_5() -> Tiny:
    return qwen("qwen3_5", tower(num_position_embeddings=36), **LINEAR)


@family
def qwen3_5_moe() -> Tiny:
    return qwen("qwen3_5_moe", tower(num_position_embeddings=36), **LINEAR, **EXPERTS)


def glm(name: str, images: Any, **more: Any) -> Tiny:
    control = [f"<|{edge}_of_{kind}|>" for kind in ("image", "video") for edge in ("begin", "end")]
    tokens = words(*control, "<|image|>", "<|video|>")
    numbers = ids(
        tokens,
        image_start=control[0],
        image_end=control[1],
        video_start=control[2],
        video_end=control[3],
        image="<|image|>",
        video="<|video|>",
    )
    options = text(tokens, **{"rope_parameters": ROPE} | more)
    config = CONFIG_MAPPING[name](
        text_config=options, vision_config=tower(image_size=24), **numbers
    )
    size = {"shortest_edge": 8 * 8, "longest_edge": 2 * 48 * 48}
    processor = images_only(PROCESSOR_MAPPING.get(type(config), Glm46VProcessor))
    processor = processor(images(patch_size=4, merge_size=2, size=size), tokens)
    marker = f"{control[0]}<|image|>{control[1]}"
    return Tiny(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config), processor, marker)


@family
def glm4v() -> Tiny:
    return glm("glm4v", Glm4vImageProcessorPil)


@family
def glm46v() -> Tiny:
    return glm("glm46v", Glm46VImageProcessorPil)


@family
def glm_ocr() -> Tiny:
    return glm("glm_ocr", Glm46VImageProcessorPil)


@family
def glm4v_moe() -> Tiny:
    return glm(
        "glm4v_moe",
        Glm4vImageProcessorPil,
        **ROUTED,
        rope_parameters=ROPE | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]},
    )


@family
def exaone4_5() -> Tiny:
    sight = tower(window_size=16, fullatt_block_indexes=[1], num_key_value_heads=2)
    return qwen(
        "exaone4_5", sight, model_type="exaone4", rope_parameters=None, sliding_window_pattern=2
    )


@family
def hyperclovax_vision_v2() -> Tiny:
    sight = tower(model_type="qwen2_5_vl_vision", window_size=16, fullatt_block_indexes=[1])
    return qwen("hyperclovax_vision_v2", sight, model_type="hyperclovax", rope_parameters=None)


@family
def paddleocr_vl() -> Tiny:
    return qwen(
        "paddleocr_vl", vision(spatial_merge_size=2), PaddleOCRVLImageProcessorPil, head_dim=8
    )


@family
def video_llama_3() -> Tiny:
    return qwen(
        "video_llama_3",
        vision(),
        VideoLlama3ImageProcessorPil,
        model_type="qwen2",
        rope_parameters=None,
    )


@family
def kimi_k25() -> Tiny:
    begin, middle, end = (f"<|media_{x}|>" for x in ("begin", "content", "end"))
    tokens = words(
        begin,
        middle,
        end,
        image_token="<|media_pad|>",
        video_token="<|kimi_k25_video_placeholder|>",
    )
    images = without_torchvision("kimi_k25.image_processing_kimi_k25", "Kimi_K25ImageProcessor")(
        patch_size=4, max_patches=144
    )
    processor = without_torchvision("kimi_k25.processing_kimi_k25", "Kimi_K25Processor")
    config = CONFIG_MAPPING["kimi_k25"](
        text_config=text(
            tokens,
            model_type="deepseek_v3",
            num_key_value_heads=4,
            kv_lora_rank=16,
            q_lora_rank=16,
            qk_rope_head_dim=8,
            v_head_dim=8,
            qk_nope_head_dim=8,
            **ROUTED,
        ),
        vision_config=vision(pos_emb_height=8, pos_emb_width=8),
        projection_hidden_size=32,
        **ids(tokens, image="<|media_pad|>", video=tokens.video_token),
    )
    model = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config)
    return Tiny(model, images_only(processor)(images, tokens), f"{begin}{middle}<|media_pad|>{end}")


@family
def cosmos3_edge() -> Tiny:
    sight = vision(num_patches=36, spatial_merge_size=2)
    top = {"projector_hidden_size": 32}
    found = qwen("cosmos3_edge", sight, Cosmos3EdgeImageProcessorPil, top, head_dim=8)
    # the model needs them, its processor leaves them out
    found.processor.return_mm_token_type_ids = True
    return found


@family
def lfm3_vl() -> Tiny:
    layers = ["conv", "sliding_attention", "full_attention"]
    return qwen(
        "lfm3_vl",
        vision(num_key_value_heads=2, spatial_merge_size=2),
        model_type="lfm3",
        head_dim=8,
        layer_types=layers,
        rope_parameters=None,
    )


@family
def ernie4_5_vl_moe() -> Tiny:
    edges = {
        f"{kind}_{edge}_token": f"<{kind}_{edge}>"
        for kind in ("image", "video")
        for edge in ("start", "end")
    }
    tokens = words(image_token="<image>", video_token="<video>", **edges)
    images = Ernie4_5_VLMoeImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 8 * 8, "longest_edge": 48 * 48}
    )
    names = {name.removesuffix("_token"): token for name, token in edges.items()}
    config = CONFIG_MAPPING["ernie4_5_vl_moe"](
        text_config=text(
            tokens,
            rope_parameters=ROPE | {"mrope_section": [1, 1, 2]},
            moe_intermediate_size=[16, 16],
            moe_k=2,
            moe_num_experts=4,
        ),
        vision_config=tower(),
        **ids(tokens, image="<image>", video="<video>", **names),
    )
    processor = images_only(PROCESSOR_MAPPING[type(config)])(images, tokens)
    model = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config)
    return Tiny(model, processor, "<image_start><image><image_end>")


@family
def minimax_m3_vl() -> Tiny:
    """Its sparse layers read the blocks that an indexer picks; here, as in short prompts, all."""
    image, begin, end = ("]<]image[>[", "]<]start of image[>[", "]<]end of image[>[")
    tokens = words(image, begin, end, "]<]video[>[")
    images = without_torchvision(
        "minimax_m3_vl.image_processing_minimax_m3_vl", "MiniMaxM3VLImageProcessor"
    )
    processor = without_torchvision(
        "minimax_m3_vl.processing_minimax_m3_vl", "MiniMaxM3VLProcessor"
    )
    config = CONFIG_MAPPING["minimax_m3_vl"](
        text_config=text(
            tokens,
            head_dim=8,
            rotary_dim=4,
            num_local_experts=4,
            num_experts_per_tok=2,
            dense_intermediate_size=48,
            shared_intermediate_size=16,
            index_n_heads=2,
            index_head_dim=8,
            index_block_size=16,
            layer_types=["full_attention", "minimax_m3_sparse", "full_attention"],
            mlp_layer_types=["dense", "sparse", "sparse"],
        ),
        vision_config=vision(),
        projector_hidden_size=32,
        image_token_index=tokens.convert_tokens_to_ids(image),
        video_token_index=tokens.convert_tokens_to_ids("]<]video[>["),
    )
    model = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)](config)
    return Tiny(model, images_only(processor)(images(**PIXELS), tokens), image)
