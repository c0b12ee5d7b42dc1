"""Keep a server under mixed load for long: memory, requests lost, and p99 of TTFT over time.

The embedded model, with adafv and on stock vLLM, both at once and each on a core of its own, so
that what else the machine does meets both; then a disk that fills, and an engine that dies.

    python benchmarks/serving/soak.py --minutes 60 --out benchmarks/serving/soak
"""

import argparse
import base64
import json
import os
import random
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from adafv.demo.server import FLAGS, Server, running
from adafv.embedded import MODEL_DIR
from adafv.utils.machine import cpu, versions
from adafv.utils.records import command_of

ENGINES = ("adafv", "stock")
CHAT = "/v1/chat/completions"
AT_ONCE = 4
SIDE = 320  # of an image
ANSWER = 16
LEFT_AFTER = 2  # pieces of an answer that a client reads before it hangs up
SLICES = 10  # of the time, for the report
CACHES = ("--mm-processor-cache-gb", "0.02", "--num-gpu-blocks-override", "256")
"""So small that they fill in the first of the slices: what grows after that is no cache."""
EVERY = 2.0  # seconds between two looks at the memory
PATIENCE = 120
KINDS = {"new": 55, "again": 20, "text": 10, "hang up": 10, "bad": 5}
"""Of a hundred requests: about a new image; another question about the last one; without an image;
of a client that hangs up in the middle of its answer; to be refused.
"""
COLORS = ("red", "green", "blue", "yellow", "white", "black")


@dataclass(frozen=True)
class Asked:
    """A request and what became of it.

    Attributes:
        kind: of `KINDS`.
        at: seconds since the load began.
        ttft: seconds to the first piece of the answer. None: there was none.
        lost: it did not end as its kind is to end.
    """

    kind: str
    at: float
    ttft: float | None
    lost: bool


@dataclass(frozen=True)
class Row:
    """A slice of the time on one of the engines.

    Attributes:
        engine: "adafv" or "stock".
        start, end: in seconds.
        requests, refused, lost: how many.
        ttft_p50_ms, ttft_p99_ms: of those that were answered.
        rss_mib: resident memory of the server's processes, the highest.
    """

    engine: str
    start: float
    end: float
    requests: int
    refused: int
    lost: int
    ttft_p50_ms: float
    ttft_p99_ms: float
    rss_mib: int


class Load:
    """Requests of every kind, some at once, until a time is over.

    Args:
        server: that is asked.
        ours: whether it knows adafv's options.
        seed: of what is asked.
    """

    def __init__(self, server: Server, *, ours: bool, seed: int) -> None:
        self.server = server
        self.ours = ours
        self.draw = random.Random(seed)
        self.lock = threading.Lock()
        self.last: str | None = None
        self.asked: list[Asked] = []
        self.memory: list[tuple[float, int]] = []

    def run(self, seconds: float) -> None:
        """Ask until the time is over, and look at the memory meanwhile."""
        self.start = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            workers = [pool.submit(self._work, seconds) for _ in range(AT_ONCE)]
            while not all(worker.done() for worker in workers):
                self.memory.append((self._now(), memory(self.server)))
                time.sleep(EVERY)
        for worker in workers:
            worker.result()

    def _now(self) -> float:
        return time.monotonic() - self.start

    def _work(self, seconds: float) -> None:
        while self._now() < seconds and family(self.server):
            with self.lock:
                kind, body = self._next()
            at = self._now()
            ttft, ended = ask(self.server, body, leaves=kind == "hang up")
            right = "refused" if kind == "bad" else "answered"
            self.asked.append(Asked(kind, at, ttft, lost=ended != right))

    def _next(self) -> tuple[str, dict[str, Any]]:
        """Draw what is asked next."""
        [kind] = self.draw.choices(list(KINDS), list(KINDS.values()))
        question = f"what color is the {self.draw.choice(COLORS)} thing?"
        if kind == "text":
            return kind, request([{"type": "text", "text": question}])
        address = self.last
        if kind == "bad":
            address = "data:image/png;base64,no image"
        elif kind != "again" or self.last is None:
            # the last one is one that was sent
            address = self.last = image(self.draw)
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": address}},
            {"type": "text", "text": question},
        ]
        body = request(content)
        if self.ours:
            keep = self.draw.choice((1, 0.25, 0.1, 0.05))
            body["mm_processor_kwargs"] = {"adafv_keep": keep}
        return kind, body

    def rows(self, engine: str, seconds: float) -> list[Row]:
        """Return what was seen in each slice of the time."""
        rows = []
        width = seconds / SLICES
        for i in range(SLICES):
            start = i * width
            end = start + width if i < SLICES - 1 else float("inf")
            inside = [one for one in self.asked if start <= one.at < end]
            times = [one.ttft for one in inside if one.ttft is not None]
            rss = [size for at, size in self.memory if start <= at < end]
            row = Row(
                engine=engine,
                start=round(start, 1),
                end=round(start + width, 1),
                requests=len(inside),
                refused=sum(one.kind == "bad" and not one.lost for one in inside),
                lost=sum(one.lost for one in inside),
                ttft_p50_ms=round(1000 * quantile(times, 0.5), 1),
                ttft_p99_ms=round(1000 * quantile(times, 0.99), 1),
                rss_mib=max(rss, default=0) >> 20,
            )
            rows.append(row)
        return rows


def request(content: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a request for an answer of one length, in pieces."""
    return {
        "model": "embedded",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": ANSWER,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }


def image(draw: random.Random) -> str:
    """Return a new image as a data URL."""
    coarse = Image.frombytes("RGB", (8, 8), draw.randbytes(8 * 8 * 3))
    file = BytesIO()
    coarse.resize((SIDE, SIDE)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def ask(server: Server, body: dict[str, Any], *, leaves: bool) -> tuple[float | None, str]:
    """Return seconds to the first piece of an answer, and how it ended.

    Args:
        server: that is asked.
        body: of the request.
        leaves: the client hangs up in the middle.

    Returns:
        The time, None without an answer; "answered", "refused", "error" in the middle of an answer,
        or what went wrong.
    """
    data = json.dumps(body).encode()
    question = Request(server.url + CHAT, data, {"Content-Type": "application/json"})
    start = time.monotonic()
    ttft = None
    pieces = 0
    try:
        with urlopen(question, timeout=PATIENCE) as answer:
            for line in answer:
                if line.startswith(b"data: [DONE]"):
                    return ttft, "answered"
                # in pieces an error is one of them, and the end follows
                if line.startswith(b'data: {"error"'):
                    return ttft, "error"
                if b'"content"' not in line:
                    continue
                pieces += 1
                ttft = ttft or time.monotonic() - start
                if leaves and pieces == LEFT_AFTER:
                    return ttft, "answered"
    except HTTPError as refusal:
        refusal.close()
        return None, "refused" if 400 <= refusal.code < 500 else str(refusal.code)
    # a connection that ends, or says nothing for long
    except OSError as error:
        return ttft, type(error).__name__
    return ttft, "cut off"


def quantile(values: list[float], share: float) -> float:
    """Return the value below which a share of them lies; 0 without any."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def family(server: Server) -> list[psutil.Process]:
    """Return a server's processes."""
    try:
        first = psutil.Process(server.pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory(server: Server) -> int:
    """Return the resident bytes of a server's processes."""
    total = 0
    for process in family(server):
        try:
            total += process.memory_info().rss
        # it has just ended
        except psutil.NoSuchProcess:
            continue
    return total


def start(engine: str) -> AbstractContextManager[Server]:
    """Return a context in which a server of the embedded model computes on a core of its own."""
    core = {"VLLM_CPU_OMP_THREADS_BIND": str(ENGINES.index(engine))}
    if engine == "adafv":
        command = [sys.executable, "-m", "adafv", "serve", "--keep", "0.1", "--cache-mb", "4"]
        return running([*command, *FLAGS, *CACHES], **core)
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
    # stock vLLM expects other names of weights; what they are doesn't matter for memory and time
    command += ["--model", str(MODEL_DIR), "--load-format", "dummy"]
    command += ["--served-model-name", "embedded", "--limit-mm-per-prompt", '{"image": 64}']
    return running([*command, *FLAGS, *CACHES], VLLM_PLUGINS="", **core)


def fill_disk(server: Server, load: Load, seconds: float) -> int:
    """Return how many requests are lost while no process of a server can write to a file."""
    limits = {process: process.rlimit(psutil.RLIMIT_FSIZE) for process in family(server)}
    before = len(load.asked)
    for process, (_, hard) in limits.items():
        process.rlimit(psutil.RLIMIT_FSIZE, (0, hard))
    load.run(seconds)
    for process, limit in limits.items():
        process.rlimit(psutil.RLIMIT_FSIZE, limit)
    return sum(one.lost for one in load.asked[before:])


def kill_engine(server: Server) -> dict[str, Any]:
    """End an engine while it answers, and return what its client and its server do."""
    body = request([{"type": "text", "text": "what color is it?"}]) | {"max_tokens": 1500}
    first, *others = family(server)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, server, body, leaves=False)
        time.sleep(2)
        begin = time.monotonic()
        # the one that computes, whose memory is the largest
        max(others, key=lambda process: process.memory_info().rss).kill()
        _, ended = asked.result()
        told = time.monotonic() - begin
        try:
            code = first.wait(PATIENCE)
        except psutil.TimeoutExpired:
            code = "still there"
    return {
        "client_got": ended,
        "client_told_s": round(told, 1),
        "server_exit": code,
        "server_ended_s": round(time.monotonic() - begin, 1),
    }


def growth(rows: list[Row]) -> int:
    """Return by how many MiB memory grows from the first half of the time to the second.

    The first slice, in which caches fill, is left out.
    """
    middle = len(rows) // 2
    early = statistics.median(row.rss_mib for row in rows[1:middle])
    late = statistics.median(row.rss_mib for row in rows[middle:])
    return round(late - early)


def write_results(out: Path, meta: dict[str, Any], rows: list[Row]) -> None:
    """Write what is known so far."""
    out.mkdir(parents=True, exist_ok=True)
    found = {"meta": meta, "rows": [asdict(row) for row in rows]}
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")


def write_page(out: Path, meta: dict[str, Any], rows: list[Row]) -> None:
    """Write a page that explains the results."""
    lines = [
        "# A server under load for long",
        "",
        f"    {meta['command']}",
        "",
        f"The embedded model, {AT_ONCE} requests at once for {meta['minutes']:g} minutes, on adafv "
        "and, at the same time, on stock vLLM,",
        "whose weights are random; each engine computes on a core of its own, and both share what",
        f"else there is. {meta['processor']}, {meta['cores']} cores; over the last "
        f"{meta['load_minutes']:g} minutes on average {meta['load']:.1f} programs",
        "wanted to run at once, this one among them. Of a hundred requests "
        + ", ".join(f"{share} {kind}" for kind, share in KINDS.items())
        + ".",
        "Every image of a new request is new; adafv keeps 100, 25, 10 or 5 % of it by turns.",
        "Caches of images, keys and values are small, so that they are soon full.",
        "",
        "| engine | minutes | requests | refused | lost | TTFT p50 | p99 | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.engine} | {row.start / 60:.1f}–{row.end / 60:.1f} | {row.requests} | "
            f"{row.refused} | {row.lost} | {row.ttft_p50_ms:.0f} ms | {row.ttft_p99_ms:.0f} ms | "
            f"{row.rss_mib:,} MiB |"
        )
    lines.append("")
    for engine, grown in meta["growth_mib"].items():
        lines.append(
            f"- {engine}: memory of the second half against the first, without the first tenth: "
            f"{grown:+d} MiB."
        )
    killed = meta["engine_killed"]
    lines += [
        f"- While no file could be written, {meta['disk_full_lost']} requests were lost.",
        f"- An engine that was killed: its client got “{killed['client_got']}” after "
        f"{killed['client_told_s']} s, and the server ended after {killed['server_ended_s']} s "
        f"with {killed['server_exit']}.",
        "",
    ]
    (out / "README.md").write_text("\n".join(lines))


def main() -> int:
    """Run the load on both engines; 1 where a request was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="of load")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    meta: dict[str, Any] = {
        "command": command_of("python", "benchmarks/serving/soak.py"),
        "minutes": options.minutes,
        **cpu(),
        "versions": versions(),
    }
    seconds = 60 * options.minutes
    with ExitStack() as stack, ThreadPoolExecutor(len(ENGINES)) as pool:
        loads = {}
        for engine in ENGINES:
            server = stack.enter_context(start(engine))
            loads[engine] = Load(server, ours=engine == "adafv", seed=options.seed)
        under_load = [pool.submit(load.run, seconds) for load in loads.values()]
        with Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task("under load", total=seconds)
            begin = time.monotonic()
            waiting = []  # programs that wanted to run, over the minute before each look
            while not all(each.done() for each in under_load):
                time.sleep(EVERY)
                waiting.append(os.getloadavg()[0])
                progress.update(bar, completed=time.monotonic() - begin)
        for each in under_load:
            each.result()
        meta["load"] = statistics.fmean(waiting)
        meta["load_minutes"] = options.minutes

        # what was seen up to here is not lost with a server that ends by itself
        rows: list[Row] = []
        meta["growth_mib"] = {}
        for engine, load in loads.items():
            of_engine = load.rows(engine, seconds)
            rows += of_engine
            meta["growth_mib"][engine] = growth(of_engine)
        write_results(options.out, meta, rows)
        for engine, load in loads.items():
            if not family(load.server):
                raise SystemExit(f"the server of {engine} has ended: see its log")

        ours = loads["adafv"]
        meta["disk_full_lost"] = fill_disk(ours.server, ours, min(60, seconds / 4))
        meta["engine_killed"] = kill_engine(ours.server)
    write_results(options.out, meta, rows)
    write_page(options.out, meta, rows)
    return int(any(row.lost for row in rows) or meta["disk_full_lost"] > 0)


if __name__ == "__main__":
    sys.exit(main())
