"""Time to first token on vLLM for the CPU, with the plugin; one request at a time."""

import os

import numpy as np
from PIL import Image
from rounds_of_requests import DENSE, QUESTION, Case, ask_all, cases_of, parse

ENGINE = "vllm"
METHODS = ("adafv+", "cdpruner")
CONTEXT = 4096  # tokens
KV_GIB = 1


def main() -> None:
    """Ask with all tokens, and with each method at each budget."""
    given = parse(__doc__)
    os.environ |= {
        "VLLM_PLUGINS": "adafv",
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIB),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    # read from the environment as it is imported
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(given.model),
        dtype=given.dtype,
        enforce_eager=True,
        max_model_len=CONTEXT,
        max_num_seqs=1,
        limit_mm_per_prompt={"image": 1},
        enable_prefix_caching=False,
        mm_processor_kwargs={"adafv_methods": "all"},
    )
    one = SamplingParams(max_tokens=1, temperature=0.0)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    prompt = llm.get_tokenizer().apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )

    def ask(case: Case, image: np.ndarray) -> int:
        options = {"adafv_keep": case.keep}
        if case.method != DENSE:
            options["adafv_method"] = case.method
        request = {
            "prompt": prompt,
            "multi_modal_data": {"image": Image.fromarray(image)},
            "mm_processor_kwargs": options,
        }
        [output] = llm.generate([request], one, use_tqdm=False)
        return len(output.prompt_token_ids)

    ask_all(cases_of(ENGINE, METHODS, given.keep), ask, given.side, given.rounds)


if __name__ == "__main__":
    main()
