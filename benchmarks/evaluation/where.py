"""What answering is made of in an evaluation, and what could be taken from it. See README.md here.

    OMP_NUM_THREADS=1 python benchmarks/evaluation/where.py --out benchmarks/evaluation

The evaluation is that of measure.py, on fewer questions. Beside it: whether larger batches are
faster, and what it is worth to read the prefix that an image's questions share only once. Seconds
are those that this process computes, so that other programs matter less.
"""

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import torch
from measure import KEEPS, METHODS, PROFILE, SUITE, WARM, Clock, clocked, write_page
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from adafv.data import suites
from adafv.data.sample import Sample
from adafv.evaluation.evaluate import Evaluation
from adafv.models.load import load
from adafv.models.prompting import build_inputs
from adafv.ops.budget import num_keep
from adafv.utils.files import writable_folder
from adafv.utils.machine import machine_of, versions
from adafv.utils.records import command_of, write_json

ROWS = (16, 48)
"""Prompts in a batch: those of one configuration, and of three merged."""
TOKENS = 60
"""Of a prompt, at 5 % kept."""
DENSE = 1.0


@contextmanager
def forwards(model: PreTrainedModel) -> Iterator[tuple[Clock, Counter[str]]]:
    """Time the forwards of a model, and of its language model in them, while open; count both."""
    clock = Clock(process_time)
    calls: Counter[str] = Counter()
    starts: list[float] = []

    def begin(*_: Any) -> None:
        starts.append(process_time())

    def end_of(name: str) -> Callable[..., None]:
        def end(module: nn.Module, args: Any, options: dict[str, Any], output: Any) -> None:
            stage = name
            if name == "language model":
                stage = "decode" if options["inputs_embeds"].shape[1] == 1 else "prefill"
            clock.seconds[stage] += process_time() - starts.pop()
            calls[stage] += 1

        return end

    watched = (("model", model), ("language model", model.base_model.language_model))
    with ExitStack() as stack:
        for name, module in watched:
            stack.enter_context(module.register_forward_pre_hook(begin))
            stack.enter_context(module.register_forward_hook(end_of(name), with_kwargs=True))
        yield clock, calls


def profile(model: PreTrainedModel, processor: ProcessorMixin, limit: int) -> dict[str, Any]:
    """Return the computing seconds of an evaluation, and those of what it is made of."""
    plan = Evaluation(methods=METHODS, keeps=KEEPS, suites=[SUITE], limit=limit)
    with (
        TemporaryDirectory() as folder,
        clocked(processor, process_time) as stages,
        forwards(model) as (clock, calls),
    ):
        start = process_time()
        records = plan.run(model, processor, folder, name="embedded").records
        seconds = process_time() - start
    answered = stages.seconds["answer"]
    return {
        "questions": limit,
        "answers": len(records),
        "seconds": seconds,
        "prefill": clock.seconds["prefill"],
        "decode": clock.seconds["decode"],
        "around": clock.seconds["model"] - clock.seconds["prefill"] - clock.seconds["decode"],
        "generate": answered - clock.seconds["model"],
        "generate_ms_a_call": 1000 * (answered - clock.seconds["model"]) / calls["prefill"],
        "choose": stages.seconds["choose"],
        "tower": stages.seconds["tower"],
    }


def median_ms(function: Callable[[], Any], rounds: int) -> float:
    """Return the median of the milliseconds of some calls, after one that warms up."""
    function()
    times = []
    for _ in range(rounds):
        start = process_time()
        function()
        times.append(1000 * (process_time() - start))
    return median(times)


def batches(language: nn.Module, width: int, rounds: int) -> list[dict[str, Any]]:
    """Return what a row of a batch takes, by the number of rows."""
    found = []
    for rows in ROWS:
        embeds = torch.randn(rows, TOKENS, width)
        ms = median_ms(lambda embeds=embeds: language(inputs_embeds=embeds), rounds)
        found.append({"rows": rows, "tokens": TOKENS, "ms_a_row": ms / rows})
    return found


def read_by_language_model(
    model: PreTrainedModel, processor: ProcessorMixin, sample: Sample
) -> tuple[Tensor, Tensor]:
    """Return the embeddings (1, L, D) of a question about an image, and which are visual (L,)."""
    question = sample.questions[0].text
    inputs = build_inputs(processor, sample.image, question, "cpu", model.dtype)
    seen: list[Tensor] = []

    def note(module: nn.Module, args: Any, options: dict[str, Any]) -> None:
        seen.append(options["inputs_embeds"])

    with model.base_model.language_model.register_forward_pre_hook(note, with_kwargs=True):
        model(**inputs)
    return seen[0], inputs["input_ids"][0] == model.config.image_token_id


def shared(
    language: nn.Module, embeds: Tensor, visual: Tensor, keep: float, questions: int, rounds: int
) -> dict[str, Any]:
    """Return what reading an image's prefix once for several questions about it is worth.

    Args:
        embeds, visual: see `read_by_language_model`; the same question stands for all.
        keep: share of the visual tokens, the first ones.
    """
    indices = visual.nonzero()[:, 0]
    dropped = indices[num_keep(keep, len(indices)) :]
    stays = torch.ones_like(visual)
    stays[dropped] = False
    embeds = embeds[:, stays]
    # image and all before it
    end = int(visual[stays].nonzero()[-1]) + 1

    def one_by_one() -> Tensor:
        return language(inputs_embeds=embeds.expand(questions, -1, -1)).last_hidden_state

    def once() -> Tensor:
        cache = language(inputs_embeds=embeds[:, :end], use_cache=True).past_key_values
        cache.batch_repeat_interleave(questions)
        rest = embeds[:, end:].expand(questions, -1, -1)
        return language(inputs_embeds=rest, past_key_values=cache).last_hidden_state

    ms = median_ms(one_by_one, rounds)
    ms_shared = median_ms(once, rounds)
    return {
        "keep": keep,
        "questions": questions,
        "prefix": end,
        "rest": embeds.shape[1] - end,
        "ms": ms,
        "ms_shared": ms_shared,
        "times": ms / ms_shared,
        "equal": torch.equal(one_by_one()[:, -1], once()[:, -1]),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--limit", type=int, default=64, metavar="N", help="questions")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of single forwards")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write where.json and README.md."""
    options = parse(arguments)
    out = writable_folder(options.out)
    model, processor = load(device="cpu", dtype="float32")
    language = model.base_model.language_model
    loads = [os.getloadavg()[0]]
    profile(model, processor, min(WARM, options.limit))
    found = profile(model, processor, options.limit)

    samples = list(suites.load_suite(SUITE, options.limit, 0, "test"))
    an_image = round(fmean(len(sample.questions) for sample in samples))
    cases = [(keep, questions) for keep in (DENSE, min(KEEPS)) for questions in (an_image, ROWS[0])]
    with torch.no_grad():
        found["batches"] = batches(language, model.config.text_config.hidden_size, options.rounds)
        embeds, visual = read_by_language_model(model, processor, samples[0])
        found["shared"] = []
        for keep, questions in cases:
            case = shared(language, embeds, visual, keep, questions, options.rounds)
            found["shared"].append(case)
    loads.append(os.getloadavg()[0])

    script = "benchmarks/evaluation/where.py"
    threads = torch.get_num_threads()
    found["meta"] = {
        "command": command_of("python", script, arguments=arguments, threads=threads),
        "machine": machine_of(torch.device("cpu")),
        "versions": versions(),
        # processes that wanted a core, before and after, this one among the latter
        "load": fmean(loads),
        "an_image": an_image,
    }
    write_json(out / PROFILE, found)
    # a profile alone has no page
    if (out / "results.json").exists():
        write_page(out)
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
