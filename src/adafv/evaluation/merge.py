"""Results of several runs in one folder: those of others are kept, or nothing is written."""

import shlex
from collections.abc import Collection, Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from adafv.evaluation.report import read
from adafv.evaluation.rows import REQUIRED
from adafv.utils.checks import checked
from adafv.utils.files import check_own, differences

__all__ = ["check_mergeable", "configurations_in", "earlier", "merged", "merged_meta"]

SETTINGS = ("model", "device", "dtype", "seed", "split", "max_new_tokens")
"""What rows of one table have in common."""
MADE_BY = ("weights", "processor")
"""Checksums that tell a model from its namesake; results of earlier versions lack them."""
PACKAGES = ("adafv", "torch", "transformers")
ROW = ("suite", "method", "keep", "question_type")
PAIR = ("suite", "keep", "method", "rival")
OF_A_RUN = ("command", "versions", "started", "limit", "batch_size", "wall_seconds")
PLACES = ("--out", "--entry")
"""Options of a command that say where its results go."""

Measured = tuple[str, str, float]
"""suite, method, keep"""


@checked
def earlier(out: str | Path) -> dict[str, Any] | None:
    """Return meta, rows and pairs of the runs that a folder has results of; None: of none.

    Raises:
        ValueError: its results.json is not of `adafv eval`.
    """
    path = Path(out) / "results.json"
    # other commands write a file of this name, too
    check_own(path, REQUIRED, "adafv eval")
    return read(path) if path.exists() else None


@checked
def check_mergeable(
    found: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    questions: Mapping[str, int],
    asked: Iterable[Measured],
) -> None:
    """Raise a `ValueError` if a run would replace results that it does not measure again.

    Args:
        found: see `earlier`.
        settings: of the run, those in `SETTINGS` at least. Weights, processor, machine and versions
            count where both have them.
        questions: how many of them the run asks of each of its suites.
        asked: under which configurations; those of earlier runs that are not among them are kept.
    """
    if found is None:
        return

    # rows of one table have model, precision and questions in common
    before = {name: found["meta"].get(name) for name in SETTINGS}
    now = {name: settings[name] for name in SETTINGS}
    own = _made_by(settings)
    for name, value in _made_by(found["meta"]).items():
        if name in own:
            before[name] = value
            now[name] = own[name]
    if was := differences(before, now):
        raise ValueError(
            f"results.json in --out is of a run with {was}: "
            "pass another --out, or the same settings"
        )

    # within a suite, all methods answer the same questions
    again = {(method, keep) for _, method, keep in asked}
    for suite, count in questions.items():
        kept = []
        counts = []
        for row in found["rows"]:
            if row["suite"] == suite and row["question_type"] == "all":
                counts.append(row["n"])
                if (row["method"], row["keep"]) not in again:
                    kept.append(row["method"])
        most = max(counts, default=0)
        # fewer questions would lose answers, others would mix with what is kept
        if most > count or (kept and set(counts) != {count}):
            why = f", {kept[0]!r} among the methods, which this run leaves out" if kept else ""
            raise ValueError(
                f"results.json in --out is on {most} questions of {suite!r}{why}, and this run "
                f"asks {count}: pass another --out, or the --limit that it had"
            )


def _made_by(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what else made the rows, as far as their meta says it."""
    made_by = {name: meta[name] for name in MADE_BY if name in meta}
    # not its threads: they decide no answer
    if "machine" in meta:
        made_by["machine"] = meta["machine"]["name"]
    versions = meta.get("versions", {})
    for package in PACKAGES:
        if package in versions:
            made_by[package] = versions[package]
    return made_by


@checked
def configurations_in(found: Mapping[str, Any] | None) -> list[Measured]:
    """Return suite, method and keep of every row."""
    rows = [] if found is None else found["rows"]
    # a configuration has a row for each type of question
    return list(dict.fromkeys(map(itemgetter("suite", "method", "keep"), rows)))


@checked
def merged(
    found: Mapping[str, Any] | None,
    rows: list[dict[str, Any]],
    pairs: list[dict[str, Any]],
    outdated: Collection[Measured] = (),
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows and pairs of a run with those of earlier ones that it has not measured again.

    Args:
        found: see `earlier`.
        rows, pairs: of the run.
        outdated: of earlier runs, on questions as they were then: these go.
    """
    # the first run in a folder
    if found is None:
        return rows, pairs
    again = {_measured(row) for row in rows}
    here = {tuple(row[name] for name in ROW) for row in rows}
    old_rows = []
    for row in found["rows"]:
        # a type of question that there is no more goes with what is measured again
        gone = _measured(row) in again and tuple(row[name] for name in ROW) not in here
        if not gone and _measured(row) not in outdated:
            old_rows.append(row)
    old_pairs = []
    for pair in found["pairs"]:
        sides = {(pair["suite"], pair[name], pair["keep"]) for name in ("method", "rival")}
        # what is measured again is compared again, or the pair would be of other answers
        if sides.isdisjoint(outdated) and sides.isdisjoint(again):
            old_pairs.append(pair)
    return _over(old_rows, rows, ROW), _over(old_pairs, pairs, PAIR)


def _measured(row: dict[str, Any]) -> Measured:
    """Return suite, method and keep of a row."""
    return row["suite"], row["method"], row["keep"]


@checked
def merged_meta(
    found: Mapping[str, Any] | None, meta: dict[str, Any], asked: Collection[Measured] = ()
) -> dict[str, Any]:
    """Return the meta of a run, with what earlier ones have left out, and their commands.

    Args:
        found: see `earlier`.
        meta: of the run.
        asked: what it measures; the rest of what earlier runs have left out stays left out.

    Returns:
        The meta; the runs before are under "earlier".
    """
    if found is None:
        return meta
    merged = dict(meta)
    left_out = []
    for refused in found["meta"].get("left_out", []):
        if _measured(refused) not in asked:
            left_out.append(refused)
    if left_out:
        merged["left_out"] = left_out + meta.get("left_out", [])

    # the same command again replaces its former self, the last run an earlier one
    last = {name: found["meta"].get(name) for name in OF_A_RUN}
    before = []
    for run in (*found["meta"].get("earlier", []), last):
        if _request(run["command"]) != _request(meta["command"]):
            before.append(run)
    if before:
        merged["earlier"] = before
    return merged


def _request(command: str | None) -> list[str]:
    """Return the words of a command that say what is measured, and not where that is written."""
    found = []
    words = iter(shlex.split(command or ""))
    for word in words:
        option, equals, _ = word.partition("=")
        if option in PLACES:
            # the value is part of the word, or the next one
            if not equals:
                next(words, None)
        elif word != "--json":
            found.append(word)
    return found


def _over(
    old: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return the old entries, each replaced by the new one of the same names; then what is new."""
    key = itemgetter(*names)
    # a dict keeps the order in which its keys came first
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in (*old, *new):
        found[key(entry)] = entry
    return list(found.values())
