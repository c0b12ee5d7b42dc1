"""Rows, table, image and README of a measurement."""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from image import draw
from shapes import Shape

from adafv.utils.files import atomic, write_text

__all__ = ["COLUMNS", "rows_of", "write"]

COLUMNS = (
    "engine", "keep", "concurrency", "question", "repeats", "requests", "visual_tokens", "prompt_tokens",
    "requests_per_s", "tokens_per_s", "ttft_p50_ms", "ttft_p95_ms", "tpot_p50_ms",
    "speedup", "speedup_low", "speedup_high", "ideal_speedup", "share_of_ideal", "ttft_speedup", "ttft_ideal",
    "kv_blocks", "kv_blocks_per_request", "kv_capacity_requests", "running", "preemptions", "prefix_hits", "others",
)  # fmt: skip
STOCK = ("stock", 1.0)
GPU = """
## On a GPU

    python benchmarks/serving/measure.py --device cuda --shape llava-next-7b --repeats 2 --out out/serving

The same on LLaVA-NeXT-7B's shape, with 2,928 visual tokens for an image. Both servers share the GPU, so it needs 48 GB
or more (`--gpu-memory-utilization` is each one's share). This has not been run.
"""


def rows_of(
    cells: Sequence[dict[str, Any]], caches: dict[str, dict[str, Any]], shape: Shape
) -> list[dict[str, Any]]:
    """One row per concurrency, question, engine and keep.

    Medians over repetitions; percentiles of TTFT over all their requests. Speedups are against
    stock vLLM in the same repetition, with their lowest and highest; ideal ones are ratios of
    FLOPs: all of them, and those up to the first token, vision tower included.
    """
    groups: dict[tuple[int, str], dict[tuple[str, float], list[dict[str, Any]]]] = {}
    for cell in cells:
        group = groups.setdefault((cell["concurrency"], cell["question"]), defaultdict(list))
        group[cell["engine"], cell["keep"]].append(cell)
    order = sorted(groups, key=lambda key: (key[1] != "new", key[0]))
    return [
        _row(key, name, groups[key][name], groups[key][STOCK], caches[name[0]], shape)
        for key in order
        for name in sorted(groups[key], key=lambda name: (name[0] != "stock", -name[1]))
    ]


def _row(
    key: tuple[int, str], name: tuple[str, float], cells: list[dict[str, Any]], stock: list[dict[str, Any]],
    cache: dict[str, Any], shape: Shape,
) -> dict[str, Any]:  # fmt: skip
    first = {cell["repeat"]: cell for cell in stock}
    answer = round(cells[0]["answer_tokens"])
    prompt = fmean(cell["prompt_tokens"] for cell in cells)
    ours, theirs = (
        shape.flops(round(prompt), answer),
        shape.flops(round(stock[0]["prompt_tokens"]), answer),
    )
    until = [x["vision"] + x["prefill"] for x in (theirs, ours)]
    ratios = [_rate(c) / _rate(first[c["repeat"]]) for c in cells if c["repeat"] in first]
    waits = [
        np.median(first[c["repeat"]]["ttft_ms"]) / np.median(c["ttft_ms"])
        for c in cells
        if c["repeat"] in first
    ]
    ideal = sum(theirs.values()) / sum(ours.values()) if key[1] == "new" else None
    blocks = -(-(round(prompt) + answer - 1) // cache["block_size"])  # nothing reads the last token
    ttft = np.percentile([t for cell in cells for t in cell["ttft_ms"]], [50, 95])
    values = (
        *name, *key, len(cells), sum(cell["requests"] for cell in cells), shape.visual_tokens(name[1]), prompt,
        median(map(_rate, cells)), median(_rate(c) * c["answer_tokens"] for c in cells), *map(float, ttft),
        median(cell["tpot_ms"] for cell in cells),
        median(ratios), min(ratios), max(ratios), ideal, ideal and median(ratios) / ideal,
        float(median(waits)), until[0] / until[1] if ideal else None,
        max(cell["kv_blocks"] for cell in cells), blocks, (cache["blocks"] - 1) // blocks,
        max(cell["running"] for cell in cells), sum(cell["preemptions"] for cell in cells),
        sum(cell["prefix_hits"] for cell in cells), fmean(cell["others"] for cell in cells),
    )  # fmt: skip
    return {
        c: round(v, 4) if isinstance(v, float) else v for c, v in zip(COLUMNS, values, strict=True)
    }


def _rate(cell: dict[str, Any]) -> float:
    return cell["requests"] / cell["seconds"]


def write(
    out: Path,
    shape: Shape,
    settings: dict[str, Any],
    records: Iterable[dict[str, Any]],
    command: str,
) -> str:
    """Write results.json, results.csv, serving.png and README.md; return the tables."""
    records = list(records)
    caches = {r["engine"]: r for r in records if "repeat" not in r}
    cells = [r for r in records if "repeat" in r]
    rows = rows_of(cells, caches, shape)
    others = [cell["others"] for cell in cells]
    meta = {
        **settings,
        "command": command,
        "caches": list(caches.values()),
        "others": [median(others), max(others)],
    }
    write_text(out / "results.json", json.dumps({"meta": meta, "rows": rows}, indent=1) + "\n")
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(out / "results.csv", text.getvalue())
    with atomic(out / "serving.png") as temporary:
        draw(rows, temporary)
    tables = _tables(rows, caches)
    write_text(out / "README.md", _readme(shape, meta, rows, tables))
    return tables


def _readme(shape: Shape, meta: dict[str, Any], rows: list[dict[str, Any]], tables: str) -> str:
    new = [row for row in rows if row["question"] == "new"]
    dense = [row for row in new if row["engine"] == "adafv" and row["keep"] == 1]
    low, high = min(row["speedup_low"] for row in dense), max(row["speedup_high"] for row in dense)
    hits, preempted = sum(row["prefix_hits"] for row in new), sum(row["preemptions"] for row in new)
    flops = shape.flops(round(new[0]["prompt_tokens"]), meta["answer"])
    share = f"{100 * flops['vision'] / sum(flops.values()):.0f}"
    machine, versions = meta["machine"], meta["versions"]
    on_cpu = meta["device"] == "cpu"
    where = (
        f"{machine['cores']} cores of {machine['name']}"
        if on_cpu
        else f"one {machine['name']} for both servers"
    )
    size, answer, repeats = f"{shape.parameters / 1e9:.2f}", meta["answer"], new[0]["repeats"]
    usual, most = (f"{cores:.2f}" for cores in meta["others"])
    return f"""# Serving on vLLM

    {meta["command"]}

vLLM's own benchmark client (`vllm bench serve`) on loopback, in turn against two servers: stock (`VLLM_PLUGINS=''`)
and with adafv's plugin, method `{meta["method"]}`. The model is `{meta["shape"]}`: {size} B random weights in bfloat16,
{shape.patches} visual tokens for an image, {share} % of a dense request's FLOPs in the vision tower.
vLLM {versions["vllm"]}, PyTorch {versions["torch"]}, {where}.

Every request has an image and a question of its own and gets {answer} tokens of answer. As many as "at once" says
are under way all the time. Each of the {repeats} repetitions visits all rows, in an order that turns. Requests and
tokens per second are medians over repetitions, percentiles of TTFT are over all requests; × is against stock vLLM in
the same repetition, with the lowest and the highest. Ideal is the ratio of FLOPs: tower, prefill and decode.

![Requests per second, TTFT and KV blocks](serving.png)

{tables}
## How far to trust this

- Stock and adafv at 100 % do the same work. Their ratio was {low:.2f} to {high:.2f}: noise, and what the plugin costs.
- The client, the HTTP servers and the engines share the machine. Other programs kept {usual} cores busy (median;
  {most} at most).
- Ideal counts arithmetic. A token of the answer costs a pass over all weights, however short its prompt, and few
  requests at once share it: at one at a time the ideal is out of reach.
- Tokens of new questions found in the prefix cache: {hits}; preempted requests: {preempted}.
- Weights are random and say nothing about answers: those are in [accuracy](../accuracy).
{GPU if on_cpu else ""}"""


def _tables(rows: list[dict[str, Any]], caches: dict[str, dict[str, Any]]) -> str:
    return f"""## An image and a question, all new

{_speed([row for row in rows if row["question"] == "new"])}
## How many requests the KV cache holds

{_capacity(rows, caches)}
{_again(rows)}"""


def _speed(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| at once | kept | requests/s | × stock | ideal | TTFT p50 | p95 | tokens/s | KV blocks, most in use |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        times = (
            ""
            if _is_stock(r)
            else f"**{r['speedup']:.2f}** [{r['speedup_low']:.2f}, {r['speedup_high']:.2f}]"
        )
        lines.append(
            f"| {r['concurrency']} | {_name(r)} | {r['requests_per_s']:.2f} | {times} | {r['ideal_speedup']:.2f} "
            f"| {_time(r['ttft_p50_ms'])} | {_time(r['ttft_p95_ms'])} | {r['tokens_per_s']:.1f} | {r['kv_blocks']} |"
        )
    return "\n".join(lines) + "\n"


def _capacity(rows: list[dict[str, Any]], caches: dict[str, dict[str, Any]]) -> str:
    cache = caches["adafv"]
    most = max(row["concurrency"] for row in rows)
    lines = [
        f"{cache['blocks']} blocks of {cache['block_size']} tokens (vLLM's log: “{cache['log']}”).",
        "",
        f"| kept | prompt | KV blocks of a request | requests that fit | × | most in use at {most} at once |",
        "|---|---|---|---|---|---|",
    ]
    chosen = [r for r in rows if r["concurrency"] == most and r["question"] == "new"]
    for r in chosen:
        times = r["kv_capacity_requests"] / max(1, chosen[0]["kv_capacity_requests"])
        lines.append(
            f"| {_name(r)} | {r['prompt_tokens']:.0f} | {r['kv_blocks_per_request']} | {r['kv_capacity_requests']} "
            f"| {times:.1f} | {r['kv_blocks']} |"
        )
    return "\n".join(lines) + "\n"


def _again(rows: list[dict[str, Any]]) -> str:
    pairs = {(r["engine"], r["keep"], r["question"]): r for r in rows if r["concurrency"] == 1}
    again = [r for r in pairs.values() if r["question"] == "again"]
    if not again:
        return ""
    lines = [
        "## A second question about the same image",
        "",
        "One request at a time, each about an image that was just asked about.",
        "",
        "| kept | TTFT p50, first question | second | tokens found in the prefix cache, of a prompt |",
        "|---|---|---|---|",
    ]
    for r in again:
        new = pairs[r["engine"], r["keep"], "new"]
        lines.append(
            f"| {_name(r)} | {_time(new['ttft_p50_ms'])} | {_time(r['ttft_p50_ms'])} "
            f"| {r['prefix_hits'] / r['requests']:.0f} of {r['prompt_tokens']:.0f} |"
        )
    lines += [
        "",
        "A dense image stays in the prefix cache whatever is asked about it, as long as there is room. A pruned one",
        "is chosen anew for each question: its encoding is kept, the selection and the short prefill are done again.",
    ]
    return "\n".join(lines) + "\n"


def _name(row: dict[str, Any]) -> str:
    return "stock vLLM" if _is_stock(row) else f"{100 * row['keep']:.3g} %"


def _is_stock(row: dict[str, Any]) -> bool:
    return (row["engine"], row["keep"]) == STOCK


def _time(ms: float) -> str:
    return f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms:.0f} ms"
