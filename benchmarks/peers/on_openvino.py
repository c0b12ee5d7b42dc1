"""Time to first token on OpenVINO GenAI, with the pruning that it has: CDPruner."""

import numpy as np
import openvino as ov
import openvino_genai
from rounds_of_requests import QUESTION, Case, ask_all, cases_of, parse

ENGINE = "openvino"
METHODS = ("cdpruner",)
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def main() -> None:
    """Ask with all tokens, and at each budget."""
    given = parse(__doc__)
    precision = PRECISIONS[given.dtype]
    pipeline = openvino_genai.VLMPipeline(given.model, "CPU", INFERENCE_PRECISION_HINT=precision)

    def ask(case: Case, image: np.ndarray) -> int:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = 1
        # in percent, of what is dropped
        config.pruning_ratio = round(100 * (1 - case.keep))
        images = [ov.Tensor(image[None])]
        said = pipeline.generate(QUESTION, images=images, generation_config=config)
        return said.perf_metrics.get_num_input_tokens()

    ask_all(cases_of(ENGINE, METHODS, given.keep), ask, given.side, given.rounds)


if __name__ == "__main__":
    main()
