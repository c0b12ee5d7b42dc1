"""Tables, an image and README of a measurement; as a command, anew from a folder's own records.

python benchmarks/serving/report.py benchmarks/serving
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from plot import draw
from serving_rows import COLUMNS, SOON, STOCK, Record, rows_of, summed
from shapes import SHAPES, Shape

from adafv.utils.files import atomic, write_text
from adafv.utils.records import as_csv, write_json

__all__ = ["write"]

SHARES = (0, 0.5, 0.9, 0.99)  # of requests about an image that was asked about before
GPU = """
## On a GPU

    python benchmarks/serving/measure.py --device cuda --shape llava-next-7b --repeats 2 --out \
out/serving

The same on LLaVA-NeXT-7B's shape, with 2,928 visual tokens for an image. Both servers share the \
GPU, so it needs 48 GB
or more (`--gpu-memory-utilization` is each one's share). `make bench-gpu` ends with one \
repetition of it at 5 %,
with 1, 8, 32 and 64 requests at once. None of this has been run.
"""


def write(
    out: Path,
    shape: Shape,
    settings: dict[str, Any],
    records: Iterable[Record],
    command: str,
) -> str:
    """Write results.json, results.csv, serving.png and README.md; return the tables.

    Args:
        settings: of the measurement, with its machine and versions.
    """
    # a line is of a server, or of a trial
    caches = {}
    trials = []
    for record in records:
        if "repeat" in record:
            trials.append(record)
        else:
            caches[record["engine"]] = record

    rows = rows_of(trials, caches, shape)
    # how quiet the machine was
    others = [trial["others"] for trial in trials]
    # versions are those of the settings: a report may be rewritten elsewhere than it was measured
    meta = {
        **settings,
        "command": command,
        "caches": list(caches.values()),
        "others": [median(others), max(others)],
    }
    tables = _tables(rows, caches)
    readme = _readme(shape, meta, rows, tables, _bursts_in(out))

    # all of it is made before any of it is written
    write_json(out / "results.json", {"meta": meta, "rows": rows})
    write_text(out / "results.csv", as_csv(COLUMNS, rows))
    with atomic(out / "serving.png") as temporary:
        draw(rows, temporary)
    write_text(out / "README.md", readme)
    return tables


def _new(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of questions about images of their own."""
    return [row for row in rows if row["question"] == "new"]


def _readme(
    shape: Shape,
    meta: dict[str, Any],
    rows: list[dict[str, Any]],
    tables: str,
    bursts: dict[str, Any] | None,
) -> str:
    new = _new(rows)
    answer = meta["answer"]
    machine = meta["machine"]
    versions = meta["versions"]
    on_cpu = meta["device"] == "cpu"
    where = f"one {machine['name']} for both servers"
    if on_cpu:
        where = f"{machine['cores']} cores of {machine['name']}"

    # the noise: adafv at 100 % does what stock vLLM does
    dense = [row for row in new if (row["engine"], row["keep"]) == ("adafv", 1)]
    low = min(row["speedup_low"] for row in dense)
    high = max(row["speedup_high"] for row in dense)

    # the model, and how much of a request is the tower's
    size = f"{shape.parameters / 1e9:.2f}"
    flops = shape.flops(round(new[0]["prompt_tokens"]), answer)
    share = f"{100 * flops['vision'] / sum(flops.values()):.0f}"
    repeats = new[0]["repeats"]
    usual = f"{meta['others'][0]:.2f}"
    most = f"{meta['others'][1]:.2f}"
    hits = summed(new, "prefix_hits")
    preempted = summed(new, "preemptions")
    return f"""# Serving on vLLM

    {meta["command"]}

vLLM's own benchmark client (`vllm bench serve`) on loopback, in turn against two servers: stock \
(`VLLM_PLUGINS=''`)
and with adafv's plugin, method `{meta["method"]}`. The model is `{meta["shape"]}`: {size} B \
random weights in {meta["dtype"]},
{shape.patches} visual tokens for an image, {share} % of a dense request's FLOPs in the vision \
tower.
vLLM {versions["vllm"]}, PyTorch {versions["torch"]}, {where}.

Every request has an image and a question of its own and gets {answer} tokens of answer. As many \
as "at once" says
are under way all the time. Each of the {repeats} repetitions visits all rows, in an order that \
turns. Requests and
tokens per second are medians over repetitions, percentiles of TTFT are over all requests; × is \
against stock vLLM in
the same repetition, with the lowest and the highest. Ideal is the ratio of FLOPs: tower, prefill \
and decode. *As
decoded* is the ideal of one request at a time if all up to its first token took as much less as \
its FLOPs, and the
answer's other tokens took what they took; in brackets how much of it was reached.

![Requests per second, TTFT and KV blocks](serving.png)

{tables}
{_scheduled(new, bursts) if bursts else ""}## How far to trust this

- Stock and adafv at 100 % do the same work. Their ratio was {low:.2f} to {high:.2f}: noise, and \
what the plugin costs.
- The client, the HTTP servers and the engines share the machine. Other programs kept {usual} \
cores busy (median;
  {most} at most).
- Ideal counts arithmetic. A token of the answer costs a pass over all weights, however short its \
prompt, and few
  requests at once share it: at one at a time the ideal is out of reach.
- Tokens of new questions found in the prefix cache: {hits}; preempted requests: {preempted}.
- Weights are random and say nothing about answers: those are in [accuracy](../accuracy).
{GPU if on_cpu else ""}"""


def _bursts_in(folder: Path) -> dict[str, Any] | None:
    """Return the results of first_tokens.py that lie in a folder's own folder `bursts`."""
    path = folder / "bursts" / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _scheduled(rows: list[dict[str, Any]], bursts: dict[str, Any]) -> str:
    """Return what the first token gains as `adafv serve` fills a step, beside the rows above."""
    meta = bursts["meta"]
    least = min(row["keep"] for row in bursts["rows"])
    stock = {}
    pruned = {}
    for row in rows:
        if _is_stock(row):
            stock[row["concurrency"]] = row["ttft_p50_ms"]
        elif row["keep"] == least:
            pruned[row["concurrency"]] = row["ttft_p50_ms"]
    lines = []
    repeats = set()
    for row in bursts["rows"]:
        if row["engine"] == "all":
            number = row["concurrency"]
            above = f"{stock[number] / pruned[number]:.2f}"
            lines.append((str(number), above, f"{row['ttft_speedup']:.2f}"))
            repeats.add(row["repeats"])
    [count] = repeats
    page = [
        "## Many at once, scheduled as `adafv serve` does",
        "",
        "All tables above are of an earlier form of scheduling, which plain `vllm serve` still "
        "has: a step counts the tokens",
        "that are kept, and so encodes all pictures of a burst before anyone's prefill. "
        "`adafv serve` counts all of an",
        f"image's tokens. What TTFT's median gains at {100 * least:g} % against stock vLLM: above, "
        "and in [a run of bursts](bursts/README.md),",
        f"{count} repetition{'s' if count > 1 else ''} in {meta['dtype']}, a different run, so "
        "that only ratios compare.",
        "",
        *_markdown(("at once", "above, ×", "as `adafv serve`, ×"), lines),
    ]
    return "\n".join(page) + "\n\n"


def _tables(rows: list[dict[str, Any]], caches: dict[str, Record]) -> str:
    return f"""## An image and a question, all new

{_speed(_new(rows))}
## How soon the first token comes

{_soon(_new(rows))}
## How many requests the KV cache holds

{_capacity(rows, caches)}
{_again(rows)}"""


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    table = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for line in lines:
        table.append(f"| {' | '.join(line)} |")
    return table


def _speed(rows: list[dict[str, Any]]) -> str:
    head = (
        "at once",
        "kept",
        "requests/s",
        "× stock",
        "ideal",
        "as decoded",
        "TTFT p50",
        "p95",
        "tokens/s",
        "KV blocks, most in use",
    )
    lines = []
    for row in rows:
        # stock is what the others are compared with
        times = ""
        if not _is_stock(row):
            ends = f"{row['speedup_low']:.2f}, {row['speedup_high']:.2f}"
            times = f"**{row['speedup']:.2f}** [{ends}]"
        line = (
            str(row["concurrency"]),
            _name(row),
            f"{row['requests_per_s']:.2f}",
            times,
            f"{row['ideal_speedup']:.2f}",
            _as_decoded(row),
            _time(row["ttft_p50_ms"]),
            _time(row["ttft_p95_ms"]),
            f"{row['tokens_per_s']:.1f}",
            str(row["kv_blocks"]),
        )
        lines.append(line)
    return "\n".join(_markdown(head, lines)) + "\n"


def _as_decoded(row: dict[str, Any]) -> str:
    """Return the ideal at the decode's own cost, and how much of it was reached."""
    ideal = row["ideal_as_decoded"]
    if ideal is None:
        return ""
    if _is_stock(row):
        return f"{ideal:.2f}"
    return f"{ideal:.2f} ({100 * row['speedup'] / ideal:.0f} %)"


def _soon(rows: list[dict[str, Any]]) -> str:
    limits = [f"within {limit} s" for limit in SOON]
    lines = []
    for row in rows:
        times = [_time(row[f"ttft_{name}_ms"]) for name in ("p50", "p95", "p99")]
        shares = [f"{100 * row[f'within_{limit}_s']:.0f} %" for limit in SOON]
        lines.append((str(row["concurrency"]), _name(row), *times, *shares))
    head = ("at once", "kept", "TTFT p50", "p95", "p99", *limits)
    about = "Shares are of all requests of a row, over repetitions."
    return "\n".join([about, "", *_markdown(head, lines)]) + "\n"


def _capacity(rows: list[dict[str, Any]], caches: dict[str, Record]) -> str:
    cache = caches["adafv"]
    most = max(row["concurrency"] for row in rows)
    head = (
        "kept",
        "prompt",
        "KV blocks of a request",
        "requests that fit",
        "×",
        f"most in use at {most} at once",
    )
    # where the cache was fullest
    chosen = [row for row in _new(rows) if row["concurrency"] == most]
    stock = max(1, chosen[0]["kv_capacity_requests"])
    lines = []
    for row in chosen:
        line = (
            _name(row),
            f"{row['prompt_tokens']:.0f}",
            str(row["kv_blocks_per_request"]),
            str(row["kv_capacity_requests"]),
            f"{row['kv_capacity_requests'] / stock:.1f}",
            str(row["kv_blocks"]),
        )
        lines.append(line)
    about = (
        f"{cache['blocks']} blocks of {cache['block_size']} tokens (vLLM's log: “{cache['log']}”)."
    )
    return "\n".join([about, "", *_markdown(head, lines)]) + "\n"


def _again(rows: list[dict[str, Any]]) -> str:
    # one at a time, so that TTFT shows what a second question costs
    pairs = {}
    for row in rows:
        if row["concurrency"] == 1:
            pairs[row["engine"], row["keep"], row["question"]] = row
    again = [row for row in pairs.values() if row["question"] == "again"]
    if not again:
        return ""

    head = (
        "kept",
        "TTFT p50, first question",
        "second",
        "tokens found in the prefix cache, of a prompt",
    )
    lines = []
    # first question and second, engine by engine
    for row in again:
        new = pairs[row["engine"], row["keep"], "new"]
        found = f"{row['prefix_hits'] / row['requests']:.0f} of {row['prompt_tokens']:.0f}"
        times = (_time(new["ttft_p50_ms"]), _time(row["ttft_p50_ms"]))
        lines.append((_name(row), *times, found))
    page = [
        "## A second question about the same image",
        "",
        "One request at a time, each about an image that was just asked about.",
        "",
        *_markdown(head, lines),
        "",
        "A dense image stays in the prefix cache whatever is asked about it, as long as there is "
        "room. A pruned one",
        "is chosen anew for each question: its encoding is kept, the selection and the short "
        "prefill are done again.",
        "",
        *_by_share(pairs),
    ]
    return "\n".join(page) + "\n"


def _by_share(pairs: dict[tuple[str, float, str], dict[str, Any]]) -> list[str]:
    """Return what an image that is encoded once is worth, by how often it is asked about again.

    Args:
        pairs: rows by engine, budget and question, of one request at a time.
    """
    lines = []
    stock: list[float] = []
    for engine, keep, question in pairs:
        if question == "new":
            continue
        first = pairs[engine, keep, "new"]["ttft_p50_ms"]
        second = pairs[engine, keep, "again"]["ttft_p50_ms"]
        times = [(1 - share) * first + share * second for share in SHARES]
        stock = stock or times
        cells = []
        for time, of_stock in zip(times, stock, strict=True):
            cells.append(f"{_time(time)} ({of_stock / time:.2f} ×)")
        lines.append((_name(pairs[engine, keep, "again"]), *cells))
    head = ("kept", *(f"{100 * share:.0f} % asked before" for share in SHARES))
    return [
        "What encoding once is worth: the two medians above, weighted by the share of requests "
        "whose image was asked about",
        "before; × is against stock vLLM at the same share.",
        "",
        *_markdown(head, lines),
    ]


def _name(row: dict[str, Any]) -> str:
    return "stock vLLM" if _is_stock(row) else f"{100 * row['keep']:.3g} %"


def _is_stock(row: dict[str, Any]) -> bool:
    return (row["engine"], row["keep"]) == STOCK


def _time(ms: float) -> str:
    return f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms:.0f} ms"


def written(folder: Path) -> str:
    """Return the text of README.md from the results in a folder."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    meta, rows = found["meta"], found["rows"]
    caches = {cache["engine"]: cache for cache in meta["caches"]}
    tables = _tables(rows, caches)
    return _readme(SHAPES[meta["shape"]], meta, rows, tables, _bursts_in(folder))


def rewrite(folder: Path) -> str:
    """Write results and README of a folder anew, from its cells.jsonl; return the tables."""
    meta = json.loads((folder / "results.json").read_text())["meta"]
    lines = (folder / "cells.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return write(folder, SHAPES[meta["shape"]], meta, records, meta["command"])


if __name__ == "__main__":
    print(rewrite(Path(sys.argv[1])))
