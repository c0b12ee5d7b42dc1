"""Serve a pruned model with Ray Serve: `serve run deploy.ray_serve:build model=… keep=0.1`.

Ray starts vLLM's engines and answers over HTTP itself, so `adafv serve`'s checks of requests
(`adafv.integrations.vllm.middleware`) are not in front of it: bad options are refused all the same,
by the engine.
"""

import json
from typing import Any

from adafv.cli.serve import BUDGET, DRAIN, MAX_IMAGES, VARIABLES
from adafv.core.config import DEFAULT_METHOD
from adafv.integrations.vllm.options import VLLMOptions

__all__ = ["build", "deployment", "engine_options", "environment"]

MODEL = "llava-hf/llava-1.5-7b-hf"


def engine_options(keep: float, method: str = DEFAULT_METHOD) -> dict[str, Any]:
    """Return what vLLM's engine is started with.

    Args:
        keep: the share of visual tokens that stays, where a request says nothing else.
        method: see `adafv methods`.

    Raises:
        ValueError: vLLM cannot do it.
    """
    options = {"adafv_keep": keep, "adafv_method": method, "adafv_only": True}
    VLLMOptions.of_server(options).check()
    return {
        "mm_processor_kwargs": {"backend": "pil", **options},
        "limit_mm_per_prompt": {"image": MAX_IMAGES, "video": 0},
        # a request may set adafv's own options, and nothing else
        "trust_request_mm_kwargs": True,
        # no host is called so: nothing is fetched
        "allowed_media_domains": ["(none)"],
        # usage says how many tokens of images were read
        "enable_prompt_tokens_details": True,
        # a burst of requests does not encode all of its images before anyone's first token
        "ec_manager_config": BUDGET,
    }


def environment() -> dict[str, str]:
    """Return the environment of the workers, as `adafv serve` sets it."""
    return dict(VARIABLES)


def deployment(replicas: int) -> dict[str, Any]:
    """Return how Ray Serve runs them: it waits as long as `adafv serve` for running requests."""
    return {"num_replicas": replicas, "graceful_shutdown_timeout_s": DRAIN}


def build(arguments: dict[str, str]) -> Any:
    """Return the application.

    Args:
        arguments: model, keep, method and replicas, as words of the command line.
    """
    # Ray imports much, and a test of the above needs none of it
    from ray.serve.llm import LLMConfig, build_openai_app

    model = arguments.get("model", MODEL)
    method = arguments.get("method", DEFAULT_METHOD)
    engine = engine_options(float(arguments.get("keep", 0.1)), method)
    config = LLMConfig(
        model_loading_config={"model_id": model, "model_source": model},
        deployment_config=deployment(int(arguments.get("replicas", 1))),
        engine_kwargs=engine,
        runtime_env={"env_vars": environment()},
    )
    return build_openai_app({"llm_configs": [config]})


if __name__ == "__main__":
    print(json.dumps({"engine_kwargs": engine_options(0.1), "env_vars": environment()}, indent=2))
