"""Fail the requests whose tokens a method could not choose, and no other.

An exception in a model ends vLLM's engine. One in a method is noted instead, by the hash of the
image, which says all that decides a choice; the scheduler ends what has such an image. Works where
model and scheduler share a process; elsewhere the engine ends, as vLLM has it.
"""

from types import new_class
from typing import Any

__all__ = ["FAILED", "catches", "fail_requests"]

FAILED: set[str] = set()
"""Hashes of images of which no tokens could be chosen.

They stay: vLLM's caches hold zeros in place of the tokens, which no later request may read.
"""


class FailsRequests:
    """A mixin before a scheduler of vLLM."""

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Do as vLLM's scheduler, and end the requests of this step with a failed image."""
        known: Any = self
        if FAILED:
            for name in scheduler_output.num_scheduled_tokens:
                request = known.requests.get(name)
                images = request.mm_features if request else ()
                if any(image.identifier in FAILED for image in images):
                    # which vLLM ends as "error", unless what was said of zeros ends it before
                    known.encoder_cache_mismatch_reqs.add(name)
                    _drop_output(model_runner_output, name)
        return super().update_from_output(  # type: ignore[misc]
            scheduler_output, model_runner_output
        )


def _drop_output(output: Any, name: str) -> None:
    """Take what a request got in a step out of the output of all."""
    row = output.req_id_to_index.get(name)
    if row is None:
        return
    if output.sampled_token_ids:
        output.sampled_token_ids[row] = []
    if output.pooler_output:
        output.pooler_output[row] = None


def catches(vllm_config: Any) -> bool:
    """Return whether the model runs in the scheduler's process, and hands nothing to another.

    An engine that reads what this one has encoded would read the zeros.
    """
    backend: str | None = vllm_config.parallel_config.distributed_executor_backend
    transfer = vllm_config.ec_transfer_config
    return backend == "uni" and not (transfer is not None and transfer.is_ec_producer)


def fail_requests(vllm_config: Any) -> None:
    """Put `FailsRequests` before the scheduler that vLLM makes once the model is loaded."""
    config = vllm_config.scheduler_config
    scheduler = config.get_scheduler_cls()
    if not issubclass(scheduler, FailsRequests):
        config.scheduler_cls = new_class(f"Failing{scheduler.__name__}", (FailsRequests, scheduler))
