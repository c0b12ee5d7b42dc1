"""vLLM servers on loopback, and what they and the machine are doing meanwhile."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

__all__ = ["Server", "Watch"]

NAME = "measured"
PATIENCE = 900  # seconds until a server is up


class Server:
    """vLLM's OpenAI-compatible server with random weights, as a child process that ends with the
    block.

    Args:
        model: a folder without weights.
        plugin: with adafv, or stock.
        kv_gib: for the KV cache, on a CPU.
        share: of a GPU's memory.

    Raises:
        ValueError: the server did not come up.
    """

    def __init__(
        self, model: Path, *, plugin: bool, device: str, context: int, kv_gib: int, share: float
    ) -> None:
        self.log = model.parent / f"{'adafv' if plugin else 'stock'}.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = {
            "model": model, "served-model-name": NAME, "load-format": "dummy", "dtype": "bfloat16",
            "host": "127.0.0.1", "port": self.port, "max-model-len": context, "max-num-seqs": 32,
            "limit-mm-per-prompt": '{"image": 1}',
        }  # fmt: skip
        options |= {"block-size": 32} if device == "cpu" else {"gpu-memory-utilization": share}
        flags = ["--enforce-eager"] if device == "cpu" else []
        flags += ["--trust-request-mm-kwargs"] if plugin else []
        environment = {
            **os.environ, "VLLM_PLUGINS": "adafv" if plugin else "", "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": str(kv_gib), "VLLM_LOGGING_LEVEL": "INFO",
        }  # fmt: skip
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags]
        command += [str(x) for name, value in options.items() for x in (f"--{name}", value)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    said = self.log.read_text(errors="replace").splitlines()
                    errors = [line for line in said if "Error" in line] or said
                    raise ValueError(f"vLLM did not start: {' '.join(errors[-1:])}") from None
                time.sleep(1)

    def metrics(self) -> dict[str, float]:
        """What it counts, by name; the labels of `cache_config_info` as well."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        found = {
            m[1]: float(m[2])
            for m in re.finditer(r"^vllm:(\w+)(?:\{.*\})? (\S+)$", text, re.MULTILINE)
        }
        labels = re.search(r"^vllm:cache_config_info\{(.*)\}", text, re.MULTILINE)
        numbers = re.findall(r'(block_size|num_gpu_blocks)="(\d+)"', labels[1] if labels else "")
        return found | {name: float(number) for name, number in numbers}

    def cache(self) -> dict[str, Any]:
        """The KV cache: blocks, tokens in each, and what vLLM's log says of it."""
        now = self.metrics()
        said = re.search(r"KV cache size: .*", self.log.read_text(errors="replace"))
        return {
            "blocks": int(now["num_gpu_blocks"]),
            "block_size": int(now["block_size"]),
            "log": said and said[0],
        }

    def close(self) -> None:
        family = [self.process, *_family(self.process.pid)]
        for process in family:
            _quietly(process.terminate)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        for process in family:
            _quietly(process.kill)
        self.process.wait()


class Watch:
    """While open, looks at a server several times a second.

    Attributes:
        blocks, running: most KV blocks in use, and most requests at once.
        preemptions, prefix_hits: how many; tokens found in the prefix cache.
        others: cores that other programs kept busy, on average.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.blocks = self.running = 0
        self.preemptions = self.prefix_hits = 0
        self.others = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._before, self._start = self.server.metrics(), (time.monotonic(), _busy(), _ours())
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        if error:
            return
        after, (start, busy, ours) = self.server.metrics(), self._start
        names = ("num_preemptions_total", "prefix_cache_hits_total")
        self.preemptions, self.prefix_hits = (
            int(after[name] - self._before[name]) for name in names
        )
        spent = _busy() - busy - (_ours() - ours)
        self.others = round(max(0.0, spent / (time.monotonic() - start)), 3)

    def _look(self) -> None:
        while not self._done.wait(0.2):
            try:
                now = self.server.metrics()
            except OSError:
                continue
            # vLLM's first block stays empty and is not counted
            self.blocks = max(
                self.blocks, round(now["kv_cache_usage_perc"] * (now["num_gpu_blocks"] - 1))
            )
            self.running = max(self.running, int(now["num_requests_running"]))


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _quietly(act: Any) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        act()


def _busy() -> float:
    """Seconds of all cores."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def _ours() -> float:
    """Seconds of this process and all that it started."""
    total = 0.0
    for process in (psutil.Process(), *_family(os.getpid())):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total
