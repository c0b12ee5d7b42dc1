"""Answer questions on a Ray cluster: a vLLM engine for each worker, on any number of nodes."""

import logging
import math
import os
from collections.abc import Iterator
from functools import cache, cached_property, partial
from typing import Any, ClassVar

import torch

from adafv.batch.engine import EngineError, Request, Response, failed
from adafv.batch.vllm_requests import Requests, engine_options, needs, prepare
from adafv.core.pruner import Pruner
from adafv.models.images import open_image
from adafv.models.load import dtype_of, sentence

__all__ = ["RayEngine"]

ERROR = "__inference_error__"  # Ray's own column; a row that has one skips the engine
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # at 0 Ray listens on 127.0.0.1 alone, on Linux too


class RayEngine:
    """A model on vLLM under Ray Data: on the cluster at `RAY_ADDRESS`, else on this machine.

    A worker that dies is started anew, and what it had not answered is given to others. Every node
    needs this package and sees the images and the model under the same paths.

    Args:
        model: hub id or folder; None: the model that ships with the package.
        dtype: a name in `adafv.models.load.DTYPES`; None: bfloat16 on GPUs, float32 elsewhere.
        workers: engines, each on a GPU of its own, or on a CPU where the cluster has no GPU.
        options: more of vLLM's engine arguments.

    Raises:
        ValueError: Ray or vLLM is not installed, or the model cannot be loaded.
    """

    batch_size: ClassVar[int] = 32
    reads_videos: ClassVar[bool] = False

    def __init__(
        self,
        model: str | None = None,
        dtype: str | None = None,
        *,
        workers: int = 1,
        **options: Any,
    ) -> None:
        # both are in one extra
        needs("vllm", "ray")
        needs("ray", "ray")
        # engines that share a machine would all bind themselves to the same cores
        self.environment = prepare() | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        self.requests = Requests(model)
        self.processor = self.requests.processor
        self.wanted_dtype = dtype
        self.workers = workers
        self.options = options

    @property
    def settings(self) -> dict[str, Any]:
        """Return, ready for JSON, what decides the answers."""
        return {
            "engine": "ray",
            **self.requests.settings,
            "options": {name: str(value) for name, value in self.options.items()},
            "dtype": self._dtype,
            "device": self._device,
        }

    def check(self, pruner: Pruner) -> None:
        """Raise a `ValueError` if the model or the method is not pruned on vLLM."""
        self.requests.check(pruner)

    def responses(
        self, requests: Iterator[Request], batch_size: int, max_new_tokens: int
    ) -> Iterator[dict[int, Response]]:
        """Answer requests, see `adafv.batch.engine.Engine`; all are read before the first."""
        rows = [self._row(request, max_new_tokens) for request in requests]
        if not rows:
            return
        # imported late: it starts processes
        import ray

        try:
            # a block is what is lost with a worker, and what results come in
            blocks = math.ceil(len(rows) / batch_size)
            questions = ray.data.from_items(rows, override_num_blocks=blocks)
            answered = self._pipeline(batch_size)(questions)
            for block in answered.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield {row["number"]: _response(row) for row in block.to_pylist()}
        except ray.exceptions.RayError as error:
            raise EngineError(
                f"Ray has stopped ({sentence(error)}): run the same command again"
            ) from error

    def _row(self, request: Request, max_new_tokens: int) -> dict[str, Any]:
        """Return a request as a row of Ray's data."""
        return {
            "number": request.number,
            # a path: the node that answers opens the image
            "image_path": os.path.abspath(request.image),
            "tokenized_prompt": self.requests.prompt(request.question),
            "mm_processor_kwargs": self.requests.options(request.pruner),
            "sampling_params": self.requests.sampling(max_new_tokens),
        }

    def _pipeline(self, batch_size: int) -> Any:
        """Return Ray's pipeline: open the image, answer, read the answer."""
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        # Ray runs the engine; images and answers are ours
        options = engine_options(self._device, self.requests.modalities[:1])
        config = vLLMEngineProcessorConfig(
            model_source=self.requests.source,
            engine_kwargs=options | {"dtype": self._dtype} | self.options,
            batch_size=batch_size,
            concurrency=(self.workers, self.workers),
            placement_group_config={"bundles": [{"CPU": 1}]} if self._device == "cpu" else None,
            runtime_env={"env_vars": self.environment},
            # prompts are tokens already, and answers come as text
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
            # a row that fails does not end the job
            should_continue_on_error=True,
            log_engine_metrics=False,
        )
        source = self.requests.source
        return build_processor(config, partial(_with_image, source), partial(_answered, source))

    @cached_property
    def _device(self) -> str:
        return "cuda" if self._resources.get("GPU") else "cpu"

    @cached_property
    def _dtype(self) -> str:
        return str(dtype_of(self.wanted_dtype, torch.device(self._device))).removeprefix("torch.")

    @cached_property
    def _resources(self) -> dict[str, float]:
        """Return what the cluster has, after connecting to it or starting it."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray prints what it has deduplicated to stdout as the process ends
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        local = not os.environ.get("RAY_ADDRESS")
        if local:
            # nobody else on the network is to reach it
            os.environ.setdefault(LOOPBACK, "0")
        import ray

        if not ray.is_initialized():
            # a core more for each worker: the stages around the engines need some too
            cores = (os.cpu_count() or 1) + self.workers
            # a cluster of this process alone, or the one that is there
            new = {"address": "local", "include_dashboard": False, "num_cpus": cores}
            try:
                ray.init(
                    **(new if local else {"address": "auto"}),
                    log_to_driver=False,
                    logging_level="ERROR",
                )
            # addresses, versions and ports each raise something else
            except Exception as error:
                raise EngineError(
                    f"Ray cannot start ({sentence(error)}): check RAY_ADDRESS"
                ) from error

        # the job shows its own progress
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        return ray.cluster_resources()


@cache
def _requests(source: str) -> Requests:
    """Return the prompts of a model, made once in each process."""
    return Requests(source)


def _with_image(source: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns that a question gets on the node that opens its image."""
    try:
        # on the worker's node, from a path that all nodes share
        image = open_image(row["image_path"])
    except ValueError as error:
        return {ERROR: failed(error)["error"]}
    requests = _requests(source)
    return {
        "multimodal_data": requests.multi_modal_data(image),
        "visual_tokens": requests.count_visual_tokens(image),
    }


def _answered(source: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of an answered question."""
    requests = _requests(source)
    read = row["prompt_token_ids"]
    response = requests.response(row["generated_text"], read, row["visual_tokens"])
    return {"number": row["number"], **response}


def _response(row: dict[str, Any]) -> Response:
    """Return the response in a row that has gone through the pipeline."""
    if row.get(ERROR):
        return failed(row[ERROR])
    return {name: row[name] for name in ("answer", "visual_tokens", "kept_tokens")}
