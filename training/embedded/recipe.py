"""Build the untrained embedded model: vocabulary, tokenizer, processor, configuration."""

from __future__ import annotations

from typing import Any

from adafv.data.canvas import CARD, COLORS, ICONS, NUMBERS, WORDS
from adafv.speed.shapes import with_control_tokens

CROP = 96  # pixels along a side of a crop, and of the thumbnail
PATCH = 8  # pixels along a side of a patch
GRID = 12  # patches along a side of a crop
# Sizes that an image may be cut to, in pixels: two by two crops, or two or three in a line.
PINPOINTS = [[192, 192], [96, 192], [192, 96], [96, 288], [288, 96]]
SHAPES = ("circle", "rectangle", "triangle")
NOUNS = (*ICONS, CARD, *SHAPES)
COLOR_WORDS = (*COLORS, "gray", "teal", "brown")
TEXTS = (*WORDS, *NUMBERS)
LABELS = (*NOUNS, "shape", *COLOR_WORDS, *TEXTS)
"""Words that can name a patch in stage 1: nouns, "shape", colours, texts, in this order."""

SPECIAL = ("<unk>", "<pad>", "<s>", "</s>", "<image>")
# Words of the chat template and of questions; their order is that of token ids.
_TEMPLATE_WORDS = """
    user assistant : ? . , what which where how many is are there a an
    the of to in on and or color same different as next beside left right
    above below relative written things thing yes no not does do contain image
    picture present it this zero
"""
TEMPLATE_WORDS = tuple(_TEMPLATE_WORDS.split())


def _plural(name: str) -> str:
    """Return the plural of a thing in the scenes; some are called by theirs already."""
    if name == "cross":
        return "crosses"
    return name if name.endswith("s") else f"{name}s"


PLURALS = {name: _plural(name) for name in (*ICONS, CARD)}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{% endif %}"
    "{% if m['role'] == 'user' %} {% else %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

VISION_WIDTH = 160
VISION_LAYERS = 6
TEXT_WIDTH = 192
TEXT_LAYERS = 6


def vocabulary() -> list[str]:
    """Return every token, in the order of its id."""
    return list(dict.fromkeys([*SPECIAL, *TEMPLATE_WORDS, *LABELS, *PLURALS.values()]))


def build_tokenizer() -> Any:
    """Return a word-level tokenizer: lower-cased words, digits and marks, else <unk>."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    words = {word: i for i, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    # lower-case, then split at blanks and around every mark
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[^\w<>/]"), "isolated")]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # words joined by spaces
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words["<s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return with_control_tokens(
        tokenizer, {"image_token": "<image>"}, model_max_length=2048, chat_template=CHAT_TEMPLATE
    )


def build_processor() -> Any:
    """Return the LlavaNextProcessor of the embedded model, which needs no torchvision."""
    from transformers import LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    side = {"height": CROP, "width": CROP}
    images = LlavaNextImageProcessorPil(
        size=side,
        crop_size=side,
        image_grid_pinpoints=PINPOINTS,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaNextProcessor(
        images,
        build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLS, which the "default" strategy drops
        chat_template=CHAT_TEMPLATE,
    )


def build_config() -> Any:
    """Return the LlavaNextConfig of the embedded model."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig

    ids = {word: i for i, word in enumerate(vocabulary())}
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=3 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=2,
        image_size=CROP,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=VISION_WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=TEXT_WIDTH,
        intermediate_size=512,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        pad_token_id=ids["<pad>"],
    )
    return LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids["<image>"],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=False,
        projector_hidden_act="gelu",
    )


def build_model(seed: int = 0) -> Any:
    """Return an untrained model: sine–cosine positions in the tower, the rest at random."""
    import torch
    from transformers import LlavaNextForConditionalGeneration

    torch.manual_seed(seed)
    model = LlavaNextForConditionalGeneration(build_config())
    embeddings = model.model.vision_tower.embeddings
    with torch.no_grad():
        # positions that the tower can use from the first step on
        embeddings.position_embedding.weight.copy_(0.5 * sincos(VISION_WIDTH))
        embeddings.class_embedding.normal_(std=0.5)
        embeddings.patch_embedding.weight.normal_(std=(3 * PATCH * PATCH) ** -0.5)
        # CLIP's own initialisation is made for far larger batches
        for layer in model.model.vision_tower.encoder.layers:
            attention = layer.self_attn
            for module in (attention.q_proj, attention.k_proj, attention.v_proj, layer.mlp.fc1):
                torch.nn.init.xavier_uniform_(module.weight)
    return model


def sincos(width: int) -> Any:
    """Return 2-D sine–cosine positions (1 + GRID², width); the first row (CLS) is zero."""
    import torch

    quarter = width // 4
    rate = 1.0 / (100.0 ** (torch.arange(quarter) / quarter))
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    waves = []
    for axis in (x, y):
        angles = axis.reshape(-1, 1) * rate  # (GRID², width / 4)
        waves += [torch.sin(angles), torch.cos(angles)]
    return torch.cat([torch.zeros(1, width), torch.cat(waves, 1)])
