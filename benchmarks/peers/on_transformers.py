"""Time to first token on transformers, with the library; PyTorch's kernels."""

import numpy as np
from PIL import Image
from rounds_of_requests import DENSE, QUESTION, Case, ask_all, cases_of, parse

from adafv import method
from adafv.models.load import load
from adafv.models.prompting import build_inputs

ENGINE = "transformers"
METHODS = ("adafv+", "cdpruner")


def main() -> None:
    """Ask with all tokens, and with each method at each budget."""
    given = parse(__doc__)
    model, processor = load(str(given.model), device="cpu", dtype=given.dtype)

    def ask(case: Case, image: np.ndarray) -> int:
        inputs = build_inputs(processor, Image.fromarray(image), QUESTION, "cpu", model.dtype)
        if case.method != DENSE:
            pruner = method(case.method, keep=case.keep, tokenizer=processor)
            inputs = pruner(model, inputs)
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
        return inputs["input_ids"].shape[1]

    ask_all(cases_of(ENGINE, METHODS, given.keep), ask, given.side, given.rounds)


if __name__ == "__main__":
    main()
