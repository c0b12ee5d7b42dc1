"""Count for Prometheus what a server is shown, keeps and refuses; `/metrics` has it beside vLLM's.

Nothing is counted until a server says which model it serves (`Counters.serve`): an engine without a
server has nobody who asks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Literal

from prometheus_client import Counter, Histogram

__all__ = ["COUNTERS", "NAMES", "PLACED", "REASONS", "REFUSED", "Counters"]

REASONS = ("cost", "grammar", "media", "options", "request", "shutdown")
"""Why a request is refused.

cost: a method would hold others up, or a video is larger than memory was measured for. grammar: the
vocabulary cannot write what the answer has to look like. media: an image or a video that cannot be
read, or may not be fetched. options: a method or a budget that is not valid, not allowed, or not
done for what was sent. request: a body that would be misread. shutdown: the server is told to end.
"""
Step = Literal["decoded", "prepared"]
STEPS: tuple[Step, ...] = ("decoded", "prepared")
SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.33, 0.5, 0.75, 1.0)
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True)
class Families:
    """The metrics of a process, each with its labels still to be given.

    Attributes:
        seen, kept, share: of images and videos, by method.
        seconds, encoded, reused: of the work of an engine.
        refused: requests, by reason.
        decoded, decoded_reused, prepared, prepared_reused: images.
    """

    seen: Counter
    kept: Counter
    share: Histogram
    seconds: Histogram
    encoded: Counter
    reused: Counter
    refused: Counter
    decoded: Counter
    decoded_reused: Counter
    prepared: Counter
    prepared_reused: Counter


@cache
def _families() -> Families:
    """Return the metrics, which Prometheus lets a process register once."""
    by_method = ("model_name", "method")
    by_engine = ("model_name", "engine")
    by_model = ("model_name",)
    return Families(
        seen=Counter(
            "adafv:visual_tokens_seen",
            "Visual tokens of images and videos as the vision tower has them.",
            by_method,
        ),
        kept=Counter(
            "adafv:visual_tokens_kept",
            "Visual tokens that the language model is given.",
            by_method,
        ),
        share=Histogram(
            "adafv:kept_share",
            "Share of the visual tokens of an image or a video that is kept.",
            by_method,
            buckets=SHARES,
        ),
        seconds=Histogram(
            "adafv:selection_seconds",
            "Time to choose tokens in one step of the engine, on the host.",
            by_engine,
            buckets=SECONDS,
        ),
        encoded=Counter(
            "adafv:images_encoded", "Images and videos that the tower ran for pruning.", by_engine
        ),
        reused=Counter(
            "adafv:encodings_reused", "Encodings found instead of running the tower.", by_engine
        ),
        refused=Counter(
            "adafv:requests_refused",
            "Requests that adafv refused, by reason.",
            ("model_name", "reason"),
        ),
        decoded=Counter("adafv:images_decoded", "Images that were decoded.", by_model),
        decoded_reused=Counter(
            "adafv:decoded_images_reused", "Decoded images found instead of decoding.", by_model
        ),
        prepared=Counter(
            "adafv:images_prepared", "Images that the processor ran for pruning.", by_model
        ),
        prepared_reused=Counter(
            "adafv:prepared_images_reused",
            "Prepared images found instead of running the processor.",
            by_model,
        ),
    )


NAMES = (
    "adafv:visual_tokens_seen_total",
    "adafv:visual_tokens_kept_total",
    "adafv:kept_share",
    "adafv:selection_seconds",
    "adafv:images_encoded_total",
    "adafv:encodings_reused_total",
    "adafv:requests_refused_total",
    "adafv:images_decoded_total",
    "adafv:decoded_images_reused_total",
    "adafv:images_prepared_total",
    "adafv:prepared_images_reused_total",
)
"""Under which `/metrics` has them; histograms with `_bucket`, `_sum` and `_count` behind."""


REFUSED: ContextVar[list[str] | None] = ContextVar("refused", default=None)
"""Why this request was refused: its images are read side by side, and each may be at fault."""


PLACED: ContextVar[list[tuple[int, int]] | None] = ContextVar("placed", default=None)
"""N and K of each image and each video of this request."""


class Counters:
    """Count what the server of this process does.

    Attributes:
        model: whose requests they are. None: nothing is counted.
    """

    def __init__(self) -> None:
        self.model: str | None = None

    def serve(self, model: str, engines: list[int]) -> None:
        """Begin to count, with zeros: a rate over what was never there is no number.

        Args:
            model: its name in requests.
            engines: their indices.
        """
        self.model = model
        families = _families()
        for reason in REASONS:
            families.refused.labels(model, reason)
        for step in STEPS:
            self.count_images(step, 0, 0)
        for engine in engines:
            for family in (families.seconds, families.encoded, families.reused):
                family.labels(model, str(engine))

    def count_image(self, method: str, seen: int, kept: int) -> None:
        """Count an image, or a video, of which `kept` of `seen` visual tokens are kept."""
        placed = PLACED.get()
        if placed is not None:
            placed.append((seen, kept))
        if self.model is None:
            return
        families = _families()
        families.seen.labels(self.model, method).inc(seen)
        families.kept.labels(self.model, method).inc(kept)
        families.share.labels(self.model, method).observe(kept / seen)

    def count_images(self, step: Step, new: int, reused: int) -> None:
        """Count images that are decoded, or prepared, and those of which that was kept."""
        if self.model is None:
            return
        families = _families()
        of_step = {
            "decoded": (families.decoded, families.decoded_reused),
            "prepared": (families.prepared, families.prepared_reused),
        }
        for family, count in zip(of_step[step], (new, reused), strict=True):
            family.labels(self.model).inc(count)

    def count_work(self, engine: int, encoded: int, reused: int, seconds: list[float]) -> None:
        """Count what an engine has done, as `EngineCountsReader.read` returns it."""
        if self.model is None:
            return
        families = _families()
        labels = (self.model, str(engine))
        families.encoded.labels(*labels).inc(encoded)
        families.reused.labels(*labels).inc(reused)
        for selection in seconds:
            families.seconds.labels(*labels).observe(selection)

    def count_refusal(self, reason: str) -> None:
        """Count a request that is refused, for one of `REASONS`."""
        if self.model is not None:
            _families().refused.labels(self.model, reason).inc()

    @contextmanager
    def refusals(self, reason: str) -> Iterator[None]:
        """Count a `ValueError` within as a refusal, once for a request of which much is wrong."""
        try:
            yield
        except ValueError:
            refused = REFUSED.get()
            if not refused:
                self.count_refusal(reason)
            if refused is not None:
                refused.append(reason)
            raise


COUNTERS = Counters()
"""Of this process."""
