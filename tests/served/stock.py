"""What vLLM says bit for bit; with VLLM_PLUGINS= in its environment it is stock vLLM that
says it.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine import Engine, Request

ASKED = [
    Request("what color is the anchor ?", keep=1.0),
    Request("is there a knight", (1, 2), keep=1.0),
    Request("what color is the anchor ?", ()),
]


def logprobs(made: Engine, plain: bool) -> list:
    """Prompt, and logprobs of prompt and answer; `plain`: without our options."""
    from vllm import SamplingParams

    requests = [made.request(a) for a in ASKED]
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
    made = Engine(sys.argv[1], Path(sys.argv[2]))
    said = {"none": logprobs(made, plain=True)}
    if hasattr(made.model, "encodings"):
        said["1"] = logprobs(made, plain=False)
    print(json.dumps(said))
