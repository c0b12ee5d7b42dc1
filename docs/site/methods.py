"""The page of methods, made of the registry, the docstrings, the committed measurements and a count
of operations.
"""

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

from drawings import explained_inputs
from tables import ACCURACY, budgets, holds, left_out, measured
from torch.utils._python_dispatch import TorchDispatchMode
from writing import percent, table

from adafv.core.config import PruneConfig
from adafv.core.layerwise import LayerPruner
from adafv.core.pruner import Pruner
from adafv.evaluation import report
from adafv.integrations.vllm.options import VLLMOptions
from adafv.methods import CLASSES, VIDEO_CLASSES, NoPruning, method

FIDELITY = Path(__file__).with_name("fidelity.json")
FORMULAS = Path(__file__).with_name("formulas.md")
OPERATIONS = Path(__file__).with_name("operations.json")
SUITES = ("scenes", "scenes-small", "scenes-text", "easy-vqa")
FAILS = 0.9
WORST = 3
SIGNALS = {
    "attention": "attention of CLS in the vision tower (without CLS: attention received)",
    "received": "attention received in the vision tower",
    "keys": "keys of the vision tower",
    "hidden": "hidden states of the vision tower",
}
HEAD = """# Methods

Every method, its idea and its source; below, what each holds of the dense model's accuracy, and a
section with its options, its cost and where it fails. To choose one:
[which method](which-method.md). To add one: [one file and one name](adding-a-method.md)."""
NOTES = """## How to read the figures

- *Holds* is the share of the dense model's accuracy, from `benchmarks/accuracy`
  (`{command}`). The model is the [embedded one](../src/adafv/embedded/README.md): figures show how
  methods compare with each other, not what a 7B model scores.
- *Operations* are all that PyTorch runs for the selection, views and allocations included, for an
  image of {count} visual tokens on the embedded model. [All of
  speed](../benchmarks/speed/README.md#what-choosing-costs) counts otherwise. Milliseconds of
  every method: [what choosing costs](../benchmarks/speed/choosing/README.md); on your machine
  `adafv speed` measures them.
- `fastv`, `sparsevlm` and `pdrop` prune between the layers of the language model. Their K is the
  mean over the layers, so that all methods are compared at equal compute. They run inside
  `attached`, and refuse a budget that their first layers exceed.
- Methods that merge hand over K tokens, too.
- `evs`, `vidcom2` and `vcast` compare the frames of a video and refuse images; they are measured
  [on videos](../benchmarks/clips/README.md).
- *Compared with* the authors' code: their released functions were run beside ours on up to {one}
  images of one crop and {five} of five, of random tokens, with 29 to 192 kept of each crop (45 to
  80 % between layers). Where their code needs a whole model of theirs, a loop written after it
  was run instead. Departures that a method names were undone on either side. None of their code
  is in this repository; the results are, in `docs/site/fidelity.json`.
- For `sfpruner` and `coverpruner` neither code nor the full paper could be read. Their sections say
  what is known and which choices are ours.
- Left out: OccamToken (2605.29657), E-AdaPrune (2603.05950) and AVTP (2608.26806), which choose K
  themselves, where every method here keeps exactly the K that it is given; the budgets of the first
  two were [measured as rules](../benchmarks/budget-rules/README.md), and are not ahead; TRACE
  (2609.10297) and LiteLVLM (2605.13178), whose summaries are too short to build from."""


class Operations(TorchDispatchMode):
    """Counts the tensor operations that run in its context."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def methods_page() -> str:
    """Everything, an overview first."""
    command = report.read(ACCURACY)["meta"]["command"]
    cases = {
        part: max(row[part]["cases"] for row in fidelity().values()) for part in ("one", "five")
    }
    notes = NOTES.format(command=command, count=operations()["visual_tokens"], **cases)
    symbols = f"## Symbols\n\n{formulas()['Symbols']}"
    sections = [section(cls) for cls in CLASSES]
    return "\n\n".join([HEAD, ideas(), overview(), notes, symbols, *sections, clips()]) + "\n"


@cache
def formulas() -> dict[str, str]:
    """Markdown of `formulas.md` by its headings: the names of methods, and "Symbols"."""
    _, *found = re.split(r"^#+ (.+)\n", FORMULAS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {name: text.strip() for name, text in zip(found[::2], found[1::2], strict=True)}


@cache
def operations() -> dict[str, Any]:
    """Committed counts of operations, and whether a method merges; see `count`."""
    return json.loads(OPERATIONS.read_text(encoding="utf-8"))


def uncounted() -> list[type[Pruner]]:
    """Methods before the language model whose operations are not among those committed."""
    known = operations()["methods"]
    return [cls for cls in CLASSES if not issubclass(cls, LayerPruner) and cls.name not in known]


def count(known: Mapping[str, Any]) -> dict[str, Any]:
    """Count the operations of every method that is not in `known`; all of them take a minute."""
    found = {}
    for cls in CLASSES:
        if cls.name in known:
            found[cls.name] = known[cls.name]
        elif not issubclass(cls, LayerPruner):
            counts = {f"{keep}": selected(cls, keep)[0] for keep in budgets()}
            found[cls.name] = {"merges": selected(cls, min(budgets()))[1], "operations": counts}
    return {"visual_tokens": visual_tokens(), "methods": found}


def counted(cls: type[Pruner], keep: float) -> int:
    """Committed count of a method's operations at a budget."""
    return operations()["methods"][cls.name]["operations"][f"{keep}"]


def merges(cls: type[Pruner]) -> bool:
    """Whether a method hands over averages of tokens."""
    return not issubclass(cls, LayerPruner) and operations()["methods"][cls.name]["merges"]


def ideas() -> str:
    """A line for each method: what it does, and where it comes from."""
    rows = []
    for cls in CLASSES:
        summary = parts(inspect.getdoc(cls) or "")[0]
        source = re.sub(
            r"(?:arXiv )?(\d{4}\.\d{5})", r"[\1](https://arxiv.org/abs/\1)", cls.paper or "–"
        )
        rows.append([f"[`{cls.name}`](#{anchor(cls)})", summary.rstrip("."), source])
    return table(["method", "what it does", "source"], rows)


@cache
def fidelity() -> dict[str, dict[str, Any]]:
    """What came out when each method was compared with its authors' code."""
    rows = json.loads(FIDELITY.read_text(encoding="utf-8"))["rows"]
    return {row["method"]: row for row in rows}


def held(cls: type[Pruner]) -> str:
    """In how many cases a method keeps the tokens that its authors' code keeps."""
    if (row := fidelity().get(cls.name)) is None:
        return ""
    if row["commit"]:
        link = f"[{row['repository']}](https://github.com/{row['repository']})"
        source = f"the authors' code, {link} at `{row['commit'][:7]}`"
    else:
        source = (
            f"a loop after the authors' paper, since no copy of {row['repository']} was at hand"
        )
    counts = []
    for crops, part in (("one crop", row["one"]), ("five crops", row["five"])):
        options = f" (`{part['options']}`)" if part["options"] else ""
        alike = part["identical"] == part["cases"]
        shared = "" if alike else f", where a departure stands (shared: {percent(part['iou'])})"
        counts.append(f"{part['identical']} of {part['cases']} cases of {crops}{options}{shared}")
    undone = ", with the named departures undone" if parts(inspect.getdoc(cls) or "")[2] else ""
    return f"**Compared with** {source}: identical sets in {' and '.join(counts)}{undone}."


def overview() -> str:
    """A line for each method."""
    least = min(budgets())
    names = (
        "method",
        "the question",
        "tokens",
        f"holds at {percent(least)}: `scenes`",
        "`scenes-text`",
        "operations",
    )
    rows = [
        [
            f"[`{cls.name}`](#{anchor(cls)})",
            "read" if cls.needs_text else "seed" if cls.draws else "–",
            "between layers"
            if issubclass(cls, LayerPruner)
            else "merged"
            if merges(cls)
            else "kept",
            holds(cls.name, "scenes", "all", least),
            holds(cls.name, "scenes-text", "all", least),
            "–" if issubclass(cls, LayerPruner) else f"{counted(cls, least):,}",
        ]
        for cls in CLASSES
    ]
    return table(names, rows)


def section(cls: type[Pruner]) -> str:
    """One method: idea, options, cost, and where it fails."""
    summary, idea, departures, options = parts(inspect.getdoc(cls) or "")
    title = f"## `{cls.name}`"
    # a name whose heading gives another anchor on the code host than on the site
    if anchor(cls) != cls.name:
        title = f'<a id="{anchor(cls)}"></a>\n\n{title}'
    blocks = [
        title,
        f"**{summary}**",
        linked(idea),
        formulas().get(cls.name, ""),
        "\n".join(f"- Departure: {linked(text)}" for text in departures),
    ]
    blocks += [held(cls), options_table(cls, options), cost(cls), failures(cls), retention(cls)]
    reference = f"Reference: [`adafv.methods.{cls.__name__}`][{cls.__module__}.{cls.__name__}]"
    return "\n\n".join(block for block in (*blocks, reference) if block)


def clips() -> str:
    """What the methods that compare frames go by."""
    blocks = ["## Methods for videos"]
    for cls in VIDEO_CLASSES:
        summary = parts(inspect.getdoc(cls) or "")[0]
        blocks += [f"**`{cls.name}`**: {summary}", formulas()[cls.name]]
    return "\n\n".join(blocks)


def anchor(cls: type[Pruner]) -> str:
    return cls.name.replace("+", "-plus")


def parts(doc: str) -> tuple[str, str, list[str], dict[str, str]]:
    """A docstring's first line, what follows it, its departures, and its arguments."""
    summary, _, rest = doc.partition("\n")
    body, *tail = re.split(r"^(Args|Raises):\n", rest.strip(), flags=re.MULTILINE)
    idea, *departures = re.split(r"\s*\bDeparture: ", body.strip())
    # a formula in the terminal's way: the page has it typeset
    idea = re.sub(r"(?:^ {4}.*\n?)+", "", idea, flags=re.MULTILINE).strip()
    options: dict[str, str] = {}
    for title, text in zip(tail[::2], tail[1::2], strict=True):
        if title == "Args":
            entries = re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
            options = {name: " ".join(words.split()) for name, words in entries}
    return summary, idea, [" ".join(text.split()) for text in departures], options


def linked(text: str) -> str:
    """Text with its arXiv ids as links."""
    return re.sub(r"arXiv\s+(\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def options_table(cls: type[Pruner], options: dict[str, str]) -> str:
    """The method's own options with their defaults."""
    defaults = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
    rows = [
        [", ".join(f"`{name}={defaults[name]!r}`" for name in names.split(", ")), linked(words)]
        for names, words in options.items()
    ]
    return table(["option", ""], rows) if rows else ""


def cost(cls: type[Pruner]) -> str:
    """What it looks at, and how many operations it takes."""
    if cls is NoPruning:
        return "**Cost.** That of the plain model."
    signals = sorted(cls(keep=1.0).signals, key=repr)
    looks = [SIGNALS[signal.kind] + _depth(signal.depth) for signal in signals]
    looks += ["the question's word embeddings"] if cls.needs_text else []
    seen = ", ".join(looks) or "the visual tokens and where they lie"
    if issubclass(cls, LayerPruner):
        return (
            "**Cost.** The first layers read every visual token; K is the mean over the layers, "
            "so that the language model's arithmetic is that of a method which prunes before it "
            "at the same budget."
        )
    counts = ", ".join(f"{counted(cls, keep):,} at {percent(keep)}" for keep in budgets())
    return f"**Cost.** Looks at: {seen}. Operations: {counts}."


def _depth(depth: float | None) -> str:
    return (
        "" if depth is None else f", at {percent(depth)} of its depth" if depth else ", first layer"
    )


def failures(cls: type[Pruner]) -> str:
    """Where the measurements show it to lose, and where it is refused."""
    if cls is NoPruning:
        return ""
    said = [
        f"Refused at {percent(keep)}: {reason}."
        for keep, reason in left_out().get(cls.name, {}).items()
    ]
    keeps = [keep for keep in budgets() if (cls.name, "scenes", "all", keep) in measured()]
    if keeps:
        said.append(lost(cls.name, min(keeps)))
    if merges(cls):
        said.append(
            "It merges tokens, which families whose language model takes them before its "
            "projector refuse."
        )
    try:
        VLLMOptions(PruneConfig(cls.name, keep=0.1)).check()
    except ValueError as error:
        said.append(f"Not served: {error}.")
    return f"**When it fails.** {' '.join(said)}" if said else ""


def lost(name: str, keep: float) -> str:
    """The types of question that suffer most, with chance beside them, and the suites on which
    chance is as good.
    """
    rows = [
        row
        for (who, _, kind, at), row in measured().items()
        if (who, at) == (name, keep) and kind != "all"
    ]
    worst = sorted(
        (row for row in rows if row["retention"] < FAILS), key=lambda row: row["retention"]
    )[:WORST]
    listed = ", ".join(
        f"`{row['question_type']}` of `{row['suite']}` {percent(row['retention'])}"
        f" ({holds('random', row['suite'], row['question_type'], keep)})"
        for row in worst
    )
    chance = [
        f"`{suite}`"
        for suite in SUITES
        if name != "random"
        and measured()[name, suite, "all", keep]["accuracy"]
        <= measured()["random", suite, "all", keep]["accuracy"]
    ]
    said = (
        f"At {percent(keep)} `{name}` holds least of (in brackets: `random`): {listed}."
        if worst
        else (
            f"At {percent(keep)} `{name}` holds {percent(FAILS)} or more of every type of question."
        )
    )
    return said + (f" No better than `random` on {', '.join(chance)}." if chance else "")


def retention(cls: type[Pruner]) -> str:
    """What it holds on each suite."""
    if cls is NoPruning:
        return ""
    rows = [
        [f"`{suite}`", *(holds(cls.name, suite, "all", keep) for keep in budgets())]
        for suite in SUITES
    ]
    return table([f"`{cls.name}` holds", *(f"{percent(keep)} kept" for keep in budgets())], rows)


@cache
def selected(cls: type[Pruner], keep: float) -> tuple[int, bool]:
    """Tensor operations of the selection, and whether it merges."""
    model, inputs = explained_inputs()
    pruner = method(cls.name, keep=1.0 if cls is NoPruning else keep)
    encoding = pruner.encode(model, inputs)
    with Operations() as operations:
        selection = pruner.choose(encoding)
    return operations.count, selection.features is not None


def visual_tokens() -> int:
    """N of the image that the operations are counted with."""
    model, inputs = explained_inputs()
    return method("none", keep=1.0).encode(model, inputs).tokens.counts[0]
