"""vLLM servers on loopback, and what they and the machine are doing meanwhile."""

import contextlib
import json
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

from adafv.cli.serve import BUDGET, MANAGER

__all__ = ["Server", "Watch"]

NAME = "measured"
PATIENCE = 900  # seconds until a server is up


class Server:
    """vLLM's OpenAI-compatible server with random weights, as a child process.

    Args:
        model: a folder without weights.
        plugin: with adafv, or stock.
        device: "cpu" or "cuda".
        dtype: of weights and sums.
        context: the longest prompt with its answer, in tokens.
        kv_gib: for the KV cache, on a CPU.
        share: of a GPU's memory.
        at_once: requests that it works on together, at most.
        budget: all visual tokens count of what a step encodes, as with `adafv serve`; otherwise
            those that are kept.

    Raises:
        ValueError: the server did not come up.
    """

    def __init__(
        self,
        model: Path,
        *,
        plugin: bool,
        device: str,
        dtype: str,
        context: int,
        kv_gib: int,
        share: float,
        at_once: int = 32,
        budget: bool = False,
    ) -> None:
        # a port that nobody has
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # beside the model, in a temporary folder
        self.log = model.parent / f"{self.port}.log"
        options: dict[str, Any] = {
            "model": model,
            "served-model-name": NAME,
            "load-format": "dummy",
            "dtype": dtype,
            "host": "127.0.0.1",
            "port": self.port,
            "max-model-len": context,
            "max-num-seqs": at_once,
            "limit-mm-per-prompt": '{"image": 1}',
        }
        flags = []
        if device == "cpu":
            options["block-size"] = 32
            flags.append("--enforce-eager")
        else:
            options["gpu-memory-utilization"] = share
        # each request says how much to keep
        if plugin:
            flags.append("--trust-request-mm-kwargs")
        if budget:
            flags += [MANAGER, json.dumps(BUDGET)]
        environment = {
            **os.environ,
            "VLLM_PLUGINS": "adafv" if plugin else "",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": str(kv_gib),
            "VLLM_LOGGING_LEVEL": "INFO",  # the size of the KV cache is in the log
        }
        command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", *flags]
        for name, value in options.items():
            command += [f"--{name}", str(value)]

        # in a session of its own, so that all of its processes can be ended
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
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Wait until it answers."""
        # compiling takes minutes on a slow machine
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    # its last error says why
                    said = self.log.read_text(errors="replace").splitlines()
                    errors = [line for line in said if "Error" in line] or said
                    raise ValueError(f"vLLM did not start: {' '.join(errors[-1:])}") from None
                time.sleep(1)

    def metrics(self) -> dict[str, float]:
        """Return what it counts, by name; the labels of `cache_config_info` as well."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        found = {}
        for match in re.finditer(r"^(?:vllm|adafv):(\w+)(?:\{.*\})? (\S+)$", text, re.MULTILINE):
            found[match[1]] = float(match[2])

        # the KV cache is described by labels of a metric that counts nothing
        labels = re.search(r"^vllm:cache_config_info\{(.*)\}", text, re.MULTILINE)
        numbers = re.findall(r'(block_size|num_gpu_blocks)="(\d+)"', labels[1] if labels else "")
        for name, number in numbers:
            found[name] = float(number)
        return found

    def cache(self) -> dict[str, Any]:
        """Describe the KV cache: blocks, tokens in each, and the line of vLLM's log."""
        now = self.metrics()
        said = re.search(r"KV cache size: .*", self.log.read_text(errors="replace"))
        return {
            "blocks": int(now["num_gpu_blocks"]),
            "block_size": int(now["block_size"]),
            "log": said and said[0],
        }

    def close(self) -> None:
        """End it with all that it has started."""
        family = [self.process, *_family(self.process.pid)]
        # first politely
        for process in family:
            _quietly(process.terminate)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        # then whatever is left
        for process in family:
            _quietly(process.kill)
        self.process.wait()


class Watch:
    """A look at a server several times a second, while open.

    Attributes:
        blocks, running: most KV blocks in use, and most requests at once.
        preemptions, prefix_hits: how many; tokens found in the prefix cache.
        others: cores that other programs kept busy, on average.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.blocks = 0
        self.running = 0
        self.preemptions = 0
        self.prefix_hits = 0
        self.others = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._before = self.server.metrics()
        self._start = (time.monotonic(), _busy(), _ours())
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
        # what failed has nothing to tell
        if error:
            return

        # counters only grow: their difference is of this time
        after = self.server.metrics()
        self.preemptions = self._grown(after, "num_preemptions_total")
        self.prefix_hits = self._grown(after, "prefix_cache_hits_total")

        # what was busy and not ours
        start, busy, ours = self._start
        spent = _busy() - busy - (_ours() - ours)
        self.others = round(max(0.0, spent / (time.monotonic() - start)), 3)

    def _grown(self, after: dict[str, float], name: str) -> int:
        return int(after[name] - self._before[name])

    def _look(self) -> None:
        while not self._done.wait(0.2):
            # a busy server may not answer in time: look again
            try:
                now = self.server.metrics()
            except OSError:
                continue
            # vLLM's first block is always empty and not counted
            used = round(now["kv_cache_usage_perc"] * (now["num_gpu_blocks"] - 1))
            self.blocks = max(self.blocks, used)
            self.running = max(self.running, int(now["num_requests_running"]))


def _family(pid: int) -> list[psutil.Process]:
    """Return the processes that one has started, and those that they have."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _quietly(act: Any) -> None:
    # a process may end by itself meanwhile
    with contextlib.suppress(psutil.NoSuchProcess):
        act()


def _busy() -> float:
    """Return the seconds that all cores were busy."""
    # waiting for a disk is not being busy
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def _ours() -> float:
    """Return the seconds of this process and all that it started."""
    # those that have ended meanwhile are missing: servers run all the time
    total = 0.0
    for process in (psutil.Process(), *_family(os.getpid())):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total
