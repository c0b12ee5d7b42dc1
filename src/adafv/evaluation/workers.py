"""Processes that answer the questions of an evaluation side by side, each with its own model."""

import signal
import warnings
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import torch
import transformers

from adafv.data.sample import Sample
from adafv.evaluation.answer_log import Key, key_of
from adafv.evaluation.answering import Answering
from adafv.models.load import load
from adafv.utils.checks import checked

if TYPE_CHECKING:
    from adafv.evaluation.evaluate import Evaluation

__all__ = ["Workers"]

Source = tuple[str | None, str | None, str | None]
"""Model, device and dtype, see `adafv.models.load.load`."""
LeftOut = dict[tuple[str, str, float], str]


@dataclass
class _Unsaved:
    """A log in memory, of which `new` are the answers that were not there before."""

    records: dict[Key, dict[str, Any]] = field(default_factory=dict)
    new: list[dict[str, Any]] = field(default_factory=list)

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Add answers that are not there yet."""
        for record in records:
            if key_of(record) not in self.records:
                self.records[key_of(record)] = record
                self.new.append(record)


@checked
class Workers:
    """Processes that answer questions, each with a model and a share of the threads.

    A context manager: the processes live as long as it is open. Images are dealt out in the batches
    that one process would make, so that answers, and their order in the log, are those of one.

    Args:
        count: of processes.
        plan: the evaluation.
        model, device, dtype: see `adafv.models.load.load`.

    Raises:
        ValueError: a count below 1.
    """

    def __init__(
        self,
        count: int,
        plan: "Evaluation",
        model: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        if count < 1:
            raise ValueError(f"processes={count} is too few: pass 1 or more")
        threads = max(1, torch.get_num_threads() // count)
        # a fork would share the locks of this process's threads
        context = get_context("spawn")
        self.connections: list[Connection] = []
        self.ends: list[Connection] = []
        self.processes = []
        for _ in range(count):
            here, there = context.Pipe()
            arguments = (there, plan, (model, device, dtype), threads)
            self.connections.append(here)
            self.ends.append(there)
            self.processes.append(context.Process(target=_work, args=arguments, daemon=True))

    def __enter__(self) -> "Workers":
        for process, end in zip(self.processes, self.ends, strict=True):
            process.start()
            # the process's own end of the pipe: open here, too, its death would not be seen
            end.close()
        return self

    def __exit__(self, *_: Any) -> None:
        # nothing is lost: answers are saved here, not there
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()

    def answered(
        self,
        answering: Answering,
        suite: str,
        chunks: Iterable[Sequence[Sample]],
        boxes: bool,
    ) -> Iterator[Sequence[Sample]]:
        """Yield chunks of images in their order, each once its answers are in the log.

        Args:
            answering: whose log and left-out configurations are filled.
            suite: of the questions.
            chunks: images that are encoded together.
            boxes: whether questions of the suite say where to look.

        Raises:
            ValueError: a process has died.
        """
        waiting: deque[tuple[Connection, Sequence[Sample]]] = deque()
        for connection, chunk in zip(cycle(self.connections), chunks, strict=False):
            # each has one chunk at a time
            if len(waiting) == len(self.connections):
                yield _saved(answering, *waiting.popleft())
            known = _known(answering, suite, chunk)
            with _alive():
                connection.send((suite, chunk, boxes, known, answering.left_out))
            waiting.append((connection, chunk))
        while waiting:
            yield _saved(answering, *waiting.popleft())


def _known(answering: Answering, suite: str, chunk: Sequence[Sample]) -> set[Key]:
    """Return the keys of the answers to some images' questions that the log has."""
    ids = {sample.id for sample in chunk}
    return {key for key in answering.log.records if key[0] == suite and key[1] in ids}


def _saved(
    answering: Answering, connection: Connection, chunk: Sequence[Sample]
) -> Sequence[Sample]:
    """Put the answers to a chunk's questions into the log, once they are there."""
    with _alive():
        found = connection.recv()
    if isinstance(found, Exception):
        raise found
    records, left_out = found
    answering.log.append(records)
    answering.left_out.update(left_out)
    return chunk


@contextmanager
def _alive() -> Iterator[None]:
    """Say what to do where the process at the other end of a pipe has died."""
    try:
        yield
    except (EOFError, OSError):
        raise ValueError(
            "a process that answers questions has died, perhaps for want of memory: "
            "run again with fewer --processes, which goes on from what is answered"
        ) from None


def _work(connection: Connection, plan: "Evaluation", source: Source, threads: int) -> None:
    """Answer what comes through a pipe, until nothing can come any more."""
    # Ctrl-C reaches all processes: the first one heeds it, and ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # the first one has loaded the model, too, and said what is to be said
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    model, processor = load(*source)
    answering = plan.answering(model, processor, _Unsaved())
    # without the first process there is nobody to answer
    with suppress(EOFError, OSError):
        while True:
            connection.send(_answered(answering, *connection.recv()))


def _answered(
    answering: Answering,
    suite: str,
    samples: Sequence[Sample],
    boxes: bool,
    known: Collection[Key],
    left_out: LeftOut,
) -> tuple[list[dict[str, Any]], LeftOut] | Exception:
    """Return the answers that are not known, and what is left out; or what has gone wrong."""
    log = _Unsaved({key: {} for key in known})
    own = replace(answering, log=log, left_out=left_out)
    try:
        own.answer(suite, samples, boxes)
    except Exception as error:
        return error
    return log.new, own.left_out
