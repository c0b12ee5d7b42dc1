"""Families that take encoded images and that no test covers, each with the reason."""

__all__ = ["IMPOSSIBLE", "UNPROVEN"]

# nothing is to be done about these before transformers
IMPOSSIBLE: dict[str, str] = {
    "blip-2": "its generate runs the encoder itself and takes no encoded images",
    "florence2": "it is an encoder-decoder whose forward takes no encoded images",
    "instructblip": "its generate runs the encoder itself and takes no encoded images",
    "instructblipvideo": "its generate runs the encoder itself and takes no encoded images",
    "mistral4": "it is a language model alone; with a tower before it, it is a mistral3",
}
"""A model of these is refused."""

# reasons that several families share
_UNTRIED = "no tiny model of it is in the tests yet"
_OMNI = "no tiny model of it is in the tests yet; it numbers sounds together with images"
_TIMM = "its tower comes from timm, which needs torchvision; it has not been run here"
_MINICPM = "its tower merges patches half way up, and its processor asks its video processor"
_STEP3 = "its tower runs twice, over full images and over crops, in another order than the tokens'"

# nothing is known against these but that no test has run them
UNPROVEN: dict[str, str] = {
    "cohere_compass": _UNTRIED,
    "cosmos3_omni": _UNTRIED,
    "diffusion_gemma": "it writes by diffusion, not token by token",
    "dots3_note": _UNTRIED,
    "fast_vlm": _TIMM,
    "fuyu": "it has no tower: patches go straight into the language model",
    "gemma3n": _TIMM,
    "gemma4_unified": _UNTRIED,
    "glm5_next": _UNTRIED,
    "glmga": "its model is that of glm46v; no test has run it by this name",
    "granite4_vision": "its features exist only as pairs of a layer and what that layer adds",
    "hunyuan_vl": "it numbers the rows of a second prompt in a batch after those of the first",
    "inkling2": _UNTRIED,
    "inkling_mm_model": _UNTRIED,
    "minicpm_ocr": "its encoder needs the sizes of slices, and its merger is optional",
    "minicpmv4_6": _MINICPM,
    "minicpmv4_7": _MINICPM,
    "mistral_large4": _UNTRIED,
    "molmo2": "its processor says which patches a token pools; that is not read yet",
    "muse_glimmer": _UNTRIED,
    "muse_spark": _UNTRIED,
    "nemotron_h_omni": _UNTRIED,
    "perception_lm": _TIMM,
    "pp_chart2table": "its model is that of got_ocr2; no test has run it by this name",
    "qwen2_5_omni_thinker": _OMNI,
    "qwen3_omni_moe_thinker": _OMNI,
    "qwen4_exp": _UNTRIED,
    "shieldgemma2": "its model is that of gemma3; no test has run it by this name",
    "step3p7": _STEP3,
    "t5gemma2": "it is an encoder-decoder",
    "unlimited_ocr": _UNTRIED,
}
"""A model of these goes the generic way, with a warning."""
