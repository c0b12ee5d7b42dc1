"""Find in a prompt what its images are asked about, before vLLM repeats their placeholders."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedConfig
from vllm.multimodal.processing import BaseMultiModalProcessor, PromptReplacement

from adafv.core.chat_template import Template, template_of
from adafv.core.inputs import placeholders, video_bounds
from adafv.core.prompt import Prompt, Question
from adafv.integrations.vllm.architecture import Architecture
from adafv.integrations.vllm.hub_format import Prompts, PromptsOfLines, as_transformers
from adafv.integrations.vllm.request_text import tokens_of
from adafv.models.boilerplate import boilerplate

__all__ = ["Questions"]


class Questions:
    """The questions in prompts of a model.

    Args:
        processor: of the model, vLLM's.
        architecture: of the model.
    """

    def __init__(self, processor: Any, architecture: Architecture) -> None:
        self.processor = processor
        self.info = processor.info
        self.architecture = architecture

    def in_prompt(
        self, ids: Sequence[int], counts: Mapping[str, int], which: Question, skip: frozenset[int]
    ) -> dict[str, list[tuple[int, ...]]]:
        """Return for each image the text tokens (M,) of its question, as the library finds them.

        Args:
            ids: of the prompt (L,), as vLLM was given it.
            counts: of images and videos.
            which: text counts, see `Prompt.question`.
            skip: ids that don't.
        """
        tokens = {name: self.markers[name] for name in counts}
        # (1, L), with one placeholder an image: vLLM repeats them later
        inputs = {"input_ids": torch.tensor([self._with_placeholders(ids, counts)])}
        bounds = video_bounds(self.config)
        prompt = Prompt(inputs, tokens, self.config.model_type, self.chat_template, bounds=bounds)

        # what stands inside one is no text of another
        spans = {name: prompt.spans([1] * count, name) for name, count in counts.items()}
        questions: dict[str, list[tuple[int, ...]]] = {}
        for name, of_modality in spans.items():
            questions[name] = []
            for span in of_modality:
                text_ids = prompt.ids[0, prompt.question(span, skip, which)]  # (M,)
                questions[name].append(tuple(text_ids.tolist()))
        return questions

    def _with_placeholders(self, ids: Sequence[int], counts: Mapping[str, int]) -> Sequence[int]:
        """Return a prompt with a placeholder in place of each text that stands for an image.

        vLLM replaces it among the ids, or in the decoded prompt where its end is part of a longer
        token, so that the words beside it may have other ids.
        """
        if self.architecture.in_front:
            return self._behind_an_image(ids)
        if not self.marker_texts:
            return ids
        replacements = []
        for modality in counts:
            text = self.marker_texts[modality]
            target = self.info.get_tokenizer().encode(text, add_special_tokens=False)
            replacements.append(PromptReplacement(modality, target, [self.markers[modality]]))
        updates = self.processor._bind_and_group_updates(replacements, counts)
        # not the processor's own: nothing is placed yet
        found, _ = BaseMultiModalProcessor._apply_prompt_updates(self.processor, list(ids), updates)
        return found

    def _behind_an_image(self, ids: Sequence[int]) -> list[int]:
        """Return a prompt as vLLM is going to write it, but for how many placeholders there are."""
        tokenizer = self.info.get_tokenizer()
        line_break = tokenizer.convert_tokens_to_ids("\n")
        behind = [] if ids and ids[-1] == line_break else [line_break]
        return [self.marker, tokenizer.bos_token_id, *ids, *behind]

    @property
    def markers(self) -> dict[str, int]:
        """Return the ids that stand for an image and for a video, by vLLM's modality."""
        return {**placeholders(self.config), self.architecture.modalities[0]: self.marker}

    @property
    def typed(self) -> list[str]:
        """Return what would stand for an image or a video if somebody typed it."""
        ids = [*placeholders(self.config).values(), self.marker]
        names = tokens_of(self.info.get_tokenizer(), ids)
        return [*names, *self.marker_texts.values()]

    @property
    def marker_texts(self) -> Mapping[str, str]:
        """Return the texts of several tokens that stand for an image and a video, by modality."""
        return self.architecture.hub.markers if self.architecture.hub else {}

    @cached_property
    def marker(self) -> int:
        """Return the id that stands for an image in a prompt."""
        if not self.architecture.marker:
            return placeholders(self.config)["image"]
        token = getattr(self.info.get_hf_processor(), self.architecture.marker)
        return self.info.get_tokenizer().convert_tokens_to_ids(token)

    @cached_property
    def config(self) -> PreTrainedConfig:
        """Return the model's configuration as transformers has it."""
        tokenizer = self.info.get_tokenizer() if self.architecture.hub else None
        return as_transformers(self.info.get_hf_config(), self.architecture, tokenizer)

    @cached_property
    def template_ids(self) -> frozenset[int]:
        """Return the ids that `skip=template` stands for."""
        return boilerplate(self._tools)

    @cached_property
    def chat_template(self) -> Template:
        """Return how the chat template separates turns."""
        return template_of(self._tools).including(self.config)

    @cached_property
    def _tools(self) -> Any:
        """Return the processor, with a tokenizer and the chat template."""
        tokenizer = self.info.get_tokenizer()
        hub = self.architecture.hub
        if hub is not None:
            kind = Prompts if hub.chat_in_parts else PromptsOfLines
            return kind(tokenizer, hub.placeholder, tuple(hub.markers.values()))
        if self.architecture.vision_chunks:
            return Prompts(tokenizer, tokenizer.convert_ids_to_tokens(self.marker))
        return self.info.get_hf_processor()
