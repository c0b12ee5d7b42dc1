"""A plugin for vLLM: its models read only the visual tokens that a method keeps.

    adafv serve llava-hf/llava-1.5-7b-hf --keep 0.1

vLLM finds it by its entry point (`vllm.general_plugins`). Nothing changes until a budget is given:
for the server, or with a request as `mm_processor_kwargs={"adafv_keep": 0.25}`.
"""

import multiprocessing
import os
import threading
from typing import Any

from adafv.integrations.vllm.architectures import ARCHITECTURES

__all__ = ["ARCHITECTURES", "FOLLOWS", "register"]

FOLLOWS = {"ADAFV_ENGINE_FOLLOWS": "1"}
"""In the environment of a process whose engines are to end with it, even where it is killed."""


def register() -> None:
    """Register the pruned models instead of vLLM's own."""
    # imported late: without vLLM the names above still serve to refuse a model
    from vllm import ModelRegistry

    from adafv.integrations.vllm.engine_counts import name_run
    from adafv.integrations.vllm.failures import fail_requests
    from adafv.integrations.vllm.refuse_unpruned import refuse_options

    refuse_options()
    fail_requests()
    # before engines start, which inherit it
    name_run()
    for name, architecture in ARCHITECTURES.items():
        # by name: vLLM imports a model only where it is served
        path = f"adafv.integrations.vllm.models:{architecture.name}"
        ModelRegistry.register_model(name, path)

    # vLLM registers plugins in the engine's process too, which is to end with its parent
    parent = multiprocessing.parent_process()
    if parent is not None and FOLLOWS.items() <= os.environ.items():
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: Any) -> None:
    """End with the process that started this engine, which otherwise holds its memory for ever."""
    parent.join()
    os._exit(1)
