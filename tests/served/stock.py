"""What vLLM says bit for bit; run with VLLM_PLUGINS= in its environment, it is stock vLLM that
says it, of each FAMILY=FOLDER.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine import Engine, Request, engine

# about images of their own, so that none is known from another test
ASKED = [
    Request("what color is the anchor ?", (32,), keep=1.0),
    Request("is there a knight", (33, 34), keep=1.0),
    Request("what color is the anchor ?", ()),
]


def logprobs(made: Engine, plain: bool, asked: Sequence[Request] = ASKED) -> list:
    """Prompt, and logprobs of prompt and answer; `plain`: without our options."""
    from vllm import SamplingParams

    requests = [made.request(a) for a in asked]
    if plain:
        requests = [
            {name: x for name, x in r.items() if name != "mm_processor_kwargs"} for r in requests
        ]
    greedy = SamplingParams(
        temperature=0, max_tokens=6, ignore_eos=True, logprobs=5, prompt_logprobs=1
    )
    made.llm.reset_prefix_cache()
    found = made.llm.generate(requests, greedy, use_tqdm=False)
    return [
        [o.prompt_token_ids, _rows(o.prompt_logprobs), _rows(o.outputs[0].logprobs)] for o in found
    ]


class Nothing:
    """Stands where `PrunedModel` stands."""


@contextmanager
def stock(made: Engine) -> Iterator[None]:
    """The same engine with vLLM's own model and processor, as long as the context is open."""
    parts = (made.model, made.llm.llm_engine.renderer.mm_processor)
    ours = [type(part) for part in parts]
    # the first that is vLLM's, in the order in which methods are looked up
    of_model, of_processor = (
        next(cls for cls in pruned.__mro__ if cls.__module__.startswith("vllm.")) for pruned in ours
    )
    # with nothing in the place of our mixin: Python wants the same layout
    parts[0].__class__ = type(of_model.__name__, (Nothing, of_model), {})
    parts[1].__class__ = of_processor
    forget(made)
    try:
        yield
    finally:
        for part, pruned in zip(parts, ours, strict=True):
            part.__class__ = pruned
        forget(made)


@contextmanager
def not_compiled(decoder: Any) -> Iterator[None]:
    """Let a language model of transformers run as it is, as long as the context is open.

    vLLM changes the class of one that it runs itself, for good.
    """
    decoder.do_not_compile = True
    cls = type(decoder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("__init__", "__call__"):
            patch.setattr(cls, name, getattr(cls, name))
        yield


def forget(made: Engine) -> None:
    """Empty all caches."""
    made.llm.reset_prefix_cache()
    made.llm.reset_mm_cache()
    made.llm.llm_engine.reset_encoder_cache()


def _rows(steps: list) -> list:
    return [sorted((token, x.logprob) for token, x in step.items()) for step in steps if step]


if __name__ == "__main__":
    said = {}
    for words in sys.argv[1:]:
        family, _, folder = words.partition("=")
        with engine(family, Path(folder)) as made:
            assert not hasattr(made.model, "encodings"), "this is not stock vLLM"
            said[family] = logprobs(made, plain=True)
    print(json.dumps(said))
