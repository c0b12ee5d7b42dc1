"""Questions about images as a model reads them: its own chat template, tokens and pixels."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import ProcessorMixin

from adafv.models.images import check_image, to_rgb
from adafv.utils.checks import checked

__all__ = [
    "build_batch",
    "build_inputs",
    "build_text",
    "check_question",
    "prompt_for",
    "tokenizer_options",
]


@checked
def build_inputs(
    processor: ProcessorMixin,
    image: Image.Image,
    question: str,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Model inputs for one question about one image: `input_ids` (1, L), `pixel_values`, ….

    Raises:
        ValueError: see `check_question` and `check_image`.
    """
    return build_batch(processor, [image], [question], device, dtype)


@checked
def build_batch(
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    questions: Sequence[str],
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """As `build_inputs`, one question for each image, padded on the left."""
    for image in images:
        check_image(image)
    prompts = [prompt_for(processor, question) for question in questions]
    batch = processor(
        images=[[to_rgb(i)] for i in images],
        text=prompts,
        **tokenizer_options(processor, prompts[0]),
    )
    return dict(batch.to(device=device, dtype=dtype) if dtype else batch.to(device=device))


@checked
def build_text(
    processor: ProcessorMixin, questions: Sequence[str], device: torch.device | str
) -> dict[str, Any]:
    """As `build_batch`, without images: prompts (B, L) of a blind model."""
    tools: Any = processor
    prompts = [prompt_for(processor, question, image=False) for question in questions]
    batch = tools.tokenizer(prompts, **tokenizer_options(processor, prompts[0]))
    return {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}


@checked
def prompt_for(processor: ProcessorMixin, question: str, image: bool = True) -> str:
    """The prompt in the model's own chat template, with one placeholder, or none for a blind model.

    Raises:
        ValueError: see `check_question`.
    """
    question = check_question(processor, question)
    tools: Any = processor
    if getattr(tools, "chat_template", None) is None:
        return (
            f"USER: {tools.image_token}\n{question} ASSISTANT:"
            if image
            else f"USER: {question} ASSISTANT:"
        )
    content = [{"type": "image"}] * image + [{"type": "text", "text": question}]
    return tools.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )


@checked
def check_question(processor: ProcessorMixin, question: str) -> str:
    """The question, stripped.

    Raises:
        ValueError: it is empty, is not text, or holds a control token such as `<image>` or `</s>`,
            which would change the prompt around it.
    """
    question = question.strip()
    if not question:
        raise ValueError("the question is empty: ask something about the image")
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise ValueError("the question is not valid UTF-8: type it again in a UTF-8 terminal")
    tools: Any = processor
    tokenizer = tools.tokenizer
    control = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    control |= {*tokenizer.all_special_tokens, tools.image_token}
    for token in sorted(control, key=len, reverse=True):
        if token.strip() and token in question:
            raise ValueError(
                f"the question contains {token!r}, which the model reads as a control token: leave it out"
            )
    return question


@checked
def tokenizer_options(processor: ProcessorMixin, prompt: str) -> dict[str, Any]:
    """How prompts like `prompt` are tokenized: padded on the left, and never with a second BOS."""
    tools: Any = processor
    bos = tools.tokenizer.bos_token
    return {
        "return_tensors": "pt",
        "padding": True,
        "padding_side": "left",
        "add_special_tokens": not (bos and prompt.startswith(bos)),
    }
