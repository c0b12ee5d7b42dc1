"""Answer the tasks of lmms-eval from pruned images.

python -m lmms_eval --model adafv --model_args pretrained=…,method=adafv,keep=0.05 --tasks gqa
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
from adafv.core.config import DEFAULT_METHOD
from adafv.core.inputs import has_images
from adafv.methods import from_spec as pruner_of
from adafv.models.boilerplate import boilerplate
from adafv.models.generation import check_length, decode, generate
from adafv.models.images import check_image, open_image, to_rgb
from adafv.models.load import load
from adafv.models.prompting import tokenizer_options

__all__ = ["Counts", "Pruned", "manifests"]

MAX_NEW_TOKENS = 1024
"""Where a task doesn't say; lmms-eval's own models take the same."""


def manifests() -> list[ModelManifest]:
    """Return the models that lmms-eval finds under the entry point `lmms_eval.models`."""
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
        """Return the counts as they are logged."""
        return super().to_dict() | {
            "visual_tokens": self.visual_tokens,
            "kept_tokens": self.kept_tokens,
        }


class Pruned(lmms):
    """A vision-language model that answers lmms-eval from kept visual tokens, greedily.

    The results file names adafv's version and the method with the options that are not its defaults
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

    is_simple = False  # it reads chats, not the texts with placeholders of older models

    def __init__(
        self,
        pretrained: str = "embedded",
        method: str = DEFAULT_METHOD,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.batch_size = _batch_size(batch_size)
        # what cannot be used is refused before any weight is read
        pruner_of(method, **options)
        self.model, self.processor = load(pretrained, device, dtype)
        self.pruner = pruner_of(method, lambda: boilerplate(self.processor), **options)
        self.device = self.model.device
        # The class's name is the one text about a model that lmms-eval takes over into its results,
        # besides model_args.
        name = f"{type(self).__name__}[adafv {__version__}, {self.pruner.config}]"
        self.__class__ = type(name, (type(self),), {"__module__": __name__})

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer requests, in their order; whatever goes wrong with one is raised, never scored."""
        # the longest prompts first, in batches of the same generation kwargs: memory that suffices
        # for the first batch suffices for all
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
        """Refuse tasks that compare likelihoods."""
        raise NotImplementedError(
            "adafv answers in words: run the variant of this task that generates its answer"
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse tasks that ask in several rounds."""
        raise NotImplementedError(
            "adafv answers single questions: leave out tasks that ask in several rounds"
        )

    def _answer(self, batch: Sequence[tuple[Any, ...]]) -> list[GenerationResult]:
        """Answer requests of the same generation kwargs.

        Args:
            batch: (context, doc_to_messages, generation kwargs, document, task, split) of each.
        """
        try:
            chats = []
            for _, messages_of, _, document, task, split in batch:
                messages = messages_of(self.task_dict[task][split][document])
                chats.append(ChatMessages(messages=messages))
            return self._generate(chats, batch[0][2])
        except Exception as error:
            # thousands of requests run in one call, so the error has to say which it was
            names = [f"{task}/{split}/{document}" for *_, document, task, split in batch]
            error.add_note(f"while answering {', '.join(names)}")
            raise

    @torch.no_grad()
    def _generate(
        self, chats: list[ChatMessages], wanted: Mapping[str, Any]
    ) -> list[GenerationResult]:
        """Prune a batch of chats, and generate their answers."""
        max_new_tokens, stops = _limits(wanted)
        short, counts, layerwise = self._prune(self._inputs(chats))
        check_length(self.model, short["input_ids"])
        with layerwise:
            output = generate(self.model, short, max_new_tokens)  # (B, new)

        # count tokens: padding is not read, and special tokens are not written
        special = torch.tensor(self.processor.tokenizer.all_special_ids, device=output.device)
        written = (~torch.isin(output, special)).sum(1).tolist()  # (B,)
        read = short["attention_mask"].sum(1).tolist()  # (B,)

        results = []
        for i, text in enumerate(decode(self.processor, output)):
            counts[i].input_tokens = read[i]
            counts[i].output_tokens = written[i]
            results.append(GenerationResult(_until(text, stops), counts[i]))
        return results

    def _prune(
        self, inputs: dict[str, Any]
    ) -> tuple[dict[str, Any], list[Counts], AbstractContextManager[object]]:
        """Prune a batch.

        Returns:
            The shorter inputs, the visual tokens of each request, and the context in which the
            model is to read the inputs: there, some methods prune between layers.
        """
        counts = [Counts() for _ in inputs["input_ids"]]
        if not has_images(inputs):
            # a batch of text alone
            return self.pruner(self.model, inputs), counts, nullcontext()

        # encode, score and select; a request may have several images
        encoding = self.pruner.encode(self.model, inputs)
        selection = self.pruner.choose(encoding)
        visual_tokens = encoding.tokens.counts
        for span, count, read in zip(
            encoding.spans, visual_tokens, selection.tokens_read, strict=True
        ):
            counts[span.row].visual_tokens += count
            counts[span.row].kept_tokens += read
        short = self.pruner.rebuild(self.model, inputs, encoding, selection)
        return short, counts, self.pruner.between_layers(self.model, encoding)

    def _inputs(self, chats: list[ChatMessages]) -> dict[str, Any]:
        """Return inputs of chats with any number of images each, padded on the left."""
        # the images of all chats, in order: the processor deals them out to the placeholders
        images = []
        for chat in chats:
            own_images, videos, sounds = chat.extract_media()
            if videos or sounds:
                raise ValueError(
                    "this request has a video or a sound, adafv prunes images: leave the task out"
                )
            images += [_image(image) for image in own_images]

        prompts = []
        for chat in chats:
            prompt = self.processor.apply_chat_template(
                chat.to_hf_messages(), add_generation_prompt=True, tokenize=False
            )
            prompts.append(prompt)

        options = tokenizer_options(self.processor, prompts[0])
        batch = self.processor(images=images or None, text=prompts, **options)
        return dict(batch.to(device=self.model.device, dtype=self.model.dtype))

    def _log(self, counts: Sequence[Counts], seconds: float) -> None:
        """Hand the budget, and the mean of visual tokens, to the results file."""
        metrics: dict[str, float] = {}
        for name in ("keep", "tokens"):
            value = getattr(self.pruner, name)
            if value is not None:
                metrics[name] = value

        # requests without an image would pull the mean down
        seen = [count for count in counts if count.visual_tokens]
        if seen:
            metrics["visual_tokens"] = fmean(count.visual_tokens for count in seen)
            metrics["kept_tokens"] = fmean(count.kept_tokens for count in seen)

        written = sum(count.output_tokens for count in counts)
        log_metrics(seconds, written, written / seconds, additional_metrics=metrics)


def _batch_size(value: int | str) -> int:
    """Return a batch size, which lmms-eval's command line passes as text."""
    if not str(value).isdecimal() or int(value) < 1:
        raise ValueError(f"batch_size={value!r} is not a number of requests: pass 1 or more")
    return int(value)


def _limits(wanted: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return the longest answer and the texts that end it, of a task's generation kwargs."""
    # a temperature without do_sample means sampling, unless it is 0
    temperature = wanted.get("temperature")
    sampling = wanted.get("do_sample", temperature is not None) and temperature != 0
    if sampling or (wanted.get("num_beams") or 1) > 1:
        raise ValueError(
            f"this task samples or searches beams ({dict(wanted)}), adafv compares methods on "
            "greedy answers: pass --gen_kwargs temperature=0,do_sample=False,num_beams=1"
        )
    stops = wanted.get("until") or []
    if isinstance(stops, str):
        stops = [stops]
    return wanted.get("max_new_tokens") or MAX_NEW_TOKENS, stops


def _until(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first of some texts that end it, stripped."""
    # an empty text would end every answer before it begins
    for stop in filter(None, stops):
        text = text.partition(stop)[0]
    return text.strip()


def _image(image: Image.Image | str) -> Image.Image:
    """Return an image, or what a path leads to, as 8-bit RGB."""
    if isinstance(image, str):
        return open_image(image)
    check_image(image)
    return to_rgb(image)
