"""What a second question about a large photograph waits for, with and without kept images.

    python benchmarks/serving/second_question.py --out benchmarks/serving/second-question

`adafv serve` of the embedded model, with `--image-cache-mb 0` and with its default. Every round has
a new JPEG of 20 megapixels, one question about it, and another one. An answer has one token, so
that nearly all of the time is the picture's: sending, decoding, preparing, encoding, choosing.
"""

import argparse
import base64
import sys
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from adafv.demo.server import FLAGS, Server, serving
from adafv.utils.files import writable_folder
from adafv.utils.machine import cpu, versions
from adafv.utils.records import command_of, write_report

SIZE = (5472, 3648)  # of a camera's picture
CACHES = {"0": ("--image-cache-mb", "0"), "default": ()}
QUESTIONS = {"first": "what color is the umbrella?", "second": "is there a red key?"}
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Row:
    """Milliseconds until a question is answered.

    Attributes:
        cache: of images, as `--image-cache-mb` has it.
        question: "first" about its picture, or "second".
    """

    cache: str
    question: str
    median_ms: float
    p95_ms: float


def photograph(draw: np.random.Generator) -> str:
    """Return a new large picture as a data URL."""
    coarse = draw.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def asked(server: Server, url: str, question: str) -> float:
    """Ask for one token about a picture, and return the milliseconds that it takes.

    Raises:
        ValueError: the server answers with an error.
    """
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": question},
    ]
    request = {"model": "embedded", "messages": [{"role": "user", "content": content}]}
    start = time.perf_counter()
    status, answer = server.post(CHAT, request | {"max_tokens": 1, "temperature": 0}, timeout=600)
    if status != 200:
        raise ValueError(f"the server answers {status}: {answer}")
    return 1000 * (time.perf_counter() - start)


def measured(repeats: int, *, quiet: bool) -> list[Row]:
    """Return a row for each cache and question; a round of each warms up."""
    rows = []
    for cache, flags in CACHES.items():
        times: dict[str, list[float]] = {name: [] for name in QUESTIONS}
        draw = np.random.default_rng(0)
        with serving("--keep", "0.1", *flags, *FLAGS) as server:
            turns = tqdm(range(repeats + 1), desc=cache, file=sys.stderr, disable=quiet)
            for turn in turns:
                url = photograph(draw)
                for name, question in QUESTIONS.items():
                    spent = asked(server, url, question)
                    if turn:
                        times[name].append(spent)
        for name, ms in times.items():
            rows.append(Row(cache, name, median(ms), float(np.percentile(ms, 95))))
    return rows


def page(meta: dict[str, Any], rows: list[Row]) -> str:
    """Return the text of README.md."""
    width, height = SIZE
    lines = [
        "# A second question about a large photograph",
        "",
        f"    {meta['command']}",
        "",
        f"`adafv serve` of the embedded model, JPEGs of {width:,} × {height:,} pixels, "
        f"{meta['repeats']} rounds, one request at a time, one token",
        f"of answer. {meta['processor']}, {meta['cores']} cores.",
        "",
        "| `--image-cache-mb` | question | median | p95 |",
        "|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.cache} | {row.question} | {row.median_ms:,.0f} ms | {row.p95_ms:,.0f} ms |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write results.json, results.csv and README.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=12, metavar="N")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options = parser.parse_args(arguments)
    out = writable_folder(options.out)
    rows = measured(options.repeats, quiet=options.quiet)

    command = command_of("python", "benchmarks/serving/second_question.py", arguments=arguments)
    meta: dict[str, Any] = {"command": command, "repeats": options.repeats}
    meta |= cpu() | {"versions": versions()}
    write_report(out, meta, rows, page(meta, rows))


if __name__ == "__main__":
    main()
