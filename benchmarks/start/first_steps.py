"""How long it takes from nothing to a first answer, and to a server: the commands of the docs.

    python benchmarks/start/first_steps.py --out benchmarks/start/first_steps

Each way is walked once, in a folder that is deleted afterwards, with no cache of pip or of
compilers and with no model fetched before. What pip downloads depends on the link; `--note` says
what lay on the disk already. It needs 8 GB of disk for the time of it.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from adafv.demo.server import chat, running
from adafv.models.images import open_image
from adafv.utils.files import writable_folder
from adafv.utils.machine import cpu
from adafv.utils.records import command_of, row_of, write_json

ROOT = Path(__file__).parents[2]
PHOTOGRAPH = "src/adafv/data/photographs/astronaut.jpg"
SCENE = "docs/drawings/scene.png"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
ASK = 'adafv ask docs/drawings/scene.png "what color is the umbrella?" --keep 0.05'
CLONE = "git clone https://github.com/adafv/adafv"
ENVIRONMENT = "python3 -m venv .venv && . .venv/bin/activate"
ANSWER = (
    ("environment", ENVIRONMENT),
    ("PyTorch", f"pip install torch --index-url {CPU_INDEX}"),
    ("the package", "pip install '.[photo]'"),
    ("a first answer", ASK),
    ("the photo model", "adafv fetch photo"),
    ("an answer about a photograph", 'adafv ask my-photo.jpg "Is there a dog?" --keep 0.25'),
)
"""Lines of README.md, in their order."""
INDEX = f"export PIP_EXTRA_INDEX_URL={CPU_INDEX}"
INSTALL_VLLM = "make .venv-vllm/ready && . .venv-vllm/bin/activate"
SERVE = "adafv serve --keep 0.05 --port 8000 --dtype float32 --enforce-eager --max-model-len 2048"
"""Lines of docs/vllm-quickstart.md for a CPU."""


@dataclass(frozen=True)
class Step:
    """A step of a way.

    Attributes:
        way: "answer", to an answer about a photograph, or "server".
        step: what it brings.
        command: what is typed.
        seconds: until it has ended, or until the server is ready.
        cpu_seconds: of all cores together.
        load: of the machine when it had ended, the mean of a minute: processes that want a core.
    """

    way: str
    step: str
    command: str
    seconds: float
    cpu_seconds: float
    load: float


def since(start: float, way: str, step: str, command: str, cpu_seconds: float) -> Step:
    """Return a step that has just ended."""
    seconds = time.perf_counter() - start
    print(f"{seconds:7.1f} s  {command}", file=sys.stderr)
    return Step(way, step, command, seconds, cpu_seconds, os.getloadavg()[0])


def cpu_of_ended() -> float:
    """Return what the processes that have been started and have ended took of the cores."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu_of_running(pid: int) -> float:
    """Return what a process and all that it has started have taken of the cores."""
    first = psutil.Process(pid)
    taken = 0.0
    for process in (first, *first.children(recursive=True)):
        times = process.cpu_times()
        taken += times.user + times.system + times.children_user + times.children_system
    return taken


def fresh(folder: Path) -> dict[str, str]:
    """Return the environment of someone who has run nothing yet, with caches in a folder."""
    caches = {
        "ADAFV_HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "VLLM_CACHE_ROOT": str(folder / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "PIP_NO_CACHE_DIR": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    kept = {}
    for name, value in os.environ.items():
        if name not in ("PYTHONPATH", "VIRTUAL_ENV"):
            kept[name] = value
    return kept | caches


def run(way: str, step: str, command: str, folder: Path, *, before: str = ":") -> Step:
    """Run a line in a shell, after what an earlier one left in the shell, and time it.

    Raises:
        ValueError: it fails, with the end of what it said.
    """
    start = time.perf_counter()
    before_it = cpu_of_ended()
    done = subprocess.run(
        ["bash", "-c", f"{before} && {command}"],
        cwd=folder,
        env=fresh(folder.parent),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise ValueError(f"{command} fails:\n" + "\n".join(said[-20:]))
    return since(start, way, step, command, cpu_of_ended() - before_it)


def cloned(way: str, folder: Path) -> Step:
    """Clone the repository from this disk into a folder that is not there yet."""
    step = run(way, "clone", f"git clone {ROOT} {folder.name}", folder.parent)
    return replace(step, command=CLONE)


def to_an_answer(folder: Path, *, on_disk: bool) -> Iterator[Step]:
    """Walk from nothing to an answer about a photograph.

    Args:
        folder: an empty one.
        on_disk: whether pip finds PyTorch's CPU build without being told where it is.
    """
    clone = folder / "adafv"
    yield cloned("answer", clone)
    shutil.copy(clone / PHOTOGRAPH, clone / "my-photo.jpg")
    before = ":"
    for name, command in ANSWER:
        typed = command.removesuffix(f" --index-url {CPU_INDEX}") if on_disk else command
        yield replace(run("answer", name, typed, clone, before=before), command=command)
        before = ". .venv/bin/activate"


def to_a_server(folder: Path, *, on_disk: bool) -> Iterator[Step]:
    """Walk from nothing to a server of the embedded model, and its first answer.

    Args:
        folder: an empty one.
        on_disk: whether pip finds PyTorch's CPU build without being told where it is.
    """
    clone = folder / "adafv"
    yield cloned("server", clone)
    before = ":" if on_disk else INDEX
    yield run("server", "vLLM for the CPU", INSTALL_VLLM, clone, before=before)
    program, *flags = SERVE.replace(" --port 8000", "").split()
    start = time.perf_counter()
    command = [str(clone / ".venv-vllm/bin" / program), *flags]
    with running(command, PYTHONPATH="", **fresh(folder)) as server:
        ready = cpu_of_running(server.pid)
        yield since(start, "server", "the server is ready", SERVE, ready)
        start = time.perf_counter()
        asked = chat(open_image(clone / SCENE), "what color is the umbrella?")
        status, said = server.post("/v1/chat/completions", asked)
        if status != 200:
            raise ValueError(f"the server answers {status}: {said}")
        answered = cpu_of_running(server.pid) - ready
        yield since(start, "server", "a first answer", "curl", answered)


WAYS = {"answer": to_an_answer, "server": to_a_server}


def main(arguments: list[str] | None = None) -> None:
    """Walk ways, and write results.json; a way that is not walked keeps its rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--note", default="", help="of the link, and of what lay on the disk")
    parser.add_argument(
        "--on-disk", action="store_true", help="PyTorch's CPU build is pip's to find"
    )
    options = parser.parse_args(arguments)
    out = writable_folder(options.out)
    results = out / "results.json"
    rows: list[dict[str, Any]] = []
    if results.exists():
        rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    for way in options.ways:
        rows = [row for row in rows if row["way"] != way]
        with tempfile.TemporaryDirectory() as folder:
            for step in WAYS[way](Path(folder), on_disk=options.on_disk):
                rows.append(row_of(step, digits=1))

    command = command_of("python", "benchmarks/start/first_steps.py", arguments=arguments)
    write_json(results, {"meta": {"command": command, "note": options.note} | cpu(), "rows": rows})


if __name__ == "__main__":
    main()
