"""Answer a question about a picture, timed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, ProcessorMixin

from adafv.checks import checked
from adafv.encoding import Encoding
from adafv.images import check_image, to_rgb
from adafv.pruner import Pruner, Selection
from adafv.turns import remember

__all__ = [
    "Answer",
    "ask",
    "ask_encoded",
    "build_batch",
    "build_inputs",
    "build_text",
    "check_answer_length",
    "check_length",
    "check_question",
    "decode",
    "generate",
    "now",
    "prompt_for",
    "tokenizer_options",
    "was_cut",
]


@dataclass(frozen=True)
class Answer:
    """What a model says, and what it cost.

    Attributes:
        answer: the text, stripped.
        method: name of the pruning method.
        visual_tokens: N, the tokens that could have been dropped.
        kept_tokens: how many of them the language model read (between its layers: on average).
        prefill_ms: from inputs on the device to the first token's logits: vision tower, selection and prefill.
        total_ms: from inputs on the device to the last token.
        cut: the answer ended because it had `max_new_tokens`, not because the model was done.

    Both times leave out loading and resizing the picture. They are wall-clock, of this one call: the first call in a
    process pays for warming up.
    """

    answer: str
    method: str
    visual_tokens: int
    kept_tokens: int
    prefill_ms: float
    total_ms: float
    cut: bool = False


@checked
def ask(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    image: Image.Image,
    question: str,
    pruner: Pruner,
    max_new_tokens: int = 64,
) -> Answer:
    """Answer one question about one picture, greedily, from the visual tokens that the pruner keeps.

    Raises:
        ValueError: a question or picture that `check_question` or `check_image` refuses, a prompt longer than the
            model reads, or `max_new_tokens` below 1.
    """
    check_answer_length(max_new_tokens)
    inputs = build_inputs(processor, image, question, model.device, model.dtype)
    remember(model, processor)
    clock = _Clock(model.device)
    with torch.no_grad():
        encoding = pruner.encode(model, inputs)
    return _answer(model, processor, inputs, encoding, pruner, max_new_tokens, clock)[0]


@checked
def ask_encoded(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    inputs: dict[str, Any],
    encoding: Encoding,
    pruner: Pruner,
    max_new_tokens: int = 64,
) -> tuple[Answer, Selection]:
    """As `ask`, about a picture that is encoded already; both times leave the vision tower out.

    Args:
        inputs: the prompt, see `build_inputs`.
        encoding: of its picture, with the signals and words that the pruner looks at.

    Returns:
        The answer, and which tokens it was given from.

    Raises:
        ValueError: a budget that the pruner refuses, or a prompt longer than the model reads.
    """
    return _answer(model, processor, inputs, encoding, pruner, max_new_tokens, _Clock(model.device))


@torch.no_grad()
def _answer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    inputs: dict[str, Any],
    encoding: Encoding,
    pruner: Pruner,
    max_new_tokens: int,
    clock: "_Clock",
) -> tuple[Answer, Selection]:
    selection = pruner.select(encoding.tokens, [pruner.budget(n) for n in encoding.tokens.counts])
    short = pruner.rebuild(model, inputs, encoding, selection)
    check_length(model, short["input_ids"])
    with pruner.inside(model, encoding):
        output = generate(model, short, max_new_tokens, logits_processor=LogitsProcessorList([clock]))
    total_ms = clock.read()
    answer = Answer(
        answer=decode(processor, output)[0],
        method=pruner.spec,
        visual_tokens=sum(encoding.tokens.counts),
        kept_tokens=round(sum(selection.tokens_read)),
        prefill_ms=clock.first_token_ms,
        total_ms=total_ms,
        cut=was_cut(model, output, max_new_tokens)[0],
    )
    return answer, selection


@checked
def build_inputs(
    processor: ProcessorMixin,
    image: Image.Image,
    question: str,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Model inputs for one question about one picture: `input_ids` (1, L), `pixel_values`, ….

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
    """As `build_inputs`, one question for each picture, padded on the left."""
    for image in images:
        check_image(image)
    prompts = [prompt_for(processor, question) for question in questions]
    batch = processor(images=[[to_rgb(i)] for i in images], text=prompts, **tokenizer_options(processor, prompts[0]))
    return dict(batch.to(device=device, dtype=dtype) if dtype else batch.to(device=device))


@checked
def build_text(processor: ProcessorMixin, questions: Sequence[str], device: torch.device | str) -> dict[str, Any]:
    """As `build_batch`, without pictures: prompts (B, L) of a blind model."""
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
        return f"USER: {tools.image_token}\n{question} ASSISTANT:" if image else f"USER: {question} ASSISTANT:"
    content = [{"type": "image"}] * image + [{"type": "text", "text": question}]
    return tools.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)


@checked
def check_question(processor: ProcessorMixin, question: str) -> str:
    """The question, stripped.

    Raises:
        ValueError: it is empty, is not text, or holds a control token such as `<image>` or `</s>`, which would change
            the prompt around it.
    """
    question = question.strip()
    if not question:
        raise ValueError("the question is empty: ask something about the picture")
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise ValueError("the question is not valid UTF-8: type it again in a UTF-8 terminal")
    tools: Any = processor
    tokenizer = tools.tokenizer
    control = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    control |= {*tokenizer.all_special_tokens, tools.image_token}
    for token in sorted(control, key=len, reverse=True):
        if token.strip() and token in question:
            raise ValueError(f"the question contains {token!r}, which the model reads as a control token: leave it out")
    return question


@checked
def generate(model: PreTrainedModel, inputs: dict[str, Any], max_new_tokens: int, **options: Any) -> Tensor:
    """(B, new) ids of a greedy answer."""
    generator: Any = model
    output = generator.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, **options)
    return output[:, inputs["input_ids"].shape[1] :]


@checked
def was_cut(model: PreTrainedModel, output: Tensor, max_new_tokens: int) -> list[bool]:
    """For each answer (B, new) whether it ended at `max_new_tokens`, and not because the model was done."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    known = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return [output.shape[1] >= max_new_tokens and not any(token in known for token in row) for row in output.tolist()]


@checked
def check_answer_length(max_new_tokens: int) -> None:
    """Raise a `ValueError` if an answer could have no token."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} leaves no room for an answer: pass 1 or more")


@checked
def decode(processor: ProcessorMixin, output: Tensor) -> list[str]:
    """Answers as text, stripped."""
    return [text.strip() for text in processor.batch_decode(output, skip_special_tokens=True)]


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


@checked
def now(device: torch.device) -> float:
    """Seconds on a clock, read once the device has done all it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


@checked
def check_length(model: PreTrainedModel, ids: Tensor) -> None:
    """Raise a `ValueError` if prompts (B, L) are longer than the model reads."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit and ids.shape[1] > limit:
        raise ValueError(f"the prompt has {ids.shape[1]} tokens, the model reads {limit}: shorten the question")


class _Clock(LogitsProcessor):
    """Milliseconds since it was made, and when the first logits came."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = now(device)
        self.first_token_ms = 0.0

    def read(self) -> float:
        return (now(self.device) - self.start) * 1000

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.first_token_ms:
            self.first_token_ms = self.read()
        return scores
