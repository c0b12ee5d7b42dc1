"""Fail the requests whose tokens a method could not choose, and no other.

An exception in a model ends vLLM's engine. One in a method is noted instead, by the hash of the
image, which says all that decides a choice; the scheduler ends what has such an image. Where it is
in another process than the model, hashes travel with what a worker returns of each step.
"""

from functools import cache, wraps
from types import new_class
from typing import Any

__all__ = ["FAILED", "catches", "fail_requests"]

FAILED: set[str] = set()
"""Hashes of images of which no tokens could be chosen.

They stay: vLLM's caches hold zeros in place of the tokens, which no later request may read.
"""
FIELD = "adafv_failed"
"""Of a worker's output: the hashes."""


class FailsRequests:
    """A mixin before a scheduler of vLLM."""

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Do as vLLM's scheduler, and end the requests of this step with a failed image."""
        known: Any = self
        FAILED.update(vars(model_runner_output).get(FIELD, ()))
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
    """Return whether what fails in a model reaches the scheduler, and nobody but it.

    Later stages of a pipeline say nothing of the first one, which encodes. An engine that reads
    what this one has encoded would read the zeros.
    """
    parallel = vllm_config.parallel_config
    reaches = parallel.distributed_executor_backend in ("uni", "mp")
    transfer = vllm_config.ec_transfer_config
    hands_over = transfer is not None and transfer.is_ec_producer
    return reaches and parallel.pipeline_parallel_size == 1 and not hands_over


@cache
def fail_requests() -> None:
    """Have workers say which images have failed, and schedulers end what has one of them.

    VLLM registers plugins in the processes of both, and pickles what goes between them.
    """
    # imported late: without vLLM hashes are noted, too
    from vllm.config import SchedulerConfig
    from vllm.v1.outputs import ModelRunnerOutput

    ModelRunnerOutput.__getstate__ = _with_failed
    plain = SchedulerConfig.get_scheduler_cls

    @wraps(plain)
    def get_scheduler_cls(config: Any) -> type:
        return _failing(plain(config))

    SchedulerConfig.get_scheduler_cls = get_scheduler_cls


def _with_failed(output: Any) -> dict[str, Any]:
    """Return what is pickled of a worker's output."""
    return vars(output) | ({FIELD: tuple(FAILED)} if FAILED else {})


def _failing(scheduler: type) -> type:
    if issubclass(scheduler, FailsRequests):
        return scheduler
    return new_class(f"Failing{scheduler.__name__}", (FailsRequests, scheduler))
