"""Architectures that vLLM 0.32 serves and the plugin does not prune, each with the reason."""

__all__ = ["LEFT_OUT", "NO_ANSWERS", "SOUND", "by_reason", "in_brackets"]

# the plugin asks transformers' class of a model which patches a token is made of, and the tests
# ask it for the right answer
_NO_CLASS = "transformers 5.19 has no class of it to compare with; it would take"
_AS_INTERNVL = f"{_NO_CLASS} a reader of its configuration as InternVL's, and one entry"
_AS_ONEVISION = (
    f"{_NO_CLASS} a reader of its configuration as LLaVA-OneVision's, whose class vLLM has "
    "given another projector, and one entry"
)
_CROPS_FIRST = (
    "its tower runs twice, over whole images and over crops, and the crops' tokens come first, "
    "so that what is observed has another order than the tokens"
)
_GPU = "vLLM has its language model for GPUs alone, so that nothing can be compared on a CPU"
_QUERIES = "its tokens are answers of learned queries (a resampler), which lie nowhere in an image"
_MERGES_HALFWAY = (
    "its tower merges patches half way up or not, as each image says, so that the patches of a "
    "token differ from image to image"
)
_OMNI = (
    "sound may stand between the frames of its videos, and the library has no family of it yet, "
    "which comes first; its images are a grid with M-RoPE"
)
_OVIS = (
    "rows that mark an image's beginning and its tiles are embedded among its features, where "
    f"scores would rank them as patches; {_NO_CLASS} a family that knows their places"
)
_PREFIX = (
    "its attention is bidirectional over a prefix of 730 tokens, the beginning of the text among "
    "them, a number that vLLM has fixed"
)
_RADIO = (
    "the library has no family of its tower (RADIO), in front of whose patches stand as many "
    "tokens of its own as a checkpoint says; that comes first, then one entry"
)
_BACKEND = (
    "vLLM runs it by its backend for transformers' models: it would take an entry as Aya Vision's, "
    "which nobody has written"
)
_BY_NAME = "vLLM's backend for transformers' models: what it runs is pruned by a name of its own"

LEFT_OUT: dict[str, str] = {
    "AriaForConditionalGeneration": (
        f"{_QUERIES}; the library chooses by how distinct they are, which the plugin does not do"
    ),
    "BagelForConditionalGeneration": (
        f"{_NO_CLASS} a family of one square grid (`vit_max_num_patch_per_side`), and one entry"
    ),
    "BailingMoeV3VLForConditionalGeneration": (
        f"{_NO_CLASS} a reader as Qwen3-VL's without DeepStack, and one entry; grid of "
        "`image_grid_thw`, M-RoPE"
    ),
    "BeeForConditionalGeneration": _AS_ONEVISION,
    "Blip2ForConditionalGeneration": _QUERIES,
    "CohereCompassForConditionalGeneration": (
        "the library has no family of it yet, which comes first; then one entry: grid of "
        "`image_grid_thw`, M-RoPE, DeepStack as in Qwen3-VL"
    ),
    "Cosmos3EdgeForConditionalGeneration": (
        "nobody has written the entry: grid of `image_grid_thw`, M-RoPE, videos, and a tiny "
        "checkpoint whose layers are attention and MLP by turns; the library prunes it"
    ),
    "Cosmos3ForConditionalGeneration": (
        "vLLM loads it as a Qwen3-VL out of a checkpoint that generates images, too; the library "
        "has no family of it yet, which comes first, then one entry as Qwen3-VL's"
    ),
    "DeepseekOCR2ForCausalLM": (
        f"{_QUERIES}; the library chooses by how distinct they are, which the plugin does not do"
    ),
    "DeepseekOCRForCausalLM": (
        "a token is made of SAM's features and CLIP's, with line breaks among them; "
        f"{_NO_CLASS} a family of such layouts"
    ),
    "DeepseekV41ForCausalLM": _GPU,
    "DeepseekV4ForConditionalGeneration": (
        "vLLM reads its images on CUDA and ROCm alone, so that nothing can be compared on a CPU"
    ),
    "DeepseekVLV2ForCausalLM": (
        "its tower is timm's, whose attention the plugin does not see, and line breaks stand "
        "among its features"
    ),
    "DiffusionGemmaForBlockDiffusion": "it writes by diffusion, block by block, not by token",
    "Dots3NoteForCausalLM": (
        "vLLM imports it with CUDA's flash attention alone, so that nothing can be compared on a "
        "CPU"
    ),
    "DotsOCRForCausalLM": (
        f"{_NO_CLASS} a family and a reader; grid of `image_grid_thw`, positions in a row"
    ),
    "Eagle2_5_VLForConditionalGeneration": (
        f"{_NO_CLASS} a reader as InternVL's, whose tower is SigLIP, and one entry"
    ),
    "Emu3ForConditionalGeneration": (
        "its tokens are codes of a codebook, without a tower's attention to rank them by"
    ),
    "GLM4VForCausalLM": (
        "its tower puts embeddings of its own before and behind the patches, where scores would "
        f"rank them as patches; {_NO_CLASS} a family that knows their places"
    ),
    "Gemma3nForConditionalGeneration": (
        "its tower is a network of convolutions of timm's, which ends without attention to observe"
    ),
    "Gemma4UnifiedForConditionalGeneration": (
        "it has no tower: patches go straight into the language model, and no attention ranks them"
    ),
    "Glm5NextForConditionalGeneration": _GPU,
    "Granite4VisionForConditionalGeneration": (
        "several layers read features of their own, each made by queries over windows of another "
        "level of the tower, so that none of them is the one to score"
    ),
    "H2OVLChatModel": (
        f"{_AS_INTERNVL}; how it is tiled depends on how many images a prompt has, so that one "
        "prepared for one prompt does not do for another"
    ),
    "HCXVisionV2ForCausalLM": (
        "nobody has written the entry: grid of `image_grid_thw`, positions in a row, videos, and "
        "marks of the hub's own around an image; the library prunes it"
    ),
    "HfMoondream": _PREFIX,
    "HunYuanVLForConditionalGeneration": _BACKEND,
    "InklingForConditionalGeneration": (
        "its tower is an MLP over patches, without attention to observe"
    ),
    "InternS1ForConditionalGeneration": (
        f"{_AS_INTERNVL}: vLLM's class is the one that InternVL is pruned with"
    ),
    "InternS1ProForConditionalGeneration": (
        f"{_NO_CLASS} a reader as Qwen3-VL-MoE's, and one entry; grid of `image_grid_thw`, M-RoPE"
    ),
    "InternS2MobiusForConditionalGeneration": (
        f"{_NO_CLASS} a reader as Qwen3.5-MoE's, and one entry; grid of `image_grid_thw`, M-RoPE"
    ),
    "InternS2PreviewForConditionalGeneration": (
        f"{_NO_CLASS} a reader as Qwen3.5-MoE's, and one entry; grid of `image_grid_thw`, M-RoPE"
    ),
    "IsaacForConditionalGeneration": (
        f"{_NO_CLASS} a family of its merged grid (`pixel_shuffle_scale_factor`), and one entry "
        "with M-RoPE"
    ),
    "KananaVForConditionalGeneration": (
        "convolutions mix and pool patches behind its tower, which is no module of vLLM's, so "
        "that a token has no patches of its own"
    ),
    "KeyeForConditionalGeneration": (
        f"{_NO_CLASS} a family and a reader; grid of `image_grid_thw`, M-RoPE"
    ),
    "KeyeVL1_5ForConditionalGeneration": (
        f"{_NO_CLASS} a family and a reader; grid of `image_grid_thw`, M-RoPE, and videos of slow "
        "and fast frames with times between them"
    ),
    "KimiK3ForConditionalGeneration": _GPU,
    "KimiVLForConditionalGeneration": (
        f"{_NO_CLASS} a family and a reader; grid of `image_grid_hws`, positions in a row"
    ),
    "Llama_Nemotron_Nano_VL": (
        "its tower is code of the model's repository, whose attention the plugin does not see"
    ),
    "LlavaNextVideoForConditionalGeneration": (
        "vLLM takes videos of it and no images, and the plugin's entries begin with images; the "
        "library prunes both"
    ),
    "LlavaOnevision2ForConditionalGeneration": (
        "its processor is code of the model's repository, which says where each patch lies; "
        f"{_NO_CLASS} a family of such layouts"
    ),
    "MiMoV2OmniForCausalLM": (
        "layers of its tower that attend in windows do so outside of the attention that the "
        "plugin observes, and sound may stand between the frames of its videos"
    ),
    "MiniCPMO": _QUERIES,
    "MiniCPMV": _QUERIES,
    "MiniCPMV4_6ForConditionalGeneration": _MERGES_HALFWAY,
    "MiniCPMV4_7ForConditionalGeneration": _MERGES_HALFWAY,
    "MiniMaxM3SparseForConditionalGeneration": _GPU,
    "Molmo2ForConditionalGeneration": (
        "names of columns and frames are embedded among an image's features, and its processor "
        "says which patches a token pools, which is not read yet"
    ),
    "MolmoForCausalLM": (
        "a token pools patches of crops that overlap, by attention of its own; "
        f"{_NO_CLASS} a family that knows which"
    ),
    "Moondream3ForCausalLM": _PREFIX,
    "MuseGlimmerForCausalLM": (
        "the library has no family of it yet, which comes first; then one entry, with "
        "`image_feature_sizes` in place of grids"
    ),
    "MuseGlimmerForConditionalGeneration": (
        "the library has no family of it yet, which comes first; then one entry, with "
        "`image_feature_sizes` in place of grids"
    ),
    "NVLM_D": (f"{_AS_INTERNVL} with structure: a name stands before each of an image's tiles"),
    "NemotronH_Nano_Omni_Reasoning_V3": _RADIO,
    "NemotronH_Nano_VL_V2": _RADIO,
    "NemotronH_Omni_Reasoning_V3": _RADIO,
    "NemotronH_Super_Omni_Reasoning_V3": _RADIO,
    "NemotronParseForConditionalGeneration": (
        "it is an encoder-decoder: an image is read by cross-attention, not as tokens of a prompt"
    ),
    "OpenCUAForConditionalGeneration": (
        f"{_NO_CLASS} a reader as Qwen2.5-VL's, and one entry; grid of `image_grid_thw`, "
        "positions in a row"
    ),
    "OpenPanguVLForConditionalGeneration": (
        f"{_NO_CLASS} a family and a reader; grid of `image_grid_thw`, M-RoPE"
    ),
    "OpenVLAForActionPrediction": (
        "it answers with a robot's movements, and its two towers are timm's, whose attention the "
        "plugin does not see"
    ),
    "Ovis": _OVIS,
    "Ovis2_5": _OVIS,
    "Ovis2_6ForCausalLM": _OVIS,
    "Ovis2_6_MoeForCausalLM": _OVIS,
    "Phi3VForCausalLM": (
        "line breaks are features of its images, where scores would rank them as patches; "
        f"{_NO_CLASS} a family that knows their places"
    ),
    "Phi4ForCausalLMV": (
        f"{_NO_CLASS} a family and a reader; grid of `spatial_shapes`, positions in a row"
    ),
    "Phi4MMForCausalLM": (
        "line breaks are features of its images, where scores would rank them as patches, and "
        "vLLM reads another format than transformers"
    ),
    "PixtralForConditionalGeneration": (
        "in Mistral's own format the prompt arrives with all placeholders in it; in that of "
        "transformers Pixtral is LLaVA's architecture, and pruned"
    ),
    "Qwen2_5OmniForConditionalGeneration": _OMNI,
    "Qwen2_5OmniModel": _OMNI,
    "Qwen3OmniMoeForConditionalGeneration": f"{_OMNI}, and DeepStack",
    "Qwen4ExpForConditionalGeneration": _GPU,
    "RForConditionalGeneration": _AS_ONEVISION,
    "SkyworkR1VChatModel": f"{_AS_INTERNVL} for a class of its own",
    "Step3VLForConditionalGeneration": _CROPS_FIRST,
    "Step3p7ForConditionalGeneration": _CROPS_FIRST,
    "StepVLForConditionalGeneration": _CROPS_FIRST,
    "TransformersMultiModalForCausalLM": _BY_NAME,
    "TransformersMultiModalMoEForCausalLM": _BY_NAME,
    "UnlimitedOCRForCausalLM": (
        "a token is made of SAM's features and CLIP's, with line breaks among them; "
        f"{_NO_CLASS} a family of such layouts"
    ),
}
"""By the architecture in a model's configuration; vLLM answers from whole images of these."""

SOUND = frozenset(
    {
        "AudioFlamingo3ForConditionalGeneration",
        "CohereAsrForConditionalGeneration",
        "FireRedASR2ForConditionalGeneration",
        "FunASRForConditionalGeneration",
        "FunAudioChatForConditionalGeneration",
        "GlmAsrForConditionalGeneration",
        "GraniteSpeechForConditionalGeneration",
        "GraniteSpeechPlusForConditionalGeneration",
        "MiDashengLMModel",
        "MoonshotKimiaForCausalLM",
        "MossAudioModel",
        "MossTranscribeDiarizeForConditionalGeneration",
        "Qwen2AudioForConditionalGeneration",
        "Qwen3ASRForConditionalGeneration",
        "Qwen3ASRForcedAlignerForTokenClassification",
        "Qwen3ASRRealtimeGeneration",
        "UltravoxModel",
        "VibeVoiceAsrForConditionalGeneration",
        "VoxtralForConditionalGeneration",
        "VoxtralRealtimeGeneration",
        "WhisperForConditionalGeneration",
    }
)
"""They take sound, and neither images nor videos."""

NO_ANSWERS = frozenset(
    {
        "CLIPModel",
        "ClefOmniForJointSchema",
        "ColModernVBertForRetrieval",
        "ColPaliForRetrieval",
        "ColQwen3",
        "ColQwen3_5",
        "EmbeddingGemma2Model",
        "JinaVLForRanking",
        "LlamaNemotronVLForSequenceClassification",
        "LlamaNemotronVLModel",
        "OpsColQwen3Model",
        "Qwen3VLNemotronEmbedModel",
        "SiglipModel",
        "Terratorch",
        "TransformersMultiModalEmbeddingModel",
        "TransformersMultiModalForSequenceClassification",
    }
)
"""They embed, rank or classify, and write no answer."""


def in_brackets(architecture: str) -> str:
    """Return why an architecture is not pruned, as the end of a sentence; empty if not known."""
    if architecture in SOUND:
        return " (it takes no images)"
    if architecture in NO_ANSWERS:
        return " (it writes no answer)"
    reason = LEFT_OUT.get(architecture)
    return f" ({reason})" if reason else ""


def by_reason() -> dict[str, list[str]]:
    """Return the architectures of each reason, in the order of their names."""
    found: dict[str, list[str]] = {}
    for architecture, reason in LEFT_OUT.items():
        found.setdefault(reason, []).append(architecture)
    return found
