"""Show on a server's `/metrics` what adafv did, beside vLLM's own numbers.

vLLM finds it by its entry point (`vllm.stat_logger_plugins`), in the process of the server.
"""

from typing import Any

from vllm.v1.metrics.loggers import AggregateStatLoggerBase

from adafv.integrations.vllm.counters import COUNTERS
from adafv.integrations.vllm.engine_counts import EngineCountsReader

__all__ = ["AdaFVStatLogger"]


class AdaFVStatLogger(AggregateStatLoggerBase):
    """vLLM's interface for statistics, which is called after every step of an engine.

    Args:
        vllm_config: of the server.
        engine_indexes: of the engines that it has.
    """

    def __init__(self, vllm_config: Any, engine_indexes: list[int]) -> None:
        COUNTERS.serve(vllm_config.model_config.served_model_name, engine_indexes)
        # of several processes that serve, one counts what the engines do
        self.readers: dict[int, EngineCountsReader] = {}
        if vllm_config.parallel_config._api_process_rank <= 0:
            for engine in engine_indexes:
                self.readers[engine] = EngineCountsReader(engine)

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """Count what an engine has done since the step before."""
        if engine_idx in self.readers:
            COUNTERS.count_work(engine_idx, *self.readers[engine_idx].read())

    def log_engine_initialized(self) -> None:
        """Do nothing: the first line of a server's log says what is pruned."""
