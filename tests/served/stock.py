"""What vLLM says bit for bit; run with VLLM_PLUGINS= in its environment, it is stock vLLM that
says it, of each FAMILY=FOLDER.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

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
