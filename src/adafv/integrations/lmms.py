"""lmms-eval: `python -m lmms_eval --model adafv --model_args pretrained=…,method=adafv,keep=0.05
--tasks gqa,pope`.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages
from lmms_eval.utils import Collator
from PIL import Image
from tqdm import tqdm

from adafv import __version__
from adafv.methods import from_spec as pruner_of
from adafv.models.generation import check_length, decode, generate
from adafv.models.images import check_image, open_image, to_rgb
from adafv.models.load import load
from adafv.models.prompting import tokenizer_options

__all__ = ["Counts", "Pruned", "manifests"]

MAX_NEW_TOKENS = 1024
"""Where a task doesn't say; lmms-eval's own models take the same."""


def manifests() -> list[ModelManifest]:
    """The models that lmms-eval finds under the entry point `lmms_eval.models`."""
    return [ModelManifest(model_id="adafv", chat_class_path=f"{__name__}.{Pruned.__name__}")]


class Counts(TokenCounts):
    """Tokens of one request, as `--log_samples` writes them: `input_tokens` is the pruned prompt.

    Attributes:
        visual_tokens: of all its images, before pruning.
        kept_tokens: how many of them a layer of the LLM reads, mean over layers.
    """

    visual_tokens: int = 0
    kept_tokens: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {
            "visual_tokens": self.visual_tokens,
            "kept_tokens": self.kept_tokens,
        }


class Pruned(lmms):
    """A vision-language model that answers lmms-eval from the visual tokens that a method keeps,
    greedily.

    The results file names adafv's version and the method with all its options
    (`config.model_backend`), and gives the mean of the visual tokens before and after pruning over
    the requests with an image (`throughput`).

    Args:
        pretrained: hub id, folder, or "embedded" for the model that ships with the package.
        method: as `adafv.methods.from_spec` reads it, e.g. adafv:reserve=0.5.
        batch_size: requests that are answered at once.
        device, dtype: see `adafv.models.load.load`.
        options: of the method: `keep` or `tokens`, and whatever else it takes, e.g. `crops=each`.

    Raises:
        ValueError: a model, method or option that cannot be used.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "embedded",
        method: str = "adafv",
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.batch_size = _batch_size(batch_size)
        self.pruner = pruner_of(method, **options)
        self.model, self.processor = load(
            None if pretrained == "embedded" else pretrained, device, dtype
        )
        self.device = self.model.device
        # The class's name is the one text about a model that lmms-eval takes over into its results,
        # besides model_args.
        name = f"{type(self).__name__}[adafv {__version__}, {self.pruner}]"
        self.__class__ = type(name, (type(self),), {"__module__": __name__})

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests.

        Whatever goes wrong with one is raised, never scored.
        """
        order = Collator(
            [r.args for r in requests],
            lambda args: -len(args[0]),
            group_fn=lambda args: args[2],
            grouping=True,
        )
        answers: list[GenerationResult] = []
        seconds = 0.0
        with tqdm(total=len(requests), desc="adafv", unit="request", disable=self.rank != 0) as bar:
            for batch in order.get_batched(n=self.batch_size):
                start = time.perf_counter()
                answers += self._answer(batch)
                seconds += time.perf_counter() - start
                bar.update(len(batch))
        self._log([answer.token_counts for answer in answers], seconds)
        return order.get_original(answers)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError(
            "adafv answers in words: run the variant of this task that generates its answer"
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError(
            "adafv answers single questions: leave out tasks that ask in several rounds"
        )

    def _answer(self, batch: Sequence[tuple[Any, ...]]) -> list[GenerationResult]:
        """Answer requests (context, doc_to_messages, generation kwargs, document, task, split) of
        the same kwargs.
        """
        try:
            chats = [
                ChatMessages(messages=f(self.task_dict[t][s][i])) for _, f, _, i, t, s in batch
            ]
            return self._generate(chats, batch[0][2])
        except Exception as error:
            error.add_note(f"while answering {', '.join(f'{t}/{s}/{i}' for *_, i, t, s in batch)}")
            raise

    @torch.no_grad()
    def _generate(
        self, chats: list[ChatMessages], wanted: Mapping[str, Any]
    ) -> list[GenerationResult]:
        max_new_tokens, stops = _limits(wanted)
        short, counts, inside = self._prune(self._inputs(chats))
        check_length(self.model, short["input_ids"])
        with inside:
            output = generate(self.model, short, max_new_tokens)
        special = torch.tensor(self.processor.tokenizer.all_special_ids, device=output.device)
        written = (~torch.isin(output, special)).sum(1).tolist()
        read = short["attention_mask"].sum(1).tolist()
        for count, r, w in zip(counts, read, written, strict=True):
            count.input_tokens, count.output_tokens = r, w
        texts = decode(self.processor, output)
        return [
            GenerationResult(_until(text, stops), count)
            for text, count in zip(texts, counts, strict=True)
        ]

    def _prune(
        self, inputs: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Counts], AbstractContextManager[object]]:
        """The shorter inputs, their visual tokens, and the context in which the model is to read
        them.
        """
        counts = [Counts() for _ in inputs["input_ids"]]
        if "pixel_values" not in inputs:
            return self.pruner(self.model, inputs), counts, nullcontext()
        encoding = self.pruner.encode(self.model, inputs)
        selection = self.pruner.choose(encoding)
        for span, count, read in zip(
            encoding.spans, encoding.tokens.counts, selection.tokens_read, strict=True
        ):
            counts[span.row].visual_tokens += count
            counts[span.row].kept_tokens += read
        short = self.pruner.rebuild(self.model, inputs, encoding, selection)
        return short, counts, self.pruner.between_layers(self.model, encoding)

    def _inputs(self, chats: list[ChatMessages]) -> dict[str, Any]:
        """A batch of chats, with any number of images each, as the processor prepares it, padded
        on the left.
        """
        pictures = []
        for chat in chats:
            images, videos, sounds = chat.extract_media()
            if videos or sounds:
                raise ValueError(
                    "this request has a video or a sound, adafv prunes images: leave the task out"
                )
            pictures += [_image(image) for image in images]
        prompts = [
            self.processor.apply_chat_template(
                chat.to_hf_messages(), add_generation_prompt=True, tokenize=False
            )
            for chat in chats
        ]
        batch = self.processor(
            images=pictures or None, text=prompts, **tokenizer_options(self.processor, prompts[0])
        )
        return dict(batch.to(device=self.model.device, dtype=self.model.dtype))

    def _log(self, counts: Sequence[Counts], seconds: float) -> None:
        written, seen = sum(c.output_tokens for c in counts), [c for c in counts if c.visual_tokens]
        means = (
            {n: fmean(getattr(c, n) for c in seen) for n in ("visual_tokens", "kept_tokens")}
            if seen
            else {}
        )
        budget = {n: v for n in ("keep", "tokens") if (v := getattr(self.pruner, n)) is not None}
        log_metrics(seconds, written, written / seconds, additional_metrics=budget | means)


def _batch_size(value: int | str) -> int:
    if not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"batch_size={value!r} is not a number of requests: pass 1 or more")
    return int(value)


def _limits(wanted: Mapping[str, Any]) -> tuple[int, list[str]]:
    """The longest answer and the texts that end it, of a task's generation kwargs."""
    temperature, stops = wanted.get("temperature"), wanted.get("until") or []
    sampling = wanted.get("do_sample", temperature is not None) and temperature != 0
    if sampling or (wanted.get("num_beams") or 1) > 1:
        raise ValueError(
            f"this task samples or searches beams ({dict(wanted)}), adafv compares methods on greedy answers: "
            "pass --gen_kwargs temperature=0,do_sample=False,num_beams=1"
        )
    return wanted.get("max_new_tokens") or MAX_NEW_TOKENS, [stops] if isinstance(
        stops, str
    ) else stops


def _until(text: str, stops: Sequence[str]) -> str:
    for stop in filter(None, stops):
        text = text.partition(stop)[0]
    return text.strip()


def _image(image: Image.Image | str) -> Image.Image:
    if isinstance(image, str):
        return open_image(image)
    check_image(image)
    return to_rgb(image)
