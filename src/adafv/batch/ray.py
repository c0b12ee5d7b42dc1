"""vLLM on a Ray cluster: as many engines as there are workers, on any number of nodes."""

import logging
import os
from collections.abc import Iterator
from functools import cache, cached_property, partial
from typing import Any, ClassVar

import torch

from adafv.batch.engine import EngineError, Request, Response, failed
from adafv.batch.vllm_requests import Requests, engine_options, fingerprint, needs, prepare
from adafv.core.pruner import Pruner
from adafv.models.images import open_image
from adafv.models.load import dtype_of, sentence

__all__ = ["RayEngine"]

ERROR = "__inference_error__"  # Ray's own column; a row that has one goes past the engine
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # at 0 Ray listens on 127.0.0.1 alone, on Linux too


class RayEngine:
    """A model on vLLM under Ray Data: on the cluster at `RAY_ADDRESS`, else on this machine.

    A worker that dies is started anew, and what it had not answered goes to the others. Every node
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

    def __init__(
        self,
        model: str | None = None,
        dtype: str | None = None,
        *,
        workers: int = 1,
        **options: Any,
    ) -> None:
        needs("vllm", "ray")
        needs("ray", "ray")
        # engines that share a machine would all bind themselves to the same cores
        self.environment = prepare() | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        self.requests = Requests(model)
        self.processor = self.requests.processor
        self.wanted, self.workers, self.options = dtype, workers, options

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "engine": "ray",
            "model": self.requests.name,
            "weights": fingerprint(self.requests.source, self.requests.config),
            "dtype": self._dtype,
            "device": self._device,
        }

    def check(self, pruner: Pruner) -> None:
        self.requests.check(pruner)

    def outcomes(
        self, asked: Iterator[Request], batch_size: int, max_new_tokens: int
    ) -> Iterator[dict[int, Response]]:
        rows = [self._row(question, max_new_tokens) for question in asked]
        if not rows:
            return
        import ray

        try:
            questions = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // batch_size))
            answered = self._pipeline(batch_size)(questions)
            for block in answered.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield {row["number"]: _outcome(row) for row in block.to_pylist()}
        except ray.exceptions.RayError as error:
            raise EngineError(
                f"Ray has stopped ({sentence(error)}): run the same command again"
            ) from error

    def _row(self, asked: Request, max_new_tokens: int) -> dict[str, Any]:
        return {
            "number": asked.number,
            "picture": os.path.abspath(asked.image),
            "tokenized_prompt": self.requests.prompt(asked.question),
            "mm_processor_kwargs": self.requests.options(asked.pruner),
            "sampling_params": self.requests.sampling(max_new_tokens),
        }

    def _pipeline(self, batch_size: int) -> Any:
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        config = vLLMEngineProcessorConfig(
            model_source=self.requests.source,
            engine_kwargs=engine_options(self._device) | {"dtype": self._dtype} | self.options,
            batch_size=batch_size,
            concurrency=(self.workers, self.workers),
            placement_group_config={"bundles": [{"CPU": 1}]} if self._device == "cpu" else None,
            runtime_env={"env_vars": self.environment},
            chat_template_stage=False,
            tokenize_stage=False,
            detokenize_stage=False,
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
        return str(dtype_of(self.wanted, torch.device(self._device))).removeprefix("torch.")

    @cached_property
    def _resources(self) -> dict[str, float]:
        """What the cluster has; connecting to it, or starting it, is part of asking."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # what it collects it prints to stdout as the process ends
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        local = not os.environ.get("RAY_ADDRESS")
        if local:
            os.environ.setdefault(LOOPBACK, "0")
        import ray

        if not ray.is_initialized():
            cores = (os.cpu_count() or 1) + self.workers
            new = {"address": "local", "include_dashboard": False, "num_cpus": cores}
            try:
                ray.init(
                    **(new if local else {"address": "auto"}),
                    log_to_driver=False,
                    logging_level="ERROR",
                )
            except Exception as error:
                raise EngineError(
                    f"Ray cannot start ({sentence(error)}): check RAY_ADDRESS"
                ) from error
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        return ray.cluster_resources()


@cache
def _requests(source: str) -> Requests:
    """One for each process."""
    return Requests(source)


def _with_image(source: str, row: dict[str, Any]) -> dict[str, Any]:
    """A question with its image, on whichever node."""
    try:
        image = open_image(row["picture"])
    except ValueError as error:
        return {ERROR: failed(error)["error"]}
    return {
        "multimodal_data": {"image": image},
        "visual_tokens": _requests(source).visual_tokens(image),
    }


def _answered(source: str, row: dict[str, Any]) -> dict[str, Any]:
    read = row["prompt_token_ids"]
    return {
        "number": row["number"],
        **_requests(source).answered(row["generated_text"], read, row["visual_tokens"]),
    }


def _outcome(row: dict[str, Any]) -> Response:
    if error := row.get(ERROR):
        return failed(error)
    return {name: row[name] for name in ("answer", "visual_tokens", "kept_tokens")}
