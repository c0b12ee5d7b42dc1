"""Answer questions with vLLM in this process, without a server.

New questions come in as others are answered.
"""

import threading
from collections.abc import Iterator
from functools import cached_property
from multiprocessing import connection
from typing import Any, ClassVar

import torch
from PIL import Image

from adafv.batch.engine import EngineError, Request, Response, failed
from adafv.batch.vllm_requests import Requests, engine_options, needs, prepare
from adafv.core.pruner import Pruner
from adafv.models.images import open_image
from adafv.models.load import dtype_of, sentence
from adafv.models.videos import FRAMES, Video, open_video
from adafv.models.vocabulary import warn_of_photograph

__all__ = ["VLLMEngine"]

AGAIN = "run the same command again, it resumes"


class VLLMEngine:
    """A model on vLLM, started with the first question.

    Args:
        model: hub id or folder; None: the model that ships with the package.
        dtype: a name in `adafv.models.load.DTYPES`; None: bfloat16 on cuda, float32 elsewhere.
        options: more of vLLM's engine arguments.

    Raises:
        ValueError: vLLM is not installed, or the model cannot be loaded.
    """

    batch_size: ClassVar[int] = 256
    reads_videos: ClassVar[bool] = True

    def __init__(self, model: str | None = None, dtype: str | None = None, **options: Any) -> None:
        needs("vllm", "vllm")
        prepare()
        from vllm.platforms import current_platform

        self.requests = Requests(model)
        self.processor = self.requests.processor
        self.device = current_platform.device_type
        self.dtype = str(dtype_of(dtype, torch.device(self.device))).removeprefix("torch.")
        self.options = engine_options(self.device, self.requests.modalities) | options

    @property
    def settings(self) -> dict[str, Any]:
        """Return, ready for JSON, what decides the answers."""
        return {
            "engine": "vllm",
            **self.requests.settings,
            "options": {name: str(value) for name, value in self.options.items()},
            "dtype": self.dtype,
            "device": self.device,
        }

    def check(self, pruner: Pruner) -> None:
        """Raise a `ValueError` if the model or the method is not pruned on vLLM."""
        self.requests.check(pruner)

    def responses(
        self, requests: Iterator[Request], batch_size: int, max_new_tokens: int
    ) -> Iterator[dict[int, Response]]:
        """Answer requests, see `adafv.batch.engine.Engine`; a free seat is filled at once."""
        # number and visual tokens of what vLLM has, by its own id of a request
        running: dict[str, tuple[int, int]] = {}
        more = True
        while more or running:
            found: dict[int, Response] = {}

            # hand over requests until vLLM has as many as it may
            while more and len(running) < batch_size:
                request = next(requests, None)
                if request is None:
                    more = False
                    break
                try:
                    running |= self._enqueue(request, max_new_tokens)
                except EngineError:
                    raise
                # whatever vLLM and the model's processor make of an image or a prompt
                except Exception as error:
                    found[request.number] = failed(error)

            # one step of the engine, after which some may be answered
            finished = self._step() if running else []
            for output in finished:
                number, visual_tokens = running.pop(output.request_id)
                # one answer to a request
                answer = output.outputs[0]
                if answer.finish_reason == "error":
                    found[number] = failed(ValueError("the method failed, see vLLM's log"))
                    continue
                found[number] = self.requests.response(
                    answer.text, output.prompt_token_ids, visual_tokens
                )
            yield found

    def _enqueue(self, request: Request, max_new_tokens: int) -> dict[str, tuple[int, int]]:
        """Hand a request to vLLM.

        Returns:
            By vLLM's id of it: its number, and the visual tokens of its image or video.
        """
        from vllm import SamplingParams
        from vllm.v1.engine.exceptions import EngineDeadError

        # opened here: a broken image is its own question's error
        shown: Image.Image | Video
        data: dict[str, Any]
        if request.video:
            self.requests.check_video()
            frames = FRAMES if request.frames is None else request.frames
            shown = open_video(request.video, frames)
            # they are sampled already
            data = {"video": [(shown.frames, shown.metadata | {"do_sample_frames": False})]}
        else:
            shown = open_image(request.image)
            warn_of_photograph(shown, self.requests.name)
            data = self.requests.multi_modal_data(shown)
        prompt = {
            "prompt_token_ids": self.requests.prompt(request.question, bool(request.video)),
            "multi_modal_data": data,
            "mm_processor_kwargs": self.requests.options(request.pruner),
        }
        # counted first: what fails after vLLM has a request would leave its answer to nobody
        count = self.requests.count_visual_tokens(shown)
        params = SamplingParams(**self.requests.sampling(max_new_tokens))
        try:
            [name] = self._llm.enqueue(prompt, params, use_tqdm=False)
        except EngineDeadError as error:
            raise _death(error) from error
        # outputs have a request's id without what makes it unique
        return {name.partition("-")[0]: (request.number, count)}

    def _step(self) -> list[Any]:
        """Return what one step of the engine has finished."""
        try:
            return [output for output in self._llm.llm_engine.step() if output.finished]
        # an engine that dies raises whatever killed it
        except Exception as error:
            raise _death(error) from error

    @cached_property
    def _llm(self) -> Any:
        """Return vLLM, started with the first question."""
        from vllm import LLM

        try:
            llm = LLM(self.requests.source, dtype=self.dtype, **self.options)
        # vLLM has no class of its own for what keeps it from starting
        except Exception as error:
            raise EngineError(
                f"vLLM cannot start with {self.requests.source!r} ({sentence(error)})"
            ) from error
        # vLLM does not say when its engine dies
        core = llm.llm_engine.engine_core
        if hasattr(core, "outputs_queue"):  # the engine is a process of its own
            threading.Thread(target=_watch, args=(core,), daemon=True).start()
        return llm


def _watch(core: Any) -> None:
    """Wake whoever waits for an engine that has died, which vLLM 0.32 leaves waiting for ever."""
    from vllm.v1.engine.exceptions import EngineDeadError

    # a sentinel is readable once its process has ended
    connection.wait(core.resources.engine_manager.sentinels())
    core.outputs_queue.put_nowait(EngineDeadError())


def _death(error: Exception) -> EngineError:
    """Return the error of an engine that has died."""
    return EngineError(f"vLLM's engine has died ({sentence(error)}): {AGAIN}")
