"""Simulate workers that answer questions about images as vLLM does, step by step.

A worker is one engine with its own front. The front is one core that works on all requests that
have come in turn, as an event loop and its threads do. In each step the engine's scheduler gives
tokens first to requests that are running, then to waiting ones, in order of arrival: one to whoever
is answering, as many as there is room for to whoever's prompt is being read. An image is encoded in
the step that reads its first token, in full, as long as the tokens of the step's images stay within
the encoder's budget. A step ends for all of its requests at once.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice

from stages import ANSWER, VISUAL, Stages

__all__ = ["Cluster", "Limits", "Request", "simulate"]


@dataclass(frozen=True)
class Limits:
    """What vLLM allows in a step: its defaults for a server on a CPU, and the measurement's flags.

    Attributes:
        tokens: of a step.
        images: visual tokens that are encoded in a step, or encoded and not read yet.
        seats: requests that are running.
        block: tokens of a block of the KV cache.
        count_all: of what is encoded in a step all visual tokens count, and not only those kept.
    """

    tokens: int = 2048
    images: int = 2048
    seats: int = 32
    block: int = 32
    count_all: bool = False


@dataclass(frozen=True)
class Cluster:
    """What serves.

    Attributes:
        workers: engines with a language model.
        encoders: engines that only encode; 0: each worker encodes for itself.
        select_at: "encoder"; "worker"; or "both": on an encoder with a language model, which reads
            the prompt, too, as vLLM's role `ec_both` does. Without encoders it is the worker.
    """

    workers: int = 1
    encoders: int = 0
    select_at: str = "encoder"
    limits: Limits = Limits()


@dataclass(eq=False)
class Request:
    """A question about an image, and how far it is.

    Attributes:
        prompt: tokens that the language model reads.
        visual: how many of them are of the image.
        before: how many of them stand before the image.
        pruned: something was dropped.
        known: the image's encoding is kept, so that the tower does not run.
        found: tokens of the prompt that are in the prefix cache.
        answer: tokens to write.
        arrived, first, last: when it was sent, and answered its first and last token, in seconds.
        written, computed: tokens of the answer, and tokens in the KV cache.
        ready, held: an encoder has sent the image's embeddings; the engine has room for them.
    """

    prompt: int
    visual: int
    before: int = 2
    pruned: bool = False
    known: bool = False
    found: int = 0
    answer: int = ANSWER
    arrived: float = 0.0
    first: float = 0.0
    last: float = 0.0
    written: int = 0
    computed: int = 0
    ready: bool = False
    held: bool = False

    @property
    def end(self) -> int:
        """Tokens up to the end of the image."""
        return self.before + self.visual

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return self.first - self.arrived

    @property
    def tpot(self) -> float:
        """Seconds of each further token."""
        return (self.last - self.first) / (self.answer - 1)


class Front:
    """A core that is shared evenly by all requests that it prepares.

    Args:
        seconds: that a request takes alone.

    Attributes:
        version: of its plans; each arrival changes when the first one is done.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.version = 0
        # each request with the work that every request will have got when it is done
        self._requests: deque[tuple[float, Request]] = deque()
        self._done = 0.0
        self._since = 0.0

    def add(self, request: Request, now: float) -> None:
        """Take a request."""
        self._work(now)
        self._requests.append((self._done + self.seconds, request))

    def take(self, now: float) -> Request:
        """Return the first request, which is prepared."""
        self._work(now)
        return self._requests.popleft()[1]

    def next(self) -> float | None:
        """Return the seconds from the last change until the next request is prepared."""
        if not self._requests:
            return None
        return max(0.0, self._requests[0][0] - self._done) * len(self._requests)

    def _work(self, now: float) -> None:
        if self._requests:
            self._done += (now - self._since) / len(self._requests)
        self._since = now
        self.version += 1


class Step:
    """A step of an engine, while its scheduler fills it.

    Attributes:
        room: tokens that are left.
        budget: visual tokens that may still be encoded.
        space: visual tokens that may still be held until they are read.
        seconds: that it takes so far.
    """

    def __init__(self, stages: Stages, limits: Limits, running: list[Request]) -> None:
        self.stages = stages
        self.room = limits.tokens
        self.budget = limits.images
        self.space = limits.images
        self.count_all = limits.count_all
        for request in running:
            if request.held and request.computed < request.end:
                self.space -= request.visual
        self.seconds = stages.step

    def give(self, request: Request) -> int:
        """Return how many tokens a request gets."""
        tokens = min(self.room, request.prompt + request.written - request.computed)
        reaches = request.computed < request.end and request.computed + tokens > request.before
        if reaches and not request.held and not self._hold(request):
            # up to the image
            tokens = max(0, request.before - request.computed)
        if not tokens:
            return 0

        self.room -= tokens
        if request.written:
            self.seconds += self.stages.decode(request.computed)
        else:
            self.seconds += self.stages.chunk(request.computed, tokens)
        # read to its end: a token is written
        if request.computed + tokens >= request.prompt:
            self.seconds += self.stages.write
        return tokens

    def _hold(self, request: Request) -> bool:
        """Encode an image, or take what an encoder has sent; False: there is no room for it."""
        counted = VISUAL if self.count_all else request.visual
        if counted > self.budget or request.visual > self.space:
            return False
        request.held = True
        self.space -= request.visual
        # what an encoder has sent takes room and no time
        if not request.ready:
            self.budget -= counted
            self.seconds += 0.0 if request.known else self.stages.tower
            self.seconds += request.pruned * self.stages.select
        return True


class Worker:
    """An engine with its queue, and the front before it.

    Attributes:
        load: requests that were sent to it and are not answered.
        blocks: most blocks of the KV cache in use.
    """

    def __init__(self, stages: Stages, limits: Limits) -> None:
        self.stages = stages
        self.limits = limits
        self.front = Front(stages.front)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.busy = False
        self.load = 0
        self.blocks = 0

    def step(self) -> tuple[list[tuple[Request, int]], float]:
        """Return how many tokens each request gets in the next step, and the seconds it takes."""
        step = Step(self.stages, self.limits, self.running)
        given: list[tuple[Request, int]] = []
        joining = list(islice(self.waiting, self.limits.seats - len(self.running)))
        for request in chain(self.running, joining):
            if not step.room:
                break
            tokens = step.give(request)
            if tokens:
                given.append((request, tokens))
            # of those that wait, nobody overtakes
            elif request in joining:
                break

        blocks = 0
        for request, tokens in given:
            blocks += -(-(request.computed + tokens) // self.limits.block)
            if request in joining:
                self.running.append(self.waiting.popleft())
        self.blocks = max(self.blocks, blocks)
        return given, step.seconds


class Simulation:
    """Requests on their way through a cluster, event by event.

    Attributes:
        now: in seconds.
        finished: requests in the order in which they were answered.
    """

    def __init__(self, cluster: Cluster, stages: Stages) -> None:
        self.cluster = cluster
        self.stages = stages
        self.workers = [Worker(stages, cluster.limits) for _ in range(cluster.workers)]
        self.idle_encoders = cluster.encoders
        self.to_encode: deque[tuple[Worker, Request]] = deque()
        self.finished: list[Request] = []
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._left: deque[Request] = deque()

    def run(self, requests: Sequence[Request], at_once: int | None) -> None:
        """Send requests, and wait until all of them are answered.

        Args:
            requests: in the order in which they are sent.
            at_once: how many are under way all the time; None: each is sent at its `arrived`.
        """
        if at_once is None:
            for request in requests:
                self._after(request.arrived, lambda r=request: self._arrive(r))
        else:
            self._left = deque(requests)
            for _ in range(at_once):
                self._send()
        while self._events:
            self.now, _, act = heapq.heappop(self._events)
            act()

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        # of events at the same time the one that was planned first comes first
        heapq.heappush(self._events, (self.now + seconds, next(self._order), act))

    def _send(self) -> None:
        """Send the next request, if one is left."""
        if self._left:
            request = self._left.popleft()
            request.arrived = self.now
            self._arrive(request)

    def _arrive(self, request: Request) -> None:
        """Give a request to the worker with the fewest."""
        request.computed = request.found
        worker = min(self.workers, key=lambda worker: worker.load)
        worker.load += 1
        worker.front.add(request, self.now)
        self._prepare(worker)

    def _prepare(self, worker: Worker) -> None:
        """Plan when the front has prepared its next request."""
        seconds = worker.front.next()
        version = worker.front.version
        if seconds is not None:
            self._after(seconds, lambda: self._prepared(worker, version))

    def _prepared(self, worker: Worker, version: int) -> None:
        """Hand a request on, unless others have come since this was planned."""
        if version != worker.front.version:
            return
        request = worker.front.take(self.now)
        self._prepare(worker)
        if self.cluster.encoders:
            self.to_encode.append((worker, request))
            self._encode()
        else:
            self._enqueue(worker, request)

    def _encode(self) -> None:
        """Give images to encoders that are idle."""
        while self.to_encode and self.idle_encoders:
            worker, request = self.to_encode.popleft()
            self.idle_encoders -= 1
            seconds = self._encoding(request)
            self._after(seconds, lambda w=worker, r=request: self._encoded(w, r))

    def _encoding(self, request: Request) -> float:
        """Return the seconds of an image on an encoder."""
        stages = self.stages
        place = self.cluster.select_at
        seconds = 0.0 if request.known else stages.tower
        if request.pruned and place != "worker":
            seconds += stages.select
        # it shares a step with others: of the step itself nothing is counted
        if place == "both":
            seconds += stages.chunk(request.found, request.prompt - request.found)
        return seconds

    def _encoded(self, worker: Worker, request: Request) -> None:
        self.idle_encoders += 1
        if self.cluster.select_at == "worker":
            # its own engine still has to choose
            request.known = True
        else:
            request.ready = True
        self._enqueue(worker, request)
        self._encode()

    def _enqueue(self, worker: Worker, request: Request) -> None:
        worker.waiting.append(request)
        if not worker.busy:
            self._step(worker)

    def _step(self, worker: Worker) -> None:
        given, seconds = worker.step()
        worker.busy = bool(given)
        if given:
            self._after(seconds, lambda: self._stepped(worker, given))

    def _stepped(self, worker: Worker, given: list[tuple[Request, int]]) -> None:
        """End a step: those whose prompt is read have a token more."""
        for request, tokens in given:
            request.computed += tokens
            if request.computed < request.prompt:
                continue
            request.written += 1
            if request.written == 1:
                request.first = self.now
            if request.written == request.answer:
                request.last = self.now
                self.finished.append(request)
                worker.running.remove(request)
                worker.load -= 1
                self._send()
        self._step(worker)


def simulate(
    cluster: Cluster, stages: Stages, requests: Sequence[Request], at_once: int | None = None
) -> Simulation:
    """Return a simulation that has run to its end; see `Simulation.run`."""
    simulation = Simulation(cluster, stages)
    simulation.run(requests, at_once)
    return simulation
