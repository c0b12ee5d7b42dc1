"""Put questions about images as a model reads them: its own chat template, tokens and pixels."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from transformers import ProcessorMixin

from adafv.models.images import check_image, to_rgb
from adafv.models.processors import check_reads_videos
from adafv.models.videos import Video
from adafv.utils.checks import checked, has_surrogate

__all__ = [
    "build_batch",
    "build_inputs",
    "build_text",
    "check_question",
    "prompt_for",
    "tokenizer_options",
]

PLAIN = ("PaliGemmaProcessor",)
"""Processors of models that read an image and a task, such as "answer en …", and no chat."""


@checked
def build_inputs(
    processor: ProcessorMixin,
    image: Image.Image | Video,
    question: str,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Return model inputs of one question about one image: `input_ids` (1, L), `pixel_values`, ….

    Args:
        image: or a video, whose frames are all read.

    Raises:
        ValueError: see `check_question`, `check_image` and `check_reads_videos`.
    """
    if isinstance(image, Video):
        return _build_video(processor, image, question, device, dtype)
    return build_batch(processor, [image], [question], device, dtype)


def _build_video(
    processor: ProcessorMixin,
    video: Video,
    question: str,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """Return model inputs of one question about one video."""
    check_reads_videos(processor)
    prompt = prompt_for(processor, question, video=True)
    batch = processor(
        text=[prompt],
        videos=[video.frames],
        video_metadata=[video.metadata],
        # they are sampled already
        do_sample_frames=False,
        return_metadata=True,
        **tokenizer_options(processor, prompt),
    )
    batch.pop("video_metadata", None)
    inputs = dict(batch.to(device=device))
    for name, value in inputs.items():
        # times of frames are numbers, too, and would be rounded
        if dtype is not None and name.startswith("pixel_values"):
            inputs[name] = value.to(dtype)
    return inputs


@checked
def build_batch(
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    questions: Sequence[str],
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Return model inputs like `build_inputs`, one question an image, padded on the left.

    Args:
        images: I of them.
        questions: as many.

    Raises:
        ValueError: see `check_question` and `check_image`.
    """
    for image in images:
        check_image(image)
    prompts = [prompt_for(processor, question) for question in questions]
    # one image a prompt, in a list of its own: flat lists mean different things to processors
    batch = processor(
        images=[[to_rgb(image)] for image in images],
        text=prompts,
        **tokenizer_options(processor, prompts[0]),
    )
    # the dtype is that of floating-point tensors alone; ids remain integers
    if dtype is None:
        return dict(batch.to(device=device))
    return dict(batch.to(device=device, dtype=dtype))


@checked
def build_text(
    processor: ProcessorMixin, questions: Sequence[str], device: torch.device | str
) -> dict[str, Any]:
    """Return prompts (B, L) like `build_batch`, without images: those of a blind model."""
    tools: Any = processor
    prompts = [prompt_for(processor, question, image=False) for question in questions]
    batch = tools.tokenizer(prompts, **tokenizer_options(processor, prompts[0]))
    return {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}


@checked
def prompt_for(
    processor: ProcessorMixin, question: str, image: bool = True, video: bool = False
) -> str:
    """Return the prompt in the model's own chat template, with one placeholder of an image.

    Args:
        image: False: without the placeholder, for a blind model.
        video: with the placeholder of a video instead.

    Raises:
        ValueError: see `check_question`; the template is damaged, or refuses the question.
    """
    question = check_question(processor, question)
    shown = "video" if video else "image"
    tools: Any = processor
    if getattr(tools, "chat_template", None) is None:
        placeholder = getattr(tools, f"{shown}_token") if image else ""
        if type(processor).__name__ in PLAIN:
            return f"{placeholder}{question}"
        # LLaVA-1.5's own words, for checkpoints that were saved before templates were
        line_break = "\n" if image else ""
        return f"USER: {placeholder}{line_break}{question} ASSISTANT:"

    content = [{"type": "text", "text": question}]
    if image:
        content.insert(0, {"type": shown})
    try:
        # one user turn, and the opening of the answer
        return tools.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    # a template raises whatever its author liked
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".:") or type(error).__name__
        raise ValueError(
            f"the model's chat template (chat_template.jinja) cannot be applied ({reason}): "
            "download the model again"
        ) from error


@checked
def check_question(processor: ProcessorMixin, question: str) -> str:
    """Return the question, stripped.

    Raises:
        ValueError: it is empty, is not text, or holds a control token such as `<image>` or `</s>`,
            which would change the prompt around it.
    """
    question = question.strip()
    if not question:
        raise ValueError("the question is empty: ask something about the image")
    # half a surrogate pair is what Python makes of bytes that are not UTF-8 in an argument
    if has_surrogate(question):
        raise ValueError("the question is not valid UTF-8: type it again in a UTF-8 terminal")
    tools: Any = processor
    tokenizer = tools.tokenizer

    # A control token in the question would open a second image or end the turn.
    control = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    control |= {*tokenizer.all_special_tokens, tools.image_token}
    control |= {getattr(tools, "video_token", None) or tools.image_token}
    # the longest first, so that the error names it and not a part of it
    for token in sorted(control, key=len, reverse=True):
        if token.strip() and token in question:
            raise ValueError(
                f"the question contains {token!r}, which the model reads as a control token: "
                "leave it out"
            )
    return question


@checked
def tokenizer_options(processor: ProcessorMixin, prompt: str) -> dict[str, Any]:
    """Return how prompts like `prompt` are tokenized: left padding, and never a second BOS."""
    tools: Any = processor
    bos = tools.tokenizer.bos_token
    # Answers are generated behind the prompt, so padding stands before it.
    return {
        "return_tensors": "pt",
        "padding": True,
        "padding_side": "left",
        "add_special_tokens": not (bos and prompt.startswith(bos)),
    }
