"""Show the server on a few questions: `python -m adafv.demo.server`, or `make serve-demo`."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adafv.data.cases import CASES
from adafv.data.judging import same_answer
from adafv.data.sample import Question, Sample
from adafv.utils.checks import checked

__all__ = ["Server", "chat", "main", "running", "serving"]

# From all tokens to few.
KEEPS = (1.0, 0.25, 0.05)
SHOWN = (0, 1, 4, 5)
"""Which of `adafv.data.cases.CASES` are asked."""
# vLLM's environment: a small cache for a CPU, quiet, and no statistics sent.
ON_A_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
FLAGS = (
    "--dtype",
    "float32",
    "--enforce-eager",
    "--max-model-len",
    "2048",
    "--disable-uvicorn-access-log",
)
PATIENCE = 600  # seconds for a start; the first one compiles
GRACE = 20  # seconds for a stop


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: without a path.
        pid: of the process that started first; its children are in its process group.
    """

    url: str
    pid: int

    def post(self, path: str, body: Any, timeout: float = 60) -> tuple[int, Any]:
        """Return status and JSON of the answer to a request."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=timeout) as answer:
                return answer.status, json.load(answer)
        # a refusal has JSON too
        except HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)

    def healthy(self) -> bool:
        """Return whether the server answers."""
        try:
            with urlopen(f"{self.url}/health", timeout=10):
                return True
        except (URLError, OSError):
            return False


@contextmanager
def serving(*flags: str) -> Iterator[Server]:
    """Run `adafv serve` with these flags on a free port of this machine, and stop it at the end.

    Raises:
        ValueError: it doesn't start, with the end of its log.
    """
    with running([sys.executable, "-P", "-m", "adafv", "serve", *flags]) as server:
        yield server


@contextmanager
def running(command: list[str], **environment: str) -> Iterator[Server]:
    """Run a server of vLLM on a free port of this machine, and stop it at the end.

    Args:
        command: without host and port.
        environment: variables beside those of this process.

    Raises:
        ValueError: it doesn't start, with the end of its log.
    """
    # port 0 stands for any that is free
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*command, "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        # a session of its own, so that the engine's processes can be stopped with it
        variables = {**ON_A_CPU, **os.environ, **environment}
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=variables, start_new_session=True
        )
        server = Server(f"http://127.0.0.1:{port}", process.pid)
        try:
            # wait until it answers, has ended, or takes too long
            end = time.monotonic() + PATIENCE
            # the log says why it has ended
            while not server.healthy():
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip().splitlines()
                    raise ValueError("the server doesn't start:\n" + "\n".join(said[-20:]))
                time.sleep(0.5)
            yield server
        finally:
            _stop(process)


@checked
def chat(image: Image.Image, question: str, **options: Any) -> dict[str, Any]:
    """Return a request for a greedy answer.

    Args:
        image: what is shown.
        question: what is asked.
        options: of adafv, without the prefix: keep=0.25.
    """
    # the image as a data URL, for the server fetches nothing
    file = BytesIO()
    image.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    # options travel with the request
    ours = {f"adafv_{name}": value for name, value in options.items()}
    request = {"model": "embedded", "messages": [{"role": "user", "content": content}]}
    return {**request, "max_tokens": 64, "temperature": 0, "mm_processor_kwargs": ours}


def run(console: Console) -> None:
    """Start a server, ask, print what it said, stop it."""
    questions = _questions()
    console.print(
        "[dim]starting: adafv serve --keep 0.1 " + " ".join(FLAGS) + "[/dim]", highlight=False
    )
    start = time.perf_counter()
    with serving("--keep", "0.1", *FLAGS) as server:
        console.print(f"[dim]up after {time.perf_counter() - start:.0f} s[/dim]", highlight=False)
        # the first request at each budget pays for warming up
        blank = Image.new("RGB", (320, 320))
        for keep in KEEPS:
            server.post("/v1/chat/completions", chat(blank, "what is it?", keep=keep))
        console.print(_table(server, questions))
    console.print(
        'A request says how much is kept: "mm_processor_kwargs": {"adafv_keep": 0.25}. '
        "ms: sent to answered; the second question about an image doesn't encode it again. "
        "[bold red]✗[/bold red] marks a wrong answer.",
        highlight=False,
    )


def main() -> int:
    """Run the demo on the embedded model; 2 where the server doesn't start."""
    # a stop from outside runs the `finally` that stops the server, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run(Console(width=None if sys.stdout.isatty() else 150))
    except ValueError as error:
        print(f"adafv: {error}", file=sys.stderr)
        return 2
    return 0


def _questions() -> list[tuple[Sample, Question]]:
    """Return bundled questions, and a second one about the first image."""
    loaded = [CASES[i].load() for i in SHOWN]
    sample, question = loaded[0]
    other = next(q for q in sample.questions if q.text != question.text)
    return [loaded[0], (sample, other), *loaded[1:]]


def _table(server: Server, questions: list[tuple[Sample, Question]]) -> Table:
    """Ask every question at every budget, and return what was answered."""
    table = Table(
        "question", "keep", title="Answers over HTTP, dense and pruned", title_justify="left"
    )
    table.add_column("prompt tokens", justify="right")
    table.add_column("answer")
    table.add_column("truth")
    table.add_column("ms", justify="right")
    before = None
    for sample, question in questions:
        title = question.text
        if sample is before:
            title = f"(same image) {title}"
        for keep in KEEPS:
            request = chat(sample.image, question.text, keep=keep)
            start = time.perf_counter()
            status, answer = server.post("/v1/chat/completions", request)
            ms = (time.perf_counter() - start) * 1000
            if status != 200:
                raise ValueError(f"{question.text!r} was answered with {status}: {answer}")
            said = answer["choices"][0]["message"]["content"].strip()
            right = same_answer(said, question.answer)
            mark = Text(said, "green") if right else Text(f"✗ {said}", "bold red")
            tokens = str(answer["usage"]["prompt_tokens"])
            # question and truth stand in the first of a question's rows
            first = keep == KEEPS[0]
            truth = question.answer if first else ""
            table.add_row(title if first else "", f"{keep:.0%}", tokens, mark, truth, f"{ms:.0f}")
        before = sample
        table.add_section()
    return table


def _stop(process: subprocess.Popen) -> None:
    """Stop a server and its engines, at first politely."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    # whatever of its process group is still there
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
