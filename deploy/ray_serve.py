"""Serve a pruned model with Ray Serve: `serve run deploy.ray_serve:build model=… keep=0.1`.

Ray starts vLLM's engines and answers over HTTP itself, so `adafv serve`'s checks of requests
(`adafv.integrations.vllm.middleware`) are not in front of it: bad options are refused all the same,
by the engine.
"""

import json
from typing import Any

from adafv.core.config import DEFAULT_METHOD
from adafv.integrations.vllm.options import VLLMOptions

__all__ = ["build", "engine_options", "environment"]

MODEL = "llava-hf/llava-1.5-7b-hf"
MAX_IMAGES = 64


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
        # a request may say how much to keep, and nothing else
        "trust_request_mm_kwargs": True,
        # no host is called so: nothing is fetched
        "allowed_media_domains": ["(none)"],
    }


def environment() -> dict[str, str]:
    """Return the environment of the workers: the reader of images that fetches nothing."""
    return {
        "VLLM_MEDIA_CONNECTOR": "adafv",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }


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
        deployment_config={"num_replicas": int(arguments.get("replicas", 1))},
        engine_kwargs=engine,
        runtime_env={"env_vars": environment()},
    )
    return build_openai_app({"llm_configs": [config]})


if __name__ == "__main__":
    print(json.dumps({"engine_kwargs": engine_options(0.1), "env_vars": environment()}, indent=2))
